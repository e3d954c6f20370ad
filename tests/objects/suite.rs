//! `object_store`'s own integration suite: each function that a plain store passes is passed by the encrypting one over it.
//!
//! A function gets a new store each time. What a plain store fails is known and listed, so that a function that fails for
//! another reason, and so shows nothing, is noticed. Functions that want a `MultipartStore` or a `PaginatedListStore` have
//! nothing to run on: the encrypting store is neither, as both would lead around it.

use std::{collections::BTreeSet, panic::AssertUnwindSafe, sync::Arc};

use cofferdam::vault::testing::servers::{Azurite, Moto};
use futures_util::{FutureExt, future::LocalBoxFuture};
use object_store::{Error, ObjectStore, integration};

use crate::{
    stores::{Place, sealed},
    world::World,
};

/// What a function is run on, and what it has to know of it.
struct Subject {
    store: Arc<dyn ObjectStore>,
    replaces_if_unchanged: bool,
    last_writer_wins: bool,
}

type Check = fn(Subject) -> LocalBoxFuture<'static, ()>;

macro_rules! checks {
    ($($name:ident),+ $(,)?) => {
        [$((stringify!($name), (|on| Box::pin(async move { integration::$name(&*on.store).await })) as Check)),+]
    };
}

const CHECKS: [(&str, Check); 11] = checks![
    put_get_delete_list,
    put_get_attributes,
    get_opts,
    stream_get,
    list_uses_directories_correctly,
    list_with_delimiter,
    list_with_offset_exclusivity,
    rename_and_copy,
    copy_if_not_exists,
    copy_rename_nonexistent_object,
    multipart_out_of_order,
];

/// Those that want to know more.
const OTHER_CHECKS: [(&str, Check); 3] = [
    ("put_opts", |on| {
        Box::pin(async move { integration::put_opts(&*on.store, on.replaces_if_unchanged).await })
    }),
    ("multipart_race_condition", |on| {
        Box::pin(async move { integration::multipart_race_condition(&*on.store, on.last_writer_wins).await })
    }),
    ("get_nonexistent_object", |on| {
        Box::pin(async move {
            let got = integration::get_nonexistent_object(&*on.store, None).await;
            assert!(matches!(got, Err(Error::NotFound { .. })), "{got:?}");
        })
    }),
];

/// Only of stores behind HTTP.
const HTTP_CHECKS: [(&str, Check); 1] = [("response_extensions", |on| {
    Box::pin(async move { integration::response_extensions(&*on.store, true).await })
})];

/// Wants to reach behind the encrypting store.
const NOT_EXPOSED: [&str; 4] =
    ["multipart", "multipart_with_opts", "multipart_put_part_out_of_order", "list_paginated"];

async fn passes(check: Check, on: Subject) -> bool {
    AssertUnwindSafe(check(on)).catch_unwind().await.is_ok()
}

/// Runs all on both; `fails` is what the plain store is known to fail.
#[allow(clippy::print_stdout, reason = "the table is what it shows")]
async fn both(of: &str, place: Place, fails: &[&str]) {
    let world = World::new(1).await;
    let account = world.contoso().await;
    let is_http = matches!(place, Place::S3(_) | Place::Azure(_));
    let http = if is_http { &HTTP_CHECKS[..] } else { &[] };
    let subject = |store| Subject {
        store,
        replaces_if_unchanged: !matches!(place, Place::Files(_)),
        last_writer_wins: !matches!(place, Place::Azure(_)),
    };
    let word = |passed| if passed { "passed" } else { "failed" };
    let (mut table, mut failed, mut worse) = (String::new(), BTreeSet::new(), Vec::new());
    for (name, check) in CHECKS.iter().chain(&OTHER_CHECKS).chain(http) {
        let [bare, inner] =
            ["plain", "sealed"].map(|side| place.store(&format!("{side}-{}", name.replace('_', "-"))));
        let plain = passes(*check, subject(bare)).await;
        let decorated = passes(*check, subject(sealed(&account, inner).await)).await;
        table += &format!("  {name:<32} {:<8} {}\n", word(plain), word(decorated));
        if !plain {
            failed.insert(*name);
        } else if !decorated {
            worse.push(*name);
        }
    }
    for name in NOT_EXPOSED {
        table += &format!("  {name:<32} not exposed\n");
    }
    println!("object_store::integration on {of}:\n  {:<32} {:<8} encrypted\n{table}", "", "plain");
    assert!(worse.is_empty(), "{of} passes plain and fails encrypted: {worse:?}");
    assert_eq!(failed, fails.iter().copied().collect(), "what {of} fails plain is something else");
}

#[tokio::test]
async fn memory_passes_as_much_encrypted_as_plain() {
    both("memory", Place::Memory, &[]).await;
}

#[tokio::test]
async fn files_pass_as_much_encrypted_as_plain() {
    both("files", Place::files(), &[]).await;
}

#[tokio::test]
async fn motos_s3_passes_as_much_encrypted_as_plain() {
    let Some(moto) = Moto::start() else { return };
    both("moto's S3", Place::S3(moto), &["copy_if_not_exists", "copy_rename_nonexistent_object"]).await;
}

#[tokio::test]
async fn azurite_passes_as_much_encrypted_as_plain() {
    let Some(azurite) = Azurite::start() else { return };
    both("azurite", Place::Azure(azurite), &["list_with_offset_exclusivity", "put_get_delete_list"]).await;
}
