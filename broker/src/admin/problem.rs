//! Errors as RFC 9457 problem documents.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// An answer that says what is wrong, and where.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    title: &'static str,
    detail: String,
    field: Option<String>,
}

impl Problem {
    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Problem {
            status: StatusCode::NOT_FOUND,
            title: "Not found",
            detail: detail.into(),
            field: None,
        }
    }
    pub(super) fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        let (detail, field) = (detail.into(), Some(field.into()));
        Problem {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            title: "Invalid",
            detail,
            field,
        }
    }
    pub(super) fn unauthorised() -> Self {
        let detail = "send the API's token: Authorization: Bearer …".into();
        Problem {
            status: StatusCode::UNAUTHORIZED,
            title: "Unauthorized",
            detail,
            field: None,
        }
    }
    pub(super) fn forbidden(detail: &str) -> Self {
        Problem {
            status: StatusCode::FORBIDDEN,
            title: "Forbidden",
            detail: detail.into(),
            field: None,
        }
    }
    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Problem {
            status: StatusCode::SERVICE_UNAVAILABLE,
            title: "Unavailable",
            detail: detail.into(),
            field: None,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": "about:blank", "title": self.title, "status": self.status.as_u16(), "detail": self.detail,
        });
        if let Some(field) = self.field {
            body["field"] = field.into();
        }
        let mut response = (self.status, Json(body)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        if self.status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
