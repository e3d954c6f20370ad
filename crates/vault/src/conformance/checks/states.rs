//! Keys that are disabled, deleted, over their time or unknown, and ids of other vaults.

use cofferdam_crypto::{KeyId, WrappedKey};

use crate::{
    KeyState, VaultErrorKind as Kind,
    conformance::world::{
        Note, Step, World, context, failed, is_equal, is_kind, is_same, not_applicable, say,
    },
};

async fn disabled_key(world: &World<'_>) -> Step<(KeyId, WrappedKey)> {
    let (key, wrapped) = world.new_wrap().await?;
    // So that what a vault keeps in memory shows.
    world.works(&key, &wrapped).await?;
    world.hook("disable", world.factory.disable(&key)).await?;
    Ok((key, wrapped))
}

pub(super) async fn disabled(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = disabled_key(world).await?;
    world.refuses(&key, &wrapped, Kind::KeyDisabled).await?;
    Ok(None)
}

pub(super) async fn disabled_properties(world: &World<'_>) -> Step<Note> {
    let (key, _) = disabled_key(world).await?;
    is_equal("the state", &KeyState::Disabled, &world.must_tell(&key).await?.state)?;
    Ok(None)
}

pub(super) async fn enabled_again(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = disabled_key(world).await?;
    world.hook("enable", world.factory.enable(&key)).await?;
    world.works(&key, &wrapped).await?;
    Ok(None)
}

pub(super) async fn latest_disabled(world: &World<'_>) -> Step<Note> {
    let key = world.new_key().await?;
    let id = world.hook("unversioned", world.factory.unversioned(&key)).await?;
    let latest = world.hook("new_version", world.factory.new_version(&key)).await?;
    world.hook("disable", world.factory.disable(&latest)).await?;
    is_kind("wrap by the latest", Kind::KeyDisabled, &world.wrap(&id, world.aek(), &context()).await?)?;
    Ok(None)
}

async fn deleted_key(world: &World<'_>) -> Step<(KeyId, WrappedKey)> {
    let (key, wrapped) = world.new_wrap().await?;
    world.works(&key, &wrapped).await?;
    world.hook("delete", world.factory.delete(&key)).await?;
    Ok((key, wrapped))
}

pub(super) async fn deleted(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = deleted_key(world).await?;
    world.refuses(&key, &wrapped, Kind::KeyNotFound).await?;
    Ok(None)
}

pub(super) async fn deleted_properties(world: &World<'_>) -> Step<Note> {
    let (key, _) = deleted_key(world).await?;
    match world.properties(&key).await? {
        Err(e) if e.kind() == Kind::KeyNotFound => Ok(Some("it says key_not_found".into())),
        Err(e) => failed("properties: Deleted, or key_not_found", say(&e)),
        Ok(told) => {
            is_equal("the state", &KeyState::Deleted, &told.state)?;
            Ok(Some("it says that it is deleted".into()))
        }
    }
}

pub(super) async fn recovered(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = deleted_key(world).await?;
    world.hook("recover", world.factory.recover(&key)).await?;
    world.works(&key, &wrapped).await?;
    Ok(None)
}

pub(super) async fn expired(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = world.new_wrap().await?;
    world.hook("expire", world.factory.expire(&key)).await?;
    out_of_time(world, &key, &wrapped, KeyState::Expired).await
}

pub(super) async fn not_yet_active(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = world.new_wrap().await?;
    world.hook("defer", world.factory.defer(&key)).await?;
    out_of_time(world, &key, &wrapped, KeyState::NotYetActive).await
}

/// Where a vault lets a key be used out of its time, its properties say so, for the policy of who asks.
async fn out_of_time(world: &World<'_>, key: &KeyId, wrapped: &WrappedKey, state: KeyState) -> Step<Note> {
    is_equal("the state", &state, &world.must_tell(key).await?.state)?;
    let unwrapped = world.unwrap(wrapped, &context()).await?;
    let wraps = world.wrap(key, world.aek(), &context()).await?;
    let used = [("unwraps", unwrapped.is_ok()), ("wraps", wraps.is_ok())];
    match &unwrapped {
        Ok(aek) => is_same(aek, world.aek())?,
        Err(_) => is_kind("unwrap", Kind::KeyDisabled, &unwrapped)?,
    }
    if wraps.is_err() {
        is_kind("wrap", Kind::KeyDisabled, &wraps)?;
    }
    let used: Vec<&str> = used.iter().filter(|(_, used)| *used).map(|(what, _)| *what).collect();
    Ok((!used.is_empty())
        .then(|| format!("it {} all the same; its properties say so", used.join(" and ")).into()))
}

pub(super) async fn unknown_key(world: &World<'_>) -> Step<Note> {
    let (_, wrapped) = world.new_wrap().await?;
    let unknown = world.hook("unknown_key", world.factory.unknown_key()).await?;
    let bad = WrappedKey { key_id: unknown.clone(), ..wrapped };
    world.refuses_all(&unknown, &bad, Kind::KeyNotFound).await?;
    Ok(None)
}

pub(super) async fn unknown_version(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = world.new_wrap().await?;
    let unknown = world.hook("unknown_version", world.factory.unknown_version(&key)).await?;
    let wraps = world.wrap(&unknown, world.aek(), &context()).await?;
    is_kind("wrap", Kind::KeyNotFound, &wraps)?;
    is_kind("properties", Kind::KeyNotFound, &world.properties(&unknown).await?)?;
    // A wrap that names its version itself contradicts the id.
    let bad = WrappedKey { key_id: unknown, ..wrapped };
    let answer = world.unwrap(&bad, &context()).await?;
    match &answer {
        Err(e) if world.is_opaque() && e.kind() == Kind::Corrupt => {
            Ok(Some("unwrap: corrupt, as the wrap names another".into()))
        }
        _ => is_kind("unwrap", Kind::KeyNotFound, &answer).map(|()| None),
    }
}

async fn foreign_keys(world: &World<'_>) -> Step<Vec<KeyId>> {
    let keys = world.hook("foreign_keys", world.factory.foreign_keys()).await?;
    if keys.is_empty() { not_applicable("the factory knows no foreign key") } else { Ok(keys) }
}

pub(super) async fn foreign_key(world: &World<'_>) -> Step<Note> {
    let (_, wrapped) = world.new_wrap().await?;
    let keys = foreign_keys(world).await?;
    foreign(world, &keys, &wrapped).await?;
    Ok(Some(format!("{} ids", keys.len()).into()))
}

pub(super) async fn foreign_key_not_sent(world: &World<'_>) -> Step<Note> {
    let (_, wrapped) = world.new_wrap().await?;
    let keys = foreign_keys(world).await?;
    world.sends_nothing(foreign(world, &keys, &wrapped)).await
}

async fn foreign(world: &World<'_>, keys: &[KeyId], wrapped: &WrappedKey) -> Step<()> {
    for key in keys {
        let bad = WrappedKey { key_id: key.clone(), ..wrapped.clone() };
        world.refuses_all(key, &bad, Kind::Other).await?;
        is_kind("public key", Kind::Other, &world.public_key(key).await?)?;
    }
    Ok(())
}
