//! One operation of a client, and the judgement on what came of it.

mod judge;

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
