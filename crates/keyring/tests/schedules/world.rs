//! A world of one schedule: a keyring with room for few keys, and who refreshes, revokes, reads, evicts and closes.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use cofferdam_crypto::{AccountId, Epoch, Provider};
use cofferdam_keyring::{
    KeyError, Keyring, KeyringParts, LiveKey, Policy,
    rt::{Counted, point, time},
};
use cofferdam_vault::{VaultErrorKind, VaultRegistry, testing::SeededEntropy};
use shuttle::future;

use crate::{
    judge::Judge,
    pace::{self, VirtualClock},
    vault::{EPOCHS, Records, Vault, account, draw, tenant},
};

const SECOND: Duration = Duration::from_secs(1);

/// Who waits longer than this, while time passes only when all wait and every call takes a second at most, was not
/// woken when it should have been: all sleeps of the driver are longer.
const WAIT: Duration = Duration::from_secs(20);

struct World {
    keyring: Keyring,
    vault: Arc<Vault>,
    records: Arc<Records>,
    judge: Arc<Judge>,
    most: usize,
    /// Time passes only when all wait, and no call hangs.
    punctual: bool,
}

/// Runs one schedule.
pub fn run() {
    time::restart();
    // Half of all schedules are punctual, the others hasty to different degrees.
    pace::set_haste([0, 0, 0, 4, 32, 256][draw(6) as usize]);
    future::block_on(async {
        let passing = future::spawn(pace::pass());
        let world = World::draw();
        let mut tasks = Vec::new();
        for _ in 0..2 + draw(2) {
            tasks.push(future::spawn(world.clone().read()));
        }
        tasks.push(future::spawn(world.clone().revoke()));
        if draw(2) == 0 {
            tasks.push(future::spawn(world.clone().forget()));
        }
        if draw(2) == 0 {
            tasks.push(future::spawn(world.clone().linger()));
        }
        if draw(4) == 0 {
            tasks.push(future::spawn(world.clone().close()));
        }
        if draw(3) == 0 {
            tasks.push(future::spawn(world.clone().reload()));
        }
        for task in tasks {
            task.await.unwrap();
        }
        world.end().await;
        passing.abort();
    });
}

impl World {
    fn draw() -> Arc<Self> {
        let punctual = pace::haste() == 0;
        let most = 1 + draw(2) as usize;
        let grace = [Duration::ZERO, 120 * SECOND][draw(2) as usize];
        let policy =
            Policy::default().with_max_keys(NonZeroUsize::new(most).unwrap()).with_grace(grace).unwrap();
        let judge = Arc::new(Judge::new(policy.usable_for()));
        let vault = Arc::new(Vault::new(judge.clone(), [0, 0, 10][draw(3) as usize], !punctual));
        let records = Arc::new(Records::new(judge.clone(), [0, 0, 10][draw(3) as usize]));
        let keyring = Keyring::new(KeyringParts {
            vaults: VaultRegistry::new(vault.clone()).with_customer(tenant(), vault.clone()),
            records: records.clone(),
            clock: Arc::new(VirtualClock),
            entropy: Arc::new(SeededEntropy::new(1)),
            policy,
        });
        judge.listen(keyring.subscribe());
        Arc::new(Self { keyring, vault, records, judge, most, punctual })
    }

    /// Asks for keys, holds them, and asks before each use.
    async fn read(self: Arc<Self>) {
        let handle = self.keyring.handle(account(0), Provider::Customer);
        for _ in 0..2 + draw(2) {
            let (who, begun) = (draw(4), time::now());
            let asked = if who == 0 { account(1) } else { account(0) };
            let key = match (who, draw(3)) {
                (1, _) => handle.sealing_key().await,
                (_, 0) => {
                    let epoch = Epoch::new(1 + draw(u64::from(EPOCHS)) as u32);
                    self.keyring.opening_key(asked, Provider::Customer, epoch).await
                }
                _ => self.keyring.sealing_key(asked, Provider::Customer).await,
            };
            self.judge.note(|| format!("reader of {asked}: {:?}", key.as_ref().map(drop)));
            self.was_answered(begun);
            match key {
                Ok(key) => {
                    for _ in 0..2 {
                        self.use_key(&key);
                        point();
                    }
                    self.pause().await;
                    self.use_key(&key);
                }
                Err(error) => self.was_refused(asked, &error),
            }
            self.judge.check();
        }
    }

    fn use_key(&self, key: &LiveKey) {
        let used = self.judge.begin_use(key.scope());
        let usable = key.still_usable();
        self.judge.note(|| format!("use of {}: {usable}", key.scope()));
        if usable {
            self.judge.may_use(&used);
        }
        let (held, serving) = (self.keyring.held_keys(), self.keyring.serving_keys());
        if held > self.most || serving > self.most {
            self.judge.fault(format!("{held} keys held, {serving} served, of {} at most", self.most));
        }
    }

    fn was_answered(&self, begun: Duration) {
        let waited = time::now() - begun;
        if self.punctual && waited > WAIT {
            self.judge.fault(format!("a caller waited for {waited:?}"));
        }
    }

    fn was_refused(&self, account: AccountId, error: &KeyError) {
        let is_right = match error {
            KeyError::Revoked { .. } => self.judge.was_denied(account),
            KeyError::Closed => self.judge.is_closing(),
            KeyError::Unavailable { .. } | KeyError::Record(_) => true,
            _ => false,
        };
        if !is_right {
            self.judge.fault(format!("refused: {error}"));
        }
    }

    async fn pause(&self) {
        match draw(6) {
            0 => time::sleep(SECOND).await,
            1 => time::sleep(32 * SECOND).await,
            2 => time::sleep(70 * SECOND).await,
            3 => future::yield_now().await,
            _ => {}
        }
    }

    /// The customer takes its key away, and gives it back.
    async fn revoke(self: Arc<Self>) {
        use VaultErrorKind as Kind;
        for _ in 0..1 + draw(2) {
            self.pause().await;
            let kind = [Kind::AccessDenied, Kind::KeyDisabled, Kind::KeyNotFound][draw(3) as usize];
            self.vault.deny(0, Some(kind));
            self.pause().await;
            self.vault.deny(0, None);
        }
    }

    /// The owner of the keyring has changed the account's record.
    async fn forget(self: Arc<Self>) {
        for _ in 0..1 + draw(2) {
            self.pause().await;
            self.judge.note(|| "forget".to_owned());
            self.keyring.forget(account(0));
        }
    }

    /// The same, and has it read again while the keys serve on.
    async fn reload(self: Arc<Self>) {
        for _ in 0..1 + draw(2) {
            self.pause().await;
            self.judge.note(|| "reload".to_owned());
            let begun = time::now();
            let reloaded = self.keyring.reload(account(0)).await;
            self.judge.note(|| format!("reloaded: {reloaded:?}"));
            self.was_answered(begun);
            if let Err(error) = reloaded {
                self.was_refused(account(0), &error);
            }
        }
    }

    /// Somebody watches, and uses the key for longer than it is fresh.
    async fn linger(self: Arc<Self>) {
        let watch = self.keyring.watch(account(0), Provider::Customer);
        for _ in 0..4 {
            let begun = time::now();
            if let Ok(key) = self.keyring.sealing_key(account(0), Provider::Customer).await {
                self.use_key(&key);
            }
            self.was_answered(begun);
            time::sleep(25 * SECOND).await;
        }
        drop(watch);
    }

    async fn close(self: Arc<Self>) {
        self.pause().await;
        self.judge.note(|| "close".to_owned());
        self.judge.note_closing();
        let begun = time::now();
        self.keyring.close().await;
        self.was_answered(begun);
    }

    /// All is well with vault and records again: so it must be with the key, soon; then everything ends.
    async fn end(self: Arc<Self>) {
        pace::set_haste(0);
        self.vault.recover();
        self.records.recover();
        let begun = time::now();
        let mut last = None;
        while !self.judge.is_closing() {
            match self.keyring.sealing_key(account(0), Provider::Customer).await {
                Ok(key) => {
                    self.use_key(&key);
                    last = Some(key);
                    break;
                }
                Err(error) => {
                    self.was_refused(account(0), &error);
                    if time::now() - begun > 90 * SECOND {
                        self.judge.fault(format!("still refused, long after its vault was well: {error}"));
                        break;
                    }
                    time::sleep(SECOND).await;
                }
            }
        }
        self.clone().close().await;
        if let Some(key) = last
            && key.still_usable()
        {
            self.judge.fault("usable after the keyring was closed");
        }
        let closed = self.keyring.sealing_key(account(0), Provider::Customer).await;
        if !matches!(closed, Err(KeyError::Closed)) {
            self.judge.fault(format!("{closed:?} after the keyring was closed"));
        }
        if Counted::now() != 0 || self.keyring.held_keys() != 0 {
            let (secrets, held) = (Counted::now(), self.keyring.held_keys());
            self.judge.fault(format!("{secrets} secrets left and {held} keys held after the close"));
        }
        self.judge.check();
    }
}
