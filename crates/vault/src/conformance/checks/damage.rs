//! Wraps that are damaged, moved, or not wraps at all.
//!
//! Whoever can write a wrap can break it: were that heard as a denial, they could revoke a customer's key.

use cofferdam_crypto::{AccountId, Epoch, KeyScope, Provider, WrapAlgorithm, WrappedKey};

use crate::{
    Meaning, VaultErrorKind as Kind, WrapContext,
    conformance::world::{Note, Step, World, context, failed, is_caught_by_us, is_kind, is_same, say},
};

const ALGORITHMS: [WrapAlgorithm; 4] =
    [WrapAlgorithm::Aes256Kw, WrapAlgorithm::RsaOaep256, WrapAlgorithm::AwsKms, WrapAlgorithm::Transit];

pub(super) async fn context_account(world: &World<'_>) -> Step<Note> {
    let account = AccountId::from_random_bytes([0x33; 16]);
    moved(world, KeyScope { account, ..context().scope }).await
}

pub(super) async fn context_epoch(world: &World<'_>) -> Step<Note> {
    moved(world, KeyScope { epoch: Epoch::new(2), ..context().scope }).await
}

pub(super) async fn context_provider(world: &World<'_>) -> Step<Note> {
    moved(world, KeyScope { provider: Provider::Service, ..context().scope }).await
}

/// A wrap is presented as another scope's.
async fn moved(world: &World<'_>, scope: KeyScope) -> Step<Note> {
    let (_, wrapped) = world.new_wrap().await?;
    let elsewhere = WrapContext { scope };
    let answer = world.unwrap(&wrapped, &elsewhere).await?;
    let Ok(aek) = answer else {
        is_kind("unwrap as another's", Kind::Corrupt, &answer)?;
        return Ok(Some("bound by the vault".into()));
    };
    if world.subject.binds_context {
        return failed("unwrap as another's: corrupt, as it binds the context", "it worked");
    }
    is_same(&aek, world.aek())?;
    if !is_caught_by_us(&aek, &context(), &elsewhere) {
        return failed("the check value to tell the two apart", "it does not");
    }
    Ok(Some("not bound, checked by us".into()))
}

pub(super) async fn tampered_bits(world: &World<'_>) -> Step<Note> {
    let (_, wrapped) = world.new_wrap().await?;
    let bits = wrapped.bytes.len() * 8;
    let flips = world.subject.flips.map_or(bits, |most| most.get().min(bits));
    let mut harmless = 0;
    for n in 0..flips {
        // Evenly spread, and not always the same bit of a byte.
        let bit = n * bits / flips;
        let bit = if flips < bits { bit / 8 * 8 + n % 8 } else { bit };
        let mut bad = wrapped.clone();
        bad.bytes[bit / 8] ^= 1 << (bit % 8);
        harmless += usize::from(refused(world, &bad, || format!("with bit {bit} flipped")).await?);
    }
    let slack = || format!(", of which {harmless} change nothing that the format holds");
    let slack = if harmless == 0 { String::new() } else { slack() };
    Ok(Some(format!("{flips} of {bits} bits{slack}").into()))
}

pub(super) async fn truncated(world: &World<'_>) -> Step<Note> {
    let (_, wrapped) = world.new_wrap().await?;
    for len in 0..wrapped.bytes.len() {
        let bad = WrappedKey { bytes: wrapped.bytes[..len].to_vec(), ..wrapped.clone() };
        refused(world, &bad, || format!("cut to {len} bytes")).await?;
        let from = wrapped.bytes.len() - len;
        let bad = WrappedKey { bytes: wrapped.bytes[from..].to_vec(), ..wrapped.clone() };
        refused(world, &bad, || format!("without its first {from} bytes")).await?;
    }
    Ok(None)
}

pub(super) async fn extended(world: &World<'_>) -> Step<Note> {
    let (_, wrapped) = world.new_wrap().await?;
    let random: [u8; 16] = world.random()?;
    for tail in
        [&[0][..], &[0; 8], &[0; 64], b"A", b"=", b"\n", &random[..1], &random[..8], &random, &wrapped.bytes]
    {
        let len = tail.len();
        let bytes = [&wrapped.bytes, tail].concat();
        let bad = WrappedKey { bytes, ..wrapped.clone() };
        refused(world, &bad, || format!("with {len} bytes more")).await?;
        let bytes = [tail, &wrapped.bytes].concat();
        let bad = WrappedKey { bytes, ..wrapped.clone() };
        refused(world, &bad, || format!("behind {len} other bytes")).await?;
    }
    Ok(None)
}

pub(super) async fn wrong_algorithm(world: &World<'_>) -> Step<Note> {
    let (_, wrapped) = world.new_wrap().await?;
    for algorithm in ALGORITHMS.into_iter().filter(|&algorithm| algorithm != wrapped.algorithm) {
        // The wrap itself, and bytes of a length that it could have.
        let len = (0..).find(|&len| algorithm.accepts_len(len)).unwrap_or_default();
        let fitting = wrapped.bytes.iter().copied().cycle().take(len).collect();
        for bytes in [wrapped.bytes.clone(), fitting] {
            let bad = WrappedKey { algorithm, bytes, ..wrapped.clone() };
            let what = format!("unwrap as {algorithm:?}");
            is_kind(&what, Kind::Corrupt, &world.unwrap(&bad, &context()).await?)?;
        }
    }
    Ok(None)
}

pub(super) async fn other_keys_wrap(world: &World<'_>) -> Step<Note> {
    let (_, wrapped) = world.new_wrap().await?;
    let (_, other) = world.new_wrap().await?;
    let bad = WrappedKey { key_id: other.key_id, ..wrapped };
    if refused(world, &bad, || "by another key".into()).await? {
        return failed("unwrap by another key: corrupt", "it worked");
    }
    Ok(None)
}

pub(super) async fn wrong_length_not_sent(world: &World<'_>) -> Step<Note> {
    let (_, wrapped) = world.new_wrap().await?;
    let lens = (0..10_000).filter(|&len| !wrapped.algorithm.accepts_len(len));
    let at_edges = |len: &usize| {
        matches!(len, 0 | 1 | 9_999) || {
            let (before, after) =
                (wrapped.algorithm.accepts_len(len - 1), wrapped.algorithm.accepts_len(len + 1));
            before || after
        }
    };
    let lens: Vec<usize> = lens.filter(at_edges).collect();
    world
        .sends_nothing(async {
            for len in lens {
                let bytes = wrapped.bytes.iter().copied().cycle().take(len).collect();
                let bad = WrappedKey { bytes, ..wrapped.clone() };
                let what = format!("unwrap of {len} bytes");
                is_kind(&what, Kind::Corrupt, &world.unwrap(&bad, &context()).await?)?;
            }
            Ok(())
        })
        .await
}

/// Holds that a damaged wrap is refused, and never as a denial. Whether it unwraps all the same, to the same key, which a
/// format of the vault's own may do.
async fn refused(world: &World<'_>, bad: &WrappedKey, how: impl Fn() -> String) -> Step<bool> {
    let answer = world.unwrap(bad, &context()).await?;
    let expected = || format!("unwrap {}: corrupt", how());
    match answer {
        Err(e) if e.kind() == Kind::Corrupt => Ok(false),
        Err(e) if e.kind().meaning() != Meaning::Outage => {
            failed(format!("{}, and no denial", expected()), say(&e))
        }
        Err(_) if world.is_opaque() => Ok(false),
        Err(e) => failed(expected(), say(&e)),
        Ok(aek) if world.is_opaque() && is_same(&aek, world.aek()).is_ok() => Ok(true),
        Ok(aek) => failed(
            expected(),
            match is_same(&aek, world.aek()) {
                Ok(()) => "the key that was wrapped",
                Err(_) => "another key",
            },
        ),
    }
}
