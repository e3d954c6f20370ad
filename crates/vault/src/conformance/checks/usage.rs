//! Many calls at once, calls that are given up, and what is printed.

use std::{pin::pin, task::Poll};

use cofferdam_crypto::KeyId;
use futures_util::{FutureExt, future::join_all, poll};

use crate::conformance::world::{
    Note, Step, World, answered, context, context_of, failed, is_same, not_applicable,
};

/// Calls that are under way at once.
const AT_ONCE: u8 = 32;

pub(super) async fn concurrent_calls(world: &World<'_>) -> Step<Note> {
    let key = world.new_key().await?;
    let calls = join_all((0..AT_ONCE).map(|account| round_trip(world, &key, account))).await;
    calls.into_iter().collect::<Step<Vec<()>>>()?;
    Ok(Some(format!("{AT_ONCE} at once").into()))
}

/// A key of its own, wrapped and unwrapped: no call gets another's answer.
async fn round_trip(world: &World<'_>, key: &KeyId, account: u8) -> Step<()> {
    let aek = world.random_aek()?;
    let context = context_of(account);
    let wrapped = answered("wrap", world.wrap(key, &aek, &context).await?)?;
    is_same(&answered("unwrap", world.unwrap(&wrapped, &context).await?)?, &aek)?;
    answered("properties", world.properties(key).await?)?;
    Ok(())
}

pub(super) async fn dropped_calls(world: &World<'_>) -> Step<Note> {
    let (key, wrapped) = world.new_wrap().await?;
    // Given up at once, and after a few looks.
    for looks in 0..8 {
        give_up(world.unwrap(&wrapped, &context()), looks).await?;
        give_up(world.wrap(&key, world.aek(), &context()), looks).await?;
        give_up(world.properties(&key), looks).await?;
    }
    world.works(&key, &wrapped).await?;
    concurrent_calls(world).await?;
    Ok(None)
}

async fn give_up<T>(call: impl Future<Output = Step<T>> + Send, looks: usize) -> Step<()> {
    let mut call = pin!(call.fuse());
    for _ in 0..looks {
        if let Poll::Ready(answer) = poll!(&mut call) {
            answer?;
            return Ok(());
        }
    }
    Ok(())
}

pub(super) async fn no_secret_in_debug(world: &World<'_>) -> Step<Note> {
    let (_, wrapped) = world.new_wrap().await?;
    world.must_unwrap(&wrapped).await?;
    let (plain, pretty) = world.printed()?;
    match world.canary().found_in(plain.as_bytes()).or(world.canary().found_in(pretty.as_bytes())) {
        Some(how) => failed("a Debug that does not print the key", format!("it prints it {how}")),
        None => Ok(None),
    }
}

pub(super) async fn no_secret_in_errors(world: &World<'_>) -> Step<Note> {
    let errors = world.errors_heard()?;
    if errors == 0 {
        return not_applicable("no call has failed");
    }
    Ok(Some(format!("{errors} errors were looked through").into()))
}
