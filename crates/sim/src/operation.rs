//! One operation of a client, and the judgement on what came of it.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use cofferdam_crypto::{BlockId, Provider, ProviderKind};
use cofferdam_keyring::{Fault, KeyError, RecordError};
use cofferdam_store::{Account, BlockInfo, EngineError, Outcome, Place, StoreError, StoreErrorKind};
use cofferdam_vault::testing::TokioClock;

use crate::{
    Check,
    hub::{Hub, Moment, State},
    interrupt::Interrupt,
    model::{Judged, Seen, Use, WriteEnd, WriteId, bytes_of, write_of},
    record::AccountState,
    shelf::SLOWEST,
    site::{Seat, Site},
};

/// What is asked for. Blocks are written with bytes of their own, of these lengths.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Put(Vec<(BlockId, usize)>),
    Delete(BlockId),
    Get(BlockId),
    Range(BlockId, Range<u64>),
    List,
    Status,
    /// That the key can be used.
    Key,
}

/// What came of it.
#[derive(Debug)]
enum Reply {
    Put(Outcome, Vec<u64>),
    Deleted,
    Got(Bytes),
    Listed(Vec<BlockInfo>),
    Told,
    Usable,
}

pub(crate) struct Operation<'a> {
    pub(crate) node: usize,
    pub(crate) client: usize,
    pub(crate) clock: &'a TokioClock,
    pub(crate) site: &'a Site,
    pub(crate) seat: &'a Seat,
}

/// Writes under way. Dropped before their end, they may have taken effect or not.
struct Open<'a> {
    hub: &'a Hub,
    writes: Vec<WriteId>,
    /// Whether it is the process that ended.
    crashed: bool,
}

impl Open<'_> {
    fn end(mut self, end: WriteEnd, seq: u64) {
        let mut state = self.hub.state();
        for write in std::mem::take(&mut self.writes) {
            state.blocks.write_ends(write, end, seq);
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.writes.is_empty() && self.crashed {
            let mut state = self.hub.state();
            state.counts.dropped += 1;
            let seq = state.next_seq();
            for write in &self.writes {
                state.blocks.write_ends(*write, WriteEnd::Unknown, seq);
            }
        }
    }
}

/// How long the renewal of a token may take.
const TOKEN_GIVEN_UP_WITHIN: Duration = Duration::from_secs(10);

impl Operation<'_> {
    /// Performs it; given a number of polls, the future is dropped after so many.
    pub(crate) async fn perform(&self, account: &Account, request: Request, polls: Option<u32>) {
        let hub = &self.site.hub;
        let begun = hub.moment(self.clock);
        let (writes, data) = self.write_down(&request, begun);
        let mut open = Open { hub, writes, crashed: true };
        let work = self.ask(account, &request, data);
        let reply = match polls {
            Some(polls) => Interrupt::after(polls, work).await,
            None => Some(work.await),
        };
        let ended = hub.moment(self.clock);
        let Some(reply) = reply else {
            // What was begun may go on by itself.
            hub.note(format_args!("node {} client {}: gives up", self.node, self.client));
            hub.state().counts.dropped += 1;
            open.crashed = false;
            return;
        };
        let of = self.use_of(begun, ended);
        let told = match &reply {
            Ok(Reply::Usable) => String::new(),
            Ok(Reply::Put(outcome, _)) => format!("{outcome:?}"),
            Ok(Reply::Got(bytes)) => format!("{} bytes, {:?}", bytes.len(), write_of(bytes)),
            Ok(Reply::Listed(blocks)) => format!("{} blocks", blocks.len()),
            Ok(other) => format!("{other:?}"),
            Err(error) => brief(error),
        };
        if !matches!(reply, Ok(Reply::Usable)) {
            hub.note(format_args!(
                "node {} client {}: {} {request:?} -> {told}",
                self.node, self.client, self.seat.name
            ));
        }
        if matches!(reply, Err(EngineError::KeyRevoked { .. })) {
            self.judge_cached(&of, account);
        }
        self.conclude(&of, &request, &reply, open);
        self.judge_waiting(
            &of,
            matches!(reply, Ok(Reply::Put(Outcome::Stored, _) | Reply::Got(_) | Reply::Usable)),
        );
    }

    fn use_of(&self, begun: Moment, ended: Moment) -> Use {
        self.site.hub.state().use_of(self.node, self.seat.id, begun, ended)
    }

    /// Tells the model of the writes before they begin, and makes their bytes.
    fn write_down(&self, request: &Request, begun: Moment) -> (Vec<WriteId>, Vec<(BlockId, Bytes)>) {
        let hub = &self.site.hub;
        let mut state = hub.state();
        state.counts.operations += 1;
        let mut begin = |block: &BlockId, len| state.blocks.write_begins(self.seat.id, block, len, begun.seq);
        let (writes, data): (Vec<_>, Vec<_>) = match request {
            Request::Put(blocks) => blocks
                .iter()
                .map(|(block, len)| {
                    let write = begin(block, Some(*len));
                    (write, (block.clone(), Bytes::from(bytes_of(write, *len))))
                })
                .unzip(),
            Request::Delete(block) => (vec![begin(block, None)], Vec::new()),
            _ => (Vec::new(), Vec::new()),
        };
        drop(state);
        if !matches!(request, Request::Key) {
            hub.note(format_args!(
                "node {} client {}: {} {request:?} {writes:?}",
                self.node, self.client, self.seat.name
            ));
        }
        (writes, data)
    }

    async fn ask(
        &self,
        account: &Account,
        request: &Request,
        mut data: Vec<(BlockId, Bytes)>,
    ) -> Result<Reply, EngineError> {
        match request {
            Request::Put(_) if data.len() == 1 => match data.pop() {
                Some((block, bytes)) => {
                    let receipt = account.put(&block, bytes).await?;
                    Ok(Reply::Put(receipt.outcome, vec![receipt.version.number()]))
                }
                None => Ok(Reply::Told),
            },
            Request::Put(_) => {
                let receipts = account.put_batch(data).await?;
                let versions = receipts.iter().map(|receipt| receipt.version.number()).collect();
                Ok(receipts.first().map_or(Reply::Told, |receipt| Reply::Put(receipt.outcome, versions)))
            }
            Request::Delete(block) => account.delete(block).await.map(|_| Reply::Deleted),
            Request::Get(block) => account.get(block).await.map(Reply::Got),
            Request::Range(block, range) => account.get_range(block, range.clone()).await.map(Reply::Got),
            Request::List => Ok(Reply::Listed(account.list(None, 1000).await?.blocks)),
            Request::Status => account.status().await.map(|_| Reply::Told),
            Request::Key => account.check_key().await.map(|()| Reply::Usable),
        }
    }

    fn conclude(&self, of: &Use, request: &Request, reply: &Result<Reply, EngineError>, open: Open<'_>) {
        let hub = &self.site.hub;
        let blocks = open.writes.len() as u64;
        if of.views.is_closed() && matches!(reply, Ok(Reply::Put(..) | Reply::Got(_) | Reply::Usable)) {
            let what = format!("{} is deleted, and node {} served it", self.seat.name, self.node);
            hub.fail(Check::Deleted, what);
        }
        match reply {
            Ok(Reply::Put(outcome, versions)) => {
                self.end_puts(request, open, versions, of.ended.seq);
                let mut state = hub.state();
                state.counts.acknowledged += blocks;
                drop(state);
                match outcome {
                    Outcome::Buffered => {
                        hub.state().counts.buffered += blocks;
                        let state = hub.state();
                        let judged = state.keys.judge_buffered(of, &state.budgets);
                        let judged = judged.and(state.keys.judge_unavailable(of, &state.budgets));
                        drop(state);
                        hub.check(judged);
                        self.judge_use(of, Provider::Service);
                        self.judge_recovered(of, "a write was buffered");
                        if of.views.all(|view| !view.linked) {
                            let what = "a write of an account without a key of its own was buffered";
                            hub.fail(Check::Unexplained, what.to_owned());
                        }
                    }
                    _ => self.judge_own(of),
                }
            }
            Ok(Reply::Deleted) => {
                hub.state().counts.acknowledged += blocks;
                open.end(WriteEnd::Acknowledged, of.ended.seq);
            }
            Ok(Reply::Got(bytes)) => {
                hub.state().counts.reads += 1;
                hub.check(self.judge_bytes(of, request, bytes));
                self.judge_read_under(of, request, bytes);
            }
            Ok(Reply::Listed(blocks)) => hub.check(self.judge_list(of, blocks)),
            Ok(Reply::Usable) => {
                hub.state().counts.keys_asked_for += 1;
                self.judge_own(of);
            }
            Ok(Reply::Told) => {}
            Err(error) => self.failed(of, request, error, open),
        }
    }

    /// Of two writes of one block in a batch only the later takes effect.
    fn end_puts(&self, request: &Request, mut open: Open<'_>, versions: &[u64], seq: u64) {
        let Request::Put(blocks) = request else { return };
        let mut state = self.site.hub.state();
        for (at, write) in std::mem::take(&mut open.writes).into_iter().enumerate() {
            let again = blocks.iter().skip(at + 1).any(|(block, _)| *block == blocks[at].0);
            let end = if again { WriteEnd::Refused } else { WriteEnd::Acknowledged };
            state.blocks.write_ends(write, end, seq);
            if let (Some(version), WriteEnd::Acknowledged) = (versions.get(at), end) {
                state.blocks.has_version(write, *version);
            }
        }
    }

    /// Whether an account that is under the service's key for certain was refused because of a customer's.
    fn needs_no_customer(&self, of: &Use, request: &Request) -> bool {
        let is_others = |block: &BlockId| {
            let state = self.site.hub.state();
            let held = state.blocks.all_held_by(self.seat.id, block);
            held.iter().any(|(provider, _)| *provider != Provider::Service)
        };
        of.views.all(|view| !view.linked)
            && match request {
                Request::Get(block) | Request::Range(block, _) => !is_others(block),
                Request::Put(_) | Request::Key => true,
                _ => false,
            }
    }

    fn failed(&self, of: &Use, request: &Request, error: &EngineError, open: Open<'_>) {
        let hub = &self.site.hub;
        let seq = of.ended.seq;
        match error {
            EngineError::KeyRevoked { .. } => {
                hub.state().counts.refused_revoked += 1;
                open.end(WriteEnd::Refused, seq);
                let judged = if self.needs_no_customer(of, request) {
                    let what = format!("{} has no key that could be revoked", self.seat.name);
                    Err((Check::FalseRevocation, what))
                } else {
                    hub.state().keys.judge_revoked(of)
                };
                hub.check(judged);
                self.judge_recovered(of, "an operation was refused as revoked");
            }
            EngineError::KeyUnavailable { source, .. } => {
                hub.state().counts.refused_unavailable += 1;
                open.end(WriteEnd::Refused, seq);
                // A block of a segment needs that one's key as well.
                // The same goes for one of an older epoch.
                let needs_another = |view: &AccountState| view.writes_only || view.aeks.len() > 2;
                let is_of_another =
                    of.views.any(needs_another) && matches!(request, Request::Get(_) | Request::Range(..));
                // By whose key it is told that the service's is unavailable does not matter.
                if let KeyError::Unavailable { provider: Provider::Customer, fault, .. } = &**source
                    && !matches!(fault, Fault::ServiceKey(_))
                    && self.needs_no_customer(of, request)
                {
                    let what = format!("{} has no key that could be unavailable: {source}", self.seat.name);
                    hub.fail(Check::Grace, what);
                }
                if let KeyError::Unavailable { provider: Provider::Customer, fault, .. } = &**source
                    && !matches!(fault, Fault::ServiceKey(_))
                    && !is_of_another
                {
                    let state = hub.state();
                    let judged = state.keys.judge_unavailable(of, &state.budgets);
                    drop(state);
                    hub.check(judged);
                }
                self.judge_recovered(of, &format!("an operation was refused: {source}"));
            }
            EngineError::BufferFull { .. } => {
                hub.state().counts.refused_full += 1;
                open.end(WriteEnd::Refused, seq);
                self.judge_recovered(of, "an operation was refused by a full buffer");
            }
            EngineError::NoBlock { .. } => {
                open.end(WriteEnd::Refused, seq);
                if let Request::Get(block) | Request::Range(block, _) = request {
                    let interval = (of.begun.seq, seq);
                    let judged = hub.state().blocks.judge_read(self.seat.id, block, Seen::Nothing, interval);
                    hub.check(judged);
                }
            }
            EngineError::Range { .. } => {}
            EngineError::AccountDeleted { .. } if of.views.any(|view| view.deleted_until.is_some()) => {
                hub.state().counts.refused_deleted += 1;
                open.end(WriteEnd::Refused, seq);
            }
            EngineError::NoAccount { .. } if of.views.may_be_gone() => {
                hub.state().counts.refused_deleted += 1;
                open.end(WriteEnd::Refused, seq);
            }
            EngineError::Closed | EngineError::WorkLost(_) => open.end(WriteEnd::Unknown, seq),
            error if by_store(error).is_some_and(|kind| kind != StoreErrorKind::Corrupt) => {
                hub.state().counts.failed_by_store += 1;
                open.end(WriteEnd::Unknown, seq);
            }
            error => {
                open.end(WriteEnd::Unknown, seq);
                hub.fail(Check::Unexplained, format!("{} {request:?}: {error}", self.seat.name));
            }
        }
    }

    /// Whether the key that new blocks are sealed under may have served.
    fn judge_own(&self, of: &Use) {
        if of.views.all(|view| view.linked) {
            self.judge_use(of, Provider::Customer);
        } else if of.views.all(|view| !view.linked) {
            self.judge_use(of, Provider::Service);
        }
    }

    /// Whether a block may have been read: a linked account's only while the customer's key may be used, whatever it is
    /// sealed under; and every block only while its own key may be.
    fn judge_read_under(&self, of: &Use, request: &Request, bytes: &Bytes) {
        let is_linked = of.views.all(|view| view.linked);
        if is_linked {
            self.judge_use(of, Provider::Customer);
        }
        let (Request::Get(block), Some(write)) = (request, write_of(bytes)) else { return };
        let held = self.site.hub.state().blocks.held_by(self.seat.id, block, write);
        match held.first() {
            Some((provider, _)) if held.iter().all(|(other, _)| other == provider) => match provider {
                Provider::Customer if is_linked => {}
                Provider::Customer | Provider::Service => self.judge_use(of, *provider),
                Provider::Buffer(_) => {}
            },
            _ => {}
        }
    }

    fn judge_use(&self, of: &Use, provider: Provider) {
        let hub = &self.site.hub;
        let mut state = hub.state();
        let judged = state.keys.judge_use(of, provider, &state.budgets);
        if let Ok(age) = judged {
            state.counts.oldest_used = state.counts.oldest_used.max(age);
            if provider == Provider::Customer {
                let keks = of.views.of.first().and_then(Option::as_ref).map_or(&[][..], |view| &view.keks);
                // Taken away before it was begun.
                if keks.iter().any(|(_, kek)| state.weather.usable_since(kek).is_none()) {
                    let oldest = &mut state.counts.oldest_used_after_revocation;
                    *oldest = (*oldest).max(age);
                }
                if let Some(late) = state.keys.since_denial(of) {
                    state.counts.latest_after_denial = state.counts.latest_after_denial.max(late);
                }
            }
        }
        drop(state);
        hub.check(judged.map(drop));
    }

    fn judge_bytes(&self, of: &Use, request: &Request, bytes: &Bytes) -> Judged {
        let mut state = self.site.hub.state();
        let interval = (of.begun.seq, of.ended.seq);
        let account = self.seat.id;
        match request {
            Request::Get(block) => match write_of(bytes) {
                Some(write) if bytes[..] == bytes_of(write, bytes.len()) => {
                    let whole = state.blocks.len_of(account, block, write) == Some(bytes.len());
                    let judged = state.blocks.judge_read(account, block, Seen::Write(write), interval);
                    if whole { judged } else { judged.and(Err(self.strange(block))) }
                }
                _ => Err(self.strange(block)),
            },
            Request::Range(block, range) => {
                let (start, end) = (range.start as usize, range.end as usize);
                let write = state
                    .blocks
                    .puts(account, block)
                    .into_iter()
                    .find(|(write, len)| *len >= end && bytes_of(*write, end)[start..] == bytes[..]);
                match write {
                    Some((write, _)) => state.blocks.judge_read(account, block, Seen::Write(write), interval),
                    None => Err(self.strange(block)),
                }
            }
            _ => Ok(()),
        }
    }

    fn strange(&self, block: &BlockId) -> (Check, String) {
        (Check::Content, format!("block {block} of {} has bytes that nobody wrote", self.seat.name))
    }

    fn judge_list(&self, of: &Use, listed: &[BlockInfo]) -> Judged {
        let mut state = self.site.hub.state();
        let account = self.seat.id;
        for block in state.blocks.ids(account) {
            match listed.iter().find(|info| info.id == block) {
                None => {
                    let interval = (of.begun.seq, of.ended.seq);
                    state.blocks.judge_read(account, &block, Seen::Nothing, interval)?;
                }
                Some(info) => {
                    let puts = state.blocks.puts(account, &block);
                    if !puts.iter().any(|(_, len)| *len as u64 == info.len) {
                        let what = format!("block {block} is listed with {} bytes", info.len);
                        return Err((Check::Content, what));
                    }
                    // It stays where it is while its account is linked or unlinked.
                    let there = state.accounts.possible(account, of.begun.seq, of.ended.seq);
                    let fits = |view: &crate::model::Written| match (view, info.place) {
                        (None, _) => true,
                        (Some(view), Place::Buffer) if view.writes_only => {
                            info.provider.kind() == ProviderKind::Buffer
                        }
                        (Some(_), Place::Buffer) => info.provider == Provider::Service,
                        (Some(view), Place::Store) => view.holds((info.provider, info.epoch)),
                    };
                    if !there.iter().any(fits) {
                        let what = format!(
                            "block {block} of {} is in the {:?} under the {} key, epoch {}",
                            self.seat.name, info.place, info.provider, info.epoch
                        );
                        return Err((Check::UnderServiceKey, what));
                    }
                }
            }
        }
        Ok(())
    }

    /// Nothing of an account that is revoked stays in the hot cache.
    fn judge_cached(&self, of: &Use, account: &Account) {
        let hub = &self.site.hub;
        let cached = account.hot_cached().memory;
        // The service's blocks of an account that was unlinked may be there.
        if cached.blocks > 0
            && of.views.all(|view| view.linked)
            && hub.state().keys.is_revoked_since(self.node, self.seat.id, of.begun.at)
        {
            let what = format!(
                "node {} still has {} blocks of {} in its hot cache, which is revoked",
                self.node, cached.blocks, self.seat.name
            );
            hub.fail(Check::HotCache, what);
        }
    }

    /// With every way fair for long enough, nothing is refused any more.
    fn judge_recovered(&self, of: &Use, what: &str) {
        let hub = &self.site.hub;
        let state = hub.state();
        let recovered = self.recovered_at(&state, of);
        drop(state);
        if let Some(recovered) = recovered
            && recovered < of.begun.at
        {
            let late = of.begun.at.saturating_sub(recovered);
            let what = format!(
                "{} on node {}: {what}, {late:?} after its vaults were back for long enough",
                self.seat.name, self.node
            );
            hub.fail(Check::Recovery, what);
        }
    }

    /// From when on this node must serve this account, unless something is bad now.
    fn recovered_at(&self, state: &State, of: &Use) -> Option<Duration> {
        let fair_since = |kek| state.weather.fair_since(self.node, kek, of.ended.at);
        // A renewal that hangs is given up after a while of its own.
        let tokens = fair_since(&self.site.token_service)? + TOKEN_GIVEN_UP_WITHIN;
        let service = fair_since(&self.site.service_kek)?.max(tokens);
        let settled = |vault| state.budgets.settled_by(self.node, vault);
        let service = service.max(settled(0));
        let mut own = service;
        for view in of.views.of.iter().flatten() {
            for (principal, kek) in &view.keks {
                let vault = state.vaults.get(principal).copied().unwrap_or_default();
                let fair = fair_since(kek)?.max(tokens).max(settled(vault));
                own = own.max(fair + state.budgets.queue(vault));
            }
        }
        // What changes the key itself takes its time.
        if of.views.operating {
            return None;
        }
        let changed = of.views.changed.map(|changed| changed.at);
        let own = own.max(changed.max(state.accounts.operated_until(self.seat.id)).unwrap_or_default());
        let recovered = state.keys.recovered_at(service, own);
        let store = state.keys.store_failed_since(self.node, of.begun, recovered.saturating_sub(own));
        (!store).then_some(recovered)
    }

    fn judge_waiting(&self, of: &Use, succeeded: bool) {
        let hub = &self.site.hub;
        let state = hub.state();
        let took = of.ended.at.saturating_sub(of.begun.at);
        let queue = of.queue(&state.budgets);
        let throttled = of.throttled_of_late(&state.budgets);
        // Who writes while a change of the key is taken note of waits for another attempt.
        let changes = of.views.operating || of.views.of.len() > 1;
        let again = if changes { state.keys.longest_wait(of) } else { Duration::ZERO };
        // A node that is not sure that others wait for it takes note of their changes first.
        let changed = state.accounts.changed_since(of.begun.at.saturating_sub(self.site.lease()));
        let noting = 3 * self.site.policy.call_timeout() * changed;
        let mut limit = state.keys.longest_wait(of) + again + noting + 20 * SLOWEST + queue;
        let jumped = state.keys.jumped_since(self.node, of.begun);
        // Nobody else's vault holds it up.
        if succeeded && self.recovered_at(&state, of).is_some_and(|recovered| recovered < of.begun.at) {
            limit = limit.min(30 * SLOWEST + queue + noting);
        }
        drop(state);
        if took > limit && !jumped && !throttled {
            let what = format!("an operation of {} on node {} took {took:?}", self.seat.name, self.node);
            hub.fail(Check::Waiting, what);
        }
    }
}

/// What the store said, if it was the store that failed.
pub(crate) fn by_store(error: &EngineError) -> Option<StoreErrorKind> {
    match error {
        EngineError::Store(error) => Some(error.kind()),
        EngineError::Record { source, .. } => match &**source {
            RecordError::Storage(error) => match error.downcast_ref::<StoreError>() {
                Some(error) => Some(error.kind()),
                None => error.downcast_ref::<EngineError>().and_then(by_store),
            },
            _ => None,
        },
        _ => None,
    }
}

/// An error without its words, which may hold addresses of the run.
pub(crate) fn brief(error: &EngineError) -> String {
    match error {
        EngineError::Store(error) => format!("store: {:?}", error.kind()),
        error => error.to_string(),
    }
}
