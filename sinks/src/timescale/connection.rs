//! One connection, which ends when it is dropped, whatever state the server is in.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::TimescaleOptions;
use super::failure::sink_error;
use crate::sink::SinkError;

/// How long a connect may take at most.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(10);

pub(super) struct Connection {
    pub(super) client: Client,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A server that hangs would otherwise keep the socket until it is back.
        self.task.abort();
    }
}

pub(super) async fn connect(options: &TimescaleOptions) -> Result<Connection, SinkError> {
    let timeout = options.timeout;
    let mut server = options.server.clone();
    server
        .connect_timeout(timeout.min(CONNECT_TIMEOUT_MAX))
        .tcp_user_timeout(timeout)
        .keepalives_idle(timeout);
    let tls = options.tls().map_err(SinkError::Blocked)?;
    let connection = match tls {
        None => {
            let (client, connection) = server.connect(NoTls).await.map_err(|e| sink_error(&e))?;
            drive(client, connection)
        }
        Some(tls) => {
            let tls = MakeRustlsConnect::new(tls);
            let (client, connection) = server.connect(tls).await.map_err(|e| sink_error(&e))?;
            drive(client, connection)
        }
    };
    // The server gives up by itself, so that what we have given up does not hold its locks.
    let ms = timeout.as_millis().max(1);
    let settings = format!(
        "set statement_timeout = {ms}; set lock_timeout = {ms}; set idle_in_transaction_session_timeout = {ms}; \
         set timezone = 'UTC'; set client_min_messages = warning"
    );
    let set = connection.client.batch_execute(&settings).await;
    set.map_err(|error| sink_error(&error))?;
    Ok(connection)
}

fn drive<S, T>(client: Client, connection: tokio_postgres::Connection<S, T>) -> Connection
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let task = tokio::spawn(async move {
        if let Err(error) = connection.await {
            // Whoever waits for an answer is told, too.
            tracing::debug!(%error, "The connection to the database ended.");
        }
    });
    Connection { client, task }
}
