//! What a request brings, read into values; each mistake is a problem that names its field.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::Uri;
use axum::http::request::Parts;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::problem::Problem;

/// How long a body may take.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);
/// The most results of one answer.
pub(super) const LIMIT_MAX: usize = 10_000;

/// The one name that a path holds, such as a fence's id.
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(name)| Name(name))
            .map_err(|error| Problem::malformed("path", error.body_text()))
    }
}

/// A request's parameters, each known and at most once.
#[derive(Debug)]
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Those of `uri`, which may be the ones that `known` names.
    pub(super) fn read(uri: &Uri, known: &[&str]) -> Result<Self, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| Problem::malformed("query", error.body_text()))?;
        for (at, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let known = known.join(", ");
                return Err(Problem::invalid(
                    name,
                    format!("is no parameter; there are {known}"),
                ));
            }
            if pairs[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(Problem::invalid(name, "is there twice"));
            }
        }
        Ok(Parameters(pairs))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// `limit`, from 1 to [`LIMIT_MAX`].
    pub(super) fn limit(&self, default: usize) -> Result<usize, Problem> {
        let Some(limit) = self.get("limit") else {
            return Ok(default);
        };
        limit
            .parse()
            .ok()
            .filter(|limit| (1..=LIMIT_MAX).contains(limit))
            .ok_or_else(|| {
                Problem::invalid(
                    "limit",
                    format!("must be a whole number from 1 to {LIMIT_MAX}"),
                )
            })
    }

    /// `N` finite numbers with commas between.
    pub(super) fn numbers<const N: usize>(&self, name: &str) -> Result<Option<[f64; N]>, Problem> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let read: Result<Vec<f64>, _> = text
            .split(',')
            .map(|number| number.trim().parse())
            .collect();
        let read = read
            .ok()
            .filter(|read| read.iter().all(|number| number.is_finite()));
        let numbers = read.and_then(|read| <[f64; N]>::try_from(read).ok());
        let expected = || match N {
            1 => "must be a number".to_owned(),
            _ => format!("must be {N} numbers with commas between"),
        };
        numbers
            .map(Some)
            .ok_or_else(|| Problem::invalid(name, expected()))
    }
}

/// What a cursor must be.
pub(super) fn wrong_cursor() -> Problem {
    Problem::invalid("cursor", "must be one that an answer gave")
}

/// Reads a body of at most `bytes_max`.
pub(super) async fn bytes(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let whole = Limited::new(body, bytes_max).collect();
    match tokio::time::timeout(BODY_TIME_MAX, whole).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::too_large(
            "/",
            format!("the body has more than {bytes_max} bytes"),
        )),
        Ok(Err(error)) => Err(Problem::malformed(
            "/",
            format!("the body broke off: {error}"),
        )),
        Err(_) => Err(Problem::too_slow(format!(
            "the body did not come within {} s",
            BODY_TIME_MAX.as_secs()
        ))),
    }
}

/// Reads JSON: any value.
pub(super) fn json(body: &[u8]) -> Result<Value, Problem> {
    serde_json::from_slice(body)
        .map_err(|error| Problem::malformed("/", format!("no JSON: {error}")))
}

/// Reads a JSON object into `T`; a mistake is told with its place and with what was found there.
pub(super) fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let value = json(body)?;
    if !value.is_object() {
        return Err(Problem::invalid(
            "/",
            format!("must be an object, and is {}", kind(&value)),
        ));
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let pointer = pointer(error.path());
        Problem::invalid(pointer, error.into_inner().to_string())
    })
}

/// A path as a JSON pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let pointer: String = path
        .iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                format!("/{}", key.replace('~', "~0").replace('/', "~1"))
            }
            Segment::Unknown => String::new(),
        })
        .collect();
    if pointer.is_empty() {
        "/".to_owned()
    } else {
        pointer
    }
}

/// What a value is, in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
