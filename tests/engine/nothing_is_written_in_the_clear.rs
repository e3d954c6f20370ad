//! No plaintext and no key of an account reaches the disk, for accounts under either key, with the vault there or away.

use cofferdam::{
    crypto::BlockId,
    store::{AccountKey, Outcome},
};

use crate::world::{MODES, World, holds, name};

#[tokio::test(start_paused = true)]
async fn canaries_are_nowhere_on_disk() {
    for &mode in MODES {
        let world = World::in_mode(mode, 12).await;
        let mut contoso = None;
        for (account, key) in
            [("contoso", world.customer_key()), ("under-the-service-key", AccountKey::Service)]
        {
            let account = world.engine.create_account(&name(account), key).await.unwrap();
            for n in 0..20 {
                let canary = format!("canary {n:02} of {account:?}: 5105-1051-0510-5100");
                let block = canary.repeat(2000).into();
                account.put(&BlockId::new(format!("id-of-{n:02}")).unwrap(), block).await.unwrap();
            }
            contoso.get_or_insert(account);
        }
        let contoso = contoso.unwrap();
        world.lose_key(&contoso).await;
        for n in 20..40 {
            let block = format!("canary {n:02} of an outage: 5105-1051-0510-5100").repeat(2000).into();
            let id = BlockId::new(format!("id-of-{n:02}")).unwrap();
            assert_eq!(contoso.put(&id, block).await.unwrap().outcome, Outcome::Buffered);
        }
        let nothing_in_the_clear = |when: &str| {
            assert!(holds(world.path(), b"id-of-07"), "the search finds what is there in the clear");
            for n in 0..40 {
                let canary = format!("canary {n:02} of");
                assert!(!holds(world.path(), canary.as_bytes()), "{mode}, {when}: canary {n} is on disk");
            }
        };
        nothing_in_the_clear("in the outage");
        world.regain_key(&contoso).await;
        world.engine.close().await.unwrap();
        nothing_in_the_clear("after the drain");
    }
}
