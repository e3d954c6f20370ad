//! Who runs operations on accounts, on one node: rotates keys, links and unlinks, deletes and recovers.
//!
//! What an operation leaves is judged by its row in the catalog, whoever reads that (`model::accounts`). Here it is judged
//! what a request is answered.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use cofferdam_crypto::KeyId;
use cofferdam_store::{
    Account, BufferMode, Engine, EngineError, LinkTo, OperationHandle, OperationStatus, Reencrypt,
};
use cofferdam_vault::{Principal, testing::TokioClock};
use tokio::time::{sleep, timeout};

use crate::{
    Check, KekState,
    dice::Dice,
    hub::{Hub, Moment},
    interrupt::Interrupt,
    operation::{brief, by_store},
    record::AccountState,
    site::{Seat, Site},
    weather::base_of,
};

/// How long a process waits for an operation at the most, before it turns to something else.
const PATIENCE: Duration = Duration::from_secs(240);

pub(crate) struct Admin {
    pub(crate) node: usize,
    pub(crate) clock: Arc<TokioClock>,
    pub(crate) site: Site,
    pub(crate) engine: Engine,
    pub(crate) dice: Dice,
    /// How long it takes from one operation to the next, on average.
    pub(crate) calm: Duration,
}

/// What is asked for.
#[derive(Clone, Debug)]
enum Request {
    RotateKek { principal: Option<String>, to: KeyId, replacing: Option<KeyId> },
    AddKek { principal: String, kek: KeyId },
    RemoveKek(KeyId),
    RotateAek(Reencrypt),
    Link { principal: String, kek: KeyId, writes_only: bool, reencrypt: Reencrypt },
    Unlink(Reencrypt),
    Delete,
    Recover,
    Purge,
}

/// A request under way: vaults may be asked because of it.
struct Asking<'a> {
    hub: &'a Hub,
    seat: &'a Seat,
}

impl<'a> Asking<'a> {
    fn begin(hub: &'a Hub, seat: &'a Seat) -> Self {
        hub.state().accounts.asking_begins(seat.id);
        Self { hub, seat }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let at = self.hub.at();
        self.hub.state().accounts.asking_ends(self.seat.id, at);
    }
}

impl Admin {
    pub(crate) async fn run(mut self) {
        loop {
            let calm = self.dice.wait(self.calm).max(Duration::from_millis(1));
            // The process ends with its clients.
            let mut left = calm;
            while !left.is_zero() {
                if self.site.closing_time.load(Ordering::Relaxed) {
                    return;
                }
                let step = left.min(Duration::from_secs(3));
                sleep(step).await;
                left -= step;
            }
            if self.site.closing_time.load(Ordering::Relaxed) {
                return;
            }
            let seats: Vec<Seat> = self.site.seats.iter().filter(|seat| !seat.is_of_crowd).cloned().collect();
            let seat = &seats[self.dice.below(seats.len() as u64) as usize];
            let known = self.site.hub.state().accounts.latest(seat.id).cloned();
            if let Some(known) = known
                && let Some(request) = self.draw(seat, &known)
            {
                self.perform(seat, request).await;
            }
        }
    }

    /// Something that makes sense as the account is known to be; what it is by then may be something else.
    fn draw(&mut self, seat: &Seat, known: &AccountState) -> Option<Request> {
        if known.deleted_until.is_some() {
            return match self.dice.below(10) {
                0..7 => Some(Request::Recover),
                7 => Some(Request::Purge),
                8 => Some(Request::RotateAek(Reencrypt::No)),
                _ => None,
            };
        }
        let drawn = self.dice.below(100);
        if !known.linked {
            return match drawn {
                0..75 => self.link(seat),
                75..82 => Some(Request::Delete),
                82..86 => Some(Request::Unlink(Reencrypt::No)),
                _ => None,
            };
        }
        match drawn {
            0..45 => self.rotate_kek(seat, known),
            45..57 => {
                let principal = self.tenant(seat, true)?;
                let kek = self.new_key(&principal, seat);
                Some(Request::AddKek { principal, kek })
            }
            57..66 => {
                let at = self.dice.below(known.keks.len() as u64) as usize;
                Some(Request::RemoveKek(known.keks[at].1.clone()))
            }
            66..82 => Some(Request::RotateAek(self.reencrypt())),
            82..92 => Some(Request::Unlink(self.reencrypt())),
            92..97 => Some(Request::Delete),
            _ => self.link(seat),
        }
    }

    fn reencrypt(&mut self) -> Reencrypt {
        if self.dice.percent(60) { Reencrypt::Yes } else { Reencrypt::No }
    }

    /// A vault of the customer's: the first, or the second one.
    fn tenant(&mut self, seat: &Seat, other: bool) -> Option<String> {
        let customers = self.site.tenants.len() / 2;
        let own = seat.vault.checked_sub(1).unwrap_or_else(|| self.dice.below(customers as u64) as usize);
        let number = if other { own + customers } else { own };
        self.site.tenants.get(number).map(|(principal, _)| principal.to_string())
    }

    fn rotate_kek(&mut self, seat: &Seat, known: &AccountState) -> Option<Request> {
        let at = self.dice.below(known.keks.len() as u64) as usize;
        let (principal, from) = known.keks[at].clone();
        let replacing = (known.keks.len() > 1 || self.dice.percent(30)).then(|| from.clone());
        let (principal, to) = match self.dice.below(10) {
            0..7 => (None, self.new_version(&principal, base_of(&from), seat)),
            7 => (Some(principal.clone()), self.new_key(&principal, seat)),
            _ => {
                let principal = self.tenant(seat, true)?;
                let to = self.new_key(&principal, seat);
                (Some(principal), to)
            }
        };
        // Some owners are rash: the old version is disabled before the new one is set.
        if self.dice.percent(6) {
            self.disable_for_a_while(&from);
        }
        Some(Request::RotateKek { principal, to, replacing })
    }

    fn disable_for_a_while(&mut self, kek: &KeyId) {
        let hub = self.site.hub.clone();
        hub.note(format_args!("{kek} is disabled before another is set"));
        for (_, house) in &self.site.tenants {
            house.vault.set_state(kek, KekState::Disabled);
        }
        let mut state = hub.state();
        state.counts.revocations += 1;
        state.weather.set_usable(kek, false, hub.at());
        let until = hub.at() + self.dice.wait(Duration::from_secs(60));
        state.given_back.push((until, kek.clone()));
    }

    fn link(&mut self, seat: &Seat) -> Option<Request> {
        let other = self.dice.percent(30);
        let principal = self.tenant(seat, other)?;
        let kek = self.new_key(&principal, seat);
        let reencrypt = self.reencrypt();
        Some(Request::Link { principal, kek, writes_only: seat.writes_only, reencrypt })
    }

    /// A new key, in this vault; some of the time a new version of one that is there.
    fn new_key(&mut self, principal: &str, seat: &Seat) -> KeyId {
        let name = self.dice.pick(&["kek", "kek-b"]);
        let base = format!("sim://{}/keys/{name}-of-{}", principal.replace("tenant", "vault"), seat.name);
        self.new_version(principal, &base, seat)
    }

    /// Its customer makes a new version of a key: as it is named.
    fn new_version(&mut self, principal: &str, base: &str, seat: &Seat) -> KeyId {
        let number = {
            let mut state = self.site.hub.state();
            let number = state.versions.entry(base.to_owned()).or_default();
            *number += 1;
            *number
        };
        let id = |text: String| KeyId::new(text).unwrap_or_else(|_| unreachable!("a short id"));
        let version = id(format!("{base}/v{number}"));
        let house = self.site.tenants.iter().find(|(of, _)| of.to_string() == principal);
        if let Some((_, house)) = house
            && let Err(error) = house.vault.create_key(&version, seat.kind)
        {
            self.site.hub.fail(Check::Unexplained, format!("making {version}: {error}"));
        }
        self.site.hub.note(format_args!("{version} is made"));
        if self.dice.percent(30) { id(base.to_owned()) } else { version }
    }

    async fn perform(&mut self, seat: &Seat, request: Request) {
        let hub = self.site.hub.clone();
        let begun = hub.moment(&self.clock);
        hub.note(format_args!("node {}: {} {request:?}", self.node, seat.name));
        let polls = self.dice.percent(8).then(|| self.dice.between(1, 30) as u32);
        let answer = {
            let _asking = Asking::begin(&hub, seat);
            let work = ask(&self.engine, seat, &request);
            match polls {
                Some(polls) => Interrupt::after(polls, work).await,
                None => Some(work.await),
            }
        };
        let ended = hub.moment(&self.clock);
        match answer {
            None => hub.note(format_args!("node {}: {} gives up", self.node, seat.name)),
            Some(Ok(handle)) => {
                hub.note(format_args!("node {}: {} begins {}", self.node, seat.name, handle.id()));
                self.follow(seat, &handle).await;
            }
            Some(Err(error)) => {
                hub.note(format_args!("node {}: {} is refused: {}", self.node, seat.name, brief(&error)));
                self.refused(seat, &request, &error, begun, ended);
            }
        }
    }

    /// Waits for an operation, mostly.
    async fn follow(&mut self, seat: &Seat, handle: &OperationHandle) {
        let hub = self.site.hub.clone();
        if self.dice.percent(6) {
            let soon = self.dice.millis(0, 2_000);
            sleep(soon).await;
            let cancelled = timeout(PATIENCE, handle.cancel()).await;
            let told = cancelled.map(|told| told.map(|of| of.status).map_err(|error| brief(&error)));
            hub.note(format_args!("node {}: {} cancelled: {told:?}", self.node, handle.id()));
        }
        if self.dice.percent(30) {
            return;
        }
        let Ok(ended) = timeout(PATIENCE, handle.wait()).await else { return };
        match ended {
            Ok(ended) => {
                let told = hub.state().accounts.operation(seat.id).cloned();
                let agrees = told.as_ref().is_none_or(|told| {
                    told.id != handle.id().to_string()
                        || (told.has_ended()
                            && told.succeeded() == (ended.status == OperationStatus::Succeeded))
                });
                if !agrees {
                    let what = format!("{ended:?} was told, and its row says {told:?}");
                    hub.fail(Check::Operation, what);
                }
            }
            Err(error) if self.is_of_store(&error) => {}
            Err(error @ EngineError::NoOperation { .. }) => {
                // Of a purged account the row may be another's.
                hub.note(format_args!("node {}: {}: {}", self.node, handle.id(), brief(&error)));
            }
            Err(error) => hub.fail(Check::Unexplained, format!("waiting for {}: {error}", handle.id())),
        }
    }

    fn is_of_store(&self, error: &EngineError) -> bool {
        matches!(error, EngineError::Closed | EngineError::WorkLost(_)) || by_store(error).is_some()
    }

    /// Whether what happened explains a refusal.
    fn refused(&self, seat: &Seat, request: &Request, error: &EngineError, begun: Moment, ended: Moment) {
        let hub = &self.site.hub;
        let mut state = hub.state();
        let views = state.accounts.views(seat.id, begun.seq, ended.seq);
        let has = |holds: &dyn Fn(&AccountState) -> bool| views.any(holds);
        // The service's key is the keyring's to renew, which tries again after a while.
        let is_fair = |kek: &KeyId| {
            let since = state.weather.fair_since(self.node, kek, ended.at);
            since.is_some_and(|since| state.keys.recovered_at(since, since) < begun.at)
        };
        let explained = match error {
            EngineError::OperationRunning { operation, .. } => {
                let ran = state.accounts.ran(seat.id, &operation.to_string(), begun.seq);
                state.counts.conflicts += 1;
                ran
            }
            EngineError::AccountDeleted { .. } => has(&|of| of.deleted_until.is_some()),
            EngineError::NoAccount { .. } => views.may_be_gone(),
            EngineError::NotDeleted { .. } => has(&|of| of.deleted_until.is_none()),
            EngineError::NotLinked { .. } => has(&|of| !of.linked),
            EngineError::AlreadyLinked { .. } => has(&|of| of.linked),
            EngineError::LastKek { .. } => has(&|of| of.keks.len() == 1),
            EngineError::TooManyKeks { .. } => has(&|of| of.keks.len() >= 4),
            EngineError::NoSuchKek { named, .. } => match named {
                Some(named) => has(&|of| !of.is_under(named)),
                None => has(&|of| of.keks.len() != 1),
            },
            EngineError::KekInUse { key_id, .. } => has(&|of| of.is_under(key_id)),
            EngineError::Undrained { .. } | EngineError::PurgeProtected { .. } => true,
            EngineError::OldKek { .. }
            | EngineError::Vault { .. }
            | EngineError::UnfitKek { .. }
            | EngineError::KeyUnavailable { .. }
            | EngineError::KeyRevoked { .. } => {
                let named = match request {
                    Request::RotateKek { to, .. } => Some(to),
                    Request::AddKek { kek, .. } | Request::Link { kek, .. } => Some(kek),
                    _ => None,
                };
                let old = views.of.iter().flatten().flat_map(|view| &view.keks).map(|(_, kek)| kek);
                let mut needed = old.chain(named).chain([&self.site.service_kek, &self.site.token_service]);
                !needed.all(is_fair)
            }
            error => self.is_of_store(error),
        };
        if !matches!(error, EngineError::OperationRunning { .. }) {
            state.counts.refused_operations += 1;
        }
        drop(state);
        if !explained {
            let what = format!("{} on node {}: {request:?} was refused: {error}", seat.name, self.node);
            hub.fail(Check::Unexplained, what);
        }
    }
}

async fn ask(engine: &Engine, seat: &Seat, request: &Request) -> Result<OperationHandle, EngineError> {
    let account = async || -> Result<Account, EngineError> { engine.account(&seat.name).await };
    match request.clone() {
        Request::RotateKek { principal, to, replacing } => {
            account().await?.rotate_kek(principal.map(Principal::new), to, replacing).await
        }
        Request::AddKek { principal, kek } => account().await?.add_kek(Principal::new(principal), kek).await,
        Request::RemoveKek(kek) => account().await?.remove_kek(&kek).await,
        Request::RotateAek(reencrypt) => account().await?.rotate_aek(reencrypt).await,
        Request::Link { principal, kek, writes_only, reencrypt } => {
            let buffer = if writes_only { BufferMode::WriteOnly } else { BufferMode::ServiceManaged };
            let to = LinkTo { principal: Principal::new(principal), kek, buffer };
            account().await?.link(to, reencrypt).await
        }
        Request::Unlink(reencrypt) => account().await?.unlink(reencrypt).await,
        Request::Delete => account().await?.delete_account().await,
        Request::Recover => engine.recover_account(&seat.name).await,
        Request::Purge => engine.purge_account(&seat.name).await,
    }
}
