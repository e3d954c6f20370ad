//! The arrows between our crates run one way.
//!
//! A crate imports only crates on a lower floor, for its tests too: a test that needs more belongs into the
//! facade's `tests/`. Imports leave the default features off, so that `--no-default-features` reaches crypto.

use crate::workspace::{Member, Workspace};

/// The floors of the house, from the ground; crates on one floor don't import each other.
const FLOORS: &[&[&str]] = &[
    &["cofferdam-crypto"],
    &["cofferdam-vault"],
    &["cofferdam-keyring"],
    &["cofferdam-store"],
    &["cofferdam-sim"],
    &["cofferdam-cli"],
    &["cofferdam"],
    &["cofferdam-with-parquet", "cofferdam-with-slatedb"],
];

/// Stands outside: imports none of ours, and none of ours imports it.
const APART: &str = "xtask";

/// What is wrong with the arrows of this workspace.
pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    check_members(&workspace.members())
}

fn check_members(members: &[Member]) -> Vec<String> {
    let mut faults = Vec::new();
    for member in members {
        let Some(floor) = floor(&member.name) else {
            if member.name != APART {
                faults.push(format!("{} has no floor: add it to FLOORS in xtask/src/arrows.rs", member.name));
            } else if let Some(import) = member.imports.first() {
                faults
                    .push(format!("{APART} imports {}: it must build when the house does not", import.name));
            }
            continue;
        };
        for import in &member.imports {
            let how = if import.for_tests { "imports for its tests" } else { "imports" };
            if self::floor(&import.name).is_none_or(|below| below >= floor) {
                faults.push(format!("{} {how} {}, which is not below it", member.name, import.name));
            }
            if import.default_features {
                faults.push(format!(
                    "{} {how} {} with its default features: set default-features = false",
                    member.name, import.name
                ));
            }
        }
    }
    faults
}

fn floor(name: &str) -> Option<usize> {
    FLOORS.iter().position(|crates| crates.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Import;

    fn member(name: &str, imports: &[(&str, bool)]) -> Member {
        let import = |&(name, for_tests): &(&str, bool)| Import {
            name: name.to_owned(),
            for_tests,
            default_features: false,
        };
        Member { name: name.to_owned(), imports: imports.iter().map(import).collect() }
    }

    #[test]
    fn arrows_that_run_down_pass() {
        let house = [
            member("cofferdam-crypto", &[]),
            member("cofferdam-vault", &[("cofferdam-crypto", false)]),
            member("cofferdam-keyring", &[("cofferdam-vault", false), ("cofferdam-vault", true)]),
            member("cofferdam-store", &[("cofferdam-crypto", false)]),
            member("cofferdam-cli", &[("cofferdam-store", false)]),
            member("cofferdam", &[("cofferdam-cli", true), ("cofferdam-store", false)]),
            member("xtask", &[]),
        ];
        assert_eq!(check_members(&house), Vec::<String>::new());
    }

    #[test]
    fn an_arrow_that_runs_up_is_named_even_for_tests() {
        let up = check_members(&[member("cofferdam-crypto", &[("cofferdam-vault", false)])]);
        assert_eq!(up, ["cofferdam-crypto imports cofferdam-vault, which is not below it"]);
        let test_up = check_members(&[member("cofferdam-store", &[("cofferdam", true)])]);
        assert_eq!(test_up, ["cofferdam-store imports for its tests cofferdam, which is not below it"]);
    }

    #[test]
    fn default_features_on_an_internal_arrow_are_refused() {
        let mut vault = member("cofferdam-vault", &[("cofferdam-crypto", false)]);
        vault.imports[0].default_features = true;
        let faults = check_members(&[vault]);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].contains("default-features = false"), "{faults:?}");
    }

    #[test]
    fn a_crate_without_a_floor_is_refused() {
        let faults = check_members(&[member("cofferdam-attic", &[])]);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("cofferdam-attic has no floor"), "{faults:?}");
    }

    #[test]
    fn xtask_imports_nothing_of_the_house_and_nothing_imports_it() {
        assert_eq!(check_members(&[member("xtask", &[("cofferdam-crypto", false)])]).len(), 1);
        assert_eq!(check_members(&[member("cofferdam-cli", &[("xtask", true)])]).len(), 1);
    }
}
