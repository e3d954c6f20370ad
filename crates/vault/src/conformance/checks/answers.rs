//! A vault that denies, is away, throttles, takes no credential, or is somebody else.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cofferdam_crypto::{KeyId, WrappedKey};

use crate::{
    VaultError, VaultErrorKind as Kind,
    conformance::world::{Note, Step, World, context, failed, is_equal, say},
};

pub(super) async fn denied(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = working_key(world).await?;
    let (begins, ends) = (world.factory.deny(&key), world.factory.allow(&key));
    let body = world.refuses(&key, &wrapped, Kind::AccessDenied);
    world.within(("deny", begins), ("allow", ends), body).await?;
    Ok(None)
}

pub(super) async fn allowed_again(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = working_key(world).await?;
    let (begins, ends) = (world.factory.deny(&key), world.factory.allow(&key));
    world.within(("deny", begins), ("allow", ends), use_it(world, &key, &wrapped)).await?;
    world.works(&key, &wrapped).await?;
    Ok(None)
}

pub(super) async fn outage(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = working_key(world).await?;
    let body = world.refuses_all(&key, &wrapped, Kind::Unavailable);
    let (begins, ends) = (world.factory.outage(), world.factory.restore());
    world.within(("outage", begins), ("restore", ends), body).await?;
    Ok(None)
}

pub(super) async fn outage_ends(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = working_key(world).await?;
    let (begins, ends) = (world.factory.outage(), world.factory.restore());
    world.within(("outage", begins), ("restore", ends), use_it(world, &key, &wrapped)).await?;
    world.works(&key, &wrapped).await?;
    Ok(None)
}

pub(super) async fn untrusted(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = working_key(world).await?;
    let body = world.refuses_all(&key, &wrapped, Kind::Untrusted);
    let (begins, ends) = (world.factory.untrust(), world.factory.trust());
    world.within(("untrust", begins), ("trust", ends), body).await?;
    Ok(None)
}

pub(super) async fn trusted_again(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = working_key(world).await?;
    let (begins, ends) = (world.factory.untrust(), world.factory.trust());
    world.within(("untrust", begins), ("trust", ends), use_it(world, &key, &wrapped)).await?;
    world.works(&key, &wrapped).await?;
    Ok(None)
}

/// Does `body` while the vault throttles; how long it asks to wait is in `told` meanwhile.
async fn throttling<T>(
    world: &World<'_>,
    told: &Told,
    body: impl Future<Output = Step<T>> + Send,
) -> Step<T> {
    let begins = async {
        let retry_after = world.factory.throttle().await?;
        *told.lock() = retry_after;
        Ok(())
    };
    world.within(("throttle", begins), ("unthrottle", world.factory.unthrottle()), body).await
}

/// How long a throttling vault asks to wait.
#[derive(Default)]
struct Told(Mutex<Option<Duration>>);

impl Told {
    fn lock(&self) -> MutexGuard<'_, Option<Duration>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) async fn throttled(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = working_key(world).await?;
    let told = Told::default();
    let body = async {
        let retry_after = *told.lock();
        world.refuses_all(&key, &wrapped, Kind::Throttled { retry_after }).await?;
        Ok(Some(match retry_after {
            Some(wait) => format!("it says for how long: {wait:?}").into(),
            None => "it does not say for how long".into(),
        }))
    };
    throttling(world, &told, body).await
}

pub(super) async fn throttle_ends(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = working_key(world).await?;
    throttling(world, &Told::default(), use_it(world, &key, &wrapped)).await?;
    world.works(&key, &wrapped).await?;
    Ok(None)
}

pub(super) async fn asks_once(world: &World<'_>) -> Step<Note> {
    let (_, wrapped) = working_key(world).await?;
    // Before the vault is made to throttle: without a count there is nothing to see.
    world.sent().await?;
    let body = async {
        let before = world.sent().await?;
        let answer = world.unwrap(&wrapped, &context()).await?;
        if answer.is_ok() {
            return failed("unwrap: throttled", "it worked");
        }
        is_equal("requests sent for one call", &1, &(world.sent().await? - before))?;
        Ok(None)
    };
    throttling(world, &Told::default(), body).await
}

pub(super) async fn credential_expired(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = working_key(world).await?;
    let mut renewed = true;
    // Each call in its turn is the first to meet it.
    for call in [Call::Unwrap, Call::Wrap, Call::Properties] {
        world.hook("expire_credential", world.factory.expire_credential()).await?;
        match call.ask(world, &key, &wrapped).await? {
            Ok(()) => {}
            Err(e) if e.kind() == Kind::Unauthenticated => renewed = false,
            Err(e) => return failed(format!("{call:?}: to work, or unauthenticated"), say(&e)),
        }
    }
    Ok(Some(if renewed { "renewed" } else { "not renewed: it says unauthenticated" }.into()))
}

pub(super) async fn credential_lost(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = working_key(world).await?;
    let body = world.refuses_all(&key, &wrapped, Kind::Unauthenticated);
    losing(world, body).await?;
    Ok(None)
}

pub(super) async fn credential_regained(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = working_key(world).await?;
    losing(world, use_it(world, &key, &wrapped)).await?;
    world.works(&key, &wrapped).await?;
    Ok(None)
}

async fn losing(world: &World<'_>, body: impl Future<Output = Step<()>> + Send) -> Step<()> {
    let (begins, ends) = (world.factory.lose_credential(), world.factory.regain_credential());
    world.within(("lose_credential", begins), ("regain_credential", ends), body).await
}

async fn working_key(world: &World<'_>) -> Step<(KeyId, WrappedKey)> {
    let (key, wrapped) = world.new_wrap().await?;
    world.works(&key, &wrapped).await?;
    Ok((key, wrapped))
}

/// Asks everything once, whatever comes of it: what a client keeps of a failure shows afterwards.
async fn use_it(world: &World<'_>, key: &KeyId, wrapped: &WrappedKey) -> Step<()> {
    for call in [Call::Unwrap, Call::Wrap, Call::Properties] {
        let _ = call.ask(world, key, wrapped).await?;
    }
    Ok(())
}

/// One question to a vault.
#[derive(Clone, Copy, Debug)]
enum Call {
    Unwrap,
    Wrap,
    Properties,
}

impl Call {
    async fn ask(self, world: &World<'_>, key: &KeyId, wrapped: &WrappedKey) -> Step<Result<(), VaultError>> {
        Ok(match self {
            Self::Unwrap => world.unwrap(wrapped, &context()).await?.map(drop),
            Self::Wrap => world.wrap(key, world.aek(), &context()).await?.map(drop),
            Self::Properties => world.properties(key).await?.map(drop),
        })
    }
}
