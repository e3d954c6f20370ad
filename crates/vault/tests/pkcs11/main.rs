//! Tokens by PKCS #11.

#![allow(missing_docs, clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests")]

mod answers;
mod foreign;
#[path = "../heard/mod.rs"]
mod heard;
mod keys;
mod lost;
mod pin;
mod served;
#[path = "../support/mod.rs"]
mod support;
#[path = "../tokens/mod.rs"]
mod tokens;
