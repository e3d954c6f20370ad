//! What went to a write-only buffer is opened by the customer's vault alone: segments are renewed, their keys are not kept,
//! and the service with all of its own vault and of the store opens none of them.

#![cfg(feature = "aws-lc")]

use std::{collections::BTreeSet, time::Duration};

use cofferdam::{
    crypto::{
        Aek, Epoch, Header, KeyCheckValue, KeyScope, Provider, ProviderKind, Sealer, SegmentId,
        WrapAlgorithm, WrappedAek,
    },
    keyring::{KeyState, What},
    store::{
        Account, AccountKey, BlockStore, BufferChange, BufferMode, Catalog, DrainBlocked, EngineError,
        Outcome, Place, TroubleKind,
    },
    vault::{KeyVault, WrapContext},
};
use tokio::time::sleep;

use crate::world::{
    GRACE, NOTICED, OfSegments, POLL, World, buffered, id, is_revoked, is_unavailable, name, stored,
};

/// The default of the setting.
const SEGMENT: Duration = Duration::from_secs(300);
const SECOND: Duration = Duration::from_secs(1);

async fn segments(world: &World, account: &Account) -> Vec<(SegmentId, u64)> {
    let rows = world.store.segments(account.id(), None, 1000).await.unwrap();
    rows.into_iter().map(|(id, row)| (id, row.blocks)).collect()
}

/// The segment that a buffered block is of.
async fn segment_of(world: &World, account: &Account, block: &str) -> SegmentId {
    let at = world.store.stat(account.id(), &id(block)).await.unwrap().unwrap();
    assert_eq!(at.place, Place::Buffer);
    at.meta.provider.segment().unwrap()
}

/// What is in a segment's record.
fn record(bytes: &[u8]) -> WrappedAek {
    let json: serde_json::Value = serde_json::from_slice(&bytes[33..]).unwrap();
    serde_json::from_value(json["key"].clone()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn writes_of_an_outage_are_sealed_for_the_vault_and_drained_when_it_is_back() {
    let world = World::write_only(401).await;
    let account = world.contoso().await;
    stored(account.put(&id("before"), "stored".into()).await);
    world.lose_key(&account).await;
    let receipt = buffered(account.put(&id("one"), "waits".into()).await);
    buffered(account.put(&id("two"), vec![2; 300_000].into()).await);
    assert!(is_unavailable(&account.get(&id("one")).await));

    let (at, sealed) = world.store.fetch(account.id(), &id("one")).await.unwrap().unwrap();
    assert_eq!((at.place, at.meta.version), (Place::Buffer, receipt.version));
    let segment = at.meta.provider.segment().unwrap();
    assert_eq!(Header::parse(&sealed).unwrap().provider(), ProviderKind::Buffer);
    assert_eq!(segments(&world, &account).await, [(segment, 2)]);
    assert_eq!(account.status().await.unwrap().buffer_mode, Some(BufferMode::WriteOnly));

    world.regain_key(&account).await;
    assert_eq!(account.get(&id("one")).await.unwrap(), "waits");
    assert_eq!(account.get(&id("two")).await.unwrap(), vec![2; 300_000]);
    let at = world.store.stat(account.id(), &id("one")).await.unwrap().unwrap();
    let drained = (at.place, at.meta.provider, at.meta.version);
    assert_eq!(drained, (Place::Store, Provider::Customer, receipt.version));
    assert_eq!(segments(&world, &account).await, []);
    assert!(world.store.verify().await.unwrap().is_sound());
}

#[tokio::test(start_paused = true)]
async fn a_segment_is_written_for_its_time_and_not_longer_and_is_the_accounts_and_the_engines_own() {
    for (seed, time) in [(402, None), (403, Some(10)), (404, Some(3600))] {
        let world = match time {
            None => World::write_only(seed).await,
            Some(10) => World::write_only_with(seed, |b| b.segment_time(10 * SECOND)).await,
            Some(_) => World::write_only_with(seed, |b| b.segment_time(3600 * SECOND)).await,
        };
        let lasts = time.map_or(SEGMENT, |time| time * SECOND);
        let account = world.contoso().await;
        let other = world.engine.create_account(&name("fabrikam"), world.customer_key()).await.unwrap();
        world.lose_key(&account).await;
        let mut seen = BTreeSet::new();
        for round in 0..5 {
            buffered(account.put(&id("first"), "a".into()).await);
            let first = segment_of(&world, &account, "first").await;
            assert!(seen.insert(first), "round {round}: a new one");
            sleep(lasts - Duration::from_millis(1)).await;
            buffered(account.put(&id("last"), "b".into()).await);
            assert_eq!(segment_of(&world, &account, "last").await, first, "round {round}");
            sleep(Duration::from_millis(1)).await;
        }
        buffered(other.put(&id("first"), "c".into()).await);
        assert!(seen.insert(segment_of(&world, &other, "first").await), "another account's");
        let twin = world.twin().await;
        buffered(twin.account(&name("contoso")).await.unwrap().put(&id("twin"), "d".into()).await);
        buffered(account.put(&id("first"), "e".into()).await);
        assert!(seen.insert(segment_of(&world, &account, "twin").await), "another engine's");
        assert!(seen.insert(segment_of(&world, &account, "first").await));
    }
}

/// Everything that the service has: its vault, its KEK, every account's service AEK, the whole store, the public half of
/// the customer's KEK. Every way to take one of these for a segment's AEK.
async fn opens_with_what_the_service_has(world: &World, account: &Account, block: &str) -> bool {
    let (at, sealed) = world.store.fetch(account.id(), &id(block)).await.unwrap().unwrap();
    let segment = at.meta.provider.segment().unwrap();
    let row = world.store.segment(account.id(), segment).await.unwrap().unwrap();
    let record = record(&row.record);
    let account_record = world.store.load("account/contoso").await.unwrap().unwrap().bytes;
    let json: serde_json::Value = serde_json::from_slice(&account_record[33..]).unwrap();
    let service: WrappedAek = serde_json::from_value(json["service"][0].clone()).unwrap();
    let context = WrapContext { scope: service.scope };
    let service_aek = world.service.unwrap_key(&service.wraps[0], &context).await.unwrap();
    service.verify(&service_aek).unwrap();
    // The service's vault unwraps nothing of a segment, under whichever of its keys it is put.
    let mut wrap = record.wraps[0].clone();
    assert_eq!(wrap.algorithm, WrapAlgorithm::RsaOaep256);
    let of_segment = WrapContext { scope: record.scope };
    assert!(world.service.unwrap_key(&wrap, &of_segment).await.is_err());
    wrap.key_id = service.wraps[0].key_id.clone();
    assert!(world.service.unwrap_key(&wrap, &of_segment).await.is_err());
    let scopes = [
        record.scope,
        service.scope,
        KeyScope { provider: Provider::Customer, ..service.scope },
        KeyScope { epoch: Epoch::new(2), ..record.scope },
    ];
    let open = |aek: &Aek, scope| {
        let check = KeyCheckValue::derive(aek, &scope) == record.check;
        check || Sealer::new(aek, scope).open(id(block).at(at.meta.version), &sealed).is_ok()
    };
    scopes.into_iter().any(|scope| open(&service_aek, scope))
}

#[tokio::test(start_paused = true)]
async fn who_has_all_that_the_service_has_opens_no_earlier_segment_and_the_customers_vault_does() {
    let mut world = World::write_only(405).await;
    let account = world.contoso().await;
    world.lose_key(&account).await;
    for minute in 0..12 {
        buffered(account.put(&id(&format!("minute {minute:02}")), "a secret".into()).await);
        sleep(60 * SECOND).await;
    }
    assert_eq!(segments(&world, &account).await.len(), 3);
    // A process that knows nothing of the one before: with the service's vault alone it opens nothing.
    drop(account);
    world.restart().await;
    let account = world.contoso_again().await;
    for minute in 0..12 {
        let block = format!("minute {minute:02}");
        assert!(!opens_with_what_the_service_has(&world, &account, &block).await, "{block}");
        assert!(is_unavailable(&account.get(&id(&block)).await), "{block}");
    }
    // The customer's vault does.
    world.customer.set_offline(false).await.unwrap();
    let (at, sealed) = world.store.fetch(account.id(), &id("minute 07")).await.unwrap().unwrap();
    let row = world.store.segment(account.id(), at.meta.provider.segment().unwrap()).await.unwrap().unwrap();
    let key = record(&row.record);
    let aek = world.customer.unwrap_key(&key.wraps[0], &WrapContext { scope: key.scope }).await.unwrap();
    key.verify(&aek).unwrap();
    let opened = Sealer::new(&aek, key.scope).open(id("minute 07").at(at.meta.version), &sealed).unwrap();
    assert_eq!(opened, b"a secret");
}

#[tokio::test(start_paused = true)]
async fn each_segment_is_unwrapped_once_for_reads_and_drain_together() {
    let world = World::write_only(406).await;
    let account = world.contoso().await;
    world.lose_key(&account).await;
    for n in 0..40 {
        buffered(account.put(&id(&format!("block {n:02}")), vec![n; 100_000].into()).await);
        sleep(60 * SECOND).await;
    }
    let made = segments(&world, &account).await.len();
    assert_eq!(made, 8);
    world.customer.set_offline(false).await.unwrap();
    let calls = world.way.calls();
    // Many ask before the drain has begun.
    let reads = (0..40u8).map(|n| {
        let account = account.clone();
        tokio::spawn(async move {
            loop {
                match account.get(&id(&format!("block {n:02}"))).await {
                    Ok(data) => break assert_eq!(data, vec![n; 100_000]),
                    answer => assert!(is_unavailable(&answer), "{answer:?}"),
                }
                sleep(SECOND).await;
            }
        })
    });
    for read in reads.collect::<Vec<_>>() {
        read.await.unwrap();
    }
    assert_eq!(account.drain().await.unwrap().left, None);
    // One for the account's own key, and its refreshes: none in this time.
    assert_eq!(world.way.calls() - calls, made + 1);
}

#[tokio::test(start_paused = true)]
async fn a_block_is_read_before_it_is_drained_once_the_key_is_back() {
    let world = World::write_only(407).await;
    let account = world.contoso().await;
    world.lose_key(&account).await;
    for n in 0..60u8 {
        buffered(account.put(&id(&format!("block {n:02}")), vec![n; 300_000].into()).await);
    }
    let mut events = world.engine.buffer_events();
    world.customer.set_offline(false).await.unwrap();
    while !matches!(events.recv().await.unwrap().what, BufferChange::Drained { .. }) {}
    let at = world.store.stat(account.id(), &id("block 59")).await.unwrap().unwrap();
    assert_eq!(at.place, Place::Buffer, "the drain has only begun");
    assert_eq!(account.get(&id("block 59")).await.unwrap(), vec![59; 300_000]);
    assert_eq!(account.get_range(&id("block 59"), 299_999..300_000).await.unwrap(), vec![59]);
    assert_eq!(account.drain().await.unwrap().left, None);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_stops_writing_reading_and_the_drain() {
    let world = World::write_only(408).await;
    let account = world.contoso().await;
    world.lose_key(&account).await;
    for n in 0..60u8 {
        buffered(account.put(&id(&format!("block {n:02}")), vec![n; 300_000].into()).await);
    }
    world.customer.disable(&world.kek).await.unwrap();
    world.customer.set_offline(false).await.unwrap();
    sleep(POLL).await;
    assert!(is_revoked(&account.put(&id("more"), "x".into()).await));
    assert!(is_revoked(&account.get(&id("block 00")).await));
    assert_eq!(world.store.buffer_usage(account.id()).await.unwrap().unwrap().blocks, 60);
    // Back, and again gone in the middle of the drain.
    let mut events = world.engine.buffer_events();
    world.customer.enable(&world.kek).await.unwrap();
    events.recv().await.unwrap();
    world.customer.disable(&world.kek).await.unwrap();
    sleep(NOTICED).await;
    let left = world.store.buffer_usage(account.id()).await.unwrap();
    assert!(is_revoked(&account.get(&id("block 59")).await));
    sleep(10 * NOTICED).await;
    assert_eq!(world.store.buffer_usage(account.id()).await.unwrap(), left, "nothing more is drained");
    world.customer.enable(&world.kek).await.unwrap();
    sleep(POLL).await;
    assert_eq!(account.drain().await.unwrap().left, None);
    for n in 0..60u8 {
        assert_eq!(account.get(&id(&format!("block {n:02}"))).await.unwrap(), vec![n; 300_000]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_denial_of_a_segment_has_the_accounts_key_asked_for_at_once() {
    let world = World::write_only(409).await;
    let account = world.contoso().await;
    world.lose_key(&account).await;
    buffered(account.put(&id("block"), "content".into()).await);
    world.way.treat_segments(OfSegments::DenyAllFromThen);
    let mut events = world.engine.events();
    world.customer.set_offline(false).await.unwrap();
    let (mut active, mut revoked) = (None, None);
    while revoked.is_none() {
        let event = events.recv().await.unwrap();
        match event.what {
            What::Changed { to: KeyState::Active, .. } if event.provider == Provider::Customer => {
                active = Some(event.at);
            }
            What::Changed { to: KeyState::Revoked, .. } => revoked = Some(event.at),
            _ => {}
        }
    }
    // It was good for another half minute, and for half an hour if its vault had only been away.
    assert!(revoked.unwrap().since(&active.unwrap()) < SECOND);
    assert!(is_revoked(&account.get(&id("block")).await));
    world.way.treat_segments(OfSegments::Pass);
    sleep(2 * POLL).await;
    assert_eq!(account.drain().await.unwrap().left, None);
    assert_eq!(account.get(&id("block")).await.unwrap(), "content");
}

#[tokio::test(start_paused = true)]
async fn a_denial_of_a_segment_alone_leaves_the_account_and_keeps_the_segment() {
    let world = World::write_only(410).await;
    let account = world.contoso().await;
    world.lose_key(&account).await;
    buffered(account.put(&id("block"), "content".into()).await);
    world.way.treat_segments(OfSegments::Deny);
    world.customer.set_offline(false).await.unwrap();
    sleep(10 * POLL).await;
    let blocked = account.drain().await.unwrap().blocked;
    let Some(DrainBlocked::Trouble(trouble)) = blocked else { panic!("{blocked:?}") };
    assert_eq!(trouble.kind, TroubleKind::Vault);
    assert!(is_unavailable(&account.get(&id("block")).await));
    stored(account.put(&id("other"), "content".into()).await);
    assert_eq!(account.get(&id("other")).await.unwrap(), "content");
    world.way.treat_segments(OfSegments::Pass);
    sleep(2 * POLL).await;
    assert_eq!(account.drain().await.unwrap().left, None);
    assert_eq!(account.get(&id("block")).await.unwrap(), "content");
}

#[tokio::test(start_paused = true)]
async fn a_new_version_of_the_kek_disturbs_nothing_while_the_old_one_unwraps() {
    let mut world = World::write_only(411).await;
    let account = world.contoso().await;
    let pinned = world.customer.key_properties(&world.kek).await.unwrap().key_id;
    world.lose_key(&account).await;
    buffered(account.put(&id("before"), "a".into()).await);
    world.customer.new_version("rsa").await.unwrap();
    sleep(SEGMENT).await;
    buffered(account.put(&id("after"), "b".into()).await);
    for (segment, _) in segments(&world, &account).await {
        let row = world.store.segment(account.id(), segment).await.unwrap().unwrap();
        assert_eq!(record(&row.record).wraps[0].key_id, pinned, "the version whose public half is pinned");
    }
    drop(account);
    world.restart().await;
    let account = world.contoso_again().await;
    world.regain_key(&account).await;
    assert_eq!(account.get(&id("before")).await.unwrap(), "a");
    assert_eq!(account.get(&id("after")).await.unwrap(), "b");
}

#[tokio::test(start_paused = true)]
async fn only_an_rsa_kek_can_have_a_write_only_buffer_and_the_refusal_says_what_to_do() {
    let world = World::new(412).await;
    let key = AccountKey::Customer {
        principal: World::principal(),
        kek: world.kek.clone(),
        buffer: BufferMode::WriteOnly,
    };
    let error = world.engine.create_account(&name("contoso"), key).await.unwrap_err();
    assert!(matches!(error, EngineError::NoWriteOnly { .. }), "{error}");
    assert!(error.to_string().contains("take an RSA key, or a service-managed buffer"), "{error}");
    assert!(world.engine.accounts(None, 9).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_can_write_the_catalog_can_not_take_an_account_off_write_only() {
    let mut world = World::write_only(413).await;
    let account = world.contoso().await;
    drop(account);
    let stored_record = world.store.load("account/contoso").await.unwrap().unwrap();
    let text = String::from_utf8(stored_record.bytes[33..].to_vec()).unwrap();
    let without = text.replace(r#","buffer":"write-only""#, "");
    assert_ne!(text, without);
    for (format, body) in [(1, &without), (2, &without), (1, &text)] {
        let forged = [&[format], &stored_record.bytes[1..33], body.as_bytes()].concat();
        let now = world.store.load("account/contoso").await.unwrap().unwrap();
        world.store.swap("account/contoso", Some(&now.revision), Some(forged.into())).await.unwrap();
        world.restart().await;
        let answer = match world.engine.account(&name("contoso")).await {
            Ok(account) => account.put(&id("block"), "content".into()).await.map(drop),
            Err(e) => Err(e),
        };
        assert!(matches!(answer, Err(EngineError::BadRecord { .. })), "format {format}: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_fails_in_the_drain_holds_up_what_it_has_not_unwrapped_and_loses_nothing() {
    let world = World::write_only(414).await;
    let account = world.contoso().await;
    world.lose_key(&account).await;
    for n in 0..6u8 {
        buffered(account.put(&id(&format!("block {n}")), vec![n; 10].into()).await);
        sleep(SEGMENT).await;
    }
    world.customer.set_offline(false).await.unwrap();
    // The account's own key, and two segments: then it fails.
    world.way.hang_after(3);
    sleep(POLL + 20 * SECOND).await;
    let status = account.key_status().await.unwrap();
    assert_eq!(status.buffer.blocks, 6, "one batch, and not all of its keys are there");
    assert_eq!(status.buffer.trouble.unwrap().kind, TroubleKind::Vault);
    let blocked = account.drain().await.unwrap().blocked;
    assert!(matches!(blocked, Some(DrainBlocked::Trouble(_))), "{blocked:?}");
    world.way.set_hanging(false);
    sleep(2 * POLL).await;
    assert_eq!(account.drain().await.unwrap().left, None);
    for n in 0..6u8 {
        assert_eq!(account.get(&id(&format!("block {n}"))).await.unwrap(), vec![n; 10]);
    }
}

#[tokio::test(start_paused = true)]
async fn one_accounts_vault_that_hangs_holds_up_no_other_accounts_drain() {
    let world = World::write_only(415).await;
    let account = world.contoso().await;
    let aes = world.customer.create_key("aes").await.unwrap();
    let key = AccountKey::Customer { principal: World::principal(), kek: aes, buffer: BufferMode::default() };
    let fabrikam = world.engine.create_account(&name("fabrikam"), key).await.unwrap();
    world.lose_key(&account).await;
    buffered(account.put(&id("block"), "a".into()).await);
    buffered(fabrikam.put(&id("block"), "b".into()).await);
    world.customer.set_offline(false).await.unwrap();
    world.way.treat_segments(OfSegments::Hang);
    sleep(POLL).await;
    assert_eq!(fabrikam.drain().await.unwrap().left, None);
    assert_eq!(world.store.buffer_usage(account.id()).await.unwrap().unwrap().blocks, 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_hang_in_grace_writes_go_on_as_they_should() {
    let world = World::write_only(417).await;
    let account = world.contoso().await;
    stored(account.put(&id("block"), "content".into()).await);
    world.way.set_hanging(true);
    let mut outcomes = Vec::new();
    for _ in 0..(GRACE + 2 * NOTICED).as_secs() / 60 {
        outcomes.push(account.put(&id("block"), "again".into()).await.unwrap().outcome);
        sleep(60 * SECOND).await;
    }
    assert!(outcomes.is_sorted_by_key(|outcome| *outcome == Outcome::Buffered), "{outcomes:?}");
    assert_eq!(outcomes.last(), Some(&Outcome::Buffered));
}
