//! Asks a node's HTTP API, and prints what it answers.

use clap::Args;
use serde_json::Value;

use super::Outcome;
use super::terminal::{printable, printable_json};

/// Where the HTTP API is.
#[derive(Debug, Args)]
pub(super) struct ApiArgs {
    /// The node's HTTP API
    #[arg(long, default_value = "http://127.0.0.1:18083", env = "MERIDIAN_API")]
    api: String,
    /// The API's token, needed off loopback
    #[arg(long, env = "MERIDIAN_API_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn rows(api: &ApiArgs, path: &str, columns: &[&str]) -> Outcome {
    let answer = api.list(path)?;
    if api.json {
        say!("{answer}");
    } else {
        table(&answer, columns);
    }
    Ok(())
}

/// Prints columns of a list, with their names above.
pub(super) fn table(answer: &Value, columns: &[&str]) {
    say!("{}", columns.join("\t"));
    for row in answer["data"].as_array().into_iter().flatten() {
        let cells: Vec<String> = columns.iter().map(|column| word(&row[*column])).collect();
        say!("{}", cells.join("\t"));
    }
}

/// A value as a person reads it.
pub(super) fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        other => printable_json(&other.to_string()),
    }
}

/// Percent-encodes what a path or a query cannot hold (RFC 3986 §2.3).
pub(super) fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~,".contains(&byte);
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

impl ApiArgs {
    /// The API of a node on this machine.
    pub(super) fn at(api: String) -> ApiArgs {
        ApiArgs {
            api,
            token: None,
            json: false,
        }
    }

    /// Whether the node says that it serves.
    pub(super) fn is_ready(&self) -> bool {
        self.call("GET", "/readyz", None).is_ok()
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, String> {
        let text = self.call("GET", path, None)?;
        serde_json::from_str(&text)
            .map_err(|error| format!("{}{path} answered with no JSON: {error}", self.api))
    }

    /// A list with all its pages.
    pub(super) fn list(&self, path: &str) -> Result<Value, String> {
        let mut answer = self.get(path)?;
        while let Some(cursor) = answer["meta"]["cursor"].as_str().map(escaped) {
            let joint = if path.contains('?') { '&' } else { '?' };
            let mut next = self.get(&format!("{path}{joint}cursor={cursor}"))?;
            let more = next["data"].as_array_mut().map(std::mem::take);
            if let (Some(data), Some(more)) = (answer["data"].as_array_mut(), more) {
                data.extend(more);
            }
            answer["meta"] = next["meta"].take();
        }
        Ok(answer)
    }

    pub(super) fn send(&self, method: &str, path: &str, body: Option<&str>) -> Outcome {
        self.call(method, path, body).map(|_| ())
    }

    fn call(&self, method: &str, path: &str, body: Option<&str>) -> Result<String, String> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(std::time::Duration::from_secs(60)))
            .build()
            .into();
        let url = format!("{}{path}", self.api.trim_end_matches('/'));
        let mut request = ureq::http::Request::builder().method(method).uri(&url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let request = request
            .header("Content-Type", "application/json")
            .body(body.unwrap_or("").to_owned());
        let request = request.map_err(|error| format!("{url}: {error}"))?;
        let mut response = agent.run(request).map_err(|error| {
            format!("{url}: {error}; is a node running there? (meridian serve, or --api URL)")
        })?;
        let text = response
            .body_mut()
            .with_config()
            .limit(1 << 30)
            .read_to_string()
            .map_err(|error| format!("{url}: {error}"))?;
        if response.status().is_success() {
            return Ok(text);
        }
        let problem: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        let detail = problem["detail"].as_str().unwrap_or(&text);
        Err(match problem["field"].as_str() {
            Some(field) => format!("{field}: {detail}"),
            None => detail.to_owned(),
        })
    }
}
