//! Mutual TLS 1.3 between nodes.
//!
//! A peer's certificate must chain to the cluster's CA **and** carry the DNS name `<cluster>.meridian` among its subject
//! alternative names, whichever side dialled. So nodes of two clusters under one CA cannot take each other for theirs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Where a node's certificate, its key and the cluster's CA are, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportTls {
    /// The node's certificate, for client **and** server authentication, then what leads to the CA.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Whom peers must descend from.
    pub ca: PathBuf,
}

/// Why the files do not make a configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read, or is no PEM of its kind.
    #[error("{path} cannot be used: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// In the reader's words.
        reason: String,
    },
    /// They do not fit each other.
    #[error("the certificate, its key and the CA do not make a TLS identity: {reason}")]
    Identity {
        /// In the library's words.
        reason: String,
    },
    /// It cannot be in a certificate.
    #[error(
        "{cluster:?} cannot be a cluster's name with TLS: it has to be one label of a DNS name \
         (letters, digits and inner hyphens, at most 63), because certificates carry `<cluster>.meridian`"
    )]
    Cluster {
        /// The name.
        cluster: String,
    },
}

#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) connector: TlsConnector,
    pub(crate) name: ServerName<'static>,
}

impl Tls {
    pub(crate) fn load(files: &TransportTls, cluster: &str) -> Result<Tls, TlsError> {
        let not_a_name = || TlsError::Cluster {
            cluster: cluster.to_owned(),
        };
        if cluster.contains('.') {
            return Err(not_a_name());
        }
        let name = ServerName::try_from(format!("{cluster}.meridian")).map_err(|_| not_a_name())?;
        let chain = certificates(&files.cert)?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| file(&files.key, &e))?;
        let mut roots = RootCertStore::empty();
        for root in certificates(&files.ca)? {
            roots.add(root).map_err(|e| file(&files.ca, &e))?;
        }
        let roots = Arc::new(roots);
        let identity = |error: &dyn ToString| TlsError::Identity {
            reason: error.to_string(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let only = [&rustls::version::TLS13];
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(|e| identity(&e))?;
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&only)
            .map_err(|e| identity(&e))?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|e| identity(&e))?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&only)
            .map_err(|e| identity(&e))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|e| identity(&e))?;
        Ok(Tls {
            acceptor: Arc::new(server).into(),
            connector: Arc::new(client).into(),
            name,
        })
    }

    /// Whether a client's certificate, whose chain was verified, is of this cluster. A server's was checked by name.
    pub(crate) fn is_ours(&self, chain: Option<&[CertificateDer<'_>]>) -> bool {
        let Some(certificate) = chain.and_then(<[_]>::first) else {
            return false;
        };
        ParsedCertificate::try_from(certificate)
            .and_then(|certificate| verify_server_name(&certificate, &self.name))
            .is_ok()
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| file(path, &error))?;
    if found.is_empty() {
        return Err(file(path, &"it holds no certificate"));
    }
    Ok(found)
}

fn file(path: &Path, error: &dyn ToString) -> TlsError {
    TlsError::File {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}
