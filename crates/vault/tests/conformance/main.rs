//! What every vault must do, asked of each that there is.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests"
)]

#[cfg(all(feature = "aws", feature = "servers"))]
mod aws;
#[cfg(all(feature = "aws", feature = "servers"))]
#[path = "../aws_support/mod.rs"]
mod aws_support;
#[cfg(all(feature = "azure", feature = "serve"))]
mod azure;
#[cfg(all(feature = "azure", feature = "serve"))]
#[path = "../azure_support/mod.rs"]
mod azure_support;
mod broken;
#[path = "../factories/mod.rs"]
mod factories;
#[path = "../heard/mod.rs"]
mod heard;
mod local;
#[cfg(all(feature = "pkcs11", feature = "servers"))]
mod pkcs11;
mod scripted;
#[path = "../support/mod.rs"]
mod support;
#[cfg(all(feature = "pkcs11", feature = "servers"))]
#[path = "../tokens/mod.rs"]
mod tokens;
#[cfg(all(feature = "transit", feature = "servers"))]
mod transit;
#[cfg(all(feature = "transit", feature = "servers"))]
#[path = "../transit_support/mod.rs"]
mod transit_support;
