//! `vault serve`: the customer's vault, or a token, behind Azure Key Vault's REST API.
//!
//! It takes no lock of the home's, so a writer can use the home meanwhile, and feels what the server's clients do.

use std::{fmt, sync::Arc, time::Duration};

use cofferdam_vault::{
    LocalVault, Recovery,
    serve::{KeyStoreBackend, KeyVaultServer, Permission, ServerOptions},
};
use serde::Serialize;

use crate::{
    cli::Serve,
    error::CliError,
    home::Home,
    output::{Output, note},
    signals::Interrupt,
};

/// The one client: all that it may do, it may.
const CLIENT: &str = "22222222-2222-2222-2222-222222222222";

/// How long requests may take to end once it was told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Where it is, and how to get in.
#[derive(Serialize)]
struct Serving {
    /// Whose keys these are.
    vault: String,
    url: String,
    authority_file: String,
    tenant: String,
    client_id: &'static str,
    client_secret_file: String,
    token_url: String,
}

impl fmt::Display for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vault, url, authority_file, tenant, client_id, client_secret_file, token_url } = self;
        writeln!(f, "Serving {vault} at {url}")?;
        writeln!(f, "Authority to trust  {authority_file}")?;
        writeln!(f, "Tenant              {tenant}")?;
        writeln!(f, "Client              {client_id}")?;
        writeln!(f, "Client's secret in  {client_secret_file}")?;
        write!(
            f,
            "A token, by curl    curl --cacert '{authority_file}' -d grant_type=client_credentials -d client_id={client_id} \
             --data-urlencode 'client_secret@{client_secret_file}' -d scope=https://vault.azure.net/.default {token_url}"
        )
    }
}

pub(super) async fn run(
    home: &Home,
    vault: LocalVault,
    args: Serve,
    output: &mut Output,
) -> Result<(), CliError> {
    #[cfg(feature = "pkcs11")]
    let served = args.vault;
    #[cfg(not(feature = "pkcs11"))]
    let served = None::<String>;
    // Before it says that it serves: whoever has read that may stop it.
    let interrupt = Interrupt::listen()?;
    let host = args.host.unwrap_or_else(|| match args.listen {
        std::net::SocketAddr::V4(address) => address.ip().to_string(),
        std::net::SocketAddr::V6(address) => format!("[{}]", address.ip()),
    });
    let serving = home.serving(&host)?;
    let mut options = ServerOptions::default();
    options.listen = args.listen;
    options.host = Some(host);
    options.token_lifetime = args.token_time;
    options.certificate = Some(serving.certificate);
    if args.no_purge_protection {
        options.recovery = Recovery::Purgeable;
    }
    if !args.listen.ip().is_loopback() {
        note(format_args!(
            "warning: {} is not a loopback address, so others can reach this server; it is for development",
            args.listen
        ));
    }
    let of =
        served.as_ref().map_or_else(|| "the customer's vault".to_owned(), |name| format!("the vault {name}"));
    let keys: Arc<dyn KeyStoreBackend> = match served {
        #[cfg(feature = "pkcs11")]
        Some(name) => Arc::new(home.token(&name).await?),
        _ => Arc::new(vault),
    };
    let server = KeyVaultServer::start(keys, options).await?;
    server.add_client_with(CLIENT, &serving.secret, &Permission::ALL);
    output.emit(&Serving {
        vault: of,
        url: server.url().to_owned(),
        authority_file: serving.authority_file.display().to_string(),
        tenant: server.tenant().to_owned(),
        client_id: CLIENT,
        client_secret_file: serving.secret_file.display().to_string(),
        token_url: server.token_url(),
    })?;
    output.flush()?;
    interrupt.wait().await;
    Ok(server.stop(GRACE).await?)
}
