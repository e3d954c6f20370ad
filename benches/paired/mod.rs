//! Compares several ways of doing one thing, measured by turns.
//!
//! A neighbour on the machine, a clock that speeds up, a cache that fills: all that drifts changes a rate by
//! more than what is looked for here. So all sides take turns of about a millisecond, a round is every side
//! forwards and then backwards (what drifts evenly cancels out), and what is compared is the ratio within a
//! round. The median of hundreds of rounds is printed with its 95% interval; where that is wide it says so.
//!
//! Sides share their memory, so none has luckier addresses; each does its work once, unmeasured, before its
//! turn is measured, so none finds the caches as another left them.
//!
//! Not its job: absolute rates that hold tomorrow. It prints them, for orientation.

#![allow(dead_code, clippy::print_stdout, reason = "each benchmark takes what it needs, and prints")]

pub(crate) mod stats;

use std::{fs::OpenOptions, io::Write, path::PathBuf, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use stats::Median;

/// How long a turn is.
const TURN: Duration = Duration::from_millis(1);
/// No fewer, unless the time is up.
const ROUNDS: usize = 200;
/// Half an interval that is narrow enough to stop, in points of percent.
const NARROW: f64 = 0.1;
/// Half an interval that is too wide to conclude from.
const WIDE: f64 = 0.5;

/// Whose time is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    /// The calling thread's on its core: a neighbour's turn on the core does not count. For work on one thread.
    Core,
    /// What passes. For work that waits.
    Wall,
}

impl Time {
    fn now(self) -> Duration {
        let clock = match self {
            Self::Core => ClockId::ThreadCPUTime,
            Self::Wall => ClockId::Monotonic,
        };
        let now = clock_gettime(clock);
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
    }
}

type Work<'a, M> = Box<dyn FnMut(&mut M, u64) + 'a>;

/// One way of doing it.
pub(crate) struct Side<'a, M> {
    name: &'static str,
    baselines: &'static [&'static str],
    prepare: Box<dyn FnMut(&mut M) + 'a>,
    work: Work<'a, M>,
    /// How often it works in a turn.
    times: u64,
}

impl<'a, M> Side<'a, M> {
    /// A side that does `work` on memory that it shares with the others.
    pub(crate) fn new(name: &'static str, mut work: impl FnMut(&mut M) + 'a) -> Self {
        let work: Work<'a, M> = Box::new(move |memory, times| (0..times).for_each(|_| work(memory)));
        Self { name, baselines: &[], prepare: Box::new(|_| ()), work, times: 1 }
    }

    /// Its rate is shown as a percentage of these sides'.
    pub(crate) fn against(self, baselines: &'static [&'static str]) -> Self {
        Self { baselines, ..self }
    }

    /// Sets the memory up before each turn, unmeasured.
    pub(crate) fn prepared(self, prepare: impl FnMut(&mut M) + 'a) -> Self {
        Self { prepare: Box::new(prepare), ..self }
    }

    /// One turn: nanoseconds for one time.
    fn turn(&mut self, memory: &mut M, time: Time) -> f64 {
        (self.prepare)(memory);
        (self.work)(memory, 1);
        let began = time.now();
        (self.work)(memory, self.times);
        (time.now() - began).as_nanos() as f64 / self.times as f64
    }

    /// Finds how often it works in a turn.
    fn calibrate(&mut self, memory: &mut M, time: Time) {
        while self.turn(memory, time) * (self.times as f64) < TURN.as_nanos() as f64 / 2.0 {
            self.times *= 2;
        }
    }
}

/// A set of benchmarks, as the command line wants it.
pub(crate) struct Bench {
    smoke: bool,
    budget: Duration,
    words: Vec<String>,
    lines: Option<PathBuf>,
}

impl Bench {
    /// `--test` (each side once, unmeasured), `--seconds N` (for one comparison), `--lines FILE` (results are
    /// appended, a JSON object a line), words (only comparisons with one of them in "group size").
    pub(crate) fn from_args() -> Self {
        let mut bench =
            Self { smoke: false, budget: Duration::from_secs(15), words: Vec::new(), lines: None };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--bench" => {}
                "--test" => bench.smoke = true,
                "--seconds" => {
                    let seconds = args.next().and_then(|text| text.parse().ok());
                    bench.budget = Duration::from_secs_f64(seconds.expect("--seconds takes a number"));
                }
                "--lines" => bench.lines = Some(args.next().expect("--lines takes a file").into()),
                word => bench.words.push(word.to_owned()),
            }
        }
        bench
    }

    /// Whether nothing is measured: then the least work that runs everything is enough.
    pub(crate) fn is_smoke(&self) -> bool {
        self.smoke
    }

    /// How long one comparison may take.
    pub(crate) fn budget(&self) -> Duration {
        self.budget
    }

    /// Whether the command line asks for this comparison.
    pub(crate) fn wants(&self, group: &str, size: &str) -> bool {
        let name = format!("{group} {size}");
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word.as_str()))
    }

    /// Compares sides; `bytes` is what one time works on, 0 where that says nothing.
    pub(crate) fn compare<M>(
        &self,
        (group, size, bytes): (&str, &str, usize),
        time: Time,
        memory: &mut M,
        mut sides: Vec<Side<'_, M>>,
    ) {
        if self.smoke {
            sides.iter_mut().for_each(|side| _ = side.turn(memory, time));
            println!("{group} {size}: {} sides ran", sides.len());
            return;
        }
        sides.iter_mut().for_each(|side| side.calibrate(memory, time));
        let mut taken = vec![Vec::new(); sides.len()];
        let began = Time::Wall.now();
        loop {
            let mut round = vec![0.0; sides.len()];
            for at in (0..sides.len()).chain((0..sides.len()).rev()) {
                round[at] += sides[at].turn(memory, time) / 2.0;
            }
            taken.iter_mut().zip(round).for_each(|(all, one)| all.push(one));
            let rounds = taken[0].len();
            let is_due = rounds >= ROUNDS && rounds.is_multiple_of(25);
            if Time::Wall.now() - began > self.budget || is_due && is_narrow(&sides, &taken) {
                break;
            }
        }
        let rows: Vec<_> = sides
            .iter()
            .zip(taken)
            .map(|(side, nanos)| Row { name: side.name, baselines: side.baselines, nanos })
            .collect();
        self.report((group, size, bytes), &rows);
    }

    /// Prints what was measured, and appends it to the file of `--lines`.
    pub(crate) fn report(&self, (group, size, bytes): (&str, &str, usize), rows: &[Row]) {
        println!("\n{group} {size}, {} rounds", rows.first().map_or(0, |row| row.nanos.len()));
        for row in rows {
            let Some(nanos) = Median::of(&row.nanos) else { continue };
            let rate = match bytes {
                0 => String::new(),
                bytes => format!("{:.3} GB/s", bytes as f64 / nanos.point),
            };
            let Median { point, low, high } = nanos;
            println!("  {:<24} {point:>12.1} ns ({low:.1} to {high:.1})  {rate}", row.name);
            let mut shares = Vec::new();
            for (baseline, share) in row.shares(rows) {
                let Median { point, low, high } = share;
                let is_noisy = share.margin() > WIDE;
                let noisy = if is_noisy { "  TOO NOISY: the interval is wide" } else { "" };
                println!("    {point:>6.2}% of {baseline} ({low:.2} to {high:.2}){noisy}");
                shares.push(json!({
                    "baseline": baseline, "percent": point, "low": low, "high": high, "too_noisy": is_noisy,
                }));
            }
            self.write(&json!({
                "group": group,
                "size": size,
                "bytes": (bytes > 0).then_some(bytes),
                "function": row.name,
                "rounds": row.nanos.len(),
                "nanos": { "median": point, "low": low, "high": high },
                "gigabytes_per_second": (bytes > 0).then_some(bytes as f64 / point),
                "share": shares,
            }));
        }
    }

    fn write(&self, line: &serde_json::Value) {
        let Some(path) = &self.lines else { return };
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| writeln!(file, "{line}")).expect("the results can't be written");
    }
}

/// What was measured of one side.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Whose rates its own is shown as a percentage of.
    pub(crate) baselines: &'static [&'static str],
    /// The time for one, in each round.
    pub(crate) nanos: Vec<f64>,
}

impl Row {
    fn shares<'a>(&'a self, rows: &'a [Row]) -> impl Iterator<Item = (&'static str, Median)> + 'a {
        self.baselines.iter().filter_map(|name| {
            let baseline = rows.iter().find(|other| other.name == *name).expect("no such baseline");
            Some((*name, share(&baseline.nanos, &self.nanos)?))
        })
    }
}

/// A rate as a percentage of a baseline's, round by round.
fn share(baseline: &[f64], own: &[f64]) -> Option<Median> {
    Median::of(&baseline.iter().zip(own).map(|(base, own)| 100.0 * base / own).collect::<Vec<_>>())
}

fn is_narrow<M>(sides: &[Side<'_, M>], taken: &[Vec<f64>]) -> bool {
    let nanos_of = |name| sides.iter().position(|side| side.name == name).map(|at| &taken[at]);
    sides.iter().zip(taken).all(|(side, own)| {
        let shares = side.baselines.iter().filter_map(|name| share(nanos_of(*name)?, own));
        shares.into_iter().all(|share| share.margin() <= NARROW)
    })
}
