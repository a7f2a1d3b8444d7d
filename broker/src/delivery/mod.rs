//! Committed events to those who are to get them.

mod dispatch;
mod handover;
mod mailbox;

pub use dispatch::{Dispatch, Errand, ShardEffects};
pub use handover::run as run_handover;
pub use mailbox::{
    Mail, MailboxLimits, Persistent, SENT_UNKNOWN, SessionHandle, Taken, Undelivered,
};
