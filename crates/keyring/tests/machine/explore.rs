//! Every sequence of events up to a depth.

use std::{
    collections::HashSet,
    hash::{BuildHasherDefault, DefaultHasher},
};

use super::{model::Model, *};

/// How deep the default run goes, and the one under `COFFERDAM_FULL=1`.
fn depth() -> usize {
    if is_full() { 9 } else { 7 }
}

#[test]
fn no_sequence_of_events_breaks_a_promise() {
    let passes = [SECOND, 31 * SECOND, 36 * SECOND, 1800 * SECOND];
    let kinds = [Kind::Unavailable, Kind::AccessDenied, Kind::KeyNotFound];
    for provider in [Provider::Customer, Provider::Service] {
        for policy in [Policy::default(), Policy::default().with_grace(Duration::ZERO).unwrap()] {
            let mut seen: HashSet<Model, BuildHasherDefault<DefaultHasher>> = HashSet::default();
            let mut frontier = vec![Model::new(provider)];
            for depth in 1..=depth() {
                let mut next = Vec::new();
                for model in &frontier {
                    for input in model.inputs(&passes, &kinds) {
                        let mut then = model.clone();
                        if let Err(wrong) = then.happen(input, &policy) {
                            panic!("depth {depth}: {wrong}, after {input:?} in {:?}", model.state);
                        }
                        if seen.insert(then.clone()) {
                            next.push(then);
                        }
                    }
                }
                frontier = next;
            }
            println!("{provider}, grace {:?}: {} states to depth {}", policy.grace(), seen.len(), depth());
        }
    }
}
