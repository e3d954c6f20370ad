//! Handles and the entries behind them.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use async_trait::async_trait;
use cofferdam_crypto::{AccountId, Aek, Epoch, KeyId, KeyScope, Provider, RecordKey, WrappedAek};
use cofferdam_vault::{
    Entropy, KeyVault, VaultRegistry, WrapContext,
    testing::{ScriptedVault, SeededEntropy, TokioClock},
};
use tokio::time::sleep;

use super::*;
use crate::{KeyRecord, RecordError};

const SEED: u64 = 11;

fn account() -> AccountId {
    AccountId::from_random_bytes([7; 16])
}

/// One account, under the service's key.
#[derive(Debug)]
struct OneAccount(KeyRecord);

#[async_trait]
impl KeyRecords for OneAccount {
    async fn service_keys(&self, asked: AccountId) -> Result<KeyRecord, RecordError> {
        if asked == account() { Ok(self.0.clone()) } else { Err(RecordError::NotFound) }
    }

    async fn customer_keys(&self, _: AccountId, _: &RecordKey) -> Result<KeyRecord, RecordError> {
        Err(RecordError::NotFound)
    }

    async fn set_revoked(&self, _: AccountId, _: bool) -> Result<(), RecordError> {
        Err(RecordError::NotFound)
    }

    async fn note_bridge(&self, _: AccountId, _: &KeyId, _: Option<Duration>) -> Result<(), RecordError> {
        Err(RecordError::NotFound)
    }
}

async fn keyring() -> Keyring {
    keyring_with(Policy::default()).await
}

async fn keyring_with(policy: Policy) -> Keyring {
    let (vault, entropy) = (Arc::new(ScriptedVault::new(SEED)), Arc::new(SeededEntropy::new(SEED)));
    let kek = KeyId::new("test://service/keys/accounts/1").unwrap();
    vault.create_key(&kek).unwrap();
    let scope = KeyScope { account: account(), epoch: Epoch::FIRST, provider: Provider::Service };
    let aek = Aek::try_from_fn(|bytes| entropy.fill(bytes)).unwrap();
    let wrap = vault.wrap_key(&kek, &aek, &WrapContext { scope }).await.unwrap();
    let epochs = vec![WrappedAek::new(&aek, scope, vec![wrap])];
    Keyring::new(KeyringParts {
        vaults: VaultRegistry::new(vault),
        records: Arc::new(OneAccount(KeyRecord::under(None, epochs))),
        clock: Arc::new(TokioClock::new()),
        entropy,
        policy,
    })
}

/// What the map has for a handle's account.
fn is_in_map(handle: &KeyHandle) -> bool {
    let key = (handle.entry.account, handle.entry.provider);
    handle.keyring.shared.entries.with(key, |entry| Arc::ptr_eq(entry, &handle.entry)).unwrap_or(false)
}

#[tokio::test(start_paused = true)]
async fn a_handle_made_while_its_entry_is_retired_gets_another_and_serves_without_a_lock() {
    let keyring = keyring().await;
    // As it is between being retired and being removed.
    let retiring = keyring.shared.entry(account(), Provider::Service);
    retiring.desk().retired = true;
    let handle = keyring.handle(account(), Provider::Service);
    assert!(!Arc::ptr_eq(&handle.entry, &retiring));
    assert!(is_in_map(&handle));
    handle.sealing_key().await.unwrap();
    assert!(handle.entry.current(None, For::Caller).is_some());

    handle.entry.desk().retired = true;
    let watch = keyring.watch(account(), Provider::Service);
    assert_eq!(*watch.borrow(), KeyState::Cold);
    assert!(!is_in_map(&handle));
}

#[tokio::test(start_paused = true)]
async fn a_handle_keeps_its_entry_through_idleness_and_serves_without_a_lock_after_it() {
    let keyring = keyring().await;
    let handle = keyring.handle(account(), Provider::Service);
    for _ in 0..3 {
        handle.sealing_key().await.unwrap();
        sleep(Duration::from_secs(7200)).await;
        assert!(handle.entry.live.load().is_none(), "its key was dropped");
        assert_eq!(keyring.shared.tasks.now(), 0, "its task has ended");
        handle.sealing_key().await.unwrap();
        assert!(handle.entry.current(None, For::Caller).is_some());
        assert!(is_in_map(&handle));
    }
    let freed = Arc::downgrade(&handle.entry);
    drop(handle);
    sleep(Duration::from_secs(7200)).await;
    assert!(freed.upgrade().is_none(), "nobody holds it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handle_that_is_held_is_of_the_entry_in_the_map_however_entries_come_and_go() {
    let keyring = keyring().await;
    let makers: Vec<_> = (0..4)
        .map(|_| {
            let keyring = keyring.clone();
            tokio::spawn(async move {
                for round in 0..2_000_u32 {
                    // Nobody's: it rests and is retired as soon as it was asked for.
                    let account = AccountId::from_random_bytes([(round % 3) as u8; 16]);
                    let handle = keyring.handle(account, Provider::Service);
                    let refused = handle.sealing_key().await.unwrap_err();
                    assert!(matches!(refused, KeyError::UnknownAccount { .. }), "{refused}");
                    assert!(is_in_map(&handle));
                }
            })
        })
        .collect();
    for maker in makers {
        maker.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_displaced_key_is_dropped_from_memory_and_its_handle_serves_again() {
    let keyring = keyring_with(Policy::default().with_max_keys(NonZeroUsize::MIN)).await;
    let handle = keyring.handle(account(), Provider::Service);
    handle.sealing_key().await.unwrap();
    let material = Arc::downgrade(&handle.entry.live.load().as_ref().unwrap().keys[0]);
    // As if another account needed the seat.
    drop(keyring.shared.make_room().await);
    assert!(material.upgrade().is_none(), "nothing holds the key");
    assert!(handle.entry.desk().keys.is_empty() && handle.entry.current(None, For::Caller).is_none());
    assert_eq!(keyring.held_keys(), 0);
    assert_eq!(handle.entry.desk().machine.reported(), KeyState::Cold);
    sleep(agenda::LONGEST_SLEEP).await;
    assert_eq!(keyring.shared.tasks.now(), 0, "nothing is due any longer");

    handle.sealing_key().await.unwrap();
    assert!(is_in_map(&handle) && handle.entry.current(None, For::Caller).is_some());
    assert_eq!(keyring.held_keys(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_desk_rests_once_nothing_is_under_way_and_stands_as_it_was() {
    let keyring = keyring().await;
    let handle = keyring.handle(account(), Provider::Service);
    handle.sealing_key().await.unwrap();
    sleep(Duration::from_millis(1)).await;
    assert!(matches!(*handle.entry.slot.lock().unwrap(), slot::Slot::Rests(_)));
    let sizes =
        [size_of::<Entry>(), size_of::<live::Material>(), size_of::<live::Live>(), size_of::<desk::Desk>()];
    println!("entry, material, live, desk that stands: {sizes:?}");
    let desk = handle.entry.desk();
    assert!(desk.machine.holds_key() && desk.keys.len() == 1 && desk.is_proven() && desk.lent);
    assert!(desk.seat.is_some() && desk.in_use.is_some() && desk.timer.is_some());
}
