//! Making, naming and listing accounts, and the KEKs that are refused for them.

use cofferdam::{
    crypto::{BlockId, KeyId, Provider},
    keyring::KeyState,
    store::{AccountKey, AccountName, BufferMode, EngineError, EngineErrorKind},
    vault::Principal,
};

use crate::world::{World, name};

#[cfg(not(feature = "aws-lc"))]
#[tokio::test(start_paused = true)]
async fn without_aws_lc_there_is_no_write_only_buffer_and_the_refusal_says_so() {
    let world = World::new(51).await;
    let key = AccountKey::Customer {
        principal: World::principal(),
        kek: world.kek.clone(),
        buffer: BufferMode::WriteOnly,
    };
    let error = world.engine.create_account(&name("contoso"), key).await.unwrap_err();
    assert!(matches!(error, EngineError::NoWriteOnly { .. }), "{error}");
    assert!(error.to_string().contains("build with the feature aws-lc"), "{error}");
}

#[test]
fn account_names_are_bounded() {
    for good in ["a", "0", "a.b_c-D", &"x".repeat(128)] {
        assert_eq!(AccountName::new(good).unwrap().as_str(), good);
    }
    for bad in ["", ".a", "-a", "a/b", "a b", "\u{e9}", "a\0", &"x".repeat(129)] {
        let error = AccountName::new(bad).unwrap_err();
        assert!(matches!(error, EngineError::BadAccountName { .. }), "{bad:?}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_account_is_made_once_and_found_after_a_restart() {
    let mut world = World::new(3).await;
    let made = world.engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
    let again = world.engine.create_account(&name("contoso"), AccountKey::Service).await;
    assert!(matches!(again, Err(EngineError::AccountExists { .. })), "{again:?}");
    world.restart().await;
    assert_eq!(world.engine.account(&name("contoso")).await.unwrap().id(), made.id());
    let unknown = world.engine.account(&name("fabrikam")).await.unwrap_err();
    assert_eq!(unknown.kind(), EngineErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn accounts_are_listed_in_pages_and_in_order() {
    let world = World::new(4).await;
    for n in [3, 1, 4, 0, 2] {
        world.engine.create_account(&name(&format!("account-{n}")), AccountKey::Service).await.unwrap();
    }
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = world.engine.accounts(after.as_ref(), 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        listed.extend(page.iter().map(ToString::to_string));
    }
    assert_eq!(listed, ["account-0", "account-1", "account-2", "account-3", "account-4"]);
}

#[tokio::test(start_paused = true)]
async fn keks_that_could_lose_data_or_can_not_be_used_are_refused() {
    let world = World::new(5).await;
    let customer = |kek: &KeyId| AccountKey::Customer {
        principal: World::principal(),
        kek: kek.clone(),
        buffer: BufferMode::default(),
    };
    let contoso = name("contoso");
    let create = |key| world.engine.create_account(&contoso, key);

    let none = cofferdam::vault::Recovery::Off;
    let fleeting = world.customer.create_key_with("fleeting", none).await.unwrap();
    let answer = create(customer(&fleeting)).await;
    assert!(matches!(answer, Err(EngineError::UnfitKek { .. })), "{answer:?}");

    world.customer.disable(&world.kek).await.unwrap();
    let answer = create(customer(&world.kek)).await.unwrap_err();
    assert!(matches!(answer.kind(), EngineErrorKind::Invalid | EngineErrorKind::Revoked), "{answer:?}");
    world.customer.enable(&world.kek).await.unwrap();

    for (unknown, kind) in [
        ("local://customer/keys/nobody", EngineErrorKind::NotFound),
        ("local://elsewhere/keys/payroll", EngineErrorKind::Other),
        ("https://example.com/k", EngineErrorKind::Other),
    ] {
        let answer = create(customer(&KeyId::new(unknown).unwrap())).await.unwrap_err();
        assert_eq!(answer.kind(), kind, "{unknown}: {answer}");
    }

    let stranger = AccountKey::Customer {
        principal: Principal::new("stranger"),
        kek: world.kek.clone(),
        buffer: BufferMode::default(),
    };
    let answer = create(stranger).await;
    assert!(matches!(answer, Err(EngineError::NoVault { .. })), "{answer:?}");

    world.customer.set_offline(true).await.unwrap();
    let answer = create(customer(&world.kek)).await.unwrap_err();
    assert_eq!(answer.kind(), EngineErrorKind::Unavailable, "{answer}");
    world.customer.set_offline(false).await.unwrap();

    assert_eq!(world.engine.accounts(None, 10).await.unwrap(), [], "a refused account left a trace");
    create(customer(&world.kek)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn status_tells_the_key_and_what_is_held() {
    let world = World::new(6).await;
    let account = world.engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
    let before = account.status().await.unwrap();
    assert_eq!((before.provider, before.key.state, before.blocks), (Provider::Customer, KeyState::Cold, 0));
    account.put(&BlockId::new("a").unwrap(), vec![1; 1000].into()).await.unwrap();
    account.put(&BlockId::new("b").unwrap(), vec![1; 70_000].into()).await.unwrap();
    let after = account.status().await.unwrap();
    assert_eq!((after.key.state, after.blocks, after.bytes), (KeyState::Active, 2, 71_000));
    assert_eq!(after.key.key_id, Some(world.kek.clone()));
}
