use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use serde_json::{Value, json};

use super::*;

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

enum Signer {
    P256(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Signer {
    fn p256() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Signer::P256(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap())
    }
    fn ed() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Signer::Ed(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }
    fn jwk(&self, kid: &str) -> Value {
        match self {
            Signer::P256(key) => {
                let point = key.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": encoded(&point[1..33]), "y": encoded(&point[33..])})
            }
            Signer::Ed(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": encoded(key.public_key())})
            }
        }
    }
    fn token(&self, header: &Value, claims: &Value) -> String {
        let message = format!(
            "{}.{}",
            encoded(header.to_string()),
            encoded(claims.to_string())
        );
        let signature = match self {
            Signer::P256(key) => {
                let signed = key.sign(&SystemRandom::new(), message.as_bytes());
                signed.unwrap().as_ref().to_vec()
            }
            Signer::Ed(key) => key.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", encoded(signature))
    }
}

fn set(keys: &[Value]) -> Tokens {
    Tokens::parse(&json!({ "keys": keys }).to_string(), Demands::default()).unwrap()
}
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs()
}
fn claims() -> Value {
    json!({"sub": "truck-7", "exp": now() + 60})
}
fn user(tokens: &Tokens, token: &str) -> Option<String> {
    let proved = tokens.verify(token.as_bytes()).ok()?;
    Some(proved.user.as_str().to_owned())
}

#[test]
fn a_token_of_a_known_key_proves_its_subject_until_it_expires() {
    let (p256, ed) = (Signer::p256(), Signer::ed());
    let tokens = set(&[p256.jwk("a"), ed.jwk("b")]);
    let by_p256 = p256.token(&json!({"alg": "ES256", "kid": "a"}), &claims());
    let by_ed = ed.token(&json!({"alg": "EdDSA", "kid": "b"}), &claims());
    for token in [by_p256, by_ed] {
        assert!(Tokens::looks_like_one(token.as_bytes()));
        assert_eq!(user(&tokens, &token).as_deref(), Some("truck-7"));
        let proved = tokens.verify(token.as_bytes()).unwrap();
        let left = proved.expires.duration_since(SystemTime::now()).unwrap();
        assert!((50..=60).contains(&left.as_secs()), "{left:?}");
        assert!(tokens.has(&proved.key) && !set(&[Signer::ed().jwk("a")]).has(&proved.key));
    }
}

/// The example of RFC 7515, appendix A.2: a signature that nothing of ours made.
#[test]
fn rs256_is_checked_as_the_rfc_has_it() {
    let n = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
    let token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    let tokens = set(&[json!({"kty": "RSA", "n": n, "e": "AQAB"})]);
    // Its signature is right, and its claims are not ours: it has no subject, and expired in 2011.
    let refused = tokens.verify(token.as_bytes()).unwrap_err().to_string();
    assert!(!refused.contains("InvalidSignature"), "{refused}");
    let forged = token.replacen("cC4h", "cC4i", 1);
    let refused = tokens.verify(forged.as_bytes()).unwrap_err().to_string();
    assert!(refused.contains("InvalidSignature"), "{refused}");
}

/// S26.
#[test]
fn s26_what_attackers_send_proves_nothing() {
    let (ours, theirs) = (Signer::p256(), Signer::p256());
    let tokens = set(&[ours.jwk("a"), Signer::ed().jwk("b")]);
    let header = json!({"alg": "ES256", "kid": "a"});
    let without = |claim: &str| {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(claim);
        claims
    };
    let with = |claim: &str, value: Value| {
        let mut claims = claims();
        claims[claim] = value;
        claims
    };
    let unsigned = format!(
        "{}.{}.",
        encoded(r#"{"alg":"none"}"#),
        encoded(claims().to_string())
    );
    // HS256, with the public key taken for the secret.
    let message = format!(
        "{}.{}",
        encoded(r#"{"alg":"HS256","kid":"a"}"#),
        encoded(claims().to_string())
    );
    let Signer::P256(key) = &ours else {
        unreachable!()
    };
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.public_key().as_ref());
    let confused = format!(
        "{message}.{}",
        encoded(ring::hmac::sign(&secret, message.as_bytes()))
    );
    let refused = [
        ("alg none", unsigned),
        ("HS256 with the public key", confused),
        ("no exp", ours.token(&header, &without("exp"))),
        (
            "exp as text",
            ours.token(&header, &with("exp", json!("9999999999"))),
        ),
        (
            "expired",
            ours.token(&header, &with("exp", json!(now() - 1))),
        ),
        (
            "exp beyond all time",
            ours.token(&header, &with("exp", json!(1e300))),
        ),
        (
            "not yet",
            ours.token(&header, &with("nbf", json!(now() + 3600))),
        ),
        ("no sub", ours.token(&header, &without("sub"))),
        ("empty sub", ours.token(&header, &with("sub", json!("")))),
        (
            "sub with U+0000",
            ours.token(&header, &with("sub", json!("a\u{0}b"))),
        ),
        ("another's key", theirs.token(&header, &claims())),
        (
            "kid of a file",
            ours.token(&json!({"alg": "ES256", "kid": "../../dev/null"}), &claims()),
        ),
        (
            "kid of another key",
            ours.token(&json!({"alg": "ES256", "kid": "b"}), &claims()),
        ),
        (
            "no kid where there are two keys",
            ours.token(&json!({"alg": "ES256"}), &claims()),
        ),
        (
            "its own key",
            theirs.token(
                &json!({"alg": "ES256", "kid": "a", "jwk": theirs.jwk("a")}),
                &claims(),
            ),
        ),
        (
            "another algorithm",
            ours.token(&json!({"alg": "EdDSA", "kid": "a"}), &claims()),
        ),
        ("nothing", "eyJ..".to_owned()),
    ];
    for (what, token) in refused {
        assert_eq!(user(&tokens, &token), None, "{what}");
    }
    assert_eq!(
        user(&tokens, &ours.token(&header, &claims())).as_deref(),
        Some("truck-7")
    );
}

#[test]
fn issuer_and_audience_are_asked_for_where_they_are_demanded() {
    let key = Signer::p256();
    let demands = Demands {
        issuer: Some("us".into()),
        audience: Some("meridian".into()),
    };
    let text = json!({ "keys": [key.jwk("a")] }).to_string();
    let tokens = Tokens::parse(&text, demands).unwrap();
    let token = |more: Value| {
        let mut claims = claims();
        claims
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        key.token(&json!({"alg": "ES256"}), &claims)
    };
    assert!(
        user(
            &tokens,
            &token(json!({"iss": "us", "aud": ["x", "meridian"]}))
        )
        .is_some()
    );
    for wrong in [
        json!({}),
        json!({"iss": "us"}),
        json!({"aud": "meridian"}),
        json!({"iss": "them", "aud": "meridian"}),
        json!({"iss": "us", "aud": "other"}),
    ] {
        assert!(user(&tokens, &token(wrong.clone())).is_none(), "{wrong}");
    }
}

#[test]
fn a_key_set_with_what_is_no_public_key_for_signatures_is_refused() {
    let key = Signer::p256();
    let mut wrong_use = key.jwk("a");
    wrong_use["alg"] = json!("ES384");
    for (keys, word) in [
        (json!([]), "no key"),
        (
            json!([{"kty": "oct", "kid": "a", "k": "c2VjcmV0"}]),
            "secret",
        ),
        (json!([key.jwk("a"), key.jwk("a")]), "twice"),
        (
            json!([{"kty": "EC", "crv": "P-384", "kid": "a", "x": "AA", "y": "AA"}]),
            "P-256",
        ),
        (json!([wrong_use]), "ES384"),
    ] {
        let error =
            Tokens::parse(&json!({ "keys": keys }).to_string(), Demands::default()).unwrap_err();
        assert!(error.contains(word), "{word}: {error}");
    }
}
