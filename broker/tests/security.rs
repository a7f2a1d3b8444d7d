//! What hostile, broken and merely strange clients get, on the real binary. Tests name the rows S… of the list of attacks
//! that docs/operating/security.md goes by.

mod support;

#[path = "security/access.rs"]
mod access;
#[path = "security/crowds.rs"]
mod crowds;
#[path = "security/nodes.rs"]
mod nodes;
#[path = "security/rates.rs"]
mod rates;
#[path = "security/tls.rs"]
mod tls;
#[path = "security/tokens.rs"]
mod tokens;
