//! `cargo xtask bench`: criterion's medians, each beside its baseline of the same run.
//!
//! Absolute rates drift with the machine; a percentage of a baseline taken in the same run does not. In a
//! group, at one size, the baseline of `x` and `x-anything` is `raw-x`; where there is none, it is `plain`.
//! What an earlier run left in criterion's folder is not read.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    run::{call, cargo},
    test::FACADE,
    workspace::Workspace,
};

/// A benchmark's result.
#[derive(Clone, Debug, PartialEq)]
struct Measured {
    group: String,
    function: String,
    size: String,
    /// The median of the time for one iteration, in nanoseconds.
    nanos: f64,
    /// Bytes an iteration, where the benchmark says.
    bytes: Option<f64>,
}

/// A rate as a percentage of another.
#[derive(Debug, PartialEq)]
struct Ratio<'a> {
    baseline: &'a str,
    percent: f64,
}

/// Runs the benchmarks of the facade with these arguments for criterion and prints the ratios.
///
/// # Errors
/// When a benchmark fails, or measures nothing.
pub(crate) fn run(json: Option<&Path>, criterion: &[String]) -> Result<bool> {
    let workspace = Workspace::load()?;
    let names = workspace.targets(FACADE, &cargo_metadata::TargetKind::Bench);
    if names.is_empty() {
        bail!("{FACADE} has no benchmarks");
    }
    let start = SystemTime::now();
    let mut command = cargo(&["bench", "--package", FACADE, "--all-features"]);
    command.args(names.iter().flat_map(|name| ["--bench", name])).arg("--").args(criterion);
    call(&mut command)?;

    let mut measured = Vec::new();
    read_results(&workspace.target_dir().join("criterion"), start, &mut measured)?;
    if measured.is_empty() {
        bail!("no benchmark was measured");
    }
    measured.sort_by(|a, b| sort_key(a).cmp(&sort_key(b)));
    print!("{}", table(&measured));
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&as_json(&measured))?;
        fs::write(path, text + "\n").with_context(|| path.display().to_string())?;
    }
    Ok(true)
}

/// Collects the results below a folder that are newer than `start`.
fn read_results(folder: &Path, start: SystemTime, found: &mut Vec<Measured>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        let estimates = path.join("estimates.json");
        if path.ends_with("new") && estimates.exists() {
            if fs::metadata(&estimates)?.modified()? >= start {
                found.push(read_result(&path)?);
            }
        } else {
            read_results(&path, start, found)?;
        }
    }
    Ok(())
}

fn read_result(folder: &Path) -> Result<Measured> {
    let benchmark = read_json(folder.join("benchmark.json"))?;
    let estimates = read_json(folder.join("estimates.json"))?;
    let text = |key: &str| benchmark.get(key).and_then(Value::as_str).unwrap_or_default();
    // A function named "impl/size" instead of a function with a parameter.
    let (function, size) = match (text("function_id"), text("value_str")) {
        (function, "") => function.rsplit_once('/').unwrap_or((function, "")),
        parts => parts,
    };
    let nanos = estimates.pointer("/median/point_estimate").and_then(Value::as_f64);
    Ok(Measured {
        group: text("group_id").to_owned(),
        function: function.to_owned(),
        size: size.to_owned(),
        nanos: nanos.with_context(|| format!("{} has no median", folder.display()))?,
        bytes: benchmark.pointer("/throughput/Bytes").and_then(Value::as_f64),
    })
}

fn read_json(path: PathBuf) -> Result<Value> {
    let name = || path.display().to_string();
    serde_json::from_str(&fs::read_to_string(&path).with_context(name)?).with_context(name)
}

/// The rate of `one` as a percentage of its baseline's in the same group and at the same size.
fn ratio<'a>(one: &Measured, all: &'a [Measured]) -> Option<Ratio<'a>> {
    let peers = || all.iter().filter(|other| other.group == one.group && other.size == one.size);
    let of_family = |other: &&Measured| {
        let Some(family) = other.function.strip_prefix("raw-") else { return false };
        one.function.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let raw = peers().filter(of_family).max_by_key(|other| other.function.len());
    let is_baseline = one.function.starts_with("raw-") || one.function == "plain";
    let baseline =
        raw.or_else(|| peers().find(|other| other.function == "plain")).filter(|_| !is_baseline)?;
    Some(Ratio { baseline: &baseline.function, percent: 100.0 * baseline.nanos / one.nanos })
}

/// By group, then size as a number, then with the baselines first.
fn sort_key(one: &Measured) -> (&str, u64, &str, bool, &str) {
    let is_derived = !(one.function.starts_with("raw-") || one.function == "plain");
    (&one.group, bytes_of(&one.size), &one.size, is_derived, &one.function)
}

/// A size as a number: plain digits, or with a unit such as "64 KiB"; others sort last.
fn bytes_of(size: &str) -> u64 {
    let digits = size.trim_end_matches(|last: char| !last.is_ascii_digit());
    let unit = match size[digits.len()..].trim() {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        _ => return u64::MAX,
    };
    digits.parse().map_or(u64::MAX, |number: u64| number.saturating_mul(unit))
}

fn gigabytes_per_second(one: &Measured) -> Option<f64> {
    one.bytes.map(|bytes| bytes / one.nanos)
}

fn table(measured: &[Measured]) -> String {
    let mut text = format!(
        "\n{:<8} {:>10}  {:<22} {:>14} {:>9}  share of the baseline\n",
        "group", "size", "function", "median", "GB/s"
    );
    for one in measured {
        let rate = gigabytes_per_second(one).map_or(String::new(), |rate| format!("{rate:.3}"));
        let share =
            ratio(one, measured).map_or(String::new(), |r| format!("{:.1}% of {}", r.percent, r.baseline));
        let line = format!(
            "{:<8} {:>10}  {:<22} {:>11.0} ns {:>9}  {}",
            one.group, one.size, one.function, one.nanos, rate, share
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn as_json(measured: &[Measured]) -> Value {
    let one = |one: &Measured| {
        let ratio = ratio(one, measured);
        json!({
            "group": one.group,
            "function": one.function,
            "size": one.size,
            "median_ns": one.nanos,
            "bytes": one.bytes,
            "gigabytes_per_second": gigabytes_per_second(one),
            "baseline": ratio.as_ref().map(|ratio| ratio.baseline),
            "percent_of_baseline": ratio.as_ref().map(|ratio| ratio.percent),
        })
    };
    measured.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn measured(group: &str, function: &str, size: &str, nanos: f64) -> Measured {
        Measured {
            group: group.to_owned(),
            function: function.to_owned(),
            size: size.to_owned(),
            nanos,
            bytes: Some(4096.0),
        }
    }

    #[test]
    fn a_function_is_compared_with_the_raw_one_of_its_family_and_size() {
        let all = [
            measured("seal", "raw-aws-lc", "4096", 400.0),
            measured("seal", "raw-aws-lc", "65536", 6_000.0),
            measured("seal", "raw-rustcrypto", "4096", 1_300.0),
            measured("open", "raw-aws-lc", "4096", 1.0),
            measured("seal", "aws-lc", "4096", 500.0),
            measured("seal", "aws-lc-one-page", "65536", 6_000.0),
            measured("seal", "rustcrypto", "4096", 2_600.0),
        ];
        assert_eq!(ratio(&all[4], &all), Some(Ratio { baseline: "raw-aws-lc", percent: 80.0 }));
        assert_eq!(ratio(&all[5], &all), Some(Ratio { baseline: "raw-aws-lc", percent: 100.0 }));
        assert_eq!(ratio(&all[6], &all), Some(Ratio { baseline: "raw-rustcrypto", percent: 50.0 }));
        assert_eq!(ratio(&all[0], &all), None, "a baseline has none itself");
    }

    #[test]
    fn sealed_is_compared_with_plain_and_a_stranger_with_nothing() {
        let all = [measured("put", "plain", "4096", 90.0), measured("put", "sealed", "4096", 100.0)];
        assert_eq!(ratio(&all[1], &all), Some(Ratio { baseline: "plain", percent: 90.0 }));
        let alone = [measured("seal", "raw-aws-lc", "4096", 1.0), measured("seal", "aws-lcx", "4096", 1.0)];
        assert_eq!(ratio(&alone[1], &alone), None);
    }

    #[test]
    fn rows_are_sorted_by_size_as_a_number_with_baselines_first() {
        let mut rows = [
            measured("seal", "aws-lc", "65536", 1.0),
            measured("seal", "aws-lc", "4096", 1.0),
            measured("seal", "raw-aws-lc", "4096", 1.0),
        ];
        rows.sort_by(|a, b| sort_key(a).cmp(&sort_key(b)));
        let order: Vec<_> = rows.iter().map(|row| (row.function.as_str(), row.size.as_str())).collect();
        assert_eq!(order, [("raw-aws-lc", "4096"), ("aws-lc", "4096"), ("aws-lc", "65536")]);
        assert!(bytes_of("64 KiB") < bytes_of("1 MiB") && bytes_of("1 MiB") < bytes_of("large"));
    }

    #[test]
    fn results_of_an_earlier_run_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("seal/aws-lc/4096/new");
        fs::create_dir_all(&new).unwrap();
        let benchmark =
            r#"{"group_id":"seal","function_id":"aws-lc","value_str":"4096","throughput":{"Bytes":4096}}"#;
        fs::write(new.join("benchmark.json"), benchmark).unwrap();
        fs::write(new.join("estimates.json"), r#"{"median":{"point_estimate":512.5}}"#).unwrap();

        let mut found = Vec::new();
        read_results(folder.path(), SystemTime::UNIX_EPOCH, &mut found).unwrap();
        assert_eq!(found, [measured("seal", "aws-lc", "4096", 512.5)]);

        found.clear();
        read_results(folder.path(), SystemTime::now() + Duration::from_secs(3600), &mut found).unwrap();
        assert_eq!(found, []);
    }

    #[test]
    fn a_function_that_carries_its_size_is_split() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("benchmark.json"), r#"{"group_id":"put","function_id":"plain/4096"}"#)
            .unwrap();
        fs::write(folder.path().join("estimates.json"), r#"{"median":{"point_estimate":7}}"#).unwrap();
        let result = read_result(folder.path()).unwrap();
        assert_eq!((result.function.as_str(), result.size.as_str(), result.bytes), ("plain", "4096", None));
    }

    #[test]
    fn the_json_has_the_ratio_beside_the_numbers() {
        let all = [measured("put", "plain", "4096", 50.0), measured("put", "sealed", "4096", 100.0)];
        let json = as_json(&all);
        assert_eq!(json[1]["percent_of_baseline"], 50.0);
        assert_eq!(json[0]["baseline"], Value::Null);
        assert!(table(&all).contains("50.0% of plain"), "{}", table(&all));
    }
}
