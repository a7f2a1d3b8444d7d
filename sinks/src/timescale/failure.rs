//! What an error of the database means to a sink.

use std::error::Error as _;

use tokio_postgres::Error;

use crate::sink::SinkError;

/// Whether the rows are at fault, so that fewer of them may go.
///
/// Classes 22 (data exception) and 23 (integrity constraint), and 54000: an index row that is too long.
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
pub(super) fn is_of_the_data(error: &Error) -> bool {
    error.code().is_some_and(|code| {
        code.code().starts_with("22") || code.code().starts_with("23") || code.code() == "54000"
    })
}

/// Blocked where waiting does not help: credentials, a database or rights that are missing, a table that is not ours.
pub(super) fn sink_error(error: &Error) -> SinkError {
    let said = words(error);
    let code = error.code().map_or("", |code| code.code());
    let needs_a_person = ["28", "3D", "3F", "42", "0A"];
    if needs_a_person.iter().any(|class| code.starts_with(class)) {
        SinkError::Blocked(said)
    } else {
        SinkError::Retry(said)
    }
}

/// The server's own words and code; else the chain of causes.
pub(super) fn words(error: &Error) -> String {
    if let Some(db) = error.as_db_error() {
        return format!("{} ({})", db.message(), db.code().code());
    }
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    said
}
