//! `cargo xtask bench`: runs the benchmarks, keeps what they measured, and says what is too noisy to be believed.
//!
//! The benchmarks compare and print by themselves (`benches/paired`); here their results are collected.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    run::{call, cargo},
    test::FACADE,
    workspace::Workspace,
};

/// What a benchmark measured of one side of a comparison: what is needed of it here.
#[derive(Debug, Deserialize)]
struct Measured {
    group: String,
    size: String,
    function: String,
    nanos: Nanos,
    share: Vec<Share>,
}

#[derive(Debug, Deserialize)]
struct Nanos {
    median: f64,
}

/// A rate as a percentage of another, with its interval.
#[derive(Debug, Deserialize)]
struct Share {
    baseline: String,
    percent: f64,
    low: f64,
    high: f64,
    too_noisy: bool,
}

/// Criterion's, which takes other arguments: absolute rates, by `cargo bench --bench throughput`.
const ABSOLUTE: &str = "throughput";

/// Runs the benchmarks of the facade that compare, with these arguments, and writes what they measured to `json`.
///
/// # Errors
/// When a benchmark fails, or nothing is measured.
pub(crate) fn run(json: Option<&Path>, arguments: &[String]) -> Result<bool> {
    let workspace = Workspace::load()?;
    let mut names = workspace.targets(FACADE, &cargo_metadata::TargetKind::Bench);
    names.retain(|name| name != ABSOLUTE);
    if names.is_empty() {
        bail!("{FACADE} has no benchmarks");
    }
    let folder = tempfile::tempdir()?;
    let lines = folder.path().join("measured");
    let mut command = cargo(&["bench", "--package", FACADE, "--all-features"]);
    command.args(names.iter().flat_map(|name| ["--bench", name])).arg("--").args(arguments);
    call(command.arg("--lines").arg(&lines))?;

    let text = fs::read_to_string(&lines).context("no benchmark was measured")?;
    print!("{}", summary(&read(&text)?));
    if let Some(path) = json {
        let all: Vec<Value> = read(&text)?;
        fs::write(path, serde_json::to_string_pretty(&all)? + "\n")
            .with_context(|| path.display().to_string())?;
    }
    Ok(true)
}

/// What was measured, from one JSON object a line.
fn read<T: for<'a> Deserialize<'a>>(lines: &str) -> Result<Vec<T>> {
    let parse = |line| serde_json::from_str(line).with_context(|| format!("no result: {line}"));
    lines.lines().map(parse).collect()
}

/// A line for each side, with its rates as percentages of others' in the same rounds.
fn summary(measured: &[Measured]) -> String {
    let mut text = String::from("\nmedians, with 95% intervals of percentages\n");
    let mut noisy = 0;
    for Measured { group, size, function, nanos, share } in measured {
        let line = format!("{group:<16} {size:>8}  {function:<24} {:>12.1} ns", nanos.median);
        text += &line;
        for Share { baseline, percent, low, high, too_noisy } in share {
            let mark = if *too_noisy { "too noisy: " } else { "" };
            noisy += usize::from(*too_noisy);
            text += &format!("  {percent:.2}% of {baseline} ({mark}{low:.2} to {high:.2})");
        }
        text += "\n";
    }
    if noisy > 0 {
        text += &format!("{noisy} are too noisy to be believed: run them again when the machine is idle\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = concat!(
        r#"{"group":"seal","size":"4KiB","bytes":4096,"function":"raw","rounds":200,"nanos":{"median":1700.25},"share":[]}"#,
        "\n",
        r#"{"group":"seal","size":"4KiB","bytes":4096,"function":"seal_to","rounds":200,"nanos":{"median":1700.25},"share":["#,
        r#"{"baseline":"raw","percent":61.5,"low":61.25,"high":61.75,"too_noisy":false},"#,
        r#"{"baseline":"raw too","percent":50.0,"low":40.0,"high":60.0,"too_noisy":true}]}"#,
        "\n",
    );

    #[test]
    fn every_share_is_shown_with_its_interval_and_noise_is_called_noise() {
        let text = summary(&read(LINES).unwrap());
        assert!(
            text.contains("seal_to                        1700.2 ns  61.50% of raw (61.25 to 61.75)"),
            "{text}"
        );
        assert!(text.contains("  50.00% of raw too (too noisy: 40.00 to 60.00)\n"), "{text}");
        assert!(text.contains("\n1 are too noisy"), "{text}");
        let quiet = LINES.replace("true", "false");
        assert!(!summary(&read(&quiet).unwrap()).contains("too noisy"));
    }

    #[test]
    fn a_line_that_is_no_result_is_an_error_that_shows_it() {
        let error = read::<Measured>("{\"group\":\"seal\"}\n").unwrap_err();
        assert!(error.to_string().contains("seal"), "{error}");
    }
}
