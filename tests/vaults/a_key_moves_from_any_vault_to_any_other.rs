//! An account's KEK is rotated from every vault to every other: a local one, SoftHSM2, Azure Key Vault (our server and our
//! adapter), AWS KMS (ministack), OpenBao. No block is touched; the one left behind is said to be safe to disable, is
//! disabled, and everything reads in a process that starts afterwards.

use std::sync::Arc;

use cofferdam::{
    store::OperationStatus,
    vault::testing::servers::{Bao, Ministack},
};

use crate::real::{self, Customer, Real, Stopwatch, alone, block, content, lost, name, policy};

const BLOCKS: usize = 20;

/// A way that goes from each of so many places to each other exactly once.
fn tour(of: usize) -> Vec<usize> {
    fn from(place: usize, of: usize, tour: &mut Vec<usize>) {
        for next in place + 1..of {
            tour.push(next);
            if next == place + 1 {
                from(next, of, tour);
            }
            tour.push(place);
        }
    }
    let mut tour = vec![0];
    from(0, of, &mut tour);
    tour
}

#[test]
fn the_tour_goes_every_way_once() {
    let tour = tour(5);
    let mut ways: Vec<_> = tour.windows(2).map(|way| (way[0], way[1])).collect();
    ways.sort_unstable();
    let all: Vec<_> =
        (0..5).flat_map(|from| (0..5).map(move |to| (from, to))).filter(|(a, b)| a != b).collect();
    assert_eq!(ways, all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_block_reads_and_the_key_left_behind_is_needed_no_longer() {
    let _alone = alone().await;
    let folder = tempfile::tempdir().unwrap();
    let (Some(bao), Some(aws), Some(softhsm)) = (Bao::dev(), Ministack::start(), Customer::softhsm().await)
    else {
        return;
    };
    let vaults = [
        Customer::local(folder.path()).await,
        softhsm,
        Customer::key_vault(folder.path(), "key-vault").await,
        Customer::aws(&Arc::new(aws), "aws"),
        Customer::openbao(&real::openbao_server(bao).await, "openbao", "*").await,
    ];
    let mut real = Real::over(&vaults, policy()).await;
    let tour = tour(vaults.len());
    let first = &vaults[tour[0]];
    let mut key = first.owner.create("key-0").await;
    let mut account = real.create_account(first, key.clone()).await;
    for n in 0..BLOCKS {
        account.put(&block(n), content(n).into()).await.unwrap();
    }

    println!(
        "| from | to | rotated in | safe to disable | read after a restart |\n| --- | --- | --- | --- | --- |"
    );
    let mut moves = 0;
    for way in tour.windows(2) {
        let (from, to) = (&vaults[way[0]], &vaults[way[1]]);
        moves += 1;
        let new = to.owner.create(&format!("key-{moves}")).await;
        let old = account.keks().await.unwrap().remove(0).key_id;
        assert_eq!(old, key, "the version that {} told", from.name);
        assert!(!real.engine.safe_to_disable(&old).await.unwrap().is_safe());

        let rotating = Stopwatch::start();
        let operation = account.rotate_kek(Some(to.principal()), new.clone(), None).await.unwrap();
        let operation = operation.wait().await.unwrap();
        let rotated_in = rotating.read();
        assert_eq!(operation.status, OperationStatus::Succeeded, "{operation:?}");
        assert_eq!(lost(&account, 0..BLOCKS + moves - 1).await, [""; 0]);

        let safe = real.engine.safe_to_disable(&old).await.unwrap();
        assert!(safe.is_safe(), "{safe:?}");
        from.owner.disable(&old).await;
        real.restart().await;
        account = real.engine.account(&name(first.name)).await.unwrap();
        let lost = lost(&account, 0..BLOCKS + moves - 1).await;
        println!(
            "| {} | {} | {rotated_in:.0?} | yes | {} of {} |",
            from.name,
            to.name,
            BLOCKS + moves - 1 - lost.len(),
            BLOCKS + moves - 1
        );
        assert_eq!(lost, [""; 0], "{} to {}", from.name, to.name);
        let written = BLOCKS + moves - 1;
        account.put(&block(written), content(written).into()).await.unwrap();
        key = new;
    }
    assert_eq!(moves, vaults.len() * (vaults.len() - 1));
    real.engine.close().await.unwrap();
}
