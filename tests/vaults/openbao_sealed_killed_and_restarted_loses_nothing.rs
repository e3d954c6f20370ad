//! OpenBao with its data on disk: sealed, killed, started again, unsealed, while a writer writes. Grace serves; then writes are
//! buffered and reads refused as unavailable; then all is drained, and every block that was acknowledged reads.

use cofferdam::vault::testing::servers::Bao;

use crate::real::{
    Customer, alone, blocking, openbao_server,
    outage::{KEY, Outage, ride_out},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_acknowledged_block_is_lost() {
    let _alone = alone().await;
    let Some(bao) = Bao::raft() else { return };
    let bao = openbao_server(bao).await;
    let customer = Customer::openbao(&bao, "openbao", KEY).await;
    let outage = Outage {
        lose: async || blocking(&bao, Bao::seal).await,
        worse: async || {
            blocking(&bao, Bao::kill).await;
            // It comes up sealed.
            blocking(&bao, Bao::restart).await;
        },
        regain: async || blocking(&bao, Bao::unseal).await,
    };
    ride_out(customer, outage).await;
}
