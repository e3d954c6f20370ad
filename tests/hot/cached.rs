//! A world whose store is read through a hot cache by one engine and without one by another, and a run of random steps in it.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use cofferdam::{
    crypto::BlockId,
    store::{Account, AccountKey, Engine, EngineErrorKind, HotCacheFaults, HotCacheSettings, HotCacheStatus},
    vault::Clock,
};
use tokio::time::sleep;

use crate::world::{NOTICED, World, id, name};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
/// Longer than the cache takes to find what nobody told it of.
pub(crate) const SWEPT: Duration = Duration::from_secs(310);

/// The folder of a world's cache.
pub(crate) fn folder(world: &World) -> PathBuf {
    world.path().join("hot")
}

pub(crate) fn on_disk(world: &World, memory: u64, disk: u64) -> HotCacheSettings {
    HotCacheSettings::new(memory).disk(folder(world), disk)
}

/// The blocks' files in a cache's folder, and the accounts' folders.
pub(crate) fn files(folder: &Path) -> (Vec<PathBuf>, usize) {
    let (mut files, mut folders) = (Vec::new(), 0);
    for entry in fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            folders += 1;
            files.extend(fs::read_dir(entry).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    files.sort();
    (files, folders)
}

/// Bytes that depend on the seed at every place.
pub(crate) fn content(seed: u64, len: usize) -> Bytes {
    let mut rng = Rng(seed);
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend_from_slice(&rng.next().to_le_bytes());
    }
    out.truncate(len);
    out.into()
}

pub(crate) fn status(engine: &Engine) -> HotCacheStatus {
    engine.hot_cache().unwrap()
}

pub(crate) fn hits(engine: &Engine) -> u64 {
    let status = status(engine);
    status.memory.hits + status.disk.map_or(0, |disk| disk.hits)
}

/// SplitMix64: enough for tests, and the same everywhere.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What a run came across.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) reads: u64,
    pub(crate) memory_hits: u64,
    pub(crate) disk_hits: u64,
    pub(crate) purges: u64,
    pub(crate) purged_blocks: u64,
    pub(crate) restarts: u64,
}

impl Figures {
    pub(crate) fn add(&mut self, other: &Self) {
        self.reads += other.reads;
        self.memory_hits += other.memory_hits;
        self.disk_hits += other.disk_hits;
        self.purges += other.purges;
        self.purged_blocks += other.purged_blocks;
        self.restarts += other.restarts;
    }

    fn note(&mut self, engine: &Engine) {
        let status = status(engine);
        self.memory_hits += status.memory.hits;
        self.disk_hits += status.disk.map_or(0, |disk| disk.hits);
        self.purges += status.purges;
        self.purged_blocks += status.purged_blocks;
    }
}

const ACCOUNTS: [&str; 3] = ["contoso", "fabrikam", "house"];
/// The last account is under the service's key.
const CUSTOMERS: usize = 2;
const AGE: Duration = Duration::from_secs(6 * 3600);

struct Block {
    data: Bytes,
    stored_at: Duration,
}

struct Run {
    world: World,
    cached: Engine,
    rng: Rng,
    settings: HotCacheSettings,
    faults: HotCacheFaults,
    only_writer: bool,
    model: BTreeMap<(usize, BlockId), Block>,
    revoked: bool,
    figures: Figures,
}

/// What went wrong.
pub(crate) type Violation = String;

macro_rules! hold {
    ($holds:expr, $($said:tt)+) => {
        if !$holds {
            return Err(format!($($said)+));
        }
    };
}

/// Goes through random steps, and holds every answer of the engine with the cache against a model, and the cache against
/// its bounds and what it may hold.
pub(crate) async fn run(seed: u64, steps: usize) -> Result<Figures, Violation> {
    let mut rng = Rng(seed);
    let world = World::new(seed).await;
    for (i, account) in ACCOUNTS.iter().enumerate() {
        let key = if i < CUSTOMERS { world.customer_key() } else { AccountKey::Service };
        world.engine.create_account(&name(account), key).await.unwrap();
    }
    let faults = HotCacheFaults::default();
    let mut settings =
        HotCacheSettings::new(MIB).age(AGE).faults(faults.clone()).fill_on_put(rng.below(4) > 0);
    let only_writer = rng.below(3) == 0;
    settings = settings.only_writer(only_writer);
    if rng.below(4) > 0 {
        settings = settings.disk(folder(&world), 2 * MIB);
    }
    let cached = world.cached(settings.clone()).await.unwrap();
    let (model, figures) = (BTreeMap::new(), Figures::default());
    let mut run = Run { world, cached, rng, settings, faults, only_writer, model, revoked: false, figures };
    for step in 0..steps {
        run.step().await.map_err(|said| format!("step {step}: {said}"))?;
        run.check().await.map_err(|said| format!("after step {step}: {said}"))?;
    }
    run.figures.note(&run.cached);
    run.cached.close().await.unwrap();
    Ok(run.figures)
}

impl Run {
    async fn step(&mut self) -> Result<(), Violation> {
        let (who, block) = (self.rng.below(3) as usize, id(&format!("block-{}", self.rng.below(6))));
        if self.revoked && self.rng.below(4) == 0 {
            return self.change_key().await;
        }
        match self.rng.below(100) {
            0..=19 => self.put(who, block).await,
            20..=64 => self.get(who, &block).await,
            65..=74 => self.get_range(who, &block).await,
            75..=79 => self.delete(who, block).await,
            80..=86 => {
                self.cached.settle_hot_cache().await;
                Ok(())
            }
            87..=91 => {
                let limit = if self.rng.below(4) == 0 { 5 * 3600 } else { 300 };
                sleep(Duration::from_secs(self.rng.below(limit))).await;
                Ok(())
            }
            92..=94 => self.restart().await,
            95 => {
                let room = (self.rng.below(2) > 0).then(|| self.rng.below(MIB) as usize);
                self.faults.set_room(room);
                Ok(())
            }
            _ => self.change_key().await,
        }
    }

    /// Through one of the two engines, unless the one with the cache was promised to be the only one.
    async fn account(&mut self, who: usize) -> Account {
        let engine =
            if self.rng.below(3) == 0 && !self.only_writer { &self.world.engine } else { &self.cached };
        engine.account(&name(ACCOUNTS[who])).await.unwrap()
    }

    fn is_revoked(&self, who: usize) -> bool {
        self.revoked && who < CUSTOMERS
    }

    async fn put(&mut self, who: usize, block: BlockId) -> Result<(), Violation> {
        let len = match self.rng.below(4) {
            0 => self.rng.below(300_000),
            _ => self.rng.below(100_000),
        };
        let data = content(self.rng.next(), len as usize);
        let answer = self.account(who).await.put(&block, data.clone()).await;
        if self.is_revoked(who) {
            hold!(answer.is_err(), "a write under a revoked key: {answer:?}");
        } else {
            answer.unwrap();
            self.model.insert((who, block), Block { data, stored_at: self.world.clock.now().wall });
        }
        Ok(())
    }

    async fn delete(&mut self, who: usize, block: BlockId) -> Result<(), Violation> {
        let was = self.account(who).await.delete(&block).await.unwrap();
        hold!(was == self.model.remove(&(who, block)).is_some(), "a delete found another state");
        Ok(())
    }

    async fn get(&mut self, who: usize, block: &BlockId) -> Result<(), Violation> {
        let account = self.cached.account(&name(ACCOUNTS[who])).await.unwrap();
        let (before, now) = (hits(&self.cached), self.world.clock.now().wall);
        self.figures.reads += 1;
        let answer = account.get(block).await;
        if self.is_revoked(who) {
            hold!(
                matches!(&answer, Err(e) if e.kind() == EngineErrorKind::Revoked),
                "a read under a revoked key: {:?}",
                answer.map(|data| data.len())
            );
            return Ok(());
        }
        match self.model.get(&(who, block.clone())) {
            None => hold!(
                matches!(&answer, Err(e) if e.kind() == EngineErrorKind::NotFound),
                "a read of no block"
            ),
            Some(stored) => {
                let data = answer.map_err(|e| e.to_string())?;
                hold!(data == stored.data, "a read of block {block} gave another version's bytes");
                let is_old = now > stored.stored_at + AGE;
                hold!(!is_old || hits(&self.cached) == before, "a block was cached for longer than its age");
                // Without a cache the answer is the same.
                let bare = self.world.engine.account(&name(ACCOUNTS[who])).await.unwrap();
                hold!(bare.get(block).await.unwrap() == data, "the cache answers otherwise than the store");
            }
        }
        Ok(())
    }

    async fn get_range(&mut self, who: usize, block: &BlockId) -> Result<(), Violation> {
        let account = self.cached.account(&name(ACCOUNTS[who])).await.unwrap();
        let Some(stored) = self.model.get(&(who, block.clone())) else { return Ok(()) };
        let len = stored.data.len() as u64;
        let start = self.rng.below(len + 1);
        let end = start + self.rng.below(len - start + 1);
        let answer = account.get_range(block, start..end).await;
        if self.is_revoked(who) {
            hold!(answer.is_err(), "a range was read under a revoked key");
        } else {
            let data = answer.map_err(|e| e.to_string())?;
            hold!(data == stored.data.slice(start as usize..end as usize), "a range of another version");
        }
        Ok(())
    }

    /// Closes both engines, or lets them fall, and opens them again.
    async fn restart(&mut self) -> Result<(), Violation> {
        self.figures.note(&self.cached);
        self.figures.restarts += 1;
        if self.rng.below(2) == 0 {
            self.cached.close().await.unwrap();
            self.world.restart().await;
        } else {
            // The process is gone: its folder is free although nothing was closed.
            let elsewhere = self.world.second_engine().await;
            drop(std::mem::replace(&mut self.cached, elsewhere));
            self.world.crash().await;
        }
        self.faults.set_room(None);
        self.cached = self.world.cached(self.settings.clone()).await.map_err(|e| e.to_string())?;
        Ok(())
    }

    /// Takes the key away, or gives it back, and waits until that is noticed.
    async fn change_key(&mut self) -> Result<(), Violation> {
        self.revoked = !self.revoked;
        if self.revoked {
            self.world.customer.disable(&self.world.kek).await.unwrap();
        } else {
            self.world.customer.enable(&self.world.kek).await.unwrap();
        }
        // Only who is asked looks.
        for engine in [&self.cached, &self.world.engine] {
            for account in &ACCOUNTS[..CUSTOMERS] {
                let _ = engine.account(&name(account)).await.unwrap().check_key().await;
            }
        }
        sleep(NOTICED).await;
        Ok(())
    }

    /// What must hold at any time.
    async fn check(&mut self) -> Result<(), Violation> {
        let status = status(&self.cached);
        for tier in [Some(status.memory), status.disk].into_iter().flatten() {
            hold!(tier.bytes <= tier.max_bytes, "the cache is larger than it may be: {tier:?}");
        }
        for (who, account) in ACCOUNTS.iter().enumerate().filter(|(who, _)| self.is_revoked(*who)) {
            let account = self.cached.account(&name(account)).await.unwrap();
            let cached = account.hot_cached();
            hold!(
                cached.memory.blocks + cached.disk.blocks == 0,
                "{cached:?} of account {who}, which is revoked"
            );
            let home = folder(&self.world).join(account.id().to_string());
            hold!(!home.exists(), "files of account {who} are left, which is revoked");
        }
        Ok(())
    }
}
