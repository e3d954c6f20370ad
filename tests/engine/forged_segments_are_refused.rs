//! Who can write to the store and has the public half of the customer's KEK injects no block: a segment is believed only
//! with its tag, a block only under its segment's AEK.

#![cfg(feature = "aws-lc")]

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use cofferdam::{
    crypto::{
        AccountId, Aek, BlockId, EntropyError, Epoch, KeyId, KeyScope, PageSize, Provider, RecordKey, Salt,
        SaltSource, Sealer, SegmentId, Version, WrapAlgorithm, WrappedAek, WrappedKey, rsa::RsaPublicKey,
    },
    store::{
        Account, Applied, BlockMeta, BlockOp, BlockStore, BufferChange, BufferLimit, Catalog, DrainBlocked,
        EngineError, EngineErrorKind, Place,
    },
};
use tokio::time::sleep;

use crate::world::{POLL, World, buffered, id, name, scale, stored};

/// Every byte that the attacker picks comes from here.
struct Attacker {
    dice: u64,
    key_id: KeyId,
    public: RsaPublicKey,
    version: u64,
}

#[derive(Debug)]
struct Salts;

impl SaltSource for Salts {
    fn fill_salts(&self, salts: &mut [Salt]) -> Result<(), EntropyError> {
        salts.iter_mut().for_each(|salt| salt.fill(7));
        Ok(())
    }
}

/// A segment that the attacker has seen in the store, with a block of it.
#[derive(Clone)]
struct Seen {
    account: AccountId,
    segment: SegmentId,
    record: Bytes,
    id: BlockId,
    meta: BlockMeta,
    sealed: Bytes,
}

impl Attacker {
    /// What it knows is all in the store.
    async fn of(world: &World, account_record: &[u8]) -> Self {
        let json: serde_json::Value = serde_json::from_slice(&account_record[33..]).unwrap();
        let pinned = &json["customer"]["keks"][0]["public_key"];
        Self {
            dice: 1,
            key_id: serde_json::from_value(pinned["key_id"].clone()).unwrap(),
            public: serde_json::from_value(pinned["key"].clone()).unwrap(),
            version: world.store.last_version().await.unwrap().number(),
        }
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| {
            self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.dice >> 56) as u8
        })
    }

    fn aek(&mut self) -> Aek {
        Aek::try_from_fn(|aek| {
            *aek = self.bytes();
            Ok::<_, std::convert::Infallible>(())
        })
        .unwrap()
    }

    fn scope(&mut self, account: AccountId) -> KeyScope {
        let provider = Provider::Buffer(SegmentId::from_bytes(self.bytes()));
        KeyScope { account, epoch: Epoch::FIRST, provider }
    }

    /// The body of a record of the attacker's own: all in it is right, and its wrap unwraps.
    fn body(&self, aek: &Aek, scope: KeyScope) -> Vec<u8> {
        let wrap = WrappedKey {
            key_id: self.key_id.clone(),
            algorithm: WrapAlgorithm::RsaOaep256,
            bytes: self.public.wrap(aek).unwrap(),
        };
        let key = WrappedAek::new(aek, scope, vec![wrap]);
        let created_at = Duration::from_secs(1_795_000_000);
        serde_json::to_vec(&serde_json::json!({ "key": key, "created_at": created_at })).unwrap()
    }

    /// A block sealed under this AEK for this scope, as it goes into the buffer.
    fn block(&mut self, n: usize, aek: &Aek, scope: KeyScope, record: Bytes) -> BlockOp {
        self.version += 1;
        let (id, version) = (id(&format!("forged {n:06}")), Version::new(self.version));
        let sealed =
            Sealer::new(aek, scope).seal(id.at(version), PageSize::MIN, b"injected", &Salts).unwrap();
        let meta = BlockMeta {
            version,
            sealed_len: sealed.len() as u64,
            page_size: PageSize::MIN,
            stored_at: Duration::from_secs(1_795_000_000),
            epoch: scope.epoch,
            provider: scope.provider,
        };
        buffer(scope.account, id, meta, sealed.into(), record)
    }

    /// The forgery of this number, of the kind whose turn it is.
    fn forge(
        &mut self,
        n: usize,
        genuine: &Seen,
        elsewhere: &Seen,
        account_record: &[u8],
    ) -> (&'static str, BlockOp) {
        let account = genuine.account;
        let (aek, scope) = (self.aek(), self.scope(account));
        let own = self.body(&aek, scope);
        let tagged = |tag: &[u8], body: &[u8]| Bytes::from([&[1], tag, body].concat());
        let tag_of = |seen: &Seen| seen.record[1..33].to_vec();
        let body_of = |seen: &Seen| seen.record[33..].to_vec();
        let renamed = |body: &[u8], from: &str, to: &str| {
            let text = String::from_utf8(body.to_vec()).unwrap();
            assert!(text.contains(from));
            text.replace(from, to).into_bytes()
        };
        let segment = |scope: KeyScope| scope.provider.segment().unwrap().to_string();
        let (kind, record) = match n % 14 {
            0 => ("no tag", tagged(&[0; 32], &own)),
            1 => ("a tag copied from a genuine segment", tagged(&tag_of(genuine), &own)),
            2 => {
                let service = KeyScope { provider: Provider::Service, ..scope };
                ("tagged under the attacker's AEK as if it were the service's", {
                    tagged(&RecordKey::derive(&aek, &service).segment_tag(&own), &own)
                })
            }
            3 => ("tagged under the segment's own AEK", {
                tagged(&RecordKey::derive(&aek, &scope).segment_tag(&own), &own)
            }),
            4 => ("a tag copied from the account's record", tagged(&account_record[1..33], &own)),
            5 => ("a genuine record under another name", genuine.record.clone()),
            6 => ("a genuine record of another account", elsewhere.record.clone()),
            7 => ("a genuine record, renamed", {
                let body = renamed(&body_of(genuine), &genuine.segment.to_string(), &segment(scope));
                tagged(&tag_of(genuine), &body)
            }),
            8 => ("another account's genuine record, renamed", {
                let body = renamed(&body_of(elsewhere), &elsewhere.segment.to_string(), &segment(scope));
                let body = renamed(&body, &elsewhere.account.to_string(), &account.to_string());
                tagged(&tag_of(elsewhere), &body)
            }),
            9 => ("a genuine record cut short", genuine.record.slice(..genuine.record.len() - 1 - n % 200)),
            10 => ("a tag with a bit flipped", {
                let mut record = tagged(&tag_of(genuine), &own).to_vec();
                record[1 + n % 32] ^= 1 << (n % 8);
                record.into()
            }),
            11 => ("of a service epoch that there is not", {
                let scope = KeyScope { epoch: Epoch::new(2), ..scope };
                tagged(&tag_of(genuine), &self.body(&aek, scope))
            }),
            12 => {
                // Into the genuine segment, under an AEK that is not its.
                let scope = KeyScope { provider: Provider::Buffer(genuine.segment), ..scope };
                return ("another AEK", self.block(n, &aek, scope, genuine.record.clone()));
            }
            _ => {
                // A genuine block of a genuine segment, in another place.
                self.version += 1;
                let meta = BlockMeta { version: Version::new(self.version), ..genuine.meta };
                let id = id(&format!("forged {n:06}"));
                return ("a genuine block elsewhere", {
                    buffer(account, id, meta, genuine.sealed.clone(), genuine.record.clone())
                });
            }
        };
        (kind, self.block(n, &aek, scope, record))
    }
}

fn buffer(account: AccountId, id: BlockId, meta: BlockMeta, sealed: Bytes, record: Bytes) -> BlockOp {
    let limit = BufferLimit { bytes: u64::MAX, since: Duration::ZERO };
    BlockOp::Buffer { account, id, meta, sealed, limit, segment: Some(record) }
}

async fn seen(world: &World, account: &Account, block: &str) -> Seen {
    let (at, sealed) = world.store.fetch(account.id(), &id(block)).await.unwrap().unwrap();
    assert_eq!(at.place, Place::Buffer);
    let segment = at.meta.provider.segment().unwrap();
    let record = world.store.segment(account.id(), segment).await.unwrap().unwrap().record;
    Seen { account: account.id(), segment, record, id: id(block), meta: at.meta, sealed }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_forged_segments_are_not_drained_and_genuine_ones_are() {
    let forgeries = scale(14_000, 1_000);
    let world = World::write_only(431).await;
    let account = world.contoso().await;
    let other = world.engine.create_account(&name("fabrikam"), world.customer_key()).await.unwrap();
    let account_record = world.store.load("account/contoso").await.unwrap().unwrap().bytes;
    world.lose_key(&account).await;
    buffered(other.put(&id("genuine"), "fabrikam's".into()).await);
    let mut genuine = Vec::new();
    for n in 0..5 {
        buffered(account.put(&id(&format!("genuine {n}")), "contoso's".into()).await);
        genuine.push(seen(&world, &account, &format!("genuine {n}")).await);
        sleep(Duration::from_secs(300)).await;
    }
    let elsewhere = seen(&world, &other, "genuine").await;

    let mut attacker = Attacker::of(&world, &account_record).await;
    let mut kinds = BTreeMap::<_, usize>::new();
    let all: Vec<usize> = (0..forgeries).collect();
    for some in all.chunks(100) {
        let mut ops = Vec::new();
        for &n in some {
            let (kind, op) = attacker.forge(n, &genuine[n % 5], &elsewhere, &account_record);
            *kinds.entry(kind).or_default() += 1;
            ops.push(op);
        }
        let applied = world.store.commit(ops).await.unwrap();
        assert!(applied.iter().all(|applied| *applied == Applied::Written));
    }
    // Genuine ones behind them, too.
    buffered(account.put(&id("genuine last"), "contoso's".into()).await);

    let mut events = world.engine.buffer_events();
    let calls = world.way.calls();
    world.customer.set_offline(false).await.unwrap();
    sleep(2 * POLL).await;
    let report = account.drain().await.unwrap();
    assert_eq!(report.drained.blocks, 6, "the genuine ones");
    assert_eq!(report.left.unwrap().blocks, forgeries as u64);
    assert_eq!(report.blocked, Some(DrainBlocked::Damaged { blocks: forgeries as u64 }));
    let (mut told, mut named) = (0, 0);
    loop {
        match events.try_recv() {
            Ok(event) => {
                let BufferChange::Trouble(trouble) = event.what else { continue };
                told += 1;
                named += usize::from(trouble.message.contains("its tag does not fit"));
            }
            Err(tokio::sync::broadcast::error::TryRecvError::Lagged(missed)) => told += missed,
            Err(_) => break,
        }
    }
    assert!(told >= forgeries as u64 && named > 0, "{told} told, {named} with the tag");
    // The vault is asked for genuine segments alone, once each, and to renew keys.
    let asked = world.way.calls() - calls;
    assert!(asked <= 7 + 2 * 4, "{asked} calls");

    for n in 0..5 {
        assert_eq!(account.get(&id(&format!("genuine {n}"))).await.unwrap(), "contoso's");
    }
    assert_eq!(other.get(&id("genuine")).await.unwrap(), "fabrikam's");
    let mut injected = 0;
    for n in 0..forgeries {
        let forged = id(&format!("forged {n:06}"));
        let at = world.store.stat(account.id(), &forged).await.unwrap().unwrap();
        injected += usize::from(at.place == Place::Store);
        let answer = account.get(&forged).await;
        injected += usize::from(!matches!(answer, Err(EngineError::Damaged { .. })));
    }
    println!("{forgeries} forged segments and blocks ({kinds:?}): {injected} drained or read");
    assert_eq!(injected, 0);
    // What is not the account's is removed like any block.
    for some in all.chunks(100) {
        let delete = |n: &usize| {
            attacker.version += 1;
            let (account, version) = (account.id(), Version::new(attacker.version));
            BlockOp::Delete { account, id: id(&format!("forged {n:06}")), version }
        };
        world.store.commit(some.iter().map(delete).collect()).await.unwrap();
    }
    assert!(world.store.segments(account.id(), None, 9).await.unwrap().is_empty());
    assert!(world.store.verify().await.unwrap().is_sound());
}

#[tokio::test(start_paused = true)]
async fn a_segment_that_is_put_back_after_its_drain_brings_back_no_version_that_was_replaced() {
    let world = World::write_only(432).await;
    let account = world.contoso().await;
    world.lose_key(&account).await;
    buffered(account.put(&id("block"), "old".into()).await);
    let old = seen(&world, &account, "block").await;
    world.regain_key(&account).await;
    let replay = || buffer(old.account, old.id.clone(), old.meta, old.sealed.clone(), old.record.clone());
    // The very version that was drained, and an older one than is stored.
    for content in ["old", "new"] {
        let applied = world.store.commit(vec![replay()]).await.unwrap();
        assert!(matches!(applied[..], [Applied::Superseded { .. }]), "{applied:?}");
        assert_eq!(account.get(&id("block")).await.unwrap(), content);
        stored(account.put(&id("block"), "new".into()).await);
    }
    // As a newer version, it does not open.
    let version = Version::new(world.store.last_version().await.unwrap().number() + 1);
    let newer = BlockMeta { version, ..old.meta };
    let op = buffer(old.account, old.id.clone(), newer, old.sealed.clone(), old.record.clone());
    world.store.commit(vec![op]).await.unwrap();
    drop(account);
    let twin = world.twin().await;
    let account = twin.account(&name("contoso")).await.unwrap();
    let report = account.drain().await.unwrap();
    assert_eq!(report.blocked, Some(DrainBlocked::Damaged { blocks: 1 }));
    assert!(matches!(account.get(&id("block")).await, Err(EngineError::Damaged { .. })));
    assert_eq!(world.store.segments(account.id(), None, 9).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_takes_the_place_of_the_open_segments_costs_one_write_and_no_acknowledged_one() {
    let world = World::write_only(433).await;
    let account = world.contoso().await;
    let account_record = world.store.load("account/contoso").await.unwrap().unwrap().bytes;
    world.lose_key(&account).await;
    buffered(account.put(&id("first"), "a".into()).await);
    let open = seen(&world, &account, "first").await;
    // With its last block the segment is gone, and its name is free.
    assert!(account.delete(&id("first")).await.unwrap());
    let mut attacker = Attacker::of(&world, &account_record).await;
    let aek = attacker.aek();
    let scope = KeyScope { provider: Provider::Buffer(open.segment), ..attacker.scope(account.id()) };
    let record = Bytes::from([&[1][..], &open.record[1..33], &attacker.body(&aek, scope)].concat());
    let op = attacker.block(0, &aek, scope, record);
    world.store.commit(vec![op]).await.unwrap();

    let refused = account.put(&id("second"), "b".into()).await.unwrap_err();
    assert_eq!(refused.kind(), EngineErrorKind::Corrupt);
    buffered(account.put(&id("second"), "b".into()).await);
    assert_ne!(seen(&world, &account, "second").await.segment, open.segment);
    world.customer.set_offline(false).await.unwrap();
    sleep(POLL).await;
    let report = account.drain().await.unwrap();
    assert_eq!(report.blocked, Some(DrainBlocked::Damaged { blocks: 1 }));
    assert_eq!(account.get(&id("second")).await.unwrap(), "b");
}
