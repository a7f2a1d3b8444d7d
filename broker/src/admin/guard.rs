//! Who may call: the token, the Host header, the origin.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::Api;
use super::problem::Problem;

/// How long one request may take.
const REQUEST_MAX: Duration = Duration::from_secs(60);

/// Off loopback, every call but the health ones needs the token. On loopback, what bears none must call us by a name of
/// loopback: a page whose own name was made to point here (DNS rebinding) is of one origin with us for the browser,
/// and its name is all that gives it away.
pub(super) async fn authorise(
    State(api): State<Arc<Api>>,
    request: Request,
    next: Next,
) -> Response {
    if bears_token(&api, &request) || (api.loopback && names_loopback(&request)) {
        next.run(request).await
    } else if api.loopback {
        Problem::forbidden(
            "the Host header must be localhost or a loopback address, unless the request bears the API's token",
        )
        .at("Host")
        .into_response()
    } else {
        Problem::unauthorised().into_response()
    }
}

fn bears_token(api: &Api, request: &Request) -> bool {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    match (&api.token, given) {
        (Some(token), Some(given)) => same(token.as_bytes(), given.as_bytes()),
        _ => false,
    }
}

/// Compares without saying, by its time, how far two secrets agree.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// One Host header, and a target with the same right to be here if it brings an authority (RFC 9112 §3.2).
fn names_loopback(request: &Request) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let host = host.to_str().ok().and_then(|host| host.parse().ok());
    host.is_some_and(|host| is_loopback(&host)) && request.uri().authority().is_none_or(is_loopback)
}

/// `localhost` and what is below it (RFC 6761 §6.3), 127.0.0.0/8, `[::1]`; with any port.
fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host();
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || host
            .trim_matches(['[', ']'])
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Refuses what another origin's page sends, bounds the time, and says to browsers how little may be done with an answer.
pub(super) async fn protect(request: Request, next: Next) -> Response {
    if is_foreign(&request) {
        return Problem::forbidden("requests of another origin change nothing here")
            .at("Origin")
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

/// Whether a page of another origin steers a browser to change something here.
fn is_foreign(request: &Request) -> bool {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return false;
    }
    let Some(origin) = request.headers().get(header::ORIGIN) else {
        return false;
    };
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or("");
    let origin = origin.to_str().ok().and_then(|o| o.split_once("://"));
    origin.is_none_or(|(_, origin)| origin != host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_loopback_name(name: &str) -> bool {
        name.parse().is_ok_and(|authority| is_loopback(&authority))
    }

    #[test]
    fn loopback_has_names_and_addresses_with_any_port() {
        for name in [
            "localhost",
            "LOCALHOST:18083",
            "localhost.",
            "node1.localhost:80",
            "127.0.0.1",
            "127.8.9.10:18083",
            "[::1]:18083",
        ] {
            assert!(is_loopback_name(name), "{name}");
        }
    }

    #[test]
    fn no_other_name_passes_for_loopback() {
        for name in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:18083",
            "evillocalhost",
            "localhost@evil.example",
            "10.0.0.1",
            "[::2]",
            "0.0.0.0",
            "",
        ] {
            assert!(!is_loopback_name(name), "{name}");
        }
    }
}
