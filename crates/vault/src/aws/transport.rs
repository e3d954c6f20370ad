//! How requests reach KMS.
//!
//! Guarantees: TLS by rustls over aws-lc alone; no proxy, no redirect, no retry; an answer is read up to
//! [`MAX_ANSWER`] bytes and not further; what is sent and received shows in no log, at no level. Not its job: what an
//! answer means.

use std::{
    mem,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use aws_sdk_kms::{
    Config,
    config::{
        BehaviorVersion, ConfigBag, IdentityCache, Intercept, Region, RuntimeComponents, SharedHttpClient,
        StalledStreamProtectionConfig,
        interceptors::{BeforeDeserializationInterceptorContextMut, BeforeTransmitInterceptorContextMut},
        retry::RetryConfig,
        timeout::TimeoutConfig,
    },
    error::BoxError,
};
use aws_smithy_async::{rt::sleep::TokioSleep, time::TimeSource};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::orchestrator::SensitiveOutput;
use aws_smithy_types::body::SdkBody;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use thiserror::Error;

use super::{AwsError, AwsOptions, credentials::Provided};
use crate::Clock;

/// The longest answer that is read, in bytes. KMS's own have at most some ten thousand.
pub(super) const MAX_ANSWER: usize = 1 << 20;

/// An HTTP client; with `trust_only`, certificates in PEM that were checked, it trusts these alone.
pub(super) fn http_client(trust_only: Option<&[u8]>) -> Result<SharedHttpClient, AwsError> {
    let roots = match trust_only {
        None => TrustStore::default(),
        Some(pem) => TrustStore::empty().with_pem_certificate(pem),
    };
    let context = TlsContext::builder().with_trust_store(roots).build();
    let context = context.map_err(|e| AwsError::BadRoots { source: e.into() })?;
    let provider = Provider::Rustls(CryptoMode::AwsLc);
    Ok(Builder::new().tls_provider(provider).tls_context(context).build_https())
}

/// A configuration of KMS's client.
pub(super) fn config(options: &AwsOptions, credentials: Provided) -> Result<Config, AwsError> {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(options.connect_timeout)
        .operation_timeout(options.call_timeout)
        .build();
    let mut config = Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(options.region.clone()))
        .credentials_provider(credentials)
        // They are kept where a renewal reaches them.
        .identity_cache(IdentityCache::no_cache())
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .sleep_impl(TokioSleep::new())
        .time_source(SdkClock(options.clock.clone()))
        .http_client(http_client(options.trust_only.as_deref())?)
        .interceptor(Guard);
    config.set_endpoint_url(options.endpoint.clone());
    Ok(config.build())
}

/// The clock that is passed in, as the SDK reads one.
#[derive(Clone, Debug)]
pub(super) struct SdkClock(pub(super) Arc<dyn Clock>);

impl TimeSource for SdkClock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + self.0.now().wall
    }
}

/// Keeps bodies out of the SDK's log and answers within bounds.
#[derive(Debug)]
struct Guard;

impl Intercept for Guard {
    fn name(&self) -> &'static str {
        "cofferdam"
    }

    /// The SDK logs a request at level trace when it is sent, and keeps a body that is in memory for another attempt: of one
    /// that is a stream it does neither. (Today's makes a stream of it anyway, to count bytes, and keeps the body.)
    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.request_mut().body_mut();
        let shown = mem::replace(body, SdkBody::taken());
        *body = SdkBody::from_body_1_x(shown);
        Ok(())
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // The SDK logs what it read, at level trace, but for what is marked: of its own only what an unwrap answers.
        bag.interceptor_state().store_put(SensitiveOutput);
        let body = context.response_mut().body_mut();
        let unbounded = mem::replace(body, SdkBody::taken());
        *body = SdkBody::from_body_1_x(Limited::new(unbounded, MAX_ANSWER).map_err(Unread::new));
        Ok(())
    }
}

/// Why an answer was not read to its end.
#[derive(Debug, Error)]
pub(super) enum Unread {
    #[error("the answer has more than {MAX_ANSWER} bytes")]
    TooLong,
    #[error("the answer ended early ({0})")]
    Cut(BoxError),
}

impl Unread {
    fn new(failed: BoxError) -> Self {
        if failed.is::<LengthLimitError>() { Self::TooLong } else { Self::Cut(failed) }
    }
}
