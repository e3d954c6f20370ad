//! `vault serve`: says where it is and how to get in, serves until it is told to stop, and is known again.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, ChildStdout},
    sync::Arc,
};

use cofferdam_vault::testing::servers::SoftHsm;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};

use crate::common::{Home, code, signal};

pub(crate) struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
    said: Value,
}

impl Server {
    pub(crate) fn start(home: &Home, more: &[&str]) -> Self {
        let arguments = ["--json", "vault", "serve", "--listen", "127.0.0.1:0"];
        let mut child = home.spawn(home.command().args(arguments).args(more));
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        Self { child, stdout, said: serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}")) }
    }

    pub(crate) fn says(&self, what: &str) -> &str {
        self.said[what].as_str().unwrap()
    }

    /// Asks one thing over a connection of its own; answers with status and body.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, Value) {
        let mut roots = rustls::RootCertStore::empty();
        let authority = fs::read(self.says("authority_file")).unwrap();
        roots.add(CertificateDer::from_pem_slice(&authority).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
        let address = self.says("url").strip_prefix("https://").unwrap();
        let connection =
            rustls::ClientConnection::new(Arc::new(config), "127.0.0.1".try_into().unwrap()).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, TcpStream::connect(address).unwrap());
        let len = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}content-length: {len}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = Vec::new();
        // Whether the end is announced is TLS's affair.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn token(&self) -> String {
        let secret = fs::read_to_string(self.says("client_secret_file")).unwrap();
        let client = self.says("client_id");
        let form = format!(
            "grant_type=client_credentials&client_id={client}&client_secret={secret}\
             &scope=https%3A%2F%2Fvault.azure.net%2F.default"
        );
        let path = self.says("token_url").strip_prefix(self.says("url")).unwrap().to_owned();
        let (status, answer) =
            self.ask("POST", &path, "content-type: application/x-www-form-urlencoded\r\n", &form);
        assert_eq!(status, 200, "{answer}");
        answer["access_token"].as_str().unwrap().to_owned()
    }

    /// Asks it to end; its exit code, and what else it said.
    pub(crate) fn stop(mut self, name: &str) -> (i32, String) {
        signal(&self.child, name);
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (code(self.child.wait().unwrap()), rest)
    }
}

#[test]
fn it_serves_the_homes_vault_until_it_is_told_to_stop_and_is_known_again() {
    let home = Home::new();
    let local =
        home.run(["vault", "create-key", "k", "--kind", "rsa-2048"]).succeeds().text().trim().to_owned();
    let version = local.rsplit('/').next().unwrap().to_owned();
    let server = Server::start(&home, &[]);
    let bearer = |server: &Server| format!("authorization: Bearer {}\r\n", server.token());
    let authority = fs::read(server.says("authority_file")).unwrap();

    let path = format!("/keys/k/{version}?api-version=7.4");
    assert_eq!(server.ask("GET", &path, "", "").0, 401);
    let with = bearer(&server);
    let (status, key) = server.ask("GET", &path, &with, "");
    assert_eq!(status, 200, "{key}");
    assert_eq!(key["key"]["kid"], format!("{}/keys/k/{version}", server.says("url")));
    assert_eq!(key["attributes"]["recoveryLevel"], "Recoverable");

    // What the program does is felt by the server, and the other way round.
    let wrap = format!("/keys/k/{version}/wrapkey?api-version=7.4");
    let value = json!({ "alg": "RSA-OAEP-256", "value": "AAECAwQFBgcICQoLDA0ODw" }).to_string();
    assert_eq!(server.ask("POST", &wrap, &with, &value).0, 200);
    home.run(["vault", "disable", &local]).succeeds();
    let (status, refused) = server.ask("POST", &wrap, &with, &value);
    assert_eq!((status, &refused["error"]["innererror"]["code"]), (403, &json!("KeyDisabled")));
    let (status, _) = server.ask("PATCH", &path, &with, r#"{"attributes":{"enabled":true}}"#);
    assert_eq!(status, 200);
    assert!(home.run(["vault", "list"]).succeeds().text().contains(&format!("{local} enabled")));
    home.run(["vault", "offline"]).succeeds();
    assert_eq!(server.ask("POST", &wrap, &with, &value).0, 503);
    home.run(["vault", "online"]).succeeds();

    let (exit, rest) = server.stop("TERM");
    assert_eq!((exit, rest.as_str()), (0, ""));
    let again = Server::start(&home, &[]);
    assert_eq!(fs::read(again.says("authority_file")).unwrap(), authority);
    assert_eq!(again.ask("GET", &path, &bearer(&again), "").0, 200);
    // Tokens end with the process that gave them.
    assert_eq!(again.ask("GET", &path, &with, "").0, 401);
    assert_eq!(again.stop("INT").0, 0);
}

#[test]
fn what_it_prints_and_keeps_holds_no_secret_and_a_taken_port_is_said() {
    let home = Home::new();
    let server = Server::start(&home, &["--no-purge-protection", "--token-time", "10m"]);
    let secret = fs::read_to_string(server.says("client_secret_file")).unwrap();
    assert!(secret.len() == 43 && !server.said.to_string().contains(&secret));
    let with = format!("authorization: Bearer {}\r\n", server.token());
    let (status, key) = server.ask("POST", "/keys/new/create?api-version=7.4", &with, r#"{"kty":"oct-HSM"}"#);
    assert_eq!((status, &key["attributes"]["recoveryLevel"]), (200, &json!("Recoverable+Purgeable")));
    let address = server.says("url").strip_prefix("https://").unwrap().to_owned();
    home.run(["vault", "serve", "--listen", &address]).fails(1, "can't listen on");
    home.run(["vault", "serve", "--listen", "nowhere"]).fails(2, "");
    home.run(["vault", "serve", "--host", "a b"]).fails(2, "");
    let mut child = server.child;
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn it_serves_a_token_of_the_file_of_vaults() {
    let Some(hsm) = SoftHsm::start() else { return };
    let home = Home::new();
    let file = home.folder.path().join("vaults.toml");
    fs::write(home.folder.path().join("pin"), hsm.pin()).unwrap();
    let text = format!(
        "[vaults.own]\nkind = \"local\"\n[vaults.hsm]\nkind = \"pkcs11\"\nlibrary = \"{}\"\ntoken = \"{}\"\n\
         pin = {{ file = \"pin\" }}\nrecoverable = true\n[principals.customer]\nvaults = [\"own\"]\n",
        hsm.module().display(),
        hsm.token()
    );
    fs::write(&file, text).unwrap();
    let config = file.to_str().unwrap();
    let serve = |name| ["vault", "serve", "--vault", name, "--vault-config", config];
    home.run(["vault", "serve", "--vault", "hsm"]).fails(2, "--vault-config");
    home.run(serve("own")).fails(2, "only a token");
    home.run(serve("gone")).fails(2, "there is no [vaults.gone]");

    let server = Server::start(&home, &serve("hsm")[2..]);
    let with = format!("authorization: Bearer {}\r\n", server.token());
    let (status, key) =
        server.ask("POST", "/keys/by-the-server/create?api-version=7.4", &with, r#"{"kty":"oct-HSM"}"#);
    assert_eq!((status, &key["attributes"]["recoveryLevel"]), (200, &json!("Recoverable")), "{key}");
    let kid = key["key"]["kid"].as_str().unwrap();
    let path = kid.strip_prefix(server.says("url")).unwrap();
    let post = |operation: &str, value: &Value| {
        let body = json!({ "alg": "A256KW", "value": value }).to_string();
        server.ask("POST", &format!("{path}/{operation}?api-version=7.4"), &with, &body)
    };
    let secret = json!("A".repeat(43));
    let (status, wrapped) = post("wrapkey", &secret);
    assert_eq!((status, &wrapped["kid"]), (200, &json!(kid)), "{wrapped}");
    let (status, unwrapped) = post("unwrapkey", &wrapped["value"]);
    assert_eq!((status, &unwrapped["value"]), (200, &secret), "{unwrapped}");
    // Nothing brings back what a token deleted.
    assert_eq!(server.ask("DELETE", "/keys/by-the-server?api-version=7.4", &with, "").0, 400);
    assert_eq!(server.stop("TERM").0, 0);
}
