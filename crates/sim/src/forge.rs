//! Who has the public half of an RSA KEK, and can write to the store: a process that was taken over, say.
//!
//! What it puts into a write-only buffer is sealed as a node would seal it, under a key that the customer's vault would
//! unwrap; it lacks the service's key, under which a segment's record is tagged.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cofferdam_crypto::{
    AccountId, Aek, BlockId, EntropyError, Epoch, KeyScope, PageSize, Provider, RecordKey, Salt, SaltSource,
    Sealer, SegmentId, Version, WrapAlgorithm, WrappedAek, WrappedKey, sealed_len,
};
use cofferdam_store::{BlockMeta, BlockOp, BufferLimit, EngineError, StoreErrorKind};
use cofferdam_vault::{Entropy, testing::SeededEntropy};

use crate::{
    Check, SimStore,
    director::{Director, Due},
    sealed::judge_write_only,
    site::Seat,
};

/// How much is put into a forged block.
const LEN: usize = 40;

type Refused = Box<dyn std::error::Error + Send + Sync>;

/// Salts of a forger.
#[derive(Debug)]
struct Salts(SeededEntropy);

impl SaltSource for Salts {
    fn fill_salts(&self, salts: &mut [Salt]) -> Result<(), EntropyError> {
        salts.iter_mut().try_for_each(|salt| self.0.fill(salt))
    }
}

impl Director {
    /// Forges a block in the write-only buffer of an account, if there is one.
    pub(crate) async fn forge(&mut self) {
        let seats: Vec<Seat> = self.site.seats.iter().filter(|seat| self.can_forge(seat)).cloned().collect();
        if !seats.is_empty() {
            let seat = &seats[self.dice.below(seats.len() as u64) as usize];
            self.forge_in(seat).await;
        }
    }

    /// Forges a block in every write-only buffer of a few accounts.
    pub(crate) async fn forge_everywhere(&mut self) {
        let of = |seat: &&Seat| self.can_forge(seat) && !seat.is_of_crowd;
        let seats: Vec<Seat> = self.site.seats.iter().filter(of).cloned().collect();
        if self.scenario.faults.forgeries > 0 {
            for seat in &seats {
                self.forge_in(seat).await;
            }
        }
    }

    /// Whether the account has a write-only buffer and no operation that waits for that to be empty.
    fn can_forge(&self, seat: &Seat) -> bool {
        let state = self.site.hub.state();
        let is_there = state.accounts.latest(seat.id).is_some_and(|of| of.writes_only && of.linked);
        seat.writes_only && is_there && !state.accounts.is_operating(seat.id)
    }

    /// Takes all out again that was forged so far.
    pub(crate) async fn remove_all_forged(&mut self) {
        let forged = self.site.hub.state().segments.all_forged();
        for (account, id) in forged {
            self.remove_forged(account, id).await;
        }
    }

    async fn forge_in(&mut self, seat: &Seat) {
        let Some(store) = self.store.clone() else { return };
        let hub = self.site.hub.clone();
        let number = hub.state().counts.forged;
        let Ok(id) = BlockId::new(format!("forged/{number}")) else { return };
        let how = self.dice.below(4);
        let op = match self.forged(&store, seat, &id, how).await {
            Ok(op) => op,
            Err(why) => return hub.note(format_args!("nothing can be forged: {why}")),
        };
        let BlockOp::Buffer { meta: BlockMeta { provider: Provider::Buffer(segment), .. }, .. } = op else {
            return;
        };
        // Before it is there: a node may look in the same moment.
        {
            let mut state = hub.state();
            state.counts.forged += 1;
            state.segments.forged(seat.id, &id, segment);
        }
        hub.note(format_args!("somebody forges {id} of {}, in way {how}", seat.name));
        match store.commit(vec![op]).await {
            Ok(_) => {
                let lasts = self.dice.millis(20_000, 200_000);
                self.at(lasts, Due::RemoveForged(seat.id, id));
            }
            Err(error) => self.store_refuses(error.kind()),
        }
    }

    async fn forged(
        &mut self,
        store: &Arc<dyn SimStore>,
        seat: &Seat,
        id: &BlockId,
        how: u64,
    ) -> Result<BlockOp, Refused> {
        let (Some(kek), Some(public)) = (&seat.kek, &seat.public) else {
            return Err("no public half".into());
        };
        let entropy = SeededEntropy::new(self.dice.roll());
        let aek = Aek::try_from_fn(|bytes| entropy.fill(bytes))?;
        let mut segment = [0; SegmentId::LEN];
        entropy.fill(&mut segment)?;
        let segment = SegmentId::from_bytes(segment);
        let scope = KeyScope { account: seat.id, epoch: Epoch::FIRST, provider: Provider::Buffer(segment) };
        let wrap = WrappedKey {
            key_id: kek.clone(),
            algorithm: WrapAlgorithm::RsaOaep256,
            bytes: public.wrap(&aek)?,
        };
        let key = serde_json::to_string(&WrappedAek::new(&aek, scope, vec![wrap]))?;
        let body = format!("{{\"key\":{key},\"created_at\":{{\"secs\":1,\"nanos\":0}}}}");
        let genuine = store.segments(seat.id, None, 1).await?.into_iter().next();
        let tag: [u8; 32] = match (how, genuine) {
            // Of a segment that is there.
            (0 | 1, Some((_, row))) => row.record.get(1..33).ok_or("a record without a tag")?.try_into()?,
            // Under a key that it has.
            (2, _) => RecordKey::derive(&aek, &scope).segment_tag(body.as_bytes()),
            _ => {
                let mut tag = [0; 32];
                entropy.fill(&mut tag)?;
                tag
            }
        };
        let record = [&[1][..], &tag, body.as_bytes()].concat();
        let version = Version::new(store.last_version().await?.number() + 1);
        let page_size = PageSize::new(4096)?;
        let mut sealed = vec![0; usize::try_from(sealed_len(LEN as u64, page_size)?)?];
        let sealer = Sealer::new(&aek, scope);
        sealer.seal_to(id.at(version), page_size, &[0x66; LEN], &mut sealed, &Salts(entropy))?;
        let meta = BlockMeta {
            version,
            sealed_len: sealed.len() as u64,
            page_size,
            stored_at: Duration::from_secs(1_795_000_000) + self.site.hub.at(),
            epoch: Epoch::FIRST,
            provider: scope.provider,
        };
        let limit = BufferLimit { bytes: u64::MAX, since: Duration::ZERO };
        let (account, id, sealed) = (seat.id, id.clone(), Bytes::from(sealed));
        Ok(BlockOp::Buffer { account, id, meta, sealed, limit, segment: Some(record.into()) })
    }

    /// What was forged is taken out again, so that buffers come to an end.
    pub(crate) async fn remove_forged(&mut self, account: AccountId, id: BlockId) {
        let Some(store) = self.store.clone() else { return };
        let Ok(last) = store.last_version().await else { return };
        let op = BlockOp::Delete { account, id, version: Version::new(last.number() + 1) };
        if let Err(error) = store.commit(vec![op]).await {
            self.store_refuses(error.kind());
        }
    }

    fn store_refuses(&self, kind: StoreErrorKind) {
        let hub = &self.site.hub;
        hub.note(format_args!("the store refuses what is forged: {kind:?}"));
        if self.is_off() {
            hub.lose_power();
        } else if matches!(kind, StoreErrorKind::Poisoned | StoreErrorKind::Io | StoreErrorKind::Corrupt) {
            hub.break_store();
        }
    }

    /// What was forged opens nowhere.
    pub(crate) async fn check_forged(&mut self) {
        let hub = self.site.hub.clone();
        let Some(engine) = self.nodes[0].engine() else { return };
        let forged = hub.state().segments.all_forged();
        for (account, id) in &forged {
            let Some(seat) = self.site.seats.iter().find(|seat| seat.id == *account) else { continue };
            let read = match engine.account(&seat.name).await {
                Ok(account) => account.get(id).await,
                Err(error) => Err(error),
            };
            match read {
                Err(
                    EngineError::Damaged { .. } | EngineError::NoBlock { .. } | EngineError::NoAccount { .. },
                ) => {}
                Ok(_) => hub.fail(Check::Forged, format!("{id} of {} was read, which was forged", seat.name)),
                Err(error) => self.unexplained("reading what was forged", &error),
            }
        }
        self.remove_all_forged().await;
    }

    /// What write-only buffers hold, as somebody finds it who has the disk and the service's keys.
    pub(crate) async fn try_buffers(&self) {
        let Some(store) = self.store.clone() else { return };
        for seat in self.site.seats.iter().filter(|seat| seat.writes_only) {
            let Ok(rows) = store.buffered(seat.id, None, 100).await else { continue };
            for (id, _) in rows {
                let Ok(Some((at, sealed))) = store.fetch(seat.id, &id).await else { continue };
                if at.place == cofferdam_store::Place::Buffer {
                    let mut state = self.site.hub.state();
                    let judged = judge_write_only(&mut state, seat.id, &id, &at.meta, &sealed);
                    drop(state);
                    self.site.hub.check(judged);
                }
            }
        }
    }
}
