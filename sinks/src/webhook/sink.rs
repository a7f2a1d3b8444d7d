//! The sink.

use std::time::{SystemTime, UNIX_EPOCH};

use ring::hmac;
use ureq::http::StatusCode;

use super::WebhookOptions;
use crate::cursor_file;
use crate::dead_letters::DeadLetters;
use crate::json;
use crate::sink::{Confirmed, Cursors, EventRecord, FarSide, Sink, SinkError};

/// `t=<epoch seconds>,v1=<hexadecimal HMAC-SHA256 of "<t>.<body>">`.
const SIGNATURE: &str = "Meridian-Signature";
/// The place of the first event: the same when a batch comes again.
const DELIVERY: &str = "Meridian-Delivery";

/// Posts events to a URL.
pub struct WebhookSink {
    options: WebhookOptions,
    dead_letters: DeadLetters,
    agent: Option<ureq::Agent>,
}

/// What the far side says to a request.
enum Answer {
    Taken,
    /// It never takes these events, or not together.
    Refused(String),
}

impl WebhookSink {
    /// A sink to the URL that `options` name. An event that the far side refuses by itself goes to `dead_letters`.
    #[must_use]
    pub fn new(options: WebhookOptions, dead_letters: DeadLetters) -> Self {
        WebhookSink {
            options,
            dead_letters,
            agent: None,
        }
    }

    async fn post(&self, batch: &[EventRecord]) -> Result<Answer, SinkError> {
        let Some(agent) = self.agent.clone() else {
            return Err(SinkError::Retry("the sink is closed".into()));
        };
        let body = body(batch);
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_s = since.map_or(0, |since| since.as_secs());
        let mut request = agent
            .post(&self.options.url)
            .header("Content-Type", "application/json")
            .header(DELIVERY, format!("{}-{}", batch[0].shard, batch[0].offset));
        if let Some(secret) = &self.options.secret {
            request = request.header(SIGNATURE, signature(secret, now_s, &body));
        }
        let send = move || request.send(&body[..]);
        let sent = tokio::task::spawn_blocking(send)
            .await
            .map_err(|error| SinkError::Retry(error.to_string()))?;
        let response = sent.map_err(|error| match &error {
            ureq::Error::Io(io) if io.kind() == std::io::ErrorKind::PermissionDenied => {
                SinkError::Blocked(error.to_string())
            }
            _ => SinkError::Retry(error.to_string()),
        })?;
        let status = response.status();
        let said = format!("the far side answered {status}");
        match status {
            status if status.is_success() => Ok(Answer::Taken),
            status if status.is_redirection() => Err(SinkError::Blocked(format!(
                "{said}, and redirects are not followed: name the URL that it leads to"
            ))),
            StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNPROCESSABLE_ENTITY => Ok(Answer::Refused(said)),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Err(SinkError::Retry(said))
            }
            status if status.is_client_error() => Err(SinkError::Blocked(said)),
            _ => Err(SinkError::Retry(said)),
        }
    }
}

impl Sink for WebhookSink {
    const KIND: &'static str = "webhook";
    const FAR_SIDE: FarSide = FarSide::Shared;

    async fn open(&mut self, _shards: &[String]) -> Result<Cursors, SinkError> {
        self.agent = Some(self.options.agent().map_err(SinkError::Blocked)?);
        cursor_file::read(&self.options.cursors).await
    }

    /// A batch that is refused is halved, in its order, until single events are refused.
    async fn write(
        &mut self,
        batch: &[EventRecord],
        cursors: &Cursors,
    ) -> Result<Confirmed, SinkError> {
        let mut dead = Vec::new();
        let mut pieces = vec![batch];
        while let Some(piece) = pieces.pop() {
            if piece.is_empty() {
                continue;
            }
            match (self.post(piece).await?, piece) {
                (Answer::Taken, _) => {}
                (Answer::Refused(why), [record]) => dead.push((record, why)),
                (Answer::Refused(_), more) => {
                    let (left, right) = more.split_at(more.len() / 2);
                    pieces.extend([right, left]);
                }
            }
        }
        let dead_letters = self.dead_letters.bury(&dead).await?;
        cursor_file::write(&self.options.cursors, cursors).await?;
        Ok(Confirmed { dead_letters })
    }
}

/// `{"events":[…]}`
fn body(batch: &[EventRecord]) -> Vec<u8> {
    let mut body = b"{\"events\":[".to_vec();
    for (at, record) in batch.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        json::write_event(&mut body, &record.event);
    }
    body.extend_from_slice(b"]}");
    body
}

fn signature(secret: &str, now_s: u64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut signed = hmac::Context::with_key(&key);
    signed.update(format!("{now_s}.").as_bytes());
    signed.update(body);
    let hex: String = signed
        .sign()
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("t={now_s},v1={hex}")
}
