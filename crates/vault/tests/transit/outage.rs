//! A real server with its data on disk: sealed, killed, started again.

use cofferdam_vault::{KeyVault, VaultErrorKind as Kind, testing::servers::Bao, transit::TransitVault};

use crate::transit_support::{World, aek, context, kind, payroll};

#[tokio::test]
async fn a_vault_that_is_sealed_killed_or_starting_is_an_outage_and_serves_again_afterwards() {
    let Some(world) = World::of(Bao::raft()) else { return };
    let vault = world.vault();
    let wrapped = vault.wrap_key(&payroll(), &aek(), &context()).await.unwrap();
    for round in 0..2 {
        world.bao.seal();
        assert_eq!(kind(vault.unwrap_key(&wrapped, &context()).await), Some(Kind::Unavailable), "sealed");
        assert_eq!(kind(vault.wrap_key(&payroll(), &aek(), &context()).await), Some(Kind::Unavailable));
        assert_eq!(kind(vault.key_properties(&payroll()).await), Some(Kind::Unavailable));
        world.bao.unseal();
        assert_eq!(kind(vault.unwrap_key(&wrapped, &context()).await), None, "unsealed");

        world.bao.kill();
        assert_eq!(kind(vault.unwrap_key(&wrapped, &context()).await), Some(Kind::Unavailable), "killed");
        world.bao.restart();
        let sealed = vault.unwrap_key(&wrapped, &context()).await.unwrap_err();
        assert_eq!(sealed.kind(), Kind::Unavailable);
        assert!(sealed.to_string().contains("sealed"), "{sealed}");
        world.bao.unseal();
        let unwrapped = vault.unwrap_key(&wrapped, &context()).await.unwrap();
        assert_eq!(unwrapped.expose(), aek().expose(), "round {round}");
    }
}

#[tokio::test]
async fn a_service_that_starts_while_the_vault_is_sealed_logs_in_when_it_is_not() {
    let Some(world) = World::of(Bao::raft()) else { return };
    let login = world.app_role();
    world.bao.seal();
    let vault = TransitVault::connect(world.options(), login).unwrap();
    let failed = vault.key_properties(&payroll()).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::Unauthenticated);
    assert!(failed.to_string().contains("sealed"), "{failed}");
    world.bao.unseal();
    assert_eq!(kind(vault.key_properties(&payroll()).await), None);
}
