//! Whose "no" a 403 of Vault's is: the customer's, or that of a token that is none any longer.

use std::{sync::Arc, time::Duration};

use cofferdam_vault::{
    Credential, KNOWN_GOOD_FOR, KeyVault, VaultErrorKind as Kind,
    testing::ManualClock,
    transit::{SecretSource, TransitError, TransitLogin, TransitOptions, TransitVault},
};

use crate::transit_support::{World, aek, context, documented_policy, id, kind, payroll, until, value};

#[tokio::test]
async fn a_policy_that_was_taken_away_is_a_denial_and_given_back_access() {
    let Some(world) = World::dev() else { return };
    let vault = world.vault();
    let wrapped = vault.wrap_key(&payroll(), &aek(), &context()).await.unwrap();
    for _ in 0..2 {
        world.deny();
        assert_eq!(kind(vault.unwrap_key(&wrapped, &context()).await), Some(Kind::AccessDenied));
        assert_eq!(kind(vault.wrap_key(&payroll(), &aek(), &context()).await), Some(Kind::AccessDenied));
        assert_eq!(kind(vault.key_properties(&payroll()).await), Some(Kind::AccessDenied));
        world.grant();
        assert_eq!(vault.unwrap_key(&wrapped, &context()).await.unwrap().expose(), aek().expose());
    }
}

#[tokio::test]
async fn each_path_of_the_documented_policy_is_needed() {
    let Some(world) = World::dev() else { return };
    let vault = world.vault();
    let wrapped = vault.wrap_key(&payroll(), &aek(), &context()).await.unwrap();
    let blocks: Vec<_> = documented_policy().split_inclusive("}\n").map(str::to_owned).collect();
    assert_eq!(blocks.len(), 3);
    for (without, denied) in [(0, [true, false, true]), (1, [true, false, false]), (2, [false, true, false])]
    {
        let left: String =
            blocks.iter().enumerate().filter(|(n, _)| *n != without).map(|(_, b)| b.as_str()).collect();
        world.policy("cofferdam", &left);
        let heard = [
            kind(vault.wrap_key(&payroll(), &aek(), &context()).await),
            kind(vault.unwrap_key(&wrapped, &context()).await),
            kind(vault.key_properties(&payroll()).await),
        ];
        assert_eq!(
            heard,
            denied.map(|denied| denied.then_some(Kind::AccessDenied)),
            "without {}",
            blocks[without]
        );
    }
}

#[tokio::test]
async fn a_token_that_is_revoked_in_mid_flight_is_no_denial_and_replaced() {
    let Some(world) = World::dev() else { return };
    let vault = world.vault();
    let wrapped = vault.wrap_key(&payroll(), &aek(), &context()).await.unwrap();
    // Within the time that it counts as known good by its age alone.
    for _ in 0..3 {
        world.bao.run(&["token", "revoke", "-mode=path", "auth/approle"]);
        assert_eq!(kind(vault.unwrap_key(&wrapped, &context()).await), None);
        world.bao.run(&["token", "revoke", "-mode=path", "auth/approle"]);
        assert_eq!(kind(vault.wrap_key(&payroll(), &aek(), &context()).await), None);
    }
    assert_eq!(kind(vault.inner().unwrap_key(&wrapped, &context()).await), None);
    world.bao.run(&["token", "revoke", "-mode=path", "auth/approle"]);
    assert_eq!(kind(vault.inner().unwrap_key(&wrapped, &context()).await), Some(Kind::Unauthenticated));
}

#[tokio::test]
async fn without_a_login_a_403_stays_an_outage() {
    let Some(world) = World::dev() else { return };
    let vault = world.vault();
    let wrapped = vault.wrap_key(&payroll(), &aek(), &context()).await.unwrap();
    world.bao.run(&["delete", "auth/approle/role/cofferdam"]);
    world.bao.run(&["token", "revoke", "-mode=path", "auth/approle"]);
    let failed = vault.unwrap_key(&wrapped, &context()).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::Unauthenticated, "{failed}");
    assert!(failed.to_string().contains("invalid role or secret ID"), "{failed}");
    // The policy goes as well: what an expired token would hide must not turn into a denial.
    world.deny();
    assert_eq!(kind(vault.unwrap_key(&wrapped, &context()).await), Some(Kind::Unauthenticated));
}

#[tokio::test]
async fn a_token_that_expires_is_renewed_ahead_and_at_its_end_replaced() {
    let Some(world) = World::dev() else { return };
    world.role("5s", "8s");
    let vault = world.vault();
    assert_eq!(kind(vault.key_properties(&payroll()).await), None);
    let first = vault.inner().credential().asked_at().unwrap();
    // Without `Reauthenticating`: what expires would show.
    for n in 0..110 {
        let answer = vault.inner().key_properties(&payroll()).await;
        assert!(answer.is_ok(), "{answer:?} at {n}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let last = vault.inner().credential().asked_at().unwrap();
    assert!(
        last.since(&first) > Duration::from_secs(1),
        "it was replaced when it could be renewed no longer"
    );
}

#[tokio::test]
async fn a_token_that_can_not_be_renewed_ahead_is_replaced_at_the_next_call() {
    let Some(world) = World::dev() else { return };
    let folder = tempfile::tempdir().unwrap();
    let sink = folder.path().join("token");
    std::fs::write(&sink, world.token("1s", "cofferdam") + "\n").unwrap();
    let login = TransitLogin::Token(SecretSource::file(&sink));
    let vault = TransitVault::connect(world.options(), login).unwrap();
    assert_eq!(kind(vault.key_properties(&payroll()).await), None);
    world.bao.run(&["token", "revoke", std::fs::read_to_string(&sink).unwrap().trim()]);
    assert_eq!(kind(vault.key_properties(&payroll()).await), Some(Kind::Unauthenticated));
    std::fs::write(&sink, world.token("1h", "cofferdam")).unwrap();
    assert_eq!(kind(vault.key_properties(&payroll()).await), None, "what an agent wrote meanwhile");
}

#[tokio::test]
async fn what_was_granted_to_the_role_anew_is_heard_once_the_token_is_old() {
    let Some(world) = World::dev() else { return };
    world.bao.run(&["write", "auth/approle/role/cofferdam", "token_policies=default"]);
    let clock = Arc::new(ManualClock::default());
    let vault = TransitVault::connect(world.options().clock(clock.clone()), world.app_role()).unwrap();
    assert_eq!(kind(vault.key_properties(&payroll()).await), Some(Kind::AccessDenied));
    world.role("1h", "24h");
    assert_eq!(
        kind(vault.key_properties(&payroll()).await),
        Some(Kind::AccessDenied),
        "a token is as it was made"
    );
    clock.advance(KNOWN_GOOD_FOR);
    assert_eq!(kind(vault.key_properties(&payroll()).await), None);
}

#[tokio::test]
async fn a_token_that_may_not_look_itself_up_is_refused_with_advice() {
    let Some(world) = World::dev() else { return };
    let made = world.json(&["write", "auth/token/create", "policies=cofferdam", "no_default_policy=true"]);
    let token = value(made["auth"]["client_token"].as_str().unwrap());
    let vault = TransitVault::connect(world.options(), TransitLogin::Token(token)).unwrap();
    let failed = vault.key_properties(&payroll()).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::Unauthenticated);
    assert!(failed.to_string().contains("policy `default`"), "{failed}");
}

#[tokio::test]
async fn a_secret_that_is_not_to_be_had_is_an_outage_that_says_which() {
    let Some(world) = World::dev() else { return };
    let gone = SecretSource::file("no-such-file");
    let vault = TransitVault::connect(world.options(), TransitLogin::Token(gone)).unwrap();
    let failed = vault.key_properties(&payroll()).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::Unauthenticated);
    assert!(failed.to_string().contains("can't read the token from no-such-file"), "{failed}");
}

#[tokio::test]
async fn keys_of_a_namespace_are_reached_by_its_own_vault_alone() {
    let Some(world) = World::dev() else { return };
    world.bao.run(&["namespace", "create", "team"]);
    world.bao.run(&["secrets", "enable", "-namespace=team", "transit"]);
    world.bao.run(&["write", "-namespace=team", "-f", "transit/keys/payroll"]);
    let theirs = id("team/transit/keys/payroll");
    let policy = documented_policy().replace("path \"", "path \"team/");
    world.policy("team", &policy);
    let login = TransitLogin::Token(value(&world.token("1h", "team")));
    let options = world.options().namespace("team").login_namespace("");
    let vault = TransitVault::connect(options, login).unwrap();
    let wrapped = vault.wrap_key(&theirs, &aek(), &context()).await.unwrap();
    assert_eq!(wrapped.key_id, id("team/transit/keys/payroll/1"));
    assert_eq!(vault.unwrap_key(&wrapped, &context()).await.unwrap().expose(), aek().expose());
    assert_eq!(vault.inner().key_id("transit", "payroll").unwrap(), theirs);
    assert_eq!(kind(vault.key_properties(&payroll()).await), Some(Kind::Other), "of the root");

    let root = world.vault();
    assert_eq!(kind(root.unwrap_key(&wrapped, &context()).await), Some(Kind::AccessDenied), "of the team");
    let mut moved = wrapped.clone();
    moved.key_id = id("transit/keys/payroll/1");
    assert_eq!(kind(root.unwrap_key(&moved, &context()).await), Some(Kind::Corrupt), "a namesake");

    // Deleting is done in the background.
    world.bao.run(&["namespace", "delete", "team"]);
    until(&vault, &theirs, Some(Kind::KeyNotFound)).await;
    assert_eq!(kind(vault.unwrap_key(&wrapped, &context()).await), Some(Kind::KeyNotFound));
}

#[tokio::test]
async fn a_namespace_that_is_locked_is_an_outage() {
    let Some(world) = World::dev() else { return };
    world.bao.run(&["namespace", "create", "team"]);
    world.policy("team", &documented_policy().replace("path \"", "path \"team/"));
    let login = TransitLogin::Token(value(&world.token("1h", "team")));
    let options = world.options().namespace("team").login_namespace("");
    let vault = TransitVault::connect(options, login).unwrap();
    let theirs = id("team/transit/keys/payroll");
    assert_eq!(kind(vault.key_properties(&theirs).await), Some(Kind::KeyNotFound), "no mount");
    world.bao.run(&["write", "-f", "sys/namespaces/api-lock/lock/team"]);
    assert_eq!(kind(vault.key_properties(&theirs).await), Some(Kind::Unavailable));
}

#[tokio::test]
async fn a_quota_throttles() {
    let Some(world) = World::dev() else { return };
    let vault = world.vault();
    assert_eq!(kind(vault.key_properties(&payroll()).await), None);
    world.bao.run(&["write", "sys/quotas/rate-limit/few", "rate=1", "path=transit/"]);
    let mut heard = Vec::new();
    for _ in 0..5 {
        heard.push(kind(vault.key_properties(&payroll()).await));
    }
    assert!(heard.iter().any(|heard| matches!(heard, Some(Kind::Throttled { .. }))), "{heard:?}");
    assert!(heard.iter().all(|heard| matches!(heard, None | Some(Kind::Throttled { .. }))), "{heard:?}");
}

#[test]
fn settings_that_can_not_be_meant_are_refused() {
    let login = || TransitLogin::Token(value("s.token"));
    let connect = |options: TransitOptions| TransitVault::connect(options, login()).unwrap_err();
    for address in [
        "",
        "vault",
        "ftp://vault",
        "https://",
        "https://vault/v1",
        "https://vault?x",
        "https://u:canary@vault",
    ] {
        let error = connect(TransitOptions::new(address));
        assert!(matches!(error, TransitError::BadAddress { .. }), "{address}: {error}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    }
    for address in
        ["http://vault:8200", "http://localhost:8200", "http://127.0.0.1.example", "http://10.0.0.1"]
    {
        let error = connect(TransitOptions::new(address).allow_plain_http_to_loopback());
        assert!(matches!(error, TransitError::PlainHttp { .. }), "{address}: {error}");
    }
    assert!(matches!(connect(TransitOptions::new("http://127.0.0.1:8200")), TransitError::PlainHttp { .. }));
    for options in [
        TransitOptions::new("https://vault").namespace("/team"),
        TransitOptions::new("https://vault").login_namespace("a//b"),
        TransitOptions::new("https://vault").authority("a/b"),
    ] {
        assert!(matches!(connect(options), TransitError::BadName { .. }));
    }
    for pem in ["", "canary", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let trust = cofferdam_vault::transit::Trust::Only(pem.into());
        let error = connect(TransitOptions::new("https://vault").trust(trust));
        assert!(matches!(error, TransitError::BadCertificates { .. }), "{pem}: {error}");
    }
    assert!(matches!(connect(TransitOptions::new("https://vault")), TransitError::NoRuntime));
}
