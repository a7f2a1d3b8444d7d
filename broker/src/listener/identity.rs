//! Who is it, by its certificate? One defined field, taken as it stands.
//!
//! A field that is there twice, is empty, holds U+0000 or is no UTF-8 names nobody (CN `device-7\0.evil`), and the handshake
//! ends with an alert.

use std::sync::Arc;

use meridian_mqtt::text::Text;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use x509_parser::asn1_rs::Tag;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The field of a client certificate that names the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityField {
    /// None: a certificate lets in, and a password or token says who it is.
    Off,
    /// The common name of the subject.
    CommonName,
    /// The subject alternative name of type DNS.
    SanDns,
    /// The subject alternative name of type URI.
    SanUri,
}

impl IdentityField {
    /// By its name in the configuration.
    ///
    /// # Errors
    /// Names those that there are.
    pub fn named(name: &str) -> Result<Self, String> {
        match name {
            "off" => Ok(Self::Off),
            "cn" => Ok(Self::CommonName),
            "san_dns" => Ok(Self::SanDns),
            "san_uri" => Ok(Self::SanUri),
            other => Err(format!(
                "`{other}` is no field: write cn, san_dns, san_uri or off"
            )),
        }
    }

    /// The user that `certificate` names; `None` if it names none, or not exactly one.
    #[must_use]
    pub fn read(self, certificate: &CertificateDer<'_>) -> Option<Text> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let names: Vec<Option<&[u8]>> = match self {
            Self::Off => return None,
            Self::CommonName => {
                let names = parsed.subject().iter_common_name();
                let name = names.map(|name| {
                    let value = name.attr_value();
                    // The types whose bytes are UTF-8 (RFC 5280 §4.1.2.4).
                    [Tag::Utf8String, Tag::PrintableString]
                        .contains(&value.tag())
                        .then_some(value.data)
                });
                name.collect()
            }
            Self::SanDns | Self::SanUri => {
                let names = parsed.subject_alternative_name().ok()??;
                let name = |name: &GeneralName<'_>| matches!(name, GeneralName::Invalid(..));
                if names.value.general_names.iter().any(name) {
                    return None;
                }
                let names = names.value.general_names.iter();
                names
                    .filter_map(|name| match (self, name) {
                        (Self::SanDns, GeneralName::DNSName(name))
                        | (Self::SanUri, GeneralName::URI(name)) => Some(Some(name.as_bytes())),
                        _ => None,
                    })
                    .collect()
            }
        };
        let [Some(name)] = names[..] else { return None };
        let name = Text::new(bytes::Bytes::copy_from_slice(name)).ok()?;
        (!name.is_empty()).then_some(name)
    }
}

/// A verifier that also wants the certificate to name a user.
#[derive(Debug)]
pub(super) struct NamedClients {
    pub(super) inner: Arc<dyn ClientCertVerifier>,
    pub(super) field: IdentityField,
}

impl ClientCertVerifier for NamedClients {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .inner
            .verify_client_cert(end_entity, intermediates, now)?;
        if self.field != IdentityField::Off && self.field.read(end_entity).is_none() {
            // The alert is access_denied.
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(verified)
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }
    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signed)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType};

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }
    fn common_name(value: DnValue) -> CertificateDer<'static> {
        certificate(|params| params.distinguished_name.push(DnType::CommonName, value))
    }
    fn read(field: IdentityField, certificate: &CertificateDer<'_>) -> Option<String> {
        field.read(certificate).map(|name| name.as_str().to_owned())
    }

    /// S27.
    #[test]
    fn the_common_name_is_taken_as_it_stands_or_not_at_all() {
        let field = IdentityField::CommonName;
        for name in ["device-7", "a/b", "gerät-ß", "+", " device-7 ", "DEVICE-7"] {
            let made = common_name(DnValue::Utf8String(name.to_owned()));
            assert_eq!(read(field, &made).as_deref(), Some(name));
        }
        for name in ["device-7\0.evil", ""] {
            let made = common_name(DnValue::Utf8String(name.to_owned()));
            assert_eq!(read(field, &made), None, "{name:?}");
        }
        let wide = rcgen::string::BmpString::try_from("device-7").unwrap();
        assert_eq!(read(field, &common_name(DnValue::BmpString(wide))), None);
        assert_eq!(read(field, &certificate(|_| ())), None);
    }

    /// S27: what stands in another field is nobody's name.
    #[test]
    fn only_the_field_that_was_asked_for_counts() {
        let made = certificate(|params| {
            params
                .distinguished_name
                .push(DnType::CommonName, DnValue::Utf8String("cn-name".into()));
            params.subject_alt_names = vec![
                SanType::DnsName("dns-name".try_into().unwrap()),
                SanType::URI("urn:dev:7".try_into().unwrap()),
            ];
        });
        assert_eq!(
            read(IdentityField::CommonName, &made).as_deref(),
            Some("cn-name")
        );
        assert_eq!(
            read(IdentityField::SanDns, &made).as_deref(),
            Some("dns-name")
        );
        assert_eq!(
            read(IdentityField::SanUri, &made).as_deref(),
            Some("urn:dev:7")
        );
        let two = certificate(|params| {
            params.subject_alt_names = vec![
                SanType::DnsName("a".try_into().unwrap()),
                SanType::DnsName("b".try_into().unwrap()),
            ];
        });
        assert_eq!(
            read(IdentityField::SanDns, &two),
            None,
            "two names are none"
        );
        assert_eq!(read(IdentityField::SanUri, &two), None);
    }
}
