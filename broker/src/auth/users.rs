//! The users file: `[users.NAME] password = "$argon2id$…"`, as `meridian user add` writes it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::PasswordVerifier as _;
use argon2::password_hash::phc::PasswordHash;
use bytes::Bytes;

/// Names with their argon2id hashes, in the PHC string format.
#[derive(Debug, Clone, Default)]
pub struct Users(HashMap<Box<str>, Arc<str>>);

impl Users {
    /// Reads a users file.
    ///
    /// # Errors
    /// Names the file, and what is wrong with it.
    pub fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Reads the text of a users file.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            #[serde(default)]
            users: HashMap<String, User>,
        }
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct User {
            password: String,
        }
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        let user = |(name, user): (String, User)| {
            if user.password.starts_with("$argon2id$") {
                Ok((name.into(), user.password.into()))
            } else {
                Err(format!("the password of {name} is no argon2id hash"))
            }
        };
        Ok(Users(
            file.users.into_iter().map(user).collect::<Result<_, _>>()?,
        ))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `name` still has this hash.
    pub(super) fn has(&self, name: &str, hash: &str) -> bool {
        self.0.get(name).is_some_and(|known| **known == *hash)
    }

    /// The hash that `password` proved, if it is the one of `name`.
    pub(super) async fn verify(&self, name: &str, password: Bytes) -> Option<Arc<str>> {
        let known = self.0.get(name);
        // A name that nobody has costs as much as a wrong password.
        let hash = known.or_else(|| self.0.values().next()).cloned()?;
        let is_known = known.is_some();
        let tried = Arc::clone(&hash);
        // Costly by intent, so not on a thread that serves connections.
        let verified = tokio::task::spawn_blocking(move || {
            let hash = PasswordHash::new(&tried).ok();
            hash.is_some_and(|hash| Argon2::default().verify_password(&password, &hash).is_ok())
                && !password.is_empty()
        })
        .await
        .unwrap_or(false);
        (verified && is_known).then_some(hash)
    }
}
