//! Where the database is, and how its tables are kept.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

/// Where the database is, and how its tables are kept.
#[derive(Debug, Clone)]
pub struct TimescaleOptions {
    /// The sink's name: it owns the cursors that bear it.
    pub sink: String,
    /// How long a connect, and then a statement, may take. Default 30s.
    pub timeout: Duration,
    /// With TimescaleDB: chunks older than this are compressed. Default 7d.
    pub compress_after: Option<Duration>,
    /// With TimescaleDB: chunks older than this are dropped. Default never.
    pub retention: Option<Duration>,
    pub(super) server: Config,
    /// PEM file of the authorities that are believed; `None` believes the system's.
    ca: Option<PathBuf>,
}

impl TimescaleOptions {
    /// For a database that `url` names: `postgres://user:password@host:5432/database?sslmode=require`, or
    /// `host=/run/postgresql dbname=…`. TLS is always verified, so `require` means what others call `verify-full`.
    ///
    /// # Errors
    /// Says in words what is wrong, without the password.
    pub fn new(sink: &str, url: &str, ca: Option<&Path>) -> Result<Self, String> {
        // Both ask for what `require` does here.
        let url = url
            .replace("sslmode=verify-full", "sslmode=require")
            .replace("sslmode=verify-ca", "sslmode=require");
        if url.contains("sslrootcert") {
            return Err("write ca = \"FILE\" beside the URL instead of sslrootcert".into());
        }
        let mut server: Config = url.parse().map_err(|error: tokio_postgres::Error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            format!(
                "is no PostgreSQL URL: {}",
                cause.unwrap_or_else(|| error.to_string())
            )
        })?;
        if server.get_hosts().is_empty() && server.get_hostaddrs().is_empty() {
            return Err("names no host: write postgres://user@host/database".into());
        }
        if server.get_ssl_mode() != SslMode::Disable && server.get_ssl_mode() != SslMode::Require {
            if !is_local(&server) {
                return Err(
                    "leaves this machine: say sslmode=require, or sslmode=disable if the network between is yours"
                        .into(),
                );
            }
            server.ssl_mode(SslMode::Disable);
        }
        if server.get_user().is_none() {
            return Err("names no user: write postgres://user@host/database".into());
        }
        server.application_name("meridian");
        Ok(TimescaleOptions {
            sink: sink.to_owned(),
            timeout: Duration::from_secs(30),
            compress_after: Some(Duration::from_secs(7 * 86_400)),
            retention: None,
            server,
            ca: ca.map(Path::to_owned),
        })
    }

    /// Reads the authorities; `None` if the connection is to be in the clear.
    pub(super) fn tls(&self) -> Result<Option<ClientConfig>, String> {
        if self.server.get_ssl_mode() == SslMode::Disable {
            return Ok(None);
        }
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
                for certificate in
                    CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?
                {
                    let certificate = certificate.map_err(|error| wrong(&error))?;
                    roots.add(certificate).map_err(|error| wrong(&error))?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
            }
        }
        if roots.is_empty() {
            return Err("no certificate authority is known: name a PEM file with ca".into());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Some(tls))
    }
}

/// Whether the way to the server stays on this machine.
fn is_local(server: &Config) -> bool {
    let names = server.get_hosts().iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
        }
    });
    let addresses = server.get_hostaddrs();
    addresses.iter().all(IpAddr::is_loopback) && (names || !addresses.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<TimescaleOptions, String> {
        TimescaleOptions::new("history", url, None)
    }

    #[test]
    fn on_this_machine_it_goes_in_the_clear() {
        for url in [
            "postgres://meridian@127.0.0.1/meridian",
            "postgresql://meridian:secret@localhost:5433/meridian",
            "host=/run/postgresql user=meridian dbname=meridian",
            "postgres://meridian@db.example/meridian?sslmode=disable",
        ] {
            assert!(read(url).unwrap().tls().unwrap().is_none(), "{url}");
        }
    }

    #[test]
    fn off_this_machine_one_says_what_is_meant() {
        assert!(
            read("postgres://meridian@db.example/meridian")
                .unwrap_err()
                .contains("sslmode=require")
        );
        for mode in ["require", "verify-full", "verify-ca"] {
            let url = format!("postgres://m@db.example/m?sslmode={mode}");
            assert_eq!(
                read(&url).unwrap().server.get_ssl_mode(),
                SslMode::Require,
                "{mode}"
            );
        }
    }

    #[test]
    fn what_is_no_url_says_so_and_keeps_the_password() {
        for url in [
            "mysql://me:hunter2@127.0.0.1/x",
            "postgres://me:hunter2@127.0.0.1/x?sslmode=perhaps",
            "postgres://me:hunter2@127.0.0.1/x?sslrootcert=a.pem",
            "postgres://me:hunter2@db.example/x",
            "postgres:///x",
            "",
        ] {
            let said = read(url).unwrap_err();
            assert!(!said.is_empty() && !said.contains("hunter2"), "{said}");
        }
        let debug = format!("{:?}", read("postgres://me:hunter2@127.0.0.1/x").unwrap());
        assert!(!debug.contains("hunter2"), "{debug}");
    }
}
