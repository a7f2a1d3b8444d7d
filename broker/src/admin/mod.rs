//! The HTTP API: fences, positions, alerts, clients, sinks, health and metrics.
//!
//! `socket ─► server ─► **guard** ─► request ─► handler`. Never on the message path. Lists answer
//! `{"data":[…],"meta":{"cursor":…}}`; errors are RFC 9457 problem documents.

mod alerts;
mod fences;
mod guard;
mod health;
mod openapi;
mod operate;
mod positions;
mod problem;
mod publish;
mod request;
mod server;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::middleware;
use axum::routing::MethodRouter;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::listener::Tls;
use crate::node::Node;
use crate::sinks::Sinks;
use problem::Problem;
pub use server::HttpServer;

/// What the API speaks of.
pub struct Api {
    /// The node.
    pub node: Arc<Node>,
    /// Its sinks.
    pub sinks: Arc<Sinks>,
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    /// The listeners with a certificate.
    pub certificates: Vec<(&'static str, Arc<Tls>)>,
    /// Asked for off loopback; without one, nothing but health is served there.
    pub token: Option<String>,
    /// Whether the listener is on loopback.
    pub loopback: bool,
    /// The configuration, without secrets.
    pub config: serde_json::Value,
}

type Shared = State<Arc<Api>>;

/// A router and, for the test that holds `/openapi.json` against it, the list of what it routes.
macro_rules! routes {
    ($list:ident, $router:ident: $($path:literal => $($method:ident $handler:path),+;)+) => {
        #[cfg(test)]
        const $list: &[(&str, &[&str])] = &[$(($path, &[$(stringify!($method)),+])),+];

        fn $router() -> Router<Arc<Api>> {
            Router::new()$(.route($path, MethodRouter::new()$(.$method($handler))+))+
        }
    };
}

routes! { OPEN, open:
    "/healthz" => get health::alive;
    "/readyz" => get health::ready;
}

routes! { GUARDED, guarded:
    "/api/v1/fences" => get fences::list, put fences::replace;
    "/api/v1/fences/{id}" => get fences::get, put fences::put, delete fences::remove;
    "/api/v1/positions" => get positions::query;
    "/api/v1/positions/{device}" => get positions::get;
    "/api/v1/alerts" => get alerts::list;
    "/api/v1/nodes" => get operate::nodes;
    "/api/v1/nodes/{id}/{what}" => post operate::change_node;
    "/api/v1/shards" => get operate::shards;
    "/api/v1/shards/{name}/transfer/{to}" => post operate::transfer;
    "/api/v1/clients" => get operate::clients;
    "/api/v1/clients/{id}" => delete operate::kick;
    "/api/v1/sinks" => get operate::sinks;
    "/api/v1/sinks/{name}/pause" => post operate::pause;
    "/api/v1/sinks/{name}/resume" => post operate::resume;
    "/api/v1/publish" => post publish::publish;
    "/api/v1/config" => get operate::config;
    "/metrics" => get health::metrics;
    "/openapi.json" => get openapi::document;
}

/// All routes.
pub fn router(api: Arc<Api>) -> Router {
    guarded()
        .route_layer(middleware::from_fn_with_state(
            Arc::clone(&api),
            guard::authorise,
        ))
        .merge(open())
        .fallback(|| async {
            Problem::not_found(
                "nothing is served here; the API is under /api/v1, described by /openapi.json",
            )
        })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(middleware::from_fn(guard::protect))
        .with_state(api)
}
