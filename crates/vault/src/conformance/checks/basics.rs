//! Wraps, versions and properties of a vault that works.

use cofferdam_crypto::{Aek, WrappedKey};

use crate::{
    KeyKind, KeyState, VaultErrorKind as Kind,
    conformance::world::{
        Note, Step, Stop, World, answered, context, failed, is_equal, is_kind, is_same, not_applicable,
    },
};

pub(super) async fn round_trip(world: &World<'_>) -> Step<Note> {
    let key = world.new_key().await?;
    let aeks = [world.random_aek()?, of(0)?, of(0xff)?];
    for aek in &aeks {
        let wrapped = answered("wrap", world.wrap(&key, aek, &context()).await?)?;
        // Again: an unwrap uses nothing up.
        for _ in 0..2 {
            is_same(&answered("unwrap", world.unwrap(&wrapped, &context()).await?)?, aek)?;
        }
    }
    Ok(None)
}

fn of(byte: u8) -> Step<Aek> {
    Aek::try_from_fn(|bytes| {
        bytes.fill(byte);
        Ok(())
    })
}

pub(super) async fn wrap_hides_key(world: &World<'_>) -> Step<Note> {
    let (_, wrapped) = world.new_wrap().await?;
    match world.canary().found_in(&wrapped.bytes) {
        Some(how) => failed("a wrap without the key in it", format!("the key {how}")),
        None => Ok(None),
    }
}

pub(super) async fn wrap_form(world: &World<'_>) -> Step<Note> {
    let (_, wrapped) = world.new_wrap().await?;
    is_equal("the algorithm", &world.subject.kind.algorithm(), &wrapped.algorithm)?;
    let len = wrapped.bytes.len();
    if !wrapped.algorithm.accepts_len(len) {
        return failed("a length that the algorithm gives", format!("{len} bytes"));
    }
    Ok(Some(format!("{len} bytes").into()))
}

pub(super) async fn wrap_names_version(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = world.new_wrap().await?;
    is_equal("the wrap's key id", &key, &wrapped.key_id)?;
    let id = match world.hook("unversioned", world.factory.unversioned(&key)).await {
        Ok(id) => id,
        Err(stop) => return if_applicable(stop, "asked for by version alone"),
    };
    is_equal("the wrap's key id", &key, &world.must_wrap(&id).await?.key_id)?;
    Ok(None)
}

/// A part of a check that is left out where the vault has no such thing.
fn if_applicable(stop: Stop, note: &'static str) -> Step<Note> {
    match stop {
        Stop::NotApplicable(_) => Ok(Some(note.into())),
        stop => Err(stop),
    }
}

pub(super) async fn old_version_unwraps(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = world.new_wrap().await?;
    world.hook("new_version", world.factory.new_version(&key)).await?;
    world.must_unwrap(&wrapped).await?;
    Ok(None)
}

pub(super) async fn latest_version_wraps(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = world.new_wrap().await?;
    let id = world.hook("unversioned", world.factory.unversioned(&key)).await?;
    let latest = world.hook("new_version", world.factory.new_version(&key)).await?;
    let again = world.must_wrap(&id).await?;
    is_equal("the wrap's key id", &latest, &again.key_id)?;
    world.must_unwrap(&again).await?;
    world.must_unwrap(&wrapped).await?;
    Ok(None)
}

pub(super) async fn properties_kind(world: &World<'_>) -> Step<Note> {
    let key = world.new_key().await?;
    let told = world.must_tell(&key).await?;
    is_equal("the kind", &world.subject.kind, &told.kind)?;
    is_equal("the state", &KeyState::Enabled, &told.state)?;
    is_equal("the key id", &key, &told.key_id)?;
    Ok(None)
}

pub(super) async fn properties_latest(world: &World<'_>) -> Step<Note> {
    let key = world.new_key().await?;
    is_equal("the latest version", &key, &world.must_tell(&key).await?.latest)?;
    let latest = world.hook("new_version", world.factory.new_version(&key)).await?;
    let told = world.must_tell(&key).await?;
    is_equal("the latest version", &latest, &told.latest)?;
    is_equal("the key id", &key, &told.key_id)?;
    match world.hook("unversioned", world.factory.unversioned(&key)).await {
        Ok(id) => {
            is_equal("the key id, asked without a version", &latest, &world.must_tell(&id).await?.key_id)?
        }
        Err(stop) => return if_applicable(stop, "asked for by version alone"),
    }
    Ok(None)
}

pub(super) async fn properties_recoverable(world: &World<'_>) -> Step<Note> {
    let key = world.new_key().await?;
    let told = world.must_tell(&key).await?.recoverable();
    is_equal("recoverable", &world.subject.recoverable, &told)?;
    Ok(Some(if told { "it is" } else { "it is not" }.into()))
}

pub(super) async fn public_key(world: &World<'_>) -> Step<Note> {
    if !world.is_rsa() {
        return not_applicable("its keys are not RSA");
    }
    let (key, wrapped) = world.new_wrap().await?;
    let answer = answered("public key", world.public_key(&key).await?)?;
    is_equal("the key id", &key, &answer.key_id)?;
    is_equal("the modulus", &wrapped.bytes.len(), &answer.key.modulus_len())?;
    let kind = KeyKind::Rsa(answer.key.size());
    is_equal("the kind", &world.subject.kind, &kind)?;
    let bytes = answer.key.wrap(world.aek()).or_else(|e| failed("a wrap made here", e.to_string()))?;
    world.must_unwrap(&WrappedKey { bytes, ..wrapped }).await?;
    Ok(None)
}

pub(super) async fn not_rsa(world: &World<'_>) -> Step<Note> {
    if world.is_rsa() {
        return not_applicable("its keys are RSA");
    }
    let key = world.new_key().await?;
    is_kind("public key", Kind::Other, &world.public_key(&key).await?)?;
    Ok(None)
}
