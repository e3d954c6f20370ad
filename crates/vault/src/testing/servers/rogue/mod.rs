//! A loopback server that answers as no vault should, by a script.
//!
//! Guarantees: one request a connection; what was asked is kept, and connections are counted even where no request came; it
//! listens until it is dropped. Not its job: to be a vault.

mod certificate;
mod wire;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use certificate::Certificate;
pub use wire::Request;

/// What a [`Rogue`] speaks. Its URL says `https` but for `Http`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// Plain HTTP.
    Http,
    /// TLS, with a certificate of [`Rogue::authority`] for `127.0.0.1` and `localhost`.
    Https,
    /// TLS, with a certificate of an authority that nobody knows.
    HttpsOfAnotherAuthority,
    /// TLS, with a certificate of the authority that expired in 2001.
    HttpsExpired,
    /// TLS, with a certificate of the authority for `vault.example`.
    HttpsOfAnotherName,
    /// Plain HTTP, where TLS is expected.
    HttpForHttps,
}

/// An answer to one request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Answer {
    /// A status with headers and a body, whose length is told.
    Of {
        /// As 200 or 429.
        status: u16,
        /// Beside `Content-Length` and `Connection`.
        headers: Vec<(String, String)>,
        /// The body.
        body: Vec<u8>,
    },
    /// A 200 with a body of so many bytes, streamed: all of them `a`. How many were taken: [`Rogue::sent`].
    Long {
        /// Whether its length is told; else it comes in chunks.
        told: bool,
        /// Bytes in the body.
        len: u64,
    },
    /// A 200 whose body ends before the length that was told.
    Truncated {
        /// What comes.
        body: Vec<u8>,
        /// How many bytes are missing.
        missing: usize,
    },
    /// Bytes that are no HTTP.
    Raw(Vec<u8>),
    /// The connection is closed without a word.
    Nothing,
    /// An answer once the gate is opened.
    Late(Gate, Box<Answer>),
}

impl Answer {
    /// A status with a JSON body.
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Of {
            status,
            headers: vec![("Content-Type".into(), "application/json".into())],
            body: body.into(),
        }
    }

    /// A 302 to another place.
    pub fn redirect(to: &str) -> Self {
        Self::Of { status: 302, headers: vec![("Location".into(), to.into())], body: Vec::new() }
    }

    /// A 429 that asks to wait so many seconds.
    pub fn throttled(retry_after: u64) -> Self {
        Self::json(429, "{}").with("Retry-After", &retry_after.to_string())
    }

    /// The same with one header more, where it has headers.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if let Self::Of { headers, .. } = &mut self {
            headers.push((name.into(), value.into()));
        }
        self
    }
}

/// Holds answers back until it is opened. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets everything through, from now on.
    pub fn open(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Waits until it is opened, or nobody wants the answer any longer.
    fn pass(&self, over: &AtomicBool) {
        const LOOK: Duration = Duration::from_millis(50);
        let mut open = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !*open && !over.load(Ordering::Acquire) {
            open = self.0.1.wait_timeout(open, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

type Script = dyn Fn(&Request) -> Answer + Send + Sync;

/// The server.
pub struct Rogue {
    speaks: Speaks,
    address: SocketAddr,
    certificate: Option<Arc<Certificate>>,
    seen: Arc<Seen>,
    listening: Option<JoinHandle<()>>,
}

/// What it shares with its threads.
#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Request>>,
    connections: AtomicUsize,
    sent: AtomicU64,
    over: AtomicBool,
}

impl Rogue {
    /// Answers each request as the script says.
    ///
    /// # Panics
    /// When there is no free port or no certificate to be had.
    pub fn start(speaks: Speaks, script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let tls = !matches!(speaks, Speaks::Http | Speaks::HttpForHttps);
        let certificate = tls.then(|| Arc::new(Certificate::new(speaks)));
        let seen = Arc::new(Seen::default());
        let listening = {
            let (seen, certificate) = (seen.clone(), certificate.clone());
            let script: Arc<Script> = Arc::new(script);
            thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if seen.over.load(Ordering::Acquire) {
                        return;
                    }
                    seen.connections.fetch_add(1, Ordering::AcqRel);
                    let (seen, certificate, script) = (seen.clone(), certificate.clone(), script.clone());
                    // It ends with its connection.
                    thread::spawn(move || serve(stream, certificate.as_deref(), &*script, &seen));
                }
            })
        };
        Self { speaks, address, certificate, seen, listening: Some(listening) }
    }

    /// Answers every request alike.
    pub fn always(speaks: Speaks, answer: Answer) -> Self {
        Self::start(speaks, move |_| answer.clone())
    }

    /// Answers with these by turns, and then with the last again and again.
    ///
    /// # Panics
    /// When there is none.
    pub fn in_turn(speaks: Speaks, answers: impl IntoIterator<Item = Answer>) -> Self {
        let answers: Vec<Answer> = answers.into_iter().collect();
        assert!(!answers.is_empty(), "a script has at least one answer");
        let turn = AtomicUsize::new(0);
        Self::start(speaks, move |_| {
            answers[turn.fetch_add(1, Ordering::AcqRel).min(answers.len() - 1)].clone()
        })
    }

    /// Where it answers: `https://127.0.0.1:PORT`, or `http`.
    pub fn url(&self) -> String {
        let scheme = if self.speaks == Speaks::Http { "http" } else { "https" };
        format!("{scheme}://{}", self.address)
    }

    /// Host and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate, in PEM, of the authority that a client is told to trust; none where it speaks no TLS.
    pub fn authority(&self) -> Option<&str> {
        self.certificate.as_ref().map(|of| of.authority.as_str())
    }

    /// The requests that it was asked, in their order.
    pub fn requests(&self) -> Vec<Request> {
        self.seen.requests().clone()
    }

    /// How many requests it was asked.
    pub fn asked(&self) -> usize {
        self.seen.requests().len()
    }

    /// How many connections were opened to it, also those that brought no request.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Acquire)
    }

    /// How many bytes of bodies of [`Answer::Long`] it could send.
    pub fn sent(&self) -> u64 {
        self.seen.sent.load(Ordering::Acquire)
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        self.seen.over.store(true, Ordering::Release);
        // So that it sees that it is over.
        let _ = TcpStream::connect(self.address);
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

impl fmt::Debug for Rogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rogue({}, {:?}, asked {} times)", self.url(), self.speaks, self.asked())
    }
}

impl Seen {
    fn requests(&self) -> std::sync::MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers one request. Errors are the client's affair: it went away.
fn serve(stream: TcpStream, certificate: Option<&Certificate>, script: &Script, seen: &Seen) {
    // A client that says nothing does not keep the thread for ever.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let _ = stream.set_nodelay(true);
    let mut stream = match certificate {
        None => wire::Stream::Plain(stream),
        Some(certificate) => wire::Stream::tls(certificate.accept(), stream),
    };
    let mut answer = match wire::read(&mut stream) {
        wire::Came::Request(request) => {
            seen.requests().push(request.clone());
            script(&request)
        }
        // As a plain server answers who speaks TLS to it.
        wire::Came::Other => Answer::json(400, "{}"),
        wire::Came::Nothing => Answer::Nothing,
    };
    while let Answer::Late(gate, then) = answer {
        gate.pass(&seen.over);
        answer = *then;
    }
    let _ = wire::write(&mut stream, &answer, &seen.sent);
    stream.close();
}
