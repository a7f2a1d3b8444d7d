//! JSON Web Tokens (RFC 7519) that clients bring as passwords, and the keys that they are judged by.
//!
//! The key decides on the algorithm, and never the token: RS256 for RSA keys, ES256 for P-256, EdDSA for Ed25519. A key
//! set with secrets in it is refused, so a token that was signed with a public key taken for a secret finds no key that
//! fits (CVE-2015-9235). A key id is a name in the set and nothing else.

mod verifier;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use meridian_mqtt::text::Text;

/// Bytes of a token: as many as a password may have.
const TOKEN_BYTES_MAX: usize = u16::MAX as usize;

/// The keys, and what a token must say of itself.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    /// By key id, which may be missing if there is one key only.
    keys: HashMap<Option<String>, Key>,
    demands: Demands,
}

/// What a token must say of itself, beside `sub` and `exp`.
#[derive(Debug, Clone, Default)]
pub struct Demands {
    /// `iss`
    pub issuer: Option<String>,
    /// `aud`
    pub audience: Option<String>,
}

#[derive(Clone, Debug)]
struct Key {
    algorithm: Algorithm,
    decoding: Arc<DecodingKey>,
    /// As the set has it, to tell whether it is still the same.
    source: Arc<Jwk>,
}

/// What a token proved.
#[derive(Debug, Clone)]
pub(super) struct Proved {
    /// `sub`
    pub(super) user: Text,
    /// `exp`
    pub(super) expires: SystemTime,
    /// `client_id`: the one client that it is for.
    pub(super) client_id: Option<Text>,
    /// By which key.
    pub(super) key: ProvedBy,
}

/// The key of a token, remembered.
#[derive(Debug, Clone)]
pub(super) struct ProvedBy(Option<String>, Arc<Jwk>);

/// A token that proves nothing; why is for the log, not for the client.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("{0}")]
    Invalid(#[from] jsonwebtoken::errors::Error),
    #[error("no key of this id")]
    UnknownKey,
    #[error("its algorithm is not its key's")]
    Algorithm,
    #[error("its claims are out of range")]
    Claims,
}

#[derive(serde::Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    client_id: Option<String>,
}

impl Tokens {
    /// Reads a key set (RFC 7517 §5).
    ///
    /// # Errors
    /// Names the file, and what is wrong with it.
    pub fn load(path: &Path, demands: Demands) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&text, demands).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Reads the text of a key set.
    ///
    /// # Errors
    /// Says which key is wrong, and why.
    pub fn parse(text: &str, demands: Demands) -> Result<Self, String> {
        verifier::install();
        let set: JwkSet = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let mut keys = HashMap::new();
        let count = set.keys.len();
        for (at, jwk) in set.keys.into_iter().enumerate() {
            let place = |error: &dyn ToString| format!("keys[{at}]: {}", error.to_string());
            let algorithm = algorithm(&jwk).map_err(|error| place(&error))?;
            let decoding = DecodingKey::from_jwk(&jwk).map_err(|error| place(&error))?;
            let id = jwk.common.key_id.clone();
            if id.is_none() && count > 1 {
                return Err(place(&"needs a kid, since it is not the only key"));
            }
            let key = Key {
                algorithm,
                decoding: Arc::new(decoding),
                source: Arc::new(jwk),
            };
            if keys.insert(id, key).is_some() {
                return Err(place(&"its kid is there twice"));
            }
        }
        if keys.is_empty() {
            return Err("there is no key in it".to_owned());
        }
        Ok(Tokens { keys, demands })
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none, and so no token proves anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// What a token must say of itself.
    #[must_use]
    pub fn demands(&self) -> &Demands {
        &self.demands
    }

    /// Whether a password looks like a token: three parts, of which the first begins like `{"`.
    pub(super) fn looks_like_one(password: &[u8]) -> bool {
        password.starts_with(b"eyJ") && password.iter().filter(|byte| **byte == b'.').count() == 2
    }

    /// What `token` proves.
    pub(super) fn verify(&self, token: &[u8]) -> Result<Proved, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Claims);
        }
        let header = decode_header(token)?;
        let (id, key) = match (&header.kid, self.keys.len()) {
            // The only key needs no name.
            (None, 1) => self.keys.iter().next(),
            (None, _) => None,
            (Some(_), _) => self.keys.get_key_value(&header.kid),
        }
        .ok_or(TokenError::UnknownKey)?;
        if header.alg != key.algorithm {
            return Err(TokenError::Algorithm);
        }
        let mut validation = Validation::new(key.algorithm);
        validation.leeway = 0;
        validation.validate_nbf = true;
        validation.validate_aud = self.demands.audience.is_some();
        let mut required = vec!["exp", "sub"];
        if let Some(audience) = &self.demands.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        if let Some(issuer) = &self.demands.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        let claims = decode::<Claims>(token, &key.decoding, &validation)?.claims;
        let text = |claim: String| {
            Text::try_from(claim)
                .ok()
                .filter(|claim| !claim.is_empty())
                .ok_or(TokenError::Claims)
        };
        let expires = Duration::try_from_secs_f64(claims.exp).ok();
        Ok(Proved {
            user: text(claims.sub)?,
            client_id: claims.client_id.map(text).transpose()?,
            expires: expires
                .and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since))
                .ok_or(TokenError::Claims)?,
            key: ProvedBy(id.clone(), Arc::clone(&key.source)),
        })
    }

    /// Whether the key is still there, and the same.
    pub(super) fn has(&self, ProvedBy(id, source): &ProvedBy) -> bool {
        self.keys.get(id).is_some_and(|key| key.source == *source)
    }
}

/// The one algorithm that a key is for.
fn algorithm(jwk: &Jwk) -> Result<Algorithm, String> {
    let (algorithm, names) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        AlgorithmParameters::OctetKey(_) => {
            return Err("a secret is no key for tokens here: whoever checks could sign".to_owned());
        }
        _ => return Err("there are RSA, P-256 and Ed25519 keys".to_owned()),
    };
    match jwk.common.key_algorithm {
        None => Ok(algorithm),
        Some(named) if named == names => Ok(algorithm),
        Some(named) => Err(format!(
            "{named} is no algorithm that is taken for this key"
        )),
    }
}

#[cfg(test)]
mod tests;
