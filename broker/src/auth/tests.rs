use argon2::Argon2;
use argon2::password_hash::PasswordHasher as _;

use super::*;

fn users(list: &[(&str, &str)]) -> Users {
    let line = |(name, password): &(&str, &str)| {
        let hash = Argon2::default()
            .hash_password(password.as_bytes())
            .unwrap();
        format!("[users.{name}]\npassword = \"{hash}\"\n")
    };
    Users::parse(&list.iter().map(line).collect::<String>()).unwrap()
}

async fn check(
    auth: &Auth,
    name: &'static str,
    password: &'static str,
) -> Result<Identity, ReasonCode> {
    auth.check(Credentials {
        certificate: None,
        username: Some(&Text::from_static(name)),
        password: Some(&Bytes::from_static(password.as_bytes())),
    })
    .await
}

/// S25.
#[tokio::test]
async fn a_password_proves_a_user_and_an_empty_one_nobody() {
    let auth = Auth::new(
        false,
        Some(Arc::new(users(&[("anna", "right"), ("empty", "")]))),
    );
    let identity = check(&auth, "anna", "right").await.unwrap();
    assert_eq!(identity.user.as_deref(), Some("anna"));
    for (name, password) in [
        ("anna", "wrong"),
        ("anna", ""),
        ("empty", ""),
        ("nobody", "right"),
    ] {
        let refused = check(&auth, name, password).await.unwrap_err();
        assert_eq!(refused, ReasonCode::BadUserNameOrPassword, "{name}");
    }
    let nameless = auth.check(Credentials::default()).await.unwrap_err();
    assert_eq!(nameless, ReasonCode::NotAuthorized);
}

#[tokio::test]
async fn a_name_that_nobody_checks_is_no_identity() {
    let identity = check(&Auth::new(true, None), "root", "x").await.unwrap();
    assert_eq!(identity.user, None);
    // A list without anybody is still a list.
    let nobody = Auth::new(true, Some(Arc::default()));
    assert!(check(&nobody, "root", "x").await.is_err());
}

/// S21.
#[tokio::test]
async fn a_password_that_was_changed_or_taken_away_holds_no_longer() {
    let auth = Auth::new(
        true,
        Some(Arc::new(users(&[("anna", "one"), ("bert", "two")]))),
    );
    let anna = check(&auth, "anna", "one").await.unwrap();
    let bert = check(&auth, "bert", "two").await.unwrap();
    let nameless = auth.check(Credentials::default()).await.unwrap();
    auth.replace_users(users(&[("anna", "another")]));
    assert!(!auth.holds(&anna) && !auth.holds(&bert) && auth.holds(&nameless));
}

/// S27: the certificate says who it is, and a user name cannot say otherwise.
#[tokio::test]
async fn a_certificate_proves_a_user_and_no_name_overrides_it() {
    let auth = Auth::new(false, Some(Arc::new(users(&[("anna", "right")]))));
    let (device, anna) = (Text::from_static("device-7"), Text::from_static("anna"));
    let with_name = |username| {
        let right = Bytes::from_static(b"right");
        let (auth, device) = (&auth, &device);
        async move {
            let credentials = Credentials {
                certificate: Some(device),
                username,
                password: Some(&right),
            };
            auth.check(credentials).await
        }
    };
    for name in [None, Some(&device)] {
        let identity = with_name(name).await.unwrap();
        assert_eq!(identity.user.as_deref(), Some("device-7"));
    }
    assert_eq!(
        with_name(Some(&anna)).await.unwrap_err(),
        ReasonCode::NotAuthorized
    );
}

/// S19.
#[test]
fn a_bound_client_id_is_the_users_name_and_nobody_elses() {
    let named = |user| Identity {
        user: Some(Text::from_static(user)),
        proof: Proof::Certificate,
    };
    let id = Text::from_static("truck-7");
    let bound = Auth::default().with_bound_client_ids(true);
    assert_eq!(
        bound.client_id(&id, &named("truck-7")),
        Ok(Some(id.clone()))
    );
    assert_eq!(
        bound.client_id(&Text::from_static(""), &named("truck-7")),
        Ok(Some(id.clone()))
    );
    for stranger in [named("truck-8"), named("truck"), Identity::default()] {
        assert_eq!(
            bound.client_id(&id, &stranger),
            Err(ReasonCode::NotAuthorized)
        );
    }
    assert_eq!(Auth::default().client_id(&id, &named("truck-8")), Ok(None));
}
