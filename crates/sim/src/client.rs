//! A client of one node: it reads and writes, in bursts, until its node ends.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use cofferdam_crypto::{BlockId, Provider};
use cofferdam_keyring::{KeyEvent, KeyState, What};
use cofferdam_store::{Account, Engine};
use cofferdam_vault::testing::TokioClock;
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::sleep,
};

use crate::{
    dice::Dice,
    operation::{Operation, Request},
    site::{Seat, Site},
};

pub(crate) struct Client {
    pub(crate) node: usize,
    pub(crate) number: usize,
    pub(crate) clock: Arc<TokioClock>,
    pub(crate) site: Site,
    pub(crate) engine: Engine,
    pub(crate) dice: Dice,
}

impl Client {
    pub(crate) async fn run(mut self) {
        let first = self.dice.millis(0, 1_000);
        sleep(first).await;
        let mut waited_for = None;
        loop {
            // A burst goes to one account, and is fast.
            let drawn = self.seat();
            let seat = waited_for.take().unwrap_or(drawn);
            for _ in 0..self.dice.between(1, 4) {
                if self.site.closing_time.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(account) = self.engine.account(&seat.name).await {
                    self.operate(&seat, &account).await;
                }
                if self.dice.percent(50) {
                    let pause = self.dice.millis(1, 900);
                    sleep(pause).await;
                }
            }
            waited_for = self.think().await;
        }
    }

    /// Any account; half the time one that is not of the crowd.
    fn seat(&mut self) -> Seat {
        let seats = &self.site.seats;
        let own = seats.iter().position(|seat| seat.is_of_crowd).filter(|_| self.dice.percent(50));
        seats[self.dice.below(own.unwrap_or(seats.len()) as u64) as usize].clone()
    }

    /// Waits a while, or until an account that it waited for is back.
    async fn think(&mut self) -> Option<Seat> {
        let (think, waits) = (self.dice.wait(self.site.think), self.dice.percent(50));
        let think = sleep(think.max(Duration::from_millis(1)));
        if !waits {
            think.await;
            return None;
        }
        let back = self.site.back.clone();
        let account = tokio::select! {
            biased;
            account = back.next() => account,
            () = think => return None,
        };
        // While its buffer is drained.
        let soon = self.dice.millis(0, 60);
        sleep(soon).await;
        self.site.seats.iter().find(|seat| Some(seat.id) == account).cloned()
    }

    async fn operate(&mut self, seat: &Seat, account: &Account) {
        let request = self.draw(seat);
        let polls = self.dice.percent(4).then(|| self.dice.between(1, 8) as u32);
        let operation =
            Operation { node: self.node, client: self.number, clock: &self.clock, site: &self.site, seat };
        operation.perform(account, request, polls).await;
    }

    fn block(&mut self, seat: &Seat) -> BlockId {
        block(self.dice.below(seat.blocks()))
    }

    fn draw(&mut self, seat: &Seat) -> Request {
        match self.dice.below(100) {
            0..36 => Request::Put(vec![(self.block(seat), self.len())]),
            36..43 => {
                let count = self.dice.between(2, 5);
                Request::Put((0..count).map(|_| (self.block(seat), self.len())).collect())
            }
            43..52 => Request::Delete(self.block(seat)),
            52..80 => Request::Get(self.block(seat)),
            80..89 => {
                let block = self.block(seat);
                let puts = self.site.hub.state().blocks.puts(seat.id, &block);
                let len = puts.first().map_or(10, |(_, len)| *len as u64);
                let start = self.dice.below(len.saturating_sub(8));
                let end = start + 8 + self.dice.below(len.saturating_sub(start + 8) + 1);
                Request::Range(block, start..end)
            }
            89..96 => Request::List,
            _ => Request::Status,
        }
    }

    /// Mostly small, some of several pages, a few that are sealed on an executor.
    fn len(&mut self) -> usize {
        let len = match self.dice.below(100) {
            0..70 => self.dice.between(8, 300),
            70..85 => self.dice.between(300, 4_200),
            85..99 => self.dice.between(4_000, 20_000),
            _ => self.dice.between(200_000, 300_000),
        };
        len as usize
    }
}

/// The block of this number.
pub(crate) fn block(number: u64) -> BlockId {
    BlockId::new(format!("block/{number}")).unwrap_or_else(|_| unreachable!("a short id"))
}

/// Notes what an engine tells of its keys.
pub(crate) async fn listen(site: Site, node: usize, clock: Arc<TokioClock>, mut events: Receiver<KeyEvent>) {
    let hub = &site.hub;
    loop {
        match events.recv().await {
            Ok(event) => {
                let now = hub.moment(&clock);
                let mut state = hub.state();
                if matches!(event.what, What::Changed { .. }) {
                    state.counts.state_changes += 1;
                }
                let KeyEvent { account, provider, what, .. } = event;
                state.trace.note(hub.at(), format_args!("node {node}: {account} {provider} {what:?}"));
                let mut judged = Ok(());
                if let What::Changed { to, .. } = what {
                    if to == KeyState::Grace {
                        let of = state.use_of(node, account, now, now);
                        judged = state.keys.judge_grace(&of, provider, &state.budgets);
                    }
                    if provider == Provider::Customer {
                        let revoked = (to == KeyState::Revoked).then_some(now.at);
                        state.keys.revocation_told(node, account, revoked);
                    }
                }
                drop(state);
                hub.check(judged);
                if let What::Changed { to: KeyState::Active, .. } = what
                    && provider == Provider::Customer
                {
                    site.back.tell(account);
                }
            }
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}
