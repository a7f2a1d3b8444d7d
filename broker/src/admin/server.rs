//! HTTP/1.1 on sockets: who does not finish a request is let go, and only so many are served at a time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

/// How long a request's head may take, the wait for it on an idle connection included.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// Largest head, bytes; a larger one is answered 431.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Connections at a time; who comes when all are taken waits in the kernel's queue.
const CONNECTIONS_MAX: usize = 512;
/// After a refusal of the kernel, such as no free descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long requests under way may take once the node stops.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// The HTTP API on its socket.
pub struct HttpServer {
    /// Where it listens; with the port that was found where 0 was asked for.
    pub address: SocketAddr,
    task: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl HttpServer {
    /// Binds `address` and serves `router` on it.
    ///
    /// # Errors
    /// The system's, if the address cannot be bound.
    pub async fn start(address: SocketAddr, router: Router) -> io::Result<HttpServer> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(accept(listener, router, stopped));
        Ok(HttpServer {
            address,
            task,
            stop,
        })
    }

    /// Accepts nobody any more, and lets the requests under way finish, within 5 s.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "The HTTP API ended badly.");
        }
    }
}

async fn accept(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>) {
    let connections = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            next = next => next,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "An HTTP connection could not be accepted.");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(
                TokioIo::new(stream),
                TowerToHyperService::new(router.clone()),
            );
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            let _slot = slot;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "An HTTP connection failed.");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(SHUTDOWN_MAX, connections.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("Requests under way were cut off: the node stops.");
    }
}
