//! What the catalog's rows say, told to the model.
//!
//! Guarantees: whoever reads or writes an account's record or its operations, the model learns of it in that moment; and of
//! a record whose keys do not open all that is stored. Not its job: to judge what nodes do (`shelf`, `operation`).

use cofferdam_store::BlockMeta;

use crate::{
    Check, SimStore,
    hub::{Hub, Moment},
    record::{self, ACCOUNTS, OPERATIONS},
};

/// Tells the model what a row of the catalog says.
pub(crate) fn tell(hub: &Hub, key: &str, bytes: Option<&[u8]>, now: Moment) {
    if let Some(name) = key.strip_prefix(ACCOUNTS) {
        match bytes.map(record::account).transpose() {
            Ok(state) => {
                let mut shared = hub.state();
                let brief = state.as_ref().map_or("gone".to_owned(), record::AccountState::brief);
                let judged = state.as_ref().map_or(Ok(()), |state| shared.keys.judge_record(state));
                shared.used.extend(state.iter().flat_map(|state| &state.keks).map(|(_, kek)| kek.clone()));
                let is_new = shared.accounts.seen(name, state, now);
                drop(shared);
                if is_new {
                    hub.note(format_args!("the record of {name}: {brief}"));
                    hub.check(judged);
                }
            }
            Err(why) => hub.fail(Check::Unexplained, format!("the record of {name} can't be read: {why}")),
        }
    } else if let Some(account) = key.strip_prefix(OPERATIONS) {
        let known = hub.state().accounts.ids().find(|id| id.to_string() == account);
        match (known, bytes.map(record::operation).transpose()) {
            (Some(account), Ok(Some(operation))) => {
                let told = format!("{operation:?}");
                let mut state = hub.state();
                let judged = state.accounts.operates(account, operation.clone(), now);
                if let Ok(Some(before)) = &judged {
                    state.counts.operated(&operation, before.is_none());
                }
                drop(state);
                match judged {
                    Ok(None) => {}
                    Ok(Some(_)) => hub.note(format_args!("{account}: {told}")),
                    Err((check, what)) => hub.fail(check, what),
                }
            }
            (_, Err(why)) => hub.fail(Check::Unexplained, format!("{key} can't be read: {why}")),
            (None, _) | (_, Ok(None)) => {}
        }
    }
}

/// Whether all that is stored of an account can still be opened by a key of its record.
pub(crate) async fn look_for_lost(hub: &Hub, store: &dyn SimStore, name: &str) {
    let Ok(Some(stored)) = store.load(&format!("{ACCOUNTS}{name}")).await else { return };
    let Ok(record) = record::account(&stored.bytes) else { return };
    let Ok(mut rows) = store.stored(record.id, None, 1_000).await else { return };
    rows.extend(store.buffered(record.id, None, 1_000).await.unwrap_or_default());
    let is_lost =
        |meta: &BlockMeta| meta.provider.segment().is_none() && !record.holds((meta.provider, meta.epoch));
    if let Some((id, meta)) = rows.iter().find(|(_, meta)| is_lost(meta)) {
        let what = format!(
            "block {id} of {name} is sealed under the {} key, epoch {}, which is destroyed: {}",
            meta.provider,
            meta.epoch,
            record.brief()
        );
        hub.fail(Check::Retired, what);
    }
}
