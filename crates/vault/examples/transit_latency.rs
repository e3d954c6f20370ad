//! How long a Transit vault takes to wrap and to unwrap, and how much of it is ours: beside each unwrap the same request is sent
//! without us, over a client of the same kind, and the medians are compared.
//!
//! `cargo run --release -p cofferdam-vault --features servers,transit --example transit_latency` (`COFFERDAM_BAO` says where OpenBao is).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it prints what it measures")]

use std::{convert::Infallible, error::Error, sync::Arc, time::Duration};

use cofferdam_crypto::{AccountId, Aek, Epoch, KeyScope, Provider};
use cofferdam_vault::{
    Clock, KeyVault, SystemClock, WrapContext,
    testing::servers::Bao,
    transit::{Secret, SecretSource, TransitLogin, TransitOptions, TransitVault},
};

const ROUNDS: usize = 2000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Some(bao) = Bao::dev() else { return Ok(()) };
    bao.run(&["secrets", "enable", "transit"]);
    bao.run(&["write", "-f", "transit/keys/payroll"]);
    let options = TransitOptions::new(bao.url()).allow_plain_http_to_loopback();
    let token = SecretSource::value(Secret::new(bao.root_token().to_owned()));
    let vault = TransitVault::connect(options, TransitLogin::Token(token))?;
    let key = vault.inner().key_id("transit", "payroll")?;
    let aek = Aek::try_from_fn(|key| {
        key.fill(7);
        Ok::<_, Infallible>(())
    })?;
    let scope = KeyScope {
        account: AccountId::from_bytes([3; 16]),
        epoch: Epoch::FIRST,
        provider: Provider::Customer,
    };
    let context = WrapContext { scope };

    let wrapped = vault.wrap_key(&key, &aek, &context).await?;
    let bare = Bare::new(&bao, std::str::from_utf8(&wrapped.bytes)?, &context)?;
    let (mut wraps, mut unwraps, mut bares) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        wraps.push(timed(vault.wrap_key(&key, &aek, &context)).await?);
        unwraps.push(timed(vault.unwrap_key(&wrapped, &context)).await?);
        bares.push(timed(bare.ask()).await?);
    }
    let [wrap, unwrap, bare] = [wraps, unwraps, bares].map(told);
    println!("{ROUNDS} each; median, 99th percentile:");
    println!("wrap (two requests)            {:>9.1?} {:>9.1?}", wrap.0, wrap.1);
    println!("unwrap                         {:>9.1?} {:>9.1?}", unwrap.0, unwrap.1);
    println!("the unwrap's request, without us {:>7.1?} {:>9.1?}", bare.0, bare.1);
    println!("ours of an unwrap's median     {:>9.1?}", unwrap.0.saturating_sub(bare.0));
    Ok(())
}

/// The request of an unwrap, made once and sent again and again.
struct Bare {
    client: reqwest::Client,
    url: String,
    token: String,
    body: bytes::Bytes,
}

impl Bare {
    fn new(bao: &Bao, ciphertext: &str, context: &WrapContext) -> Result<Self, Box<dyn Error>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).http1_only().build()?;
        let KeyScope { account, epoch, provider } = context.scope;
        let aad =
            data_encoding::BASE64.encode(format!("cofferdam/1 {account}/{epoch}/{provider}").as_bytes());
        let body = format!(r#"{{"ciphertext":"{ciphertext}","associated_data":"{aad}"}}"#).into();
        let url = format!("{}/v1/transit/decrypt/payroll", bao.url());
        Ok(Self { client, url, token: bao.root_token().to_owned(), body })
    }

    async fn ask(&self) -> Result<(), reqwest::Error> {
        let request = self.client.post(&self.url).header("x-vault-token", &self.token);
        request.body(self.body.clone()).send().await?.error_for_status()?.bytes().await.map(drop)
    }
}

async fn timed<T, E>(ask: impl Future<Output = Result<T, E>>) -> Result<Duration, E> {
    let began = SystemClock.now().boot;
    ask.await?;
    Ok(SystemClock.now().boot - began)
}

fn told(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
