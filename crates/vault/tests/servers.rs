//! Servers for tests start, do what their tests need of them, and are gone with their guard.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::Arc,
};

use cofferdam_vault::testing::servers::{
    Answer, Azurite, Bao, Gate, Kryoptic, Ministack, Moto, Rogue, SoftHsm, Speaks,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

const GET: &[u8] = b"GET /here?x=1 HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nContent-Length: 4\r\n\r\nbody";

/// All that a server answers to `GET`, without TLS.
fn plain(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(GET).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

/// The same with TLS, trusting what the server says is its authority; an error is the handshake's.
fn tls(rogue: &Rogue) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(rogue.authority().unwrap().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(rogue.address()).unwrap());
    stream.write_all(GET).map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|e| e.to_string())?;
    Ok(String::from_utf8(answer).unwrap())
}

#[test]
fn a_rogue_answers_in_turn_and_keeps_what_it_was_asked() {
    let answers = [Answer::redirect("https://elsewhere.example/"), Answer::throttled(86_400)];
    let rogue = Rogue::in_turn(Speaks::Http, answers);
    assert!(rogue.url().starts_with("http://127.0.0.1:") && rogue.authority().is_none());
    let first = plain(rogue.address());
    assert!(
        first.starts_with("HTTP/1.1 302 ") && first.contains("\r\nLocation: https://elsewhere.example/\r\n")
    );
    for _ in 0..2 {
        let next = plain(rogue.address());
        assert!(next.starts_with("HTTP/1.1 429 ") && next.contains("\r\nRetry-After: 86400\r\n"), "{next}");
        assert!(next.ends_with("\r\n\r\n{}"), "{next}");
    }
    assert_eq!((rogue.asked(), rogue.connections()), (3, 3));
    let asked = &rogue.requests()[0];
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("GET", "/here?x=1"));
    assert_eq!((asked.header("x-one"), asked.body.as_slice()), (Some("1"), &b"body"[..]));
}

#[test]
fn a_rogue_sends_long_bodies_as_far_as_they_are_taken_and_cuts_others_short() {
    for told in [true, false] {
        let rogue = Rogue::always(Speaks::Http, Answer::Long { told, len: 1 << 20 });
        let answer = plain(rogue.address());
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(body.matches('a').count(), 1 << 20, "{told}");
        assert_eq!(rogue.sent(), 1 << 20);
    }
    let cut = Rogue::always(Speaks::Http, Answer::Truncated { body: b"{\"key\":".to_vec(), missing: 5 });
    let answer = plain(cut.address());
    assert!(answer.contains("\r\nContent-Length: 12\r\n") && answer.ends_with("{\"key\":"), "{answer}");
    assert_eq!(plain(Rogue::always(Speaks::Http, Answer::Raw(b"SSH-2.0".to_vec())).address()), "SSH-2.0");
    assert_eq!(plain(Rogue::always(Speaks::Http, Answer::Nothing).address()), "");
}

#[test]
fn a_late_answer_comes_once_its_gate_is_open() {
    let gate = Gate::default();
    let rogue = Rogue::always(Speaks::Http, Answer::Late(gate.clone(), Box::new(Answer::json(200, "{}"))));
    let mut stream = TcpStream::connect(rogue.address()).unwrap();
    stream.write_all(GET).unwrap();
    stream.set_nonblocking(true).unwrap();
    while rogue.asked() == 0 {
        std::thread::yield_now();
    }
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    gate.open();
    stream.set_nonblocking(false).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn a_rogue_whose_answer_is_awaited_still_ends() {
    let rogue = Rogue::always(Speaks::Http, Answer::Late(Gate::default(), Box::new(Answer::Nothing)));
    let mut stream = TcpStream::connect(rogue.address()).unwrap();
    stream.write_all(GET).unwrap();
    while rogue.asked() == 0 {
        std::thread::yield_now();
    }
    let address = rogue.address();
    drop(rogue);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"");
    assert!(TcpStream::connect(address).is_err(), "it listens still");
}

#[test]
fn only_a_right_certificate_is_taken_and_each_other_is_wrong_in_its_own_way() {
    let with = |speaks| Rogue::always(speaks, Answer::json(200, "{}"));
    let right = with(Speaks::Https);
    assert!(right.url().starts_with("https://"));
    assert!(tls(&right).unwrap().ends_with("{}"));
    assert_eq!(right.asked(), 1);
    for (speaks, why) in [
        (Speaks::HttpsOfAnotherAuthority, "UnknownIssuer"),
        (Speaks::HttpsExpired, "expired"),
        (Speaks::HttpsOfAnotherName, "not valid for name"),
    ] {
        let wrong = with(speaks);
        let refused = tls(&wrong).unwrap_err();
        assert!(refused.contains(why), "{speaks:?}: {refused}");
        assert_eq!((wrong.connections(), wrong.asked()), (1, 0), "{speaks:?}");
    }
    let clear = with(Speaks::HttpForHttps);
    assert!(clear.url().starts_with("https://"));
    assert!(plain(clear.address()).starts_with("HTTP/1.1 200 "));
    let mut stream = TcpStream::connect(clear.address()).unwrap();
    stream.write_all(b"\x16\x03\x01\x02\x00\x01").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[test]
fn openbao_in_memory_wraps_and_is_gone_with_its_guard() {
    let Some(bao) = Bao::dev() else { return };
    bao.run(&["secrets", "enable", "transit"]);
    bao.run(&["write", "-f", "transit/keys/k"]);
    let wrapped = bao.run(&["write", "-field=ciphertext", "transit/encrypt/k", "plaintext=AAAA"]);
    assert!(wrapped.starts_with("vault:v1:"), "{wrapped}");
    assert!(bao.try_run(&["read", "transit/keys/unknown"]).is_err());
    let address = bao.address();
    drop(bao);
    assert!(TcpStream::connect(address).is_err(), "it listens still");
}

#[test]
fn openbao_on_disk_is_sealed_killed_and_started_again_and_keeps_its_keys() {
    let Some(bao) = Bao::raft() else { return };
    bao.run(&["secrets", "enable", "transit"]);
    bao.run(&["write", "-f", "transit/keys/k"]);
    bao.seal();
    assert!(bao.try_run(&["read", "transit/keys/k"]).unwrap_err().contains("503"));
    bao.unseal();
    bao.run(&["read", "transit/keys/k"]);
    bao.kill();
    assert!(TcpStream::connect(bao.address()).is_err(), "it listens still");
    bao.restart();
    assert!(bao.try_run(&["read", "transit/keys/k"]).unwrap_err().contains("503"), "it must be sealed");
    bao.unseal();
    bao.run(&["read", "transit/keys/k"]);
}

/// What KMS answers to a request without arguments.
fn kms(url: &str, target: &str) -> String {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "POST / HTTP/1.1\r\nHost: {address}\r\nX-Amz-Target: TrentService.{target}\r\nConnection: close\r\n\
         Content-Type: application/x-amz-json-1.1\r\nAuthorization: AWS4-HMAC-SHA256 \
         Credential=a/20260101/us-east-1/kms/aws4_request, SignedHeaders=host, Signature=0\r\n\
         Content-Length: 2\r\n\r\n{{}}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn both_stand_ins_for_kms_make_keys() {
    let (Some(moto), Some(ministack)) = (Moto::start(), Ministack::start()) else { return };
    for url in [moto.url(), ministack.url()] {
        let made = kms(url, "CreateKey");
        assert!(made.starts_with("HTTP/1.1 200") && made.contains("arn:aws:kms:us-east-1:"), "{url}: {made}");
    }
}

/// The status and the rest of what a server answers to a GET that nobody signed.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn moto_has_the_buckets_that_were_made_in_it_alone() {
    let Some(moto) = Moto::start() else { return };
    let address = moto.url().strip_prefix("http://").unwrap();
    assert!(get(address, "/one").starts_with("HTTP/1.1 404"));
    moto.bucket("one");
    assert!(get(address, "/one").starts_with("HTTP/1.1 200"));
    assert!(get(address, "/two").starts_with("HTTP/1.1 404"));
}

#[test]
fn azurite_has_the_containers_that_were_made_in_it_and_is_gone_with_its_guard() {
    let Some(azurite) = Azurite::start() else { return };
    let address = azurite.url().strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
    azurite.container("one");
    let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| azurite.container("one")));
    assert!(again.is_err(), "a container that is there is not made again");
    let unsigned = get(&address, "/devstoreaccount1/one?restype=container");
    assert!(unsigned.starts_with("HTTP/1.1 4"), "nobody signed that: {unsigned}");
    drop(azurite);
    assert!(TcpStream::connect(address).is_err(), "it listens still");
}

/// What a module says of its slots, in a process of its own.
fn slots(mut util: Command) -> String {
    let output = util.arg("--show-slots").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_process_has_one_token_of_softhsm_that_can_be_taken_out_and_put_back() {
    let Some(token) = SoftHsm::start() else { return };
    assert_eq!(SoftHsm::start().unwrap().token(), token.token());
    assert_eq!(slots(token.util()).matches(token.token()).count(), 1);
    token.remove();
    assert_eq!(slots(token.util()).matches(token.token()).count(), 0);
    token.put_back();
    assert_eq!(slots(token.util()).matches(token.token()).count(), 1);
}

#[test]
fn a_process_has_one_token_of_kryoptic() {
    let Some(token) = Kryoptic::start() else { return };
    let told = slots(token.util());
    assert_eq!(told.matches(token.token()).count(), 1, "{told}");
    assert_eq!(told.matches("Initialized:      yes").count(), 1, "{told}");
}
