//! Encrypts what a storage service writes under keys that its customers hold and can take away.
//!
//! This crate only gathers the others under one name:
//!
//! - [`crypto`]: keys, derivation and the sealed-block format; no I/O, no clock, no runtime.
//! - [`vault`]: where a customer keeps the key encryption key, and what its answers mean.
//! - [`keyring`]: the cache that unwraps account keys, renews them, and obeys a revocation at once.
//! - [`store`]: the engine: accounts and blocks over an embedded store.

pub use cofferdam_crypto as crypto;
pub use cofferdam_keyring as keyring;
pub use cofferdam_store as store;
pub use cofferdam_vault as vault;
