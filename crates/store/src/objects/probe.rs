//! Whether a store can keep a catalog.
//!
//! Guarantees: a store that replaces an object although it was changed, or creates one that is there, is found out before
//! anything is kept in it, also where it only does so when several ask at once and the probe hits on it: that part is a
//! guard, not a proof. Whether it lists in the order of the names' bytes is found out as well.
//!
//! What it tries lies under a random name below `probe/` and is removed again; what is left by a failure does no harm.

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures_util::{StreamExt, TryStreamExt, future, stream};
use object_store::{PutMode, UpdateVersion, path::Path};

use super::{
    names::Names,
    requests::{Failure, Requests},
};
use crate::error::{StoreError, StoreErrorKind};

/// How many race to replace one object.
const RACERS: u8 = 8;
/// Names that a store sorts otherwise if it does not sort by bytes, or by folders.
const SORTED: [&str; 8] = ["a-", "a.x", "a/b", "a0", "aB", "a_", "aa", "b"];

/// Tries a store; whether it lists in the order of names.
pub(super) async fn try_store(requests: &Requests, names: &Names) -> Result<bool, StoreError> {
    let trial = HEXLOWER.encode(&requests.draw::<16>()?);
    let mut made = Vec::new();
    let tried = async {
        conditions(requests, &trial, names, &mut made).await?;
        order(requests, &trial, names, &mut made).await
    };
    let tried = tried.await;
    let made = stream::iter(made.into_iter().map(Ok)).boxed();
    let removed = requests.store.delete_stream(made).try_for_each(|_| future::ready(Ok(())));
    // What is left lies under a name that nobody draws again.
    let _ = requests.in_time(removed).await;
    tried
}

async fn conditions(
    requests: &Requests,
    trial: &str,
    names: &Names,
    made: &mut Vec<Path>,
) -> Result<(), StoreError> {
    let at = names.probe(trial, "record")?;
    made.push(at.clone());
    let first = expect(requests, &at, PutMode::Create, Bytes::from_static(b"first")).await?;
    let Some(first) = first else { return Err(refused("it says that an object is there which is not")) };
    if expect(requests, &at, PutMode::Create, Bytes::from_static(b"again")).await?.is_some() {
        return Err(refused("it creates an object that is there already"));
    }
    let update = PutMode::Update(first.clone());
    let Some(second) = expect(requests, &at, update, Bytes::from_static(b"second")).await? else {
        return Err(refused("it does not replace an object that is unchanged"));
    };
    let update = PutMode::Update(first);
    if expect(requests, &at, update, Bytes::from_static(b"stale")).await?.is_some() {
        return Err(refused("it replaces an object that was changed"));
    }
    match requests.get(&at).await? {
        Some(found) if found.version == second && found.bytes[..] == *b"second" => {}
        Some(found) if found.bytes[..] == *b"second" => {
            return Err(refused(
                "it calls the same object otherwise when it is read than when it is written",
            ));
        }
        _ => return Err(refused("it does not show what was written last")),
    }
    let race = (0..RACERS).map(|racer| {
        let update = PutMode::Update(second.clone());
        requests.put(&at, update, Bytes::copy_from_slice(&[racer; 7]))
    });
    let won = future::join_all(race).await.into_iter().filter(Result::is_ok).count();
    if won > 1 {
        return Err(refused("of several who replace one object at once more than one succeed"));
    }
    Ok(())
}

/// Puts until there is an answer; `None`: it was refused, and is not there.
async fn expect(
    requests: &Requests,
    at: &Path,
    mode: PutMode,
    body: Bytes,
) -> Result<Option<UpdateVersion>, StoreError> {
    let mut attempts = requests.attempts();
    loop {
        let failure = match requests.put(at, mode.clone(), body.clone()).await {
            Ok(version) => return Ok(Some(version)),
            Err(failure) => failure,
        };
        if failure.is_refusal() || matches!(failure, Failure::Nonsense(_)) {
            // Also where the client sent it again by itself, and its own was there.
            match requests.get(at).await? {
                Some(found) if found.bytes == body => return Ok(Some(found.version)),
                Some(_) if failure.is_refusal() => return Ok(None),
                _ => {}
            }
        }
        if let Failure::Store(
            object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. },
        ) = failure
        {
            return Err(refused("it has no such request"));
        }
        attempts.again(failure).await.map_err(|failure| failure.writing(at))?;
    }
}

async fn order(
    requests: &Requests,
    trial: &str,
    names: &Names,
    made: &mut Vec<Path>,
) -> Result<bool, StoreError> {
    let objects = SORTED.iter().map(|name| names.probe(trial, name)).collect::<Result<Vec<_>, _>>()?;
    made.extend(objects.iter().cloned());
    let written = objects.iter().map(|at| expect(requests, at, PutMode::Create, Bytes::from_static(b"name")));
    future::try_join_all(written).await?;
    let [before, ..] = &objects[..] else { return Ok(false) };
    let folder = names.probe(trial, "")?;
    let mut attempts = requests.attempts();
    loop {
        let listed = requests.store.list_with_offset(Some(&folder), before);
        let listed = listed.map_ok(|object| object.location).try_collect::<Vec<_>>();
        match requests.in_time(listed).await {
            Ok(mut listed) => {
                listed.retain(|name| !name.as_ref().ends_with("/record"));
                return Ok(listed == objects[1..]);
            }
            Err(failure) => attempts.again(failure).await.map_err(|failure| failure.listing(&folder))?,
        }
    }
}

fn refused(why: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Unsupported).with_detail(format!(
        "this store can't replace an object only if it is unchanged, so it can't keep a catalog: {why}; keep the \
         catalog in an embedded store"
    ))
}
