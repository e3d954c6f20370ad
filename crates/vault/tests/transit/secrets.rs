//! No token, secret id or key is in a log, whatever is logged and however much.

use std::{
    fmt::Write,
    sync::{Arc, Mutex},
};

use cofferdam_vault::{KeyVault, transit::TransitVault};
use data_encoding::{BASE64, HEXLOWER};
use tracing::{Event, Metadata, Subscriber, field::Field, span};

use crate::{
    heard,
    transit_support::{self, World, aek, context, payroll},
};

/// Writes down every field of every event and span.
#[derive(Clone, Default)]
struct Everything(Arc<Mutex<String>>);

impl tracing::field::Visit for Everything {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        writeln!(self.0.lock().unwrap(), "{field}={value:?}").unwrap();
    }
}

impl Subscriber for Everything {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        attributes.record(&mut self.clone());
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut self.clone());
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        writeln!(self.0.lock().unwrap(), "{} {}", event.metadata().level(), event.metadata().target())
            .unwrap();
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn no_secret_is_logged_at_any_level_nor_printed() {
    let Some(world) = World::dev() else { return };
    let role = world.json(&["read", "auth/approle/role/cofferdam/role-id"]);
    let secret = world.json(&["write", "-f", "auth/approle/role/cofferdam/secret-id"]);
    let [role, secret] =
        [&role["data"]["role_id"], &secret["data"]["secret_id"]].map(|v| v.as_str().unwrap());
    let login = cofferdam_vault::transit::TransitLogin::app_role(
        transit_support::value(role),
        transit_support::value(secret),
    );
    let token = world.token("1h", "cofferdam");
    let given = cofferdam_vault::transit::TransitLogin::Token(transit_support::value(&token));
    let everything = Everything::default();
    let _heard = heard::by(everything.clone());
    let mut printed = String::new();
    for login in [login, given] {
        let vault = TransitVault::connect(world.options(), login).unwrap();
        let wrapped = vault.wrap_key(&payroll(), &aek(), &context()).await.unwrap();
        vault.unwrap_key(&wrapped, &context()).await.unwrap();
        world.bao.run(&["token", "revoke", "-mode=path", "auth/approle"]);
        let _ = vault.unwrap_key(&wrapped, &context()).await;
        world.deny();
        let failed = vault.unwrap_key(&wrapped, &context()).await.unwrap_err();
        write!(printed, "{failed} {failed:?} {vault:?}").unwrap();
        world.grant();
    }
    let logged = everything.0.lock().unwrap().clone();
    assert!(logged.contains("TRACE") && logged.contains("credential renewed"), "it listens: {logged}");
    let secrets = [
        role.to_owned(),
        secret.to_owned(),
        token,
        BASE64.encode(aek().expose()),
        HEXLOWER.encode(aek().expose()),
        format!("{:?}", aek().expose()),
    ];
    for (what, text) in [("logged", &logged), ("printed", &printed)] {
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{secret} is {what}");
        }
    }
}
