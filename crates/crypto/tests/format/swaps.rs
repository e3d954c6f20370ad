//! A block opens only in the place it was sealed for.

use cofferdam_crypto::{
    AccountId, BlockId, Epoch, KeyScope, OpenError, PageSize, Provider, Sealer, SegmentId, Version,
};
use rand::{RngExt, rngs::StdRng};

use crate::common::{Fixed, aek, array, bytes, rng};

#[derive(Clone, Debug, PartialEq)]
struct Place {
    account: [u8; 16],
    epoch: u32,
    provider: Provider,
    id: BlockId,
    version: u64,
    page: PageSize,
}

const FIELDS: [&str; 6] = ["account", "epoch", "provider", "block", "version", "page size"];

impl Place {
    fn random(rng: &mut StdRng) -> Self {
        let len = rng.random_range(1..80);
        Self {
            account: array(rng),
            epoch: rng.random_range(1..5),
            provider: match rng.random_range(0..4) {
                0 => Provider::Customer,
                1 => Provider::Service,
                _ => Provider::Buffer(SegmentId::from_bytes(array(rng))),
            },
            id: BlockId::new(bytes(rng, len)).unwrap(),
            version: rng.random_range(1..5),
            page: PageSize::new(1 << rng.random_range(12..=16)).unwrap(),
        }
    }

    /// The same place but for one field, which is near to what it was where that can be.
    fn moved(&self, field: &str, rng: &mut StdRng) -> Self {
        let mut moved = self.clone();
        match field {
            "account" => moved.account[rng.random_range(0..16)] ^= 1 << rng.random_range(0..8),
            "epoch" => moved.epoch ^= 1 << rng.random_range(0..32),
            "provider" => {
                moved.provider = match self.provider {
                    Provider::Customer => Provider::Service,
                    Provider::Service if rng.random() => Provider::Customer,
                    // Zeros: what HMAC pads a shorter salt with.
                    Provider::Service => Provider::Buffer(SegmentId::from_bytes([0; 16])),
                    Provider::Buffer(_) if rng.random_range(0..3) == 0 => Provider::Customer,
                    Provider::Buffer(segment) => {
                        let mut other = *segment.as_bytes();
                        other[rng.random_range(0..16)] ^= 1 << rng.random_range(0..8);
                        Provider::Buffer(SegmentId::from_bytes(other))
                    }
                }
            }
            "block" => {
                let mut id = self.id.as_bytes().to_vec();
                match rng.random_range(0..3) {
                    0 => id.push(0),
                    1 if id.len() > 1 => drop(id.pop()),
                    _ => *id.last_mut().unwrap() ^= 1,
                }
                moved.id = BlockId::new(id).unwrap();
            }
            "version" => moved.version ^= 1 << rng.random_range(0..64),
            "page size" => {
                while moved.page == self.page {
                    moved.page = PageSize::new(1 << rng.random_range(12..=24)).unwrap();
                }
            }
            _ => unreachable!(),
        }
        moved
    }

    /// The AEK is the same everywhere: what keeps places apart must not be that their keys differ anyway.
    fn sealer(&self) -> Sealer {
        let scope = KeyScope {
            account: AccountId::from_bytes(self.account),
            epoch: Epoch::new(self.epoch),
            provider: self.provider,
        };
        Sealer::new(&aek(&[7; 32]), scope)
    }

    fn seal(&self, plaintext: &[u8], salt: [u8; 32]) -> Vec<u8> {
        let at = self.id.at(Version::new(self.version));
        self.sealer().seal(at, self.page, plaintext, &Fixed(salt)).unwrap()
    }

    fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        self.sealer().open(self.id.at(Version::new(self.version)), sealed)
    }

    /// What an attacker who moves a block there would write into its header.
    fn disguise(&self, sealed: &[u8]) -> Vec<u8> {
        let mut sealed = sealed.to_vec();
        sealed[6] = self.provider.code();
        sealed[7] = self.page.log2();
        sealed[8..12].copy_from_slice(&self.epoch.to_be_bytes());
        sealed
    }
}

#[test]
fn ten_thousand_swaps_between_places_open_nowhere_else() {
    const SWAPS: usize = 10_000;
    let mut rng = rng("swaps");
    let (mut accepted, mut by_field) = (0, [0; FIELDS.len()]);
    for i in 0..SWAPS {
        let home = Place::random(&mut rng);
        let field = i % FIELDS.len();
        let mut away = home.moved(FIELDS[field], &mut rng);
        if rng.random_range(0..4) == 0 {
            away = away.moved(FIELDS[(field + 1 + rng.random_range(0..5)) % FIELDS.len()], &mut rng);
        }
        assert_ne!(home, away);
        let len = rng.random_range(0..9000);
        let plaintext = bytes(&mut rng, len);
        let salt = array(&mut rng);
        let sealed = home.seal(&plaintext, salt);
        assert_eq!(home.open(&sealed).unwrap(), plaintext, "it opens where it belongs");
        for moved in [sealed.clone(), away.disguise(&sealed)] {
            match away.open(&moved) {
                // Undisguised, a header's own page size counts: then the block is where it belongs.
                Ok(_)
                    if field == 5
                        && moved == sealed
                        && (Place { page: home.page, ..away.clone() }) == home => {}
                Ok(_) => accepted += 1,
                Err(e) => assert_eq!(e, OpenError::Refused),
            }
        }
        // And the other way about: a block of that place put here, under the same salt.
        let theirs = away.seal(&plaintext, salt);
        let mut crossed = home.disguise(&theirs);
        accepted += usize::from(home.open(&crossed).is_ok());
        crossed[44..76].copy_from_slice(&sealed[44..76]);
        accepted += usize::from(home.open(&crossed).is_ok());
        by_field[field] += 1;
    }
    println!("{SWAPS} swaps ({FIELDS:?}: {by_field:?}), each tried 4 ways: {accepted} accepted");
    assert_eq!(accepted, 0);
}
