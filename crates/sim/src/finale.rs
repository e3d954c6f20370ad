//! The end of a run: everything is mended, and then everything must be right.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use cofferdam_crypto::{Aek, BlockId, KeyId, KeyScope, Provider, Sealer, Version};
use cofferdam_store::{BlockMeta, BlockOp, Catalog, EngineError, FileLayer, OperationStatus, Place};
use tokio::time::sleep;

use crate::{
    Check, KekState,
    client::block,
    director::Director,
    operation::{Operation, Request},
    record::{ACCOUNTS, OPERATIONS},
    sealed::open_by_reference,
    site::{BLOCKS, Seat},
};

/// The longest that a drain waits before it tries again.
const DRAIN_TRIES_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked whether all is well.
const LOOK: Duration = Duration::from_secs(3);
/// How long a run may take to come to rest.
const RESTS_WITHIN: Duration = Duration::from_secs(3_600);

impl Director {
    /// Mends everything and makes the last checks.
    pub(crate) async fn finale(&mut self) {
        let hub = self.site.hub.clone();
        hub.note(format_args!("all is mended"));
        self.site.closing_time.store(true, Ordering::Relaxed);
        self.disk.mend();
        let keks: Vec<KeyId> = self.keks().into_iter().chain(self.to_be_given_back()).collect();
        keks.iter().for_each(|kek| self.set_kek(kek, KekState::Enabled));
        self.site.houses().for_each(|house| house.meter().set_open(true));
        self.remove_all_forged().await;
        self.forge_everywhere().await;
        hub.state().weather.clear(hub.at());
        if self.dice.percent(40) {
            self.power_fails().await;
        }
        // What a drain met last may have made it wait; then its key comes back, and it goes through the buffer.
        let settles = {
            let state = hub.state();
            let turns = state.budgets.all_settled_by().saturating_sub(hub.at());
            state.keys.recovered_at(Duration::ZERO, Duration::ZERO) + 2 * DRAIN_TRIES_WITHIN + turns
        };
        self.settle(settles).await;
        if !hub.has_failed() {
            self.recover_all().await;
            self.settle(DRAIN_TRIES_WITHIN).await;
        }
        if !hub.has_failed() {
            self.check_purged().await;
            self.check_buffers().await;
            self.check_forged().await;
            self.read_all().await;
            self.check_disk().await;
        }
        if !hub.has_failed() {
            self.power_fails().await;
            self.settle(Duration::from_secs(10)).await;
            self.read_all().await;
            self.move_blocks().await;
        }
    }

    fn to_be_given_back(&self) -> Vec<KeyId> {
        std::mem::take(&mut self.site.hub.state().given_back).into_iter().map(|(_, kek)| kek).collect()
    }

    /// Lets time pass until nothing has gone wrong for this long.
    async fn settle(&mut self, calm: Duration) {
        let hub = self.site.hub.clone();
        let begun = hub.at();
        let mut since = begun;
        while !hub.has_failed() {
            tokio::select! {
                biased;
                () = hub.woken() => {}
                () = sleep(LOOK) => {}
            }
            self.look_at_store().await;
            let broken = {
                let state = hub.state();
                state.power_lost || state.store_broken
            };
            if broken {
                self.mend().await;
            }
            (0..self.nodes.len()).for_each(|number| self.start(number));
            let idle = self.nodes.iter().position(|node| !node.is_idle());
            let open = hub.state().accounts.open().map(|(account, of)| format!("{account}: {of:?}")).next();
            let busy = idle.map(|node| format!("node {node} is busy")).or(open);
            if broken || busy.is_some() {
                since = hub.at();
            }
            if hub.at() - since >= calm {
                return;
            }
            if hub.at() - begun > RESTS_WITHIN {
                let what = format!("the run does not come to rest: {busy:?}");
                hub.fail(Check::Hang, what);
            }
        }
    }

    /// A fault that nobody has heard of, as who asked was gone, leaves the store's handle useless.
    async fn look_at_store(&self) {
        if let Some(store) = &self.store
            && store.last_version().await.is_err()
        {
            self.site.hub.break_store();
        }
    }

    async fn check_buffers(&mut self) {
        let Some(store) = self.store.clone() else { return };
        let buffering = match store.buffering(None, 1_000).await {
            Ok(buffering) => buffering,
            Err(error) => return self.unexplained("looking at the buffers", &error),
        };
        for (account, usage) in buffering {
            let rows = match store.buffered(account, None, 1_000).await {
                Ok(rows) => rows,
                Err(error) => return self.unexplained("looking at a buffer", &error),
            };
            let is_forged = |id: &BlockId| self.site.hub.state().segments.is_forged(account, id);
            if let Some((id, _)) = rows.iter().find(|(id, _)| !is_forged(id)) {
                let what = format!(
                    "with all vaults back for long, the buffer of {account} still holds {id} ({usage:?})"
                );
                self.site.hub.fail(Check::Recovery, what);
            }
        }
    }

    /// Reads every block on every node; the operations judge themselves.
    async fn read_all(&mut self) {
        let seats = self.site.seats.clone();
        for node in &self.nodes {
            let Some(engine) = node.engine() else { continue };
            for seat in seats.iter() {
                let account = match engine.account(&seat.name).await {
                    Ok(account) => account,
                    Err(EngineError::NoAccount { .. }) if self.is_gone(seat) => continue,
                    Err(error) => return self.unexplained("looking up an account", &error),
                };
                let operation =
                    Operation { node: node.number, client: 99, clock: &node.clock, site: &self.site, seat };
                for number in 0..seat.blocks() {
                    operation.perform(&account, Request::Get(block(number)), None).await;
                }
                operation.perform(&account, Request::List, None).await;
                if self.site.hub.has_failed() {
                    return;
                }
            }
        }
    }

    /// Whether an account was purged.
    fn is_gone(&self, seat: &Seat) -> bool {
        matches!(self.site.hub.state().accounts.settled(seat.id), Some(None))
    }

    /// Brings back every account that is deleted: what it had is read like the others'.
    async fn recover_all(&mut self) {
        let hub = self.site.hub.clone();
        for seat in self.site.seats.clone().iter() {
            let is_deleted =
                hub.state().accounts.latest(seat.id).is_some_and(|of| of.deleted_until.is_some());
            let Some(engine) = self.nodes[0].engine().filter(|_| is_deleted) else { continue };
            let recovered = async { engine.recover_account(&seat.name).await?.wait().await };
            match tokio::time::timeout(RESTS_WITHIN, recovered).await {
                Ok(Ok(operation)) if operation.status == OperationStatus::Succeeded => {}
                Ok(Ok(operation)) => {
                    hub.fail(
                        Check::Operation,
                        format!("{} could not be recovered: {operation:?}", seat.name),
                    );
                }
                Ok(Err(error)) => self.unexplained("recovering an account", &error),
                Err(_) => hub.fail(Check::Hang, format!("recovering {} does not end", seat.name)),
            }
        }
    }

    /// Of an account that was purged, nothing is left but the row that says so.
    async fn check_purged(&mut self) {
        let Some(store) = self.store.clone() else { return };
        for seat in self.site.seats.clone().iter().filter(|seat| self.is_gone(seat)) {
            let wrong = |what: String| {
                self.site.hub.fail(Check::Deleted, format!("of {}, which was purged, {what}", seat.name));
            };
            let blocks = store.stored(seat.id, None, 1).await.map(|rows| rows.len());
            let buffered = store.buffered(seat.id, None, 1).await.map(|rows| rows.len());
            let segments = store.segments(seat.id, None, 1).await.map(|rows| rows.len());
            match (blocks, buffered, segments) {
                (Ok(0), Ok(0), Ok(0)) => {}
                left => wrong(format!("blocks, buffered blocks, segments are left: {left:?}")),
            }
            let rows = match Catalog::list(&*store, "", None, 10_000).await {
                Ok(rows) => rows,
                Err(error) => return self.unexplained("listing the catalog", &error),
            };
            let id = seat.id.to_string();
            let own_key = format!("of-{}", seat.name);
            for (key, row) in rows {
                let bytes = String::from_utf8_lossy(&row.bytes);
                let names_it = key.contains(&id) || key == format!("{ACCOUNTS}{}", seat.name);
                if (names_it && !key.starts_with(OPERATIONS)) || bytes.contains(&own_key) {
                    wrong(format!("the row {key} is left: {bytes}"));
                }
            }
        }
    }

    /// Opens what is stored by the reference.
    async fn check_disk(&mut self) {
        let Some(store) = self.store.clone() else { return };
        for seat in self.site.seats.clone().iter() {
            for number in 0..seat.blocks() {
                let id = block(number);
                let (at, sealed) = match store.fetch(seat.id, &id).await {
                    Ok(Some(found)) => found,
                    Ok(None) => continue,
                    Err(error) => return self.unexplained("reading the disk", &error),
                };
                let record = self.site.hub.state().accounts.latest(seat.id).cloned();
                let holds = record.is_some_and(|record| record.holds((at.meta.provider, at.meta.epoch)));
                let is_expected = match (&seat.kek, self.site.operations) {
                    // It was never linked to another key.
                    (Some(_), None) => at.meta.provider == Provider::Customer,
                    (None, None) => at.meta.provider == Provider::Service,
                    (_, Some(_)) => holds,
                };
                if at.place != Place::Store || !is_expected || !holds {
                    let what = format!("block {id} of {} is left as {at:?}", seat.name);
                    self.site.hub.fail(Check::UnderServiceKey, what);
                }
                let hub = &self.site.hub;
                let mut state = hub.state();
                state.counts.reference_opens += 1;
                let opened = open_by_reference(&state.keys, seat.id, &id, &at.meta, &sealed);
                drop(state);
                hub.check(opened.map(drop));
            }
        }
    }

    /// Puts sealed blocks where they do not belong.
    async fn move_blocks(&mut self) {
        let (Some(store), Some(engine)) = (self.store.clone(), self.nodes[0].engine()) else { return };
        for seat in self.site.seats.clone().iter() {
            if seat.is_of_crowd || self.is_gone(seat) {
                continue;
            }
            let listed = match cofferdam_store::BlockStore::list(&*store, seat.id, None, 2).await {
                Ok(listed) => listed,
                Err(error) => return self.unexplained("listing the disk", &error),
            };
            let [(id, _), rest @ ..] = &listed[..] else { continue };
            let (Ok(Some((at, sealed))), Ok(last)) =
                (store.fetch(seat.id, id).await, store.last_version().await)
            else {
                continue;
            };
            self.check_other_places(seat, id, &at.meta, &sealed);
            // The same bytes as a newer version, in their own place and in another block's.
            let mut version = last.number();
            for target in [id].into_iter().chain(rest.iter().map(|(other, _)| other)) {
                version += 1;
                let meta = BlockMeta { version: Version::new(version), ..at.meta };
                let moved =
                    BlockOp::Put { account: seat.id, id: target.clone(), meta, sealed: sealed.clone() };
                if let Err(error) = store.commit(vec![moved]).await {
                    return self.unexplained("moving a block", &error);
                }
                let opened = match engine.account(&seat.name).await {
                    Ok(account) => account.get(target).await,
                    Err(error) => Err(error),
                };
                match opened {
                    Err(EngineError::Damaged { .. }) => {}
                    Err(error) => self.unexplained("reading a moved block", &error),
                    Ok(_) => {
                        let what = format!("block {id} of {} opens as {target}, newer", seat.name);
                        self.site.hub.fail(Check::Moved, what);
                    }
                }
            }
        }
    }

    /// A sealed block under its own key, in places that are not its own.
    fn check_other_places(&mut self, seat: &Seat, id: &BlockId, meta: &BlockMeta, sealed: &Bytes) {
        let hub = self.site.hub.clone();
        let scope = KeyScope { account: seat.id, epoch: meta.epoch, provider: meta.provider };
        let key = hub.state().keys.aek(scope).copied();
        let Some(key) = key else { return };
        let Ok(aek) = Aek::try_from_fn(|bytes| {
            *bytes = key;
            Ok::<_, std::convert::Infallible>(())
        });
        let other = block(BLOCKS + 1);
        let version = meta.version;
        let places = [(&other, version), (id, Version::new(version.number() + 1))];
        for (id, version) in places {
            if Sealer::new(&aek, scope).open(id.at(version), sealed).is_ok() {
                let what = format!("a block of {} opens as {id}, version {version}", seat.name);
                hub.fail(Check::Moved, what);
            }
        }
    }

    pub(crate) fn unexplained(&self, doing: &str, error: &dyn std::fmt::Display) {
        self.site.hub.fail(Check::Unexplained, format!("{doing}: {error}"));
    }

    /// Whether the disk has no power.
    pub(crate) fn is_off(&self) -> bool {
        self.disk.size().is_err()
    }
}
