//! Certificates to a TLS acceptor. TLS 1.3; 1.2 only where it is asked for.
//!
//! The files may change while the node runs: new connections then get the new ones, those that are there stay, and files
//! that do not make a certificate change nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use meridian_mqtt::text::Text;
use parking_lot::RwLock;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use tokio_rustls::TlsAcceptor;

use super::identity::{IdentityField, NamedClients};
use crate::reload::{self, Looks};

/// What is spoken inside, by its ALPN names. A client that offers names, and none of these, is refused (RFC 7301 §3.2): so
/// nobody can make a browser speak with the wrong service (the ALPACA attack). One that offers none is welcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inside {
    /// MQTT. `x-amzn-mqtt-ca` is what clients made for another broker offer.
    Mqtt,
    /// WebSocket.
    WebSocket,
}

/// The files of one listener, PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
    /// With it, clients need a certificate that it signed.
    pub client_ca: Option<PathBuf>,
    /// Revoked client certificates. With it, a certificate whose issuer has no list here is refused.
    pub client_crl: Option<PathBuf>,
    /// What of a client certificate names the user.
    pub identity: IdentityField,
    /// Whether TLS 1.2 is offered too.
    pub tls12: bool,
    /// What is spoken inside.
    pub inside: Inside,
}

impl TlsFiles {
    fn all(&self) -> Vec<PathBuf> {
        [&self.cert, &self.key]
            .into_iter()
            .chain(&self.client_ca)
            .chain(&self.client_crl)
            .cloned()
            .collect()
    }
}

/// Why a listener has no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("{path}: {message}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// Certificate and key.
    #[error("{cert} and {key} do not make a certificate: {message}")]
    Pair {
        /// The chain.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why.
        message: String,
    },
}

/// One listener's TLS, as its files say it at the moment.
pub struct Tls {
    files: TlsFiles,
    look: Looks,
    current: RwLock<Current>,
}

/// What one reading of the files gave.
struct Current {
    acceptor: TlsAcceptor,
    expires_at_s: i64,
}

impl Current {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let chain = certificates(&files.cert)?;
        let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0])
            .map_err(|error| failed(&files.cert, &error))?;
        Ok(Current {
            expires_at_s: leaf.validity().not_after.timestamp(),
            acceptor: acceptor(files, chain)?,
        })
    }
}

impl Tls {
    /// Reads `files`.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let look = reload::look(&files.all());
        let current = RwLock::new(Current::read(&files)?);
        Ok(Tls {
            files,
            look,
            current,
        })
    }

    /// What the files looked like before [`Tls::load`] read them.
    #[must_use]
    pub fn look(&self) -> &Looks {
        &self.look
    }

    /// Reads the files anew, for connections to come.
    ///
    /// # Errors
    /// [`TlsError`]; then everything stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        let new = Current::read(&self.files)?;
        *self.current.write() = new;
        Ok(())
    }

    /// What [`Tls::reload`] reads.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.files.all()
    }

    pub(super) fn current(&self) -> TlsAcceptor {
        self.current.read().acceptor.clone()
    }

    /// When the leaf that is shown now expires, epoch seconds (RFC 5280 §4.1.2.5).
    #[must_use]
    pub fn expires_at_s(&self) -> i64 {
        self.current.read().expires_at_s
    }

    /// The user that the client's certificate names.
    pub(super) fn user(&self, connection: &ServerConnection) -> Option<Text> {
        let certificate = connection.peer_certificates()?.first()?;
        self.files.identity.read(certificate)
    }
}

fn acceptor(
    files: &TlsFiles,
    chain: Vec<CertificateDer<'static>>,
) -> Result<TlsAcceptor, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| failed(&files.key, &error))?;
    let pair = |error: rustls::Error| TlsError::Pair {
        cert: files.cert.clone(),
        key: files.key.clone(),
        message: error.to_string(),
    };
    let versions: &[&rustls::SupportedProtocolVersion] = if files.tls12 {
        &[&rustls::version::TLS13, &rustls::version::TLS12]
    } else {
        &[&rustls::version::TLS13]
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(pair)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|error| failed(path, &error))?;
            }
            let mut verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            if let Some(path) = &files.client_crl {
                verifier = verifier.with_crls(revocations(path)?);
            }
            builder.with_client_cert_verifier(Arc::new(NamedClients {
                inner: verifier.build().map_err(|error| failed(path, &error))?,
                field: files.identity,
            }))
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
    config.alpn_protocols = match files.inside {
        Inside::Mqtt => vec![b"mqtt".to_vec(), b"x-amzn-mqtt-ca".to_vec()],
        Inside::WebSocket => vec![b"http/1.1".to_vec()],
    };
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let read =
        CertificateRevocationListDer::pem_file_iter(path).map_err(|error| failed(path, &error))?;
    let lists: Vec<_> = read
        .collect::<Result<_, _>>()
        .map_err(|error| failed(path, &error))?;
    if lists.is_empty() {
        Err(failed(path, &"there is no revocation list in it"))
    } else {
        Ok(lists)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).map_err(|error| failed(path, &error))?;
    let chain: Vec<_> = read
        .collect::<Result<_, _>>()
        .map_err(|error| failed(path, &error))?;
    if chain.is_empty() {
        Err(failed(path, &"there is no certificate in it"))
    } else {
        Ok(chain)
    }
}

fn failed(path: &Path, message: &dyn ToString) -> TlsError {
    TlsError::File {
        path: path.to_owned(),
        message: message.to_string(),
    }
}
