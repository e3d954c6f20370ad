//! Sealed blocks, opened by the reference.
//!
//! Guarantees: no code of the house opens anything here. Not its job: which key a block should be under.

use cofferdam_crypto::{AccountId, BlockId, KeyScope, Provider};
use cofferdam_store::BlockMeta;

use crate::{Check, hub::State, model, reference};

/// Opens a sealed block as the format says, and finds the write that it holds.
pub(crate) fn open_by_reference(
    keys: &model::Keys,
    account: AccountId,
    id: &BlockId,
    meta: &BlockMeta,
    sealed: &[u8],
) -> Result<Vec<u8>, (Check, String)> {
    let wrong = |what: &str| (Check::Format, format!("block {id} of {account}, by the reference: {what}"));
    let scope = KeyScope { account, epoch: meta.epoch, provider: meta.provider };
    let aek = match (keys.aek(scope), meta.provider) {
        (Some(aek), _) => aek,
        // Nobody has unwrapped it yet.
        (None, Provider::Buffer(_)) => return Ok(Vec::new()),
        (None, _) => return Err(wrong("there is no such AEK")),
    };
    let place = place(aek, account.as_bytes(), id, meta);
    let opened = reference::open(&place, sealed).map_err(wrong)?;
    match model::write_of(&opened) {
        Some(write) if opened == model::bytes_of(write, opened.len()) => Ok(opened),
        _ => Err(wrong("it holds what no write put")),
    }
}

/// Where a sealed block belongs, for the reference.
fn place<'a>(
    aek: &'a [u8; 32],
    account: &'a [u8; 16],
    id: &'a BlockId,
    meta: &'a BlockMeta,
) -> reference::Place<'a> {
    let segment = match &meta.provider {
        Provider::Buffer(segment) => Some(segment.as_bytes()),
        Provider::Customer | Provider::Service => None,
    };
    let (epoch, provider) = (meta.epoch.number(), meta.provider.code());
    let version = meta.version.number();
    reference::Place { aek, account, epoch, provider, segment, block_id: id.as_bytes(), version }
}

/// Whether what a write-only buffer holds is closed to the service: it opens under none of the keys that it has.
pub(crate) fn judge_write_only(
    state: &mut State,
    account: AccountId,
    id: &BlockId,
    meta: &BlockMeta,
    sealed: &[u8],
) -> model::Judged {
    if meta.provider.segment().is_none() {
        let what =
            format!("block {id} in the write-only buffer of {account} is under the {} key", meta.provider);
        return Err((Check::WriteOnly, what));
    }
    state.counts.tried_by_service += 1;
    for aek in state.keys.service_aeks(account) {
        if reference::open(&place(aek, account.as_bytes(), id, meta), sealed).is_ok() {
            let what = format!("block {id} in the write-only buffer of {account} opens under a service AEK");
            return Err((Check::WriteOnly, what));
        }
    }
    Ok(())
}
