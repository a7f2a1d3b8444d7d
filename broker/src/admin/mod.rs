//! The HTTP API: fences, positions, alerts, clients, sinks, health and metrics.
//!
//! Never on the message path. Lists answer `{"data":[…],"meta":{"cursor":…}}`; errors are RFC 9457 problem documents.

mod fences;
mod health;
mod operate;
mod positions;
mod problem;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post};
use meridian_sinks::Pipeline;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::node::Node;
use problem::Problem;

/// Largest body, bytes: a collection of fences.
const BODY_MAX: usize = 64 << 20;
/// How long one request may take.
const REQUEST_MAX: Duration = Duration::from_secs(60);

/// What the API speaks of.
pub struct Api {
    /// The node.
    pub node: Arc<Node>,
    /// Its sinks.
    pub sinks: Vec<Pipeline>,
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    /// Asked for off loopback; without one, nothing but health is served there.
    pub token: Option<String>,
    /// Whether the listener is on loopback.
    pub loopback: bool,
    /// The configuration, without secrets.
    pub config: serde_json::Value,
}

type Shared = State<Arc<Api>>;

/// All routes.
pub fn router(api: Arc<Api>) -> Router {
    let v1 = Router::new()
        .route("/fences", get(fences::list).put(fences::replace))
        .route(
            "/fences/{id}",
            get(fences::get).put(fences::put).delete(fences::remove),
        )
        .route("/positions", get(positions::query))
        .route("/positions/{device}", get(positions::get))
        .route("/alerts", get(positions::alerts))
        .route("/nodes", get(operate::nodes))
        .route("/shards", get(operate::shards))
        .route("/clients", get(operate::clients))
        .route("/clients/{id}", delete(operate::kick))
        .route("/sinks", get(operate::sinks))
        .route("/sinks/{name}/pause", post(operate::pause))
        .route("/sinks/{name}/resume", post(operate::resume))
        .route("/publish", post(operate::publish))
        .route("/config", get(operate::config));
    Router::new()
        .nest("/api/v1", v1)
        .route("/metrics", get(health::metrics))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&api), authorise))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .fallback(|| async {
            Problem::not_found("nothing is served here; the API is under /api/v1")
        })
        .layer(middleware::from_fn(protect))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(api)
}

/// Off loopback, every call but the health ones needs the token.
async fn authorise(State(api): Shared, request: Request, next: Next) -> Response {
    if !api.loopback {
        let given = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer "));
        let right = match (&api.token, given) {
            (Some(token), Some(given)) => same(token.as_bytes(), given.as_bytes()),
            _ => false,
        };
        if !right {
            return Problem::unauthorised().into_response();
        }
    }
    next.run(request).await
}

/// Compares without saying, by its time, how far two secrets agree.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

async fn protect(request: Request, next: Next) -> Response {
    // A page of another origin may not steer a browser here.
    let foreign = request.method() != "GET"
        && request.headers().get(header::ORIGIN).is_some_and(|origin| {
            let host = request
                .headers()
                .get(header::HOST)
                .and_then(|host| host.to_str().ok())
                .unwrap_or("");
            origin
                .to_str()
                .is_ok_and(|origin| origin.split("://").nth(1) != Some(host))
        });
    if foreign {
        return Problem::forbidden("requests of another origin change nothing here")
            .into_response();
    }
    let answered = tokio::time::timeout(REQUEST_MAX, next.run(request)).await;
    let mut response = answered
        .unwrap_or_else(|_| Problem::unavailable("the request took too long").into_response());
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'"),
    );
    headers.insert(
        HeaderName::from_static("cache-control"),
        HeaderValue::from_static("no-store"),
    );
    response
}

/// Serves until `stop` says so. Returns the address, with the port that was found where 0 was asked for.
///
/// # Errors
/// The system's, if the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    api: Arc<Api>,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let stopped = async move {
            let _gone = stop.wait_for(|stop| *stop).await;
        };
        if let Err(error) = axum::serve(listener, router(api))
            .with_graceful_shutdown(stopped)
            .await
        {
            tracing::error!(%error, "The HTTP API ended.");
        }
    });
    Ok(address)
}
