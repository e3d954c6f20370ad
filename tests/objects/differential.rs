//! The encrypting store and a plain one are asked the same and answer the same, errors included.
//!
//! What may differ is what a store makes up: etags, times and the texts of errors. Etags are compared by what they do: a
//! condition names the same earlier state of an object on both sides, by the etag that each side gave it.

mod pair;
mod step;

use std::{collections::BTreeMap, sync::OnceLock, time::Duration};

use bytes::Bytes;
use cofferdam::vault::{Entropy, testing::SeededEntropy};
use object_store::{GetOptions, GetRange, path::Path};

use crate::{
    differential::{
        pair::Pair,
        step::{Step, Upload},
    },
    world::{World, scale},
};

/// Of the encrypting store.
const PAGE: u64 = 65_536;

/// How far a condition's time is from when an object was last modified.
const HOUR: Duration = Duration::from_secs(3600);

/// Numbers that a seed repeats.
struct Draw(SeededEntropy);

impl Draw {
    fn new(seed: u64) -> Self {
        Self(SeededEntropy::new(seed))
    }

    /// A number below `bound`.
    fn below(&self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes).unwrap();
        u64::from_le_bytes(bytes) % bound
    }

    /// Whether one of `of` cases is met.
    fn one_in(&self, of: u64) -> bool {
        self.below(of) == 0
    }

    fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// At most 8 MiB, from anywhere in what is drawn once: to draw them each time takes longer than all the rest.
    fn bytes(&self, len: u64) -> Bytes {
        static POOL: OnceLock<Bytes> = OnceLock::new();
        let pool = POOL.get_or_init(|| {
            let mut bytes = vec![0; 9 << 20];
            SeededEntropy::new(0).fill(&mut bytes).unwrap();
            bytes.into()
        });
        let start = self.below(1 << 20) as usize;
        pool.slice(start..start + len as usize)
    }

    /// A length of an object, or an offset in one: near a page's edge as often as anywhere.
    fn len(&self, most: u64) -> u64 {
        let edge = (self.below(most / PAGE + 1) * PAGE + self.below(3)).saturating_sub(1);
        match self.below(4) {
            0 => self.below(20),
            1 => self.below(most),
            _ => edge.min(most),
        }
    }

    fn range(&self, len: u64) -> GetRange {
        let near = |at: u64| (at + self.below(3)).saturating_sub(1);
        let offset = match self.below(16) {
            0 => near(len),
            1 => len + self.below(1 << 20),
            2 => self.below(2),
            3 => *self.pick(&[u64::MAX, u64::MAX - 1, 1 << 63, 1 << 40]),
            4..8 => self.below(len + 1),
            _ => self.len(len + 1),
        };
        match self.below(12) {
            0 | 1 => GetRange::Offset(offset),
            2 | 3 => GetRange::Suffix(offset),
            // Empty, and turned around.
            4 => GetRange::Bounded(offset..offset.saturating_sub(self.below(3))),
            5 | 6 => GetRange::Bounded(offset..near(len)),
            7 | 8 => GetRange::Bounded(offset..self.len(len + PAGE)),
            _ => GetRange::Bounded(offset..offset.saturating_add(self.len(3 * PAGE))),
        }
    }
}

/// The lengths that ranges are read of: nothing, pages' edges, several pages.
const LENS: [u64; 12] = [
    0,
    1,
    14,
    PAGE - 1,
    PAGE,
    PAGE + 1,
    2 * PAGE - 1,
    2 * PAGE,
    2 * PAGE + 1,
    3 * PAGE + 777,
    5 * PAGE,
    7 * PAGE + 1,
];

#[tokio::test]
async fn any_range_is_read_as_from_a_plain_store() {
    const SEED: u64 = 0x0b1e_c750;
    let draw = Draw::new(SEED);
    let world = World::new(1).await;
    let mut pair = Pair::new(&world.contoso().await).await;
    let paths: Vec<(Path, u64)> =
        LENS.iter().map(|len| (Path::from(format!("ranges/of-{len}")), *len)).collect();
    for (n, (path, len)) in paths.iter().enumerate() {
        let data = draw.bytes(*len);
        // The same bytes come to be there in several ways.
        let step = match n % 3 {
            0 => Step::put(path, data),
            1 => Step::Upload(Upload::of(path, data, &draw)),
            _ => {
                let elsewhere = Path::from("elsewhere");
                pair.take(&Step::put(&elsewhere, data)).await.unwrap();
                Step::rename(&elsewhere, path)
            }
        };
        pair.take(&step).await.unwrap();
    }
    let (mut bytes, mut refused) = (0, 0);
    for n in 0..10_000 {
        let (path, len) = draw.pick(&paths);
        let step = if draw.one_in(10) {
            let ranges = (0..draw.below(5)).filter_map(|_| match draw.range(*len) {
                GetRange::Bounded(range) => Some(range),
                _ => None,
            });
            Step::GetRanges(path.clone(), ranges.collect())
        } else {
            let options = GetOptions::new().with_range(Some(draw.range(*len))).with_head(draw.one_in(20));
            Step::get(path, options)
        };
        let seen = pair.take(&step).await;
        let seen = seen.unwrap_or_else(|why| panic!("seed {SEED:#x}, range {n} of {path}: {why}"));
        bytes += seen.len();
        refused += u32::from(seen.is_refusal());
    }
    println!("10,000 ranges, {bytes} bytes, {refused} refused: 0 differences (seed {SEED:#x})");
    assert!(bytes > 100 << 20, "too little was read to show anything: {bytes} bytes");
    assert!((1_000..9_000).contains(&refused), "{refused} of 10,000 were refused");
}

#[tokio::test]
async fn any_sequence_of_requests_is_answered_as_by_a_plain_store() {
    const STEPS: u64 = 120;
    let world = World::new(1).await;
    let account = world.contoso().await;
    let seeds = scale(1_000, 100) as u64;
    let (mut counts, mut differences) = (BTreeMap::new(), BTreeMap::new());
    for seed in 0..seeds {
        let draw = Draw::new(seed);
        let mut pair = Pair::new(&account).await;
        for n in 0..STEPS {
            let step = Step::any(&draw, &pair);
            let seen = match pair.take(&step).await {
                Ok(seen) => seen,
                // The two have parted: what follows says nothing.
                Err(why) => {
                    let example = format!("seed {seed}, step {n}, {step:?}: {why}");
                    differences.entry((step.name(), why.kinds)).or_insert(example);
                    break;
                }
            };
            *counts.entry((step.name(), seen.word())).or_insert(0u64) += 1;
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
    println!("{} requests of {seeds} seeds: 0 differences", seeds * STEPS);
    for ((step, word), times) in &counts {
        println!("  {step:<20} {word:<14} {times}");
    }
    for wanted in [
        ("put", "done"),
        ("put", "AlreadyExists"),
        ("put", "Precondition"),
        ("get", "got"),
        ("get", "NotFound"),
        ("get", "NotModified"),
        ("get", "Precondition"),
        ("upload", "done"),
        ("copy", "done"),
        ("copy", "AlreadyExists"),
        ("copy", "NotFound"),
        ("rename", "done"),
        ("list", "listed"),
        ("list with delimiter", "listed"),
        ("delete", "deleted"),
    ] {
        assert!(counts.contains_key(&wanted), "no {wanted:?} among {counts:?}");
    }
}
