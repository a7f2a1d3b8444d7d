//! Who is it? A credential to an identity, or a refusal.
//!
//! `CONNECT ─► **identity** ─► rights, owner of the session`. A name that nobody checked is no identity: rules for users
//! do not apply to it, and it owns no session.

mod tokens;
mod users;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use meridian_mqtt::reason::ReasonCode;
use meridian_mqtt::text::Text;
use parking_lot::RwLock;

pub use tokens::{Demands, Tokens};
pub use users::Users;

/// No connection lasts longer on one token.
const CREDENTIAL_MAX: Duration = Duration::from_secs(365 * 86_400);

/// What CONNECT brings along.
#[derive(Debug, Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// The user that a client certificate names.
    pub certificate: Option<&'a Text>,
    /// The user name.
    pub username: Option<&'a Text>,
    /// The password.
    pub password: Option<&'a Bytes>,
}

/// Who a client is, and what proved it.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// The user, if one was proved.
    pub user: Option<Text>,
    proof: Proof,
}

#[derive(Debug, Clone, Default)]
enum Proof {
    #[default]
    None,
    /// By the password of this hash.
    Password(Arc<str>),
    /// By a certificate, in the handshake.
    Certificate,
    /// By a token.
    Token(Box<tokens::Proved>, Instant),
}

impl Identity {
    /// When what proved it ends by itself.
    #[must_use]
    pub fn expires(&self) -> Option<Instant> {
        match &self.proof {
            Proof::Token(_, expires) => Some(*expires),
            Proof::None | Proof::Password(_) | Proof::Certificate => None,
        }
    }
}

/// Who may connect.
#[derive(Debug, Default)]
pub struct Auth {
    /// A client without a user name is let in.
    allow_anonymous: bool,
    /// `None` without a file.
    users: RwLock<Option<Arc<Users>>>,
    /// `None` without a file.
    tokens: RwLock<Option<Arc<Tokens>>>,
    bind_client_id: bool,
}

impl Auth {
    /// Without a list of users, names are taken as they come wherever anonymous clients are.
    #[must_use]
    pub fn new(allow_anonymous: bool, users: Option<Arc<Users>>) -> Self {
        Auth {
            allow_anonymous,
            users: RwLock::new(users),
            tokens: RwLock::default(),
            bind_client_id: false,
        }
    }

    /// With tokens as passwords, where there is a key set.
    #[must_use]
    pub fn with_tokens(self, tokens: Option<Arc<Tokens>>) -> Self {
        *self.tokens.write() = tokens;
        self
    }

    /// Puts other keys in force. Connections ask [`Auth::holds`].
    pub fn replace_tokens(&self, tokens: Tokens) {
        *self.tokens.write() = Some(Arc::new(tokens));
    }

    /// With client ids bound to credentials: a client's id is its user's name.
    #[must_use]
    pub fn with_bound_client_ids(mut self, bound: bool) -> Self {
        self.bind_client_id = bound;
        self
    }

    /// Puts other users in force. Connections ask [`Auth::holds`].
    pub fn replace_users(&self, users: Users) {
        *self.users.write() = Some(Arc::new(users));
    }

    /// Checks credentials. An unknown user takes as long as a wrong password, and an empty password is wrong.
    ///
    /// # Errors
    /// The reason code for CONNACK.
    pub async fn check(&self, credentials: Credentials<'_>) -> Result<Identity, ReasonCode> {
        let users = self.users.read().clone();
        if let Some(named) = credentials.certificate {
            // The handshake has proved it. A user name may repeat it, and not say another.
            return if credentials
                .username
                .is_none_or(|username| username == named)
            {
                Ok(Identity {
                    user: Some(named.clone()),
                    proof: Proof::Certificate,
                })
            } else {
                Err(ReasonCode::NotAuthorized)
            };
        }
        let tokens = self.tokens.read().clone();
        if let (Some(tokens), Some(password)) = (tokens, credentials.password)
            && Tokens::looks_like_one(password)
        {
            return by_token(&tokens, credentials.username, password);
        }
        let Some(username) = credentials.username else {
            return if self.allow_anonymous {
                Ok(Identity::default())
            } else {
                Err(ReasonCode::NotAuthorized)
            };
        };
        let Some(users) = users else {
            return if self.allow_anonymous {
                // Without a list of users, a name is only a name.
                Ok(Identity::default())
            } else {
                Err(ReasonCode::BadUserNameOrPassword)
            };
        };
        let password = credentials.password.cloned().unwrap_or_default();
        let hash = users.verify(username, password).await;
        let hash = hash.ok_or(ReasonCode::BadUserNameOrPassword)?;
        Ok(Identity {
            user: Some(username.detach()),
            proof: Proof::Password(hash),
        })
    }

    /// The client id that `identity` is bound to, if it is bound.
    ///
    /// # Errors
    /// The reason code for CONNACK: the client `asked` for another one, or nothing proves any.
    pub fn client_id(&self, asked: &Text, identity: &Identity) -> Result<Option<Text>, ReasonCode> {
        match &identity.user {
            // A token may be for one client only.
            _ if let Proof::Token(proved, _) = &identity.proof
                && proved.client_id.as_ref().is_some_and(|id| id != asked) =>
            {
                Err(ReasonCode::NotAuthorized)
            }
            _ if !self.bind_client_id => Ok(None),
            Some(user) if asked.is_empty() || asked == user => Ok(Some(user.clone())),
            Some(_) | None => Err(ReasonCode::NotAuthorized),
        }
    }

    /// Whether what proved `identity` still would.
    #[must_use]
    pub fn holds(&self, identity: &Identity) -> bool {
        match (&identity.proof, &identity.user) {
            (Proof::Password(hash), Some(user)) => {
                let users = self.users.read();
                users.as_ref().is_some_and(|users| users.has(user, hash))
            }
            (Proof::Token(proved, _), _) => {
                let tokens = self.tokens.read();
                tokens
                    .as_ref()
                    .is_some_and(|tokens| tokens.has(&proved.key))
            }
            _ => true,
        }
    }
}

/// A user name, where there is one, must be the token's subject.
fn by_token(
    tokens: &Tokens,
    username: Option<&Text>,
    token: &[u8],
) -> Result<Identity, ReasonCode> {
    let refused = ReasonCode::BadUserNameOrPassword;
    let proved = tokens.verify(token).map_err(|error| {
        tracing::debug!(%error, "A token was refused.");
        refused
    })?;
    if username.is_some_and(|username| !username.is_empty() && *username != proved.user) {
        return Err(refused);
    }
    // A clock that is set meanwhile moves the end no more.
    let left = proved.expires.duration_since(SystemTime::now());
    let expires = Instant::now() + left.map_err(|_| refused)?.min(CREDENTIAL_MAX);
    Ok(Identity {
        user: Some(proved.user.clone()),
        proof: Proof::Token(Box::new(proved), expires),
    })
}

#[cfg(test)]
mod tests;
