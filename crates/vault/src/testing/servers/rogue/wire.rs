//! HTTP/1.1 as far as a script needs it.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
};

use rustls::{ServerConnection, StreamOwned};

use super::Answer;

/// More than any client's head.
const MAX_HEAD: usize = 64 << 10;
/// More than any client's body.
const MAX_BODY: usize = 16 << 20;

/// What was asked.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// As `POST`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// A header's first value, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Headers hold tokens.
        write!(f, "{} {} with {} bytes", self.method, self.target, self.body.len())
    }
}

/// A connection, with TLS or without.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Stream {
    pub(super) fn tls(connection: ServerConnection, stream: TcpStream) -> Self {
        Self::Tls(Box::new(StreamOwned::new(connection, stream)))
    }

    /// Ends it, so that the other side sees all that was sent.
    pub(super) fn close(self) {
        let stream = match self {
            Self::Plain(stream) => stream,
            Self::Tls(mut tls) => {
                tls.conn.send_close_notify();
                let _ = tls.flush();
                tls.sock
            }
        };
        let _ = stream.shutdown(Shutdown::Write);
        // What was not read yet would turn the end into a reset, which loses what was sent.
        let _ = io::copy(&mut (&stream).take(MAX_BODY as u64), &mut io::sink());
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buf),
            Self::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(buf),
            Self::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// What came over a connection.
pub(super) enum Came {
    Request(Request),
    /// Something else than HTTP.
    Other,
    /// Not even that much.
    Nothing,
}

/// Reads a whole request.
pub(super) fn read(stream: &mut Stream) -> Came {
    let mut bytes = Vec::new();
    let mut more = |bytes: &mut Vec<u8>| {
        let mut chunk = [0; 8192];
        let read = stream.read(&mut chunk).unwrap_or(0);
        bytes.extend(&chunk[..read]);
        read > 0
    };
    let (mut request, head) = loop {
        match parse(&bytes) {
            Ok(Some(found)) => break found,
            Ok(None) if bytes.len() <= MAX_HEAD => {}
            _ => return Came::Other,
        }
        if !more(&mut bytes) {
            return Came::Nothing;
        }
    };
    let len: usize = request.header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
    while bytes.len() < head + len.min(MAX_BODY) {
        if !more(&mut bytes) {
            return Came::Nothing;
        }
    }
    request.body = bytes.split_off(head);
    Came::Request(request)
}

/// The request without its body, and where that begins; none while the head is not whole.
fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(bytes)? else { return Ok(None) };
    let headers = request
        .headers
        .iter()
        .map(|of| (of.name.to_ascii_lowercase(), String::from_utf8_lossy(of.value).into_owned()));
    let headers = headers.collect();
    let [method, target] = [request.method, request.path].map(|text| text.unwrap_or_default().to_owned());
    Ok(Some((Request { method, target, headers, body: Vec::new() }, head)))
}

/// Sends an answer; what was sent of a long body is added to `sent`.
pub(super) fn write(stream: &mut Stream, answer: &Answer, sent: &AtomicU64) -> io::Result<()> {
    match answer {
        Answer::Of { status, headers, body } => {
            let mut head = format!("HTTP/1.1 {status} As scripted\r\n");
            for (name, value) in headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            head.push_str(&format!("Content-Length: {}\r\nConnection: close\r\n\r\n", body.len()));
            stream.write_all(head.as_bytes())?;
            stream.write_all(body)?;
        }
        Answer::Long { told, len } => long(stream, *told, *len, sent)?,
        Answer::Truncated { body, missing } => {
            let len = body.len() + missing;
            write!(
                stream,
                "HTTP/1.1 200 As scripted\r\nContent-Type: application/json\r\nContent-Length: {len}\r\n\
                 Connection: close\r\n\r\n"
            )?;
            stream.write_all(body)?;
        }
        Answer::Raw(bytes) => stream.write_all(bytes)?,
        Answer::Nothing | Answer::Late(..) => {}
    }
    stream.flush()
}

fn long(stream: &mut Stream, told: bool, len: u64, sent: &AtomicU64) -> io::Result<()> {
    static PIECE: [u8; 64 << 10] = [b'a'; 64 << 10];
    let how = if told { format!("Content-Length: {len}") } else { "Transfer-Encoding: chunked".into() };
    write!(
        stream,
        "HTTP/1.1 200 As scripted\r\nContent-Type: application/json\r\n{how}\r\nConnection: close\r\n\r\n"
    )?;
    let mut left = len;
    while left > 0 {
        let piece = &PIECE[..PIECE.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        if told {
            stream.write_all(piece)?;
        } else {
            write!(stream, "{:x}\r\n", piece.len())?;
            stream.write_all(piece)?;
            stream.write_all(b"\r\n")?;
        }
        left -= piece.len() as u64;
        sent.fetch_add(piece.len() as u64, Ordering::AcqRel);
    }
    if !told {
        stream.write_all(b"0\r\n\r\n")?;
    }
    Ok(())
}
