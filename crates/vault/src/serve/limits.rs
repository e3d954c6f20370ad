//! Bounds on what clients can hold of the server: connections, bytes of a body, time.
//!
//! Guarantees: above the most connections a new one is closed before its handshake; a body is read up to its bound and no
//! byte further.

use std::{
    future::{Ready, poll_fn, ready},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::{Body, HttpBody},
    http::{HeaderMap, StatusCode, header},
};
use axum_server::accept::Accept;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use zeroize::Zeroizing;

use super::answer::Failure;

/// The most bytes of a request's body: an imported RSA key of 4,096 bits has some 4,000.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// Reads a whole body.
pub(super) async fn read(headers: &HeaderMap, mut body: Body) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let too_large = || {
        let message = format!("The request body is larger than the {MAX_BODY} bytes that this server takes.");
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestBodyTooLarge", message)
    };
    let said = headers.get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse::<u64>().ok());
    if said.is_some_and(|len| len > MAX_BODY as u64) {
        return Err(too_large());
    }
    // With room for all of it, so that no copy of a key is left behind when it grows.
    let room = said.and_then(|len| usize::try_from(len).ok()).unwrap_or(MAX_BODY);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let cut_short = |_| Failure::bad("The request body ended early.");
        let Ok(data) = frame.map_err(cut_short)?.into_data() else { continue };
        if bytes.len() + data.len() > MAX_BODY {
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Takes connections up to a number, and closes what comes above it.
#[derive(Clone)]
pub(super) struct Bounded(Arc<Semaphore>);

impl Bounded {
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))))
    }
}

impl<S> Accept<TcpStream, S> for Bounded {
    type Stream = Counted;
    type Service = S;
    type Future = Ready<io::Result<(Counted, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        ready(match self.0.clone().try_acquire_owned() {
            Ok(permit) => {
                // Answers are one small write each: they must not wait for one another.
                let _ = stream.set_nodelay(true);
                Ok((Counted { stream, _permit: permit }, service))
            }
            Err(_) => {
                tracing::warn!("a connection was closed: there are too many");
                Err(io::Error::other("too many connections"))
            }
        })
    }
}

/// A connection that counts until it is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
