//! Tokens as passwords, made by ring here and checked there.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meridian_mqtt::packet::{QoS, Version};
use meridian_mqtt::reason::ReasonCode;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::support::Broker;
use crate::support::client::{Client, Login};

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

struct Issuer(EcdsaKeyPair);

impl Issuer {
    fn new() -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Issuer(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap())
    }
    fn keys(&self) -> String {
        let point = self.0.public_key().as_ref();
        let key = json!({"kty": "EC", "crv": "P-256", "kid": "k", "x": encoded(&point[1..33]), "y": encoded(&point[33..])});
        json!({ "keys": [key] }).to_string()
    }
    fn token(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": "k"});
        let message = format!(
            "{}.{}",
            encoded(header.to_string()),
            encoded(claims.to_string())
        );
        let signature = self
            .0
            .sign(&SystemRandom::new(), message.as_bytes())
            .unwrap();
        format!("{message}.{}", encoded(signature))
    }
}

fn in_seconds(seconds: u64) -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs() + seconds
}

#[test]
fn s26_a_token_proves_its_subject_as_long_as_it_lasts_and_its_key_is_there() {
    let issuer = Issuer::new();
    let folder = tempfile::tempdir().unwrap();
    let (keys, acl) = (
        folder.path().join("keys.json"),
        folder.path().join("acl.toml"),
    );
    std::fs::write(&keys, issuer.keys()).unwrap();
    std::fs::write(
        &acl,
        "[[rule]]\nusers = [\"truck-7\"]\nsubscribe = [\"cmd/%u/#\"]",
    )
    .unwrap();
    let broker = Broker::start(&format!(
        "[auth]\nallow_anonymous = false\njwt_keys = {keys:?}\njwt_audience = \"meridian\"\nacl_file = {acl:?}\n"
    ));
    let login = |id: &str, user: &str, token: &str| {
        let mut client = Client::tcp(broker.mqtt, Version::V5);
        (client.login(Login::with(id, user, token)).reason, client)
    };
    let claims = |seconds| json!({"sub": "truck-7", "aud": "meridian", "exp": in_seconds(seconds)});
    let lasting = issuer.token(&claims(3600));
    let (reason, mut client) = login("a", "truck-7", &lasting);
    assert_eq!(reason, ReasonCode::Success);
    let asked = ["cmd/truck-7/#", "cmd/truck-8/#"];
    let answers = [ReasonCode::Success, ReasonCode::NotAuthorized];
    assert_eq!(client.subscribe(&asked, QoS::AtMostOnce), answers);
    let wrong = ReasonCode::BadUserNameOrPassword;
    assert_eq!(
        login("b", "truck-8", &lasting).0,
        wrong,
        "its subject is another"
    );
    assert_eq!(
        login("b", "truck-7", &Issuer::new().token(&claims(3600))).0,
        wrong
    );
    assert_eq!(login("b", "truck-7", "password").0, wrong);
    let mut for_another = claims(3600);
    for_another["aud"] = json!("elsewhere");
    assert_eq!(login("b", "truck-7", &issuer.token(&for_another)).0, wrong);
    let mut bound = claims(3600);
    bound["client_id"] = json!("c");
    assert_eq!(
        login("c", "truck-7", &issuer.token(&bound)).0,
        ReasonCode::Success
    );
    assert_eq!(
        login("d", "truck-7", &issuer.token(&bound)).0,
        ReasonCode::NotAuthorized
    );

    let (reason, mut short) = login("short", "truck-7", &issuer.token(&claims(3)));
    assert_eq!(reason, ReasonCode::Success);
    let expired = short.farewell(Duration::from_secs(8));
    assert_eq!(expired, Some(Some(ReasonCode::NotAuthorized)));
    // The key is exchanged.
    std::fs::write(&keys, Issuer::new().keys()).unwrap();
    let gone = client.farewell(Duration::from_secs(5));
    assert_eq!(gone, Some(Some(ReasonCode::NotAuthorized)));
    assert_eq!(login("a", "truck-7", &lasting).0, wrong);
}
