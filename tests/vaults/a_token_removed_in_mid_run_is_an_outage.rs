//! SoftHSM2's token is taken out while a writer writes, and put back: an outage, never a revocation. Grace serves; then writes
//! are buffered and reads refused as unavailable; then all is drained, and every block that was acknowledged reads.

use cofferdam::vault::testing::servers::SoftHsm;

use crate::real::{
    Customer, alone,
    outage::{Outage, ride_out},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_acknowledged_block_is_lost() {
    let _alone = alone().await;
    let (Some(token), Some(customer)) = (SoftHsm::start(), Customer::softhsm().await) else { return };
    let outage =
        Outage { lose: async || token.remove(), worse: async || {}, regain: async || token.put_back() };
    ride_out(customer, outage).await;
}
