//! Runs the program under strace, which kills it at a system call of our choice, or makes that call fail.
//!
//! strace counts calls for each thread and each name. Where threads take turns, the first that comes to a number is
//! hit: so each kind of call at each place in a commit is, but not each call of a long run. On one processor, which
//! it is kept on, most calls of a name are one thread's, and its numbers mean the same in each run.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    process::{Command, Stdio},
};

use super::{Home, Ran, Random};

/// Calls by which the program changes what outlives it, or says something.
const FILES: &[&str] = &[
    "write",
    "writev",
    "pwrite64",
    "pwritev",
    "fdatasync",
    "fsync",
    "ftruncate",
    "fallocate",
    "openat",
    "close",
    "flock",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
];

/// A system call of a run: the `number`th of its name, from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Point {
    pub(crate) call: String,
    pub(crate) number: u64,
}

/// strace, where it is installed and may trace.
pub(crate) struct Strace {
    /// What comes in front of it, to keep a run on one processor.
    on_one_cpu: Option<[String; 3]>,
}

impl Strace {
    /// None, and loudly, where strace is missing or tracing is forbidden.
    pub(crate) fn find() -> Option<Self> {
        let tried = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
        let why = match tried {
            Ok(output) if output.status.success() => return Some(Self { on_one_cpu: one_cpu() }),
            Ok(output) => format!("strace may not trace here ({})", String::from_utf8_lossy(&output.stderr)),
            Err(e) => {
                format!("strace can't be started ({e}): install it, or run cargo xtask test --services")
            }
        };
        skipped(&why);
        None
    }

    /// The program on this home under strace with these options.
    fn command(&self, home: &Home, options: &[&str], arguments: &[&str]) -> Command {
        let own = home.command();
        let (mut command, program) = match &self.on_one_cpu {
            Some([first, rest @ ..]) => {
                let mut command = Command::new(first);
                command.args(rest).arg("strace");
                (command, own.get_program())
            }
            None => (Command::new("strace"), own.get_program()),
        };
        command.arg("-f").args(options).arg(program).args(own.get_args()).args(arguments);
        for (name, value) in own.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::null());
        command
    }

    /// The calls of a run, each once: its number is that in the thread that makes most of its name.
    pub(crate) fn points(&self, home: &Home, arguments: &[&str]) -> Vec<Point> {
        let trace = home.folder.path().join("trace");
        let ran = Ran::of(self.command(home, &["-o", trace.to_str().unwrap()], arguments).output().unwrap());
        ran.succeeds();
        let mut counts = BTreeMap::<(String, String), u64>::new();
        for line in fs::read_to_string(trace).unwrap().lines() {
            let Some((pid, rest)) = line.split_once(' ') else { continue };
            // What ends a call that another thread cut in two has no name in front.
            if let Some((name, _)) = rest.trim_start().split_once('(')
                && !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            {
                *counts.entry((name.to_owned(), pid.to_owned())).or_default() += 1;
            }
        }
        let mut most = BTreeMap::<String, u64>::new();
        for ((name, _), count) in counts {
            let of_name = most.entry(name).or_default();
            *of_name = count.max(*of_name);
        }
        most.into_iter()
            .flat_map(|(call, most)| (1..=most).map(move |number| Point { call: call.clone(), number }))
            .collect()
    }

    /// Runs it and kills it as it makes this call. What it had printed until then; its code is -9 if it was killed.
    pub(crate) fn kill(&self, home: &Home, at: &Point, arguments: &[&str]) -> Ran {
        let Point { call, number } = at;
        let trace = format!("trace={call}");
        let inject = format!("inject={call}:signal=KILL:when={number}");
        let options = ["-o", "/dev/null", "-e", &trace, "-e", &inject];
        Ran::of(self.command(home, &options, arguments).output().unwrap())
    }

    /// Runs it while this call and all later ones of its name fail with EIO. With what it printed comes the trace of
    /// these calls and of those that print, with the paths of files.
    pub(crate) fn fail_from(&self, home: &Home, at: &Point, arguments: &[&str]) -> (Ran, String) {
        let Point { call, number } = at;
        let file = home.folder.path().join("trace");
        let trace = format!("trace={call},write");
        let inject = format!("inject={call}:error=EIO:when={number}+");
        let options = ["-y", "-o", file.to_str().unwrap(), "-e", &trace, "-e", &inject];
        let ran = Ran::of(self.command(home, &options, arguments).output().unwrap());
        (ran, fs::read_to_string(file).unwrap())
    }
}

#[allow(clippy::print_stderr, reason = "tests")]
fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// `taskset` for the first processor that we may use, where there is one.
fn one_cpu() -> Option<[String; 3]> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim();
    let first = allowed.split(['-', ',']).next()?.to_owned();
    let prefix = ["taskset".to_owned(), "-c".to_owned(), first];
    let works = Command::new(&prefix[0]).args(&prefix[1..]).arg("true").status();
    works.is_ok_and(|status| status.success()).then_some(prefix)
}

/// So many of these, drawn by the seed; half of them calls that change files or print.
pub(crate) fn sample(points: &[Point], count: usize, seed: u64) -> Vec<Point> {
    let mut random = Random::new(seed);
    let (files, others): (Vec<_>, Vec<_>) =
        points.iter().partition(|point| FILES.contains(&point.call.as_str()));
    let mut drawn = BTreeSet::new();
    while drawn.len() < count.min(points.len()) {
        let from = if random.below(2) == 0 || others.is_empty() { &files } else { &others };
        if let Some(point) = from.get(random.below(from.len() as u64) as usize) {
            drawn.insert((*point).clone());
        }
    }
    drawn.into_iter().collect()
}

/// A path as an argument.
pub(crate) fn argument(path: &std::path::Path) -> String {
    OsString::from(path).into_string().unwrap()
}
