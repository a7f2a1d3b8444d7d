//! Who may connect.

use std::collections::HashMap;
use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::PasswordVerifier as _;
use argon2::password_hash::phc::PasswordHash;
use bytes::Bytes;
use meridian_mqtt::reason::ReasonCode;
use meridian_mqtt::text::Text;

/// Users by name with their argon2id hashes, and whether one may come without a name.
#[derive(Debug, Clone, Default)]
pub struct Auth {
    /// A client without a user name is let in.
    pub allow_anonymous: bool,
    /// Name to hash, in the PHC string format.
    pub users: Arc<HashMap<String, String>>,
}

impl Auth {
    /// Checks credentials. An unknown user takes as long as a wrong password, and an empty password is wrong.
    ///
    /// # Errors
    /// The reason code for CONNACK.
    pub async fn check(
        &self,
        username: Option<&Text>,
        password: Option<&Bytes>,
    ) -> Result<(), ReasonCode> {
        let Some(username) = username else {
            return if self.allow_anonymous {
                Ok(())
            } else {
                Err(ReasonCode::NotAuthorized)
            };
        };
        if self.users.is_empty() && self.allow_anonymous {
            // Without a list of users, a name is only a name.
            return Ok(());
        }
        let any = self.users.values().next().cloned();
        let Some(hash) = self.users.get(username.as_str()).cloned().or(any) else {
            return Err(ReasonCode::BadUserNameOrPassword);
        };
        let known = self.users.contains_key(username.as_str());
        let password = password.cloned().unwrap_or_default();
        // Costly by intent, so not on a thread that serves connections.
        let verified = tokio::task::spawn_blocking(move || {
            let hash = PasswordHash::new(&hash).ok();
            hash.is_some_and(|hash| Argon2::default().verify_password(&password, &hash).is_ok())
                && !password.is_empty()
        })
        .await
        .unwrap_or(false);
        if verified && known {
            Ok(())
        } else {
            Err(ReasonCode::BadUserNameOrPassword)
        }
    }
}
