//! Long random sequences of events, with clocks that jump.

use proptest::prelude::*;

use super::{
    model::{Input, Model},
    *,
};

/// How many sequences, by default and under `COFFERDAM_FULL=1`.
fn cases() -> u32 {
    if is_full() { 50_000 } else { 500 }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn random_sequences_break_no_promise(
        policy in policies(),
        customer in any::<bool>(),
        choices in prop::collection::vec((any::<prop::sample::Index>(), 1..4_000_000u32, any::<u16>()), 1..200),
    ) {
        let provider = if customer { Provider::Customer } else { Provider::Service };
        let mut model = Model::new(provider);
        for (choice, pass, jitter) in choices {
            // Mostly short waits, now and then an hour.
            let pass = if pass % 8 == 0 { pass * MS } else { pass % 40_000 * MS };
            let inputs = model.inputs(&[pass, pass, pass], &KINDS);
            let input = match inputs[choice.index(inputs.len())] {
                Input::Feed(Event::Verified { attempt, .. }) => {
                    Input::Feed(Event::Verified { attempt, jitter: Jitter(jitter) })
                }
                Input::Feed(Event::Failed { attempt, kind, .. }) => {
                    Input::Feed(Event::Failed { attempt, kind, keks: Keks::default(), jitter: Jitter(jitter) })
                }
                input => input,
            };
            if let Err(wrong) = model.happen(input, &policy) {
                prop_assert!(false, "{wrong}, after {input:?}: {:?}", model.state);
            }
        }
    }
}
