//! The checks, by name.

mod answers;
mod basics;
mod damage;
mod states;
mod usage;

use futures_util::future::BoxFuture;

use super::world::{Note, Step, World};

/// A check: its name, what a vault promises, and how that is looked at.
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) promise: &'static str,
    pub(super) run: Run,
}

type Run = for<'a> fn(&'a World<'a>) -> BoxFuture<'a, Step<Note>>;

const fn check(name: &'static str, promise: &'static str, run: Run) -> Check {
    Check { name, promise, run }
}

/// Every check, in the order in which they are made.
pub(super) const ALL: &[Check] = &[
    check("round-trip", "what is wrapped unwraps to the same key, any number of times", |w| {
        Box::pin(basics::round_trip(w))
    }),
    check("wrap-hides-key", "a wrap does not have the key in it", |w| Box::pin(basics::wrap_hides_key(w))),
    check("wrap-form", "a wrap has the algorithm of its key's kind and a length of it", |w| {
        Box::pin(basics::wrap_form(w))
    }),
    check(
        "wrap-names-version",
        "a wrap names the version that made it, also where that was not asked for",
        |w| Box::pin(basics::wrap_names_version(w)),
    ),
    check("old-version-unwraps", "an older version unwraps what it wrapped", |w| {
        Box::pin(basics::old_version_unwraps(w))
    }),
    check("latest-version-wraps", "an id without a version wraps by the latest", |w| {
        Box::pin(basics::latest_version_wraps(w))
    }),
    check("properties-kind", "properties tell the key, its kind and that it is enabled", |w| {
        Box::pin(basics::properties_kind(w))
    }),
    check("properties-latest", "properties tell the latest version", |w| {
        Box::pin(basics::properties_latest(w))
    }),
    check("properties-recoverable", "properties tell whether a deletion can be undone", |w| {
        Box::pin(basics::properties_recoverable(w))
    }),
    check("public-key", "what is wrapped by the public half unwraps", |w| Box::pin(basics::public_key(w))),
    check("not-rsa", "a key without a public half is other", |w| Box::pin(basics::not_rsa(w))),
    check("context-account", "a wrap of another account is corrupt, or caught by its check value", |w| {
        Box::pin(damage::context_account(w))
    }),
    check("context-epoch", "a wrap of another epoch is corrupt, or caught by its check value", |w| {
        Box::pin(damage::context_epoch(w))
    }),
    check("context-provider", "a wrap of another provider is corrupt, or caught by its check value", |w| {
        Box::pin(damage::context_provider(w))
    }),
    check("tampered-bits", "a wrap with any bit flipped is corrupt, and no denial", |w| {
        Box::pin(damage::tampered_bits(w))
    }),
    check("truncated", "a wrap cut short is corrupt, and no denial", |w| Box::pin(damage::truncated(w))),
    check("extended", "a wrap with more around it is corrupt, and no denial", |w| {
        Box::pin(damage::extended(w))
    }),
    check("wrong-algorithm", "a wrap by an algorithm that is not the key's is corrupt", |w| {
        Box::pin(damage::wrong_algorithm(w))
    }),
    check("other-keys-wrap", "a wrap by another key is corrupt, and no denial", |w| {
        Box::pin(damage::other_keys_wrap(w))
    }),
    check("wrong-length-not-sent", "a wrap of a wrong length is corrupt before the vault is asked", |w| {
        Box::pin(damage::wrong_length_not_sent(w))
    }),
    check("disabled", "a disabled key is key_disabled, for every use", |w| Box::pin(states::disabled(w))),
    check("disabled-properties", "properties of a disabled key say so", |w| {
        Box::pin(states::disabled_properties(w))
    }),
    check("enabled-again", "an enabled key works again", |w| Box::pin(states::enabled_again(w))),
    check("latest-disabled", "an id without a version whose latest is disabled is key_disabled", |w| {
        Box::pin(states::latest_disabled(w))
    }),
    check("deleted", "a deleted key is key_not_found, for every use", |w| Box::pin(states::deleted(w))),
    check("deleted-properties", "properties of a deleted key say so, or are key_not_found", |w| {
        Box::pin(states::deleted_properties(w))
    }),
    check("recovered", "a recovered key works again", |w| Box::pin(states::recovered(w))),
    check("expired", "a key past its time says so, and where it is refused it is key_disabled", |w| {
        Box::pin(states::expired(w))
    }),
    check(
        "not-yet-active",
        "a key before its time says so, and where it is refused it is key_disabled",
        |w| Box::pin(states::not_yet_active(w)),
    ),
    check("unknown-key", "a key that never was is key_not_found", |w| Box::pin(states::unknown_key(w))),
    check("unknown-version", "a version that never was is key_not_found", |w| {
        Box::pin(states::unknown_version(w))
    }),
    check("foreign-key", "an id of another vault or tenant is other", |w| Box::pin(states::foreign_key(w))),
    check("foreign-key-not-sent", "an id of another vault or tenant is sent to nobody", |w| {
        Box::pin(states::foreign_key_not_sent(w))
    }),
    check("denied", "a key that may not be used is access_denied", |w| Box::pin(answers::denied(w))),
    check("allowed-again", "a key that may be used again works", |w| Box::pin(answers::allowed_again(w))),
    check("outage", "a vault that is away is unavailable, for everything", |w| Box::pin(answers::outage(w))),
    check("outage-ends", "a vault that is back works", |w| Box::pin(answers::outage_ends(w))),
    check("throttled", "a vault that throttles is throttled, and says for how long where it does", |w| {
        Box::pin(answers::throttled(w))
    }),
    check("throttle-ends", "a vault that throttles no longer works", |w| Box::pin(answers::throttle_ends(w))),
    check("asks-once", "a call is not tried again", |w| Box::pin(answers::asks_once(w))),
    check("credential-expired", "an expired credential is renewed, or unauthenticated; no denial", |w| {
        Box::pin(answers::credential_expired(w))
    }),
    check("credential-lost", "a credential that can't be had is unauthenticated; no denial", |w| {
        Box::pin(answers::credential_lost(w))
    }),
    check("credential-regained", "a credential that can be had again works", |w| {
        Box::pin(answers::credential_regained(w))
    }),
    check("untrusted", "a vault whose certificate is not its own is untrusted", |w| {
        Box::pin(answers::untrusted(w))
    }),
    check("trusted-again", "a vault whose certificate is its own again works", |w| {
        Box::pin(answers::trusted_again(w))
    }),
    check("concurrent-calls", "calls at the same time each get their own answer", |w| {
        Box::pin(usage::concurrent_calls(w))
    }),
    check("dropped-calls", "a call that is given up leaves the vault usable", |w| {
        Box::pin(usage::dropped_calls(w))
    }),
    check("no-secret-in-debug", "the vault prints no key", |w| Box::pin(usage::no_secret_in_debug(w))),
    // The last: it looks at the errors of all the others.
    check("no-secret-in-errors", "no error prints a key", |w| Box::pin(usage::no_secret_in_errors(w))),
];
