//! What a wrap and an unwrap take, and how much of it is ours: beside each call the same bytes are sent to the same server
//! over a bare socket. `cargo test --release --features aws,servers --test aws latency -- --nocapture` prints the figures.

use std::time::Duration;

use cofferdam_crypto::WrappedKey;
use cofferdam_vault::{
    Clock, KeyVault, SystemClock,
    aws::AwsVault,
    testing::servers::{Ministack, Moto},
};
use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::aws_support::{Admin, aek, context, options};

const CALLS: usize = 100;

fn now() -> Duration {
    SystemClock.now().boot
}

#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    /// In µs: the fifth, the median, the nineteenth of twenty.
    fn spread(&mut self) -> [u128; 3] {
        self.0.sort();
        [1, 10, 19].map(|twentieth| self.0[self.0.len() * twentieth / 20].as_micros())
    }
}

fn context_json() -> Value {
    json!({
        "cofferdam:account": "01010101-0101-0101-0101-010101010101",
        "cofferdam:epoch": "1",
        "cofferdam:provider": "customer",
    })
}

async fn measure(server: &str, url: &str, account: &str) {
    let admin = Admin::new(url);
    let key = admin.create_key().await;
    let vault = AwsVault::new(options(url, account)).unwrap();
    let mut raw = admin.raw();
    let wrapped: WrappedKey = vault.wrap_key(&key, &aek(7), &context(1)).await.unwrap();
    let encrypt = json!({
        "KeyId": key.as_str(), "Plaintext": BASE64.encode(aek(7).expose()),
        "EncryptionAlgorithm": "SYMMETRIC_DEFAULT", "EncryptionContext": context_json(),
    });
    let decrypt = json!({
        "KeyId": key.as_str(), "CiphertextBlob": BASE64.encode(&wrapped.bytes),
        "EncryptionAlgorithm": "SYMMETRIC_DEFAULT", "EncryptionContext": context_json(),
    });
    for (what, action, body) in [("wrap", "Encrypt", encrypt), ("unwrap", "Decrypt", decrypt)] {
        let body = body.to_string();
        let (mut ours, mut bare) = (Times::default(), Times::default());
        for _ in 0..CALLS {
            let start = now();
            if what == "wrap" {
                let wrapped = vault.wrap_key(&key, &aek(7), &context(1)).await.unwrap();
                assert_eq!(wrapped.key_id, key);
            } else {
                let unwrapped = vault.unwrap_key(&wrapped, &context(1)).await.unwrap();
                assert_eq!(unwrapped.expose(), aek(7).expose());
            }
            ours.0.push(now() - start);
            let start = now();
            let (status, answer) = raw.post(action, &body).await;
            bare.0.push(now() - start);
            assert_eq!(status, 200, "{answer}");
        }
        let (ours, bare) = (ours.spread(), bare.spread());
        println!(
            "{server} {what}: {} µs ({} to {}), a bare request {} µs ({} to {}), so ours {} µs",
            ours[1],
            ours[0],
            ours[2],
            bare[1],
            bare[0],
            bare[2],
            ours[1].saturating_sub(bare[1])
        );
    }
}

#[tokio::test]
async fn a_wrap_and_an_unwrap_take_little_more_than_the_request() {
    if let Some(server) = Ministack::start() {
        measure("ministack", server.url(), "000000000000").await;
    }
    if let Some(server) = Moto::start() {
        measure("moto", server.url(), "123456789012").await;
    }
}
