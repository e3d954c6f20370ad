//! What came of an operation, held against the model.

use super::*;

impl Operation<'_> {
    /// Whether the key that new blocks are sealed under may have served.
    pub(super) fn judge_own(&self, of: &Use) {
        if of.views.all(|view| view.linked) {
            self.judge_use(of, Provider::Customer);
        } else if of.views.all(|view| !view.linked) {
            self.judge_use(of, Provider::Service);
        }
    }

    /// Whether a block may have been read: a linked account's only while the customer's key may be used, whatever it is
    /// sealed under; and every block only while its own key may be.
    pub(super) fn judge_read_under(&self, of: &Use, request: &Request, bytes: &Bytes) {
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

    pub(super) fn judge_use(&self, of: &Use, provider: Provider) {
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

    pub(super) fn judge_bytes(&self, of: &Use, request: &Request, bytes: &Bytes) -> Judged {
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

    pub(super) fn judge_list(&self, of: &Use, listed: &[BlockInfo]) -> Judged {
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
    pub(super) fn judge_cached(&self, of: &Use, account: &Account) {
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
    pub(super) fn judge_recovered(&self, of: &Use, what: &str) {
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

    pub(super) fn judge_waiting(&self, of: &Use, succeeded: bool) {
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
