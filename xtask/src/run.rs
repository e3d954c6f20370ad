//! Runs other programs and reports steps.
//!
//! A step is printed with its name, its wall time and how it ended; nothing reads stdin. What a program
//! prints passes through as it comes; the totals of `cargo test` are added up on the way.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::workspace;

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It held; a note for the summary, which may be empty.
    Ok(String),
    /// It did not run, and why.
    Skipped(String),
}

/// Tests that ran, as their harness counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

impl Tally {
    /// Adds what a line of a test harness says, if it is its result line.
    fn read(&mut self, line: &str) {
        let Some((_, counts)) = line.split_once("test result: ") else { return };
        for part in counts.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let Some(Ok(count)) = words.next().map(str::parse::<u64>) else { continue };
            match words.next() {
                Some("passed") => self.passed += count,
                Some("failed") => self.failed += count,
                Some("ignored") => self.ignored += count,
                _ => {}
            }
        }
    }
}

struct Done {
    name: &'static str,
    took: Duration,
    state: &'static str,
    note: String,
}

/// Runs steps one after the other, past failures, and sums them up.
pub(crate) struct Runner {
    services: bool,
    only: Vec<String>,
    done: Vec<Done>,
    pub(crate) tally: Tally,
}

impl Runner {
    /// A runner of the steps named in `only`, of all when that is empty; with `services`, a skip is a failure.
    pub(crate) fn new(services: bool, only: &[String]) -> Self {
        Self { services, only: only.to_vec(), done: Vec::new(), tally: Tally::default() }
    }

    /// Runs one step.
    pub(crate) fn step(&mut self, name: &'static str, work: impl FnOnce(&mut Tally) -> Result<Outcome>) {
        if !self.only.is_empty() && !self.only.iter().any(|wanted| wanted == name) {
            return;
        }
        println!("\n=== {name}");
        let start = Instant::now();
        let (state, note) = match work(&mut self.tally) {
            Ok(Outcome::Ok(note)) => ("ok", note),
            Ok(Outcome::Skipped(why)) if self.services => ("FAILED", format!("skipped: {why}")),
            Ok(Outcome::Skipped(why)) => ("SKIPPED", why),
            Err(error) => ("FAILED", format!("{error:#}")),
        };
        let done = Done { name, took: start.elapsed(), state, note };
        println!("--- {}", line(&done));
        self.done.push(done);
    }

    /// Prints the summary; whether all steps held.
    ///
    /// # Errors
    /// When no step ran: a name in `only` was wrong.
    pub(crate) fn finish(self) -> Result<bool> {
        if let Some(unknown) = self.only.iter().find(|name| !self.done.iter().any(|done| done.name == **name))
        {
            bail!("there is no step named {unknown:?}");
        }
        println!("\n=== summary");
        self.done.iter().for_each(|done| println!("{}", line(done)));
        let count = |state| self.done.iter().filter(|done| done.state == state).count();
        println!("steps: {} ok, {} failed, {} skipped", count("ok"), count("FAILED"), count("SKIPPED"));
        let Tally { passed, failed, ignored } = self.tally;
        println!("tests: {passed} passed, {failed} failed, {ignored} ignored");
        Ok(count("FAILED") == 0)
    }
}

fn line(done: &Done) -> String {
    let Done { name, took, state, note } = done;
    format!("{state:<7} {name:<10} {:>7.1} s  {note}", took.as_secs_f64()).trim_end().to_owned()
}

/// Faults found by a check: none is a success, else they are printed and counted.
pub(crate) fn verdict(faults: &[String], held: impl Into<String>) -> Result<Outcome> {
    if faults.is_empty() {
        return Ok(Outcome::Ok(held.into()));
    }
    faults.iter().for_each(|fault| println!("{fault}"));
    bail!("{} found", faults.len())
}

/// A cargo command in the workspace, by the cargo that started us.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    program(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()), arguments)
}

/// A program in the workspace's folder, without stdin.
pub(crate) fn program(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(arguments).current_dir(workspace::root()).stdin(Stdio::null());
    command
}

/// Runs a command to its end.
///
/// # Errors
/// When it can't be started, or ends with anything but 0.
pub(crate) fn call(command: &mut Command) -> Result<()> {
    println!("$ {}", shown(command));
    let status = command.status().with_context(|| format!("can't start {}", shown(command)))?;
    if status.success() { Ok(()) } else { Err(anyhow!("{} ended with {status}", shown(command))) }
}

/// Runs a command to its end, passes its output on and adds up the tests that it reports.
///
/// # Errors
/// As [`call`].
pub(crate) fn call_tests(command: &mut Command, tally: &mut Tally) -> Result<()> {
    println!("$ {}", shown(command));
    let failed = format!("can't start {}", shown(command));
    let mut child = command.stdout(Stdio::piped()).spawn().context(failed)?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            tally.read(&line);
        }
    }
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(anyhow!("{} ended with {status}", shown(command))) }
}

/// Runs a command to its end and returns what it printed; stderr passes through.
///
/// # Errors
/// As [`call`].
pub(crate) fn output(command: &mut Command) -> Result<String> {
    println!("$ {}", shown(command));
    let failed = format!("can't start {}", shown(command));
    let out = command.stderr(Stdio::inherit()).output().context(failed)?;
    if !out.status.success() {
        bail!("{} ended with {}", shown(command), out.status);
    }
    String::from_utf8(out.stdout).with_context(|| format!("{} printed no UTF-8", shown(command)))
}

/// Whether a command runs and ends with 0; what it prints is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn shown(command: &Command) -> String {
    let name = std::path::Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy());
    std::iter::once(name).chain(arguments).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tally_adds_result_lines_and_nothing_else() {
        let mut tally = Tally::default();
        tally.read(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.41s",
        );
        tally.read(
            "test result: FAILED. 2 passed; 5 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9s",
        );
        tally.read("running 400 tests");
        assert_eq!(tally, Tally { passed: 14, failed: 5, ignored: 1 });
    }

    #[test]
    fn a_skip_fails_only_where_services_are_asked_for() {
        for services in [false, true] {
            let mut runner = Runner::new(services, &[]);
            runner.step("good", |_| Ok(Outcome::Ok(String::new())));
            runner.step("skipped", |_| Ok(Outcome::Skipped("no python".to_owned())));
            assert_eq!(runner.finish().unwrap(), !services);
        }
    }

    #[test]
    fn steps_go_on_after_a_failure_and_the_whole_fails() {
        let mut runner = Runner::new(false, &[]);
        let mut ran = false;
        runner.step("bad", |_| bail!("broken"));
        runner.step("good", |_| {
            ran = true;
            Ok(Outcome::Ok(String::new()))
        });
        assert!(ran);
        assert!(!runner.finish().unwrap());
    }

    #[test]
    fn an_unknown_step_is_an_error_and_not_an_empty_success() {
        let mut runner = Runner::new(false, &["fromat".to_owned()]);
        runner.step("format", |_| bail!("must not run"));
        assert!(runner.finish().unwrap_err().to_string().contains("fromat"));
    }
}
