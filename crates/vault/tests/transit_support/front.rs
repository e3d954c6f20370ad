//! What stands before a real OpenBao, so that it is reached by TLS, its requests are counted, and another can take its place.

use std::{
    io::{Read, Write, copy},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use cofferdam_vault::testing::servers::{Answer, Request, Rogue, Speaks};

/// Listens at one address, and leads to the vault by TLS or to who pretends to be it.
pub(crate) struct Front {
    address: SocketAddr,
    /// Ends TLS before the vault, with a certificate that is trusted.
    vault: Rogue,
    impostor: Arc<AtomicBool>,
}

impl Front {
    pub(crate) fn of(vault: SocketAddr) -> Self {
        let before = Rogue::start(Speaks::Https, move |request| forward(vault, request));
        let other = Rogue::always(Speaks::HttpsOfAnotherAuthority, Answer::json(200, "{}"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let impostor = Arc::new(AtomicBool::new(false));
        let (is_other, to) = (impostor.clone(), before.address());
        // It ends with the process.
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let to = if is_other.load(Ordering::Acquire) { other.address() } else { to };
                let Ok(far) = TcpStream::connect(to) else { continue };
                let (from_near, to_near) = (near.try_clone().unwrap(), near);
                let (from_far, to_far) = (far.try_clone().unwrap(), far);
                thread::spawn(move || pass(from_near, to_far));
                thread::spawn(move || pass(from_far, to_near));
            }
        });
        Self { address, vault: before, impostor }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(crate) fn authority(&self) -> &str {
        self.vault.authority().unwrap()
    }

    /// From now on, another answers in the vault's place, or the vault does again.
    pub(crate) fn pretend(&self, impostor: bool) {
        self.impostor.store(impostor, Ordering::Release);
    }

    /// The requests about keys that came through.
    pub(crate) fn sent(&self) -> usize {
        self.vault.requests().iter().filter(|request| !request.target.starts_with("/v1/auth/")).count()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let _ = copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

/// Asks the vault the same, and answers the same.
fn forward(vault: SocketAddr, request: &Request) -> Answer {
    ask(vault, request).unwrap_or(Answer::Nothing)
}

fn ask(vault: SocketAddr, request: &Request) -> Option<Answer> {
    let mut stream = TcpStream::connect(vault).ok()?;
    let mut head = format!("{} {} HTTP/1.0\r\n", request.method, request.target);
    for (name, value) in request.headers.iter().filter(|(name, _)| name != "connection") {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(&[head.as_bytes(), b"\r\n", &request.body].concat()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let at = answer.windows(4).position(|end| end == b"\r\n\r\n")?;
    let status = std::str::from_utf8(&answer[..at]).ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(Answer::json(status, &answer[at + 4..]))
}
