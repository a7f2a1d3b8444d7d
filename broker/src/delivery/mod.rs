//! Committed events to those who are to get them.

mod dispatch;
mod errands;
mod handover;
mod mailbox;
mod routes;

pub use dispatch::{Dispatch, ShardEffects};
pub use errands::{Errand, Errands, run as run_errands};
pub use handover::run as run_handover;
pub use mailbox::{
    Mail, MailboxLimits, Persistent, SENT_UNKNOWN, SessionHandle, Taken, Undelivered,
};
pub use routes::SessionRoutes;
