//! What the tests of layers share: a scripted vault, and every question to it.

#![allow(dead_code, reason = "each file of tests uses a part")]

use std::{sync::Arc, time::Duration};

use cofferdam_crypto::{AccountId, Aek, Epoch, KeyId, KeyScope, Provider, WrapAlgorithm, WrappedKey};
use cofferdam_vault::{KeyVault, VaultError, WrapContext, testing::ScriptedVault};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn kek() -> KeyId {
    KeyId::new("test://customer/keys/payroll/1").unwrap()
}

pub(crate) fn vault() -> Arc<ScriptedVault> {
    let vault = Arc::new(ScriptedVault::new(7));
    vault.create_key(&kek()).unwrap();
    vault
}

pub(crate) fn context() -> WrapContext {
    let account = AccountId::from_random_bytes([7; 16]);
    WrapContext { scope: KeyScope { account, epoch: Epoch::FIRST, provider: Provider::Customer } }
}

/// Printable, so that it is found wherever it is printed.
pub(crate) const CANARY: &[u8; 32] = b"CANARYCANARYCANARYCANARYCANARY42";

pub(crate) fn aek() -> Aek {
    Aek::try_from_fn(|bytes| {
        bytes.copy_from_slice(CANARY);
        Ok::<_, VaultError>(())
    })
    .unwrap()
}

/// Asks everything once: to wrap, to unwrap, the properties, the public half.
pub(crate) async fn ask_all(vault: &dyn KeyVault) -> [Result<(), VaultError>; 4] {
    let wrapped = WrappedKey { key_id: kek(), algorithm: WrapAlgorithm::Aes256Kw, bytes: vec![7; 40] };
    [
        vault.wrap_key(&kek(), &aek(), &context()).await.map(drop),
        vault.unwrap_key(&wrapped, &context()).await.map(drop),
        vault.key_properties(&kek()).await.map(drop),
        vault.public_key(&kek()).await.map(drop),
    ]
}
