//! A token behind the server that speaks Key Vault's API: the Azure vault drives it, and what a token can't do is refused.

use std::{sync::Arc, time::Duration};

use cofferdam_crypto::KeyId;
use cofferdam_vault::{
    KeyKind, KeyState, KeyVault, VaultErrorKind,
    azure::{AzureCredential, AzureOptions, AzureVault},
    serve::{
        BackendError, KeyChange, KeyStoreBackend, KeyVaultServer, NewKey, NewMaterial, Permission,
        ServerOptions,
    },
};
use zeroize::Zeroizing;

use crate::{
    support::{aek, context, kind},
    tokens::Token,
};

fn new(kind: KeyKind) -> NewKey {
    NewKey {
        material: NewMaterial::Draw(kind),
        hsm: true,
        recovery: cofferdam_vault::Recovery::default(),
        said: KeyChange::default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_azure_vault_wraps_by_keys_of_a_token_that_is_served() {
    for token in Token::each() {
        let vault = token.vault().await;
        let server = KeyVaultServer::start(Arc::new(vault.clone()), ServerOptions::default()).await.unwrap();
        let secret = server.add_client("service", &Permission::WRAPPING).unwrap();
        let credential =
            AzureCredential::client_secret(server.tenant(), "service", move || Ok(secret.clone()));
        let options = AzureOptions::new(server.url(), credential)
            .test_server()
            .authority_host(server.url())
            .roots_pem(server.authority_pem());
        let azure = AzureVault::connect(options).unwrap();

        let (stored, version) = vault.create("served", new(KeyKind::Aes256)).await.unwrap();
        assert_eq!((stored.kind, stored.versions.len()), (KeyKind::Aes256, 1));
        let name = |version: &str| KeyId::new(format!("{}/keys/served/{version}", server.url())).unwrap();
        let wrapped = azure.wrap_key(&name(&version), &aek(7), &context()).await.unwrap();
        assert_eq!(wrapped.key_id, name(&version));
        assert_eq!(azure.unwrap_key(&wrapped, &context()).await.unwrap().expose(), aek(7).expose());
        let properties = azure.key_properties(&name(&version)).await.unwrap();
        assert_eq!((properties.state, properties.kind), (KeyState::Enabled, KeyKind::Aes256));
        assert!(properties.recoverable(), "its operator vouches for it");

        let (_, newer) = vault.create("served", new(KeyKind::Aes256)).await.unwrap();
        assert_ne!(newer, version);
        assert_eq!(azure.key_properties(&name(&version)).await.unwrap().latest, name(&newer));
        assert_eq!(azure.unwrap_key(&wrapped, &context()).await.unwrap().expose(), aek(7).expose());

        let disabled = KeyChange { enabled: Some(false), ..KeyChange::default() };
        vault.update("served", Some(&version), disabled).await.unwrap();
        let denied = azure.unwrap_key(&wrapped, &context()).await;
        assert_eq!(denied.map(drop).unwrap_err().kind(), VaultErrorKind::KeyDisabled);
        let enabled = KeyChange { enabled: Some(true), ..KeyChange::default() };
        vault.update("served", Some(&version), enabled).await.unwrap();
        assert_eq!(azure.unwrap_key(&wrapped, &context()).await.unwrap().expose(), aek(7).expose());
        let never = name(&"0".repeat(32));
        let unknown = azure.wrap_key(&never, &aek(7), &context()).await;
        assert_eq!(kind(unknown), Some(VaultErrorKind::KeyNotFound));
        server.stop(Duration::ZERO).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_token_can_not_do_is_refused() {
    for token in Token::each() {
        let vault = token.vault().await;
        let (_, version) = vault.create("refuses", new(KeyKind::Aes256)).await.unwrap();
        let is_unsupported = |error: BackendError| matches!(error, BackendError::Unsupported { .. });
        let expires = KeyChange { expires: Some(Duration::from_secs(4_000_000_000)), ..KeyChange::default() };
        assert!(is_unsupported(vault.update("refuses", None, expires).await.unwrap_err()));
        let tags = KeyChange { tags: Some([("a".into(), "b".into())].into()), ..KeyChange::default() };
        assert!(is_unsupported(vault.update("refuses", None, tags).await.unwrap_err()));
        assert!(is_unsupported(vault.delete("refuses").await.unwrap_err()));
        let kek = cofferdam_crypto::kw::Kek::try_from_fn(|kek| {
            kek.fill(7);
            Ok::<_, std::convert::Infallible>(())
        })
        .unwrap();
        let brought = NewKey { material: NewMaterial::Aes(kek), ..new(KeyKind::Aes256) };
        assert!(is_unsupported(vault.create("brought", brought).await.unwrap_err()));
        assert!(matches!(vault.key("brought").await, Err(BackendError::NotFound)));
        let other = vault.create("refuses", new("rsa-2048".parse().unwrap())).await;
        assert!(matches!(other, Err(BackendError::OtherKind { has: KeyKind::Aes256 })));
        let short = vault.wrap("refuses", Some(&version), Zeroizing::new(vec![1; 16])).await;
        assert!(matches!(short, Err(BackendError::Value { .. })));
        let (_, wrapped) = vault.wrap("refuses", None, Zeroizing::new(vec![1; 32])).await.unwrap();
        let mut changed = wrapped.clone();
        changed[0] ^= 1;
        let changed = vault.unwrap("refuses", Some(&version), changed).await;
        assert!(matches!(changed, Err(BackendError::Value { .. })));
        assert_eq!(*vault.unwrap("refuses", Some(&version), wrapped).await.unwrap().1, vec![1; 32]);
        // Listed as they are, and no key of somebody else's shape.
        assert!(vault.keys().await.unwrap().iter().any(|key| key.name == "refuses"));
    }
}
