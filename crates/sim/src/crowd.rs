//! Those who keep a crowd of accounts in use: many keys that are asked for again and again, and few blocks.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use cofferdam_store::{Account, Engine};
use cofferdam_vault::testing::TokioClock;
use tokio::time::sleep;

use crate::{
    dice::Dice,
    operation::{Operation, Request},
    site::Site,
};

/// How many ask at once on one node.
const AT_ONCE: usize = 8;

/// One who asks for the keys of a share of the crowd.
pub(crate) struct Regular {
    pub(crate) node: usize,
    pub(crate) clock: Arc<TokioClock>,
    pub(crate) site: Site,
    pub(crate) engine: Engine,
    pub(crate) dice: Dice,
    /// Of the site's seats.
    pub(crate) share: Range<usize>,
}

impl Regular {
    /// The crowd, divided.
    pub(crate) fn shares(site: &Site) -> Vec<Range<usize>> {
        let first = site.seats.iter().position(|seat| seat.is_of_crowd).unwrap_or(site.seats.len());
        let each = (site.seats.len() - first).div_ceil(AT_ONCE).max(1);
        (first..site.seats.len()).step_by(each).map(|at| at..(at + each).min(site.seats.len())).collect()
    }

    pub(crate) async fn run(mut self) {
        // Not all is in use all the time.
        let (asked, round) = (self.dice.between(40, 100), self.dice.millis(1_500, 6_000));
        let mut accounts: Vec<Option<Account>> = vec![None; self.share.len()];
        let seats = self.site.seats.clone();
        loop {
            for (seat, account) in seats[self.share.clone()].iter().zip(&mut accounts) {
                if self.site.closing_time.load(Ordering::Relaxed) {
                    return;
                }
                if !self.dice.percent(asked) {
                    continue;
                }
                if account.is_none() {
                    *account = self.engine.account(&seat.name).await.ok();
                }
                let Some(account) = account else { continue };
                let operation =
                    Operation { node: self.node, client: 50, clock: &self.clock, site: &self.site, seat };
                operation.perform(account, Request::Key, None).await;
            }
            sleep(self.dice.wait(round).max(Duration::from_millis(200))).await;
        }
    }
}
