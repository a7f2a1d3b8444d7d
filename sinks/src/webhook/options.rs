//! Where requests go, and how they are signed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::address::{Guard, permitted};

/// Where requests go, and how they are signed.
#[derive(Clone)]
pub struct WebhookOptions {
    /// How long one request may take. Default 30s.
    pub timeout: Duration,
    pub(super) url: Uri,
    pub(super) secret: Option<String>,
    ca: Option<PathBuf>,
    /// Where the cursors are kept.
    pub(super) cursors: PathBuf,
}

impl WebhookOptions {
    /// For requests to `url`, with the cursors in the file `cursors`. `secret` signs them; `ca` is a PEM file of the
    /// authorities that are believed instead of the system's.
    ///
    /// # Errors
    /// Says in words what is wrong with the URL.
    pub fn new(
        url: &str,
        secret: Option<String>,
        ca: Option<&Path>,
        cursors: PathBuf,
    ) -> Result<Self, String> {
        let url: Uri = url.parse().map_err(|error| format!("is no URL: {error}"))?;
        if !matches!(url.scheme_str(), Some("http" | "https")) {
            return Err("must begin with https:// or http://".into());
        }
        let host = url.host().filter(|host| !host.is_empty());
        let host = host.ok_or("names no host")?;
        if url.authority().is_some_and(|of| of.as_str().contains('@')) {
            return Err("must hold no password: sign with secret instead".into());
        }
        if let Ok(address) = host.trim_matches(['[', ']']).parse() {
            permitted(host, address).map_err(str::to_owned)?;
        }
        Ok(WebhookOptions {
            timeout: Duration::from_secs(30),
            url,
            secret: secret.filter(|secret| !secret.is_empty()),
            ca: ca.map(Path::to_owned),
            cursors,
        })
    }

    pub(super) fn agent(&self) -> Result<ureq::Agent, String> {
        let mut roots: Vec<Certificate<'static>> = Vec::new();
        match &self.ca {
            Some(path) => {
                let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
                for certificate in
                    CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?
                {
                    let certificate = certificate.map_err(|error| wrong(&error))?;
                    roots.push(Certificate::from_der(&certificate).to_owned());
                }
            }
            None if self.url.scheme_str() == Some("https") => {
                for certificate in rustls_native_certs::load_native_certs().certs {
                    roots.push(Certificate::from_der(&certificate).to_owned());
                }
            }
            None => {}
        }
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // No proxy of the environment: what is connected to is what was looked at.
            .proxy(None)
            .timeout_global(Some(self.timeout))
            .tls_config(tls)
            .user_agent(concat!("meridian/", env!("CARGO_PKG_VERSION")))
            .build();
        let connector = ureq::unversioned::transport::DefaultConnector::default();
        Ok(ureq::Agent::with_parts(config, connector, Guard::default()))
    }
}

impl std::fmt::Debug for WebhookOptions {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookOptions")
            .field("url", &self.url)
            .field("signed", &self.secret.is_some())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_webhook_is_refused_with_words() {
        for url in [
            "file:///etc/passwd",
            "gopher://x",
            "https://",
            "hooks.example/path",
            "http://169.254.169.254/latest/meta-data/",
            "http://[fe80::1]/",
            "https://user:hunter2@hooks.example/",
            "",
        ] {
            let said = WebhookOptions::new(url, None, None, PathBuf::new()).unwrap_err();
            assert!(
                !said.is_empty() && !said.contains("hunter2"),
                "{url}: {said}"
            );
        }
        let fine = WebhookOptions::new(
            "https://hooks.example/a?b=c",
            Some("s3cret".into()),
            None,
            PathBuf::new(),
        );
        assert!(!format!("{:?}", fine.unwrap()).contains("s3cret"));
    }
}
