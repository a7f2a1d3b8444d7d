//! The webhook against a server that answers as it is told; signatures are checked by OpenSSL.

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meridian_sinks::webhook::{WebhookOptions, WebhookSink};
use meridian_sinks::{Cursors, DeadLetters, Pipeline, Sink, SinkError, SinkState};
use serde_json::Value;
use support::{Logs, quick, records, until};

/// What came in one request.
#[derive(Debug, Clone)]
struct Request {
    head: String,
    body: String,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn ids(&self) -> Vec<String> {
        let body: Value = serde_json::from_str(&self.body).unwrap();
        let events = body["events"].as_array().unwrap();
        let id = |event: &Value| event["event_id"].as_str().unwrap().to_owned();
        events.iter().map(id).collect()
    }
}

/// Answers each request with what `answer` says to it and to its number: a status line, or nothing at all.
struct Far {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Far {
    fn that(answer: impl Fn(usize, &Request) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (taken, answer) = (Arc::clone(&requests), Arc::new(answer));
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (taken, answer) = (Arc::clone(&taken), Arc::clone(&answer));
                std::thread::spawn(move || serve(&stream.unwrap(), &taken, &*answer));
            }
        });
        Far { port, requests }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook?x=1", self.port)
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(
    stream: &TcpStream,
    taken: &Mutex<Vec<Request>>,
    answer: &dyn Fn(usize, &Request) -> Option<String>,
) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let mut request = Request {
            head,
            body: String::new(),
        };
        let length = request.header("content-length").unwrap().parse().unwrap();
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        request.body = String::from_utf8(body).unwrap();
        let number = {
            let mut taken = taken.lock().unwrap();
            taken.push(request.clone());
            taken.len() - 1
        };
        let Some(status) = answer(number, &request) else {
            // The connection stays, and nobody answers.
            std::thread::sleep(Duration::from_secs(30));
            return;
        };
        let mut stream = stream;
        let sent = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        if sent.is_err() {
            return;
        }
    }
}

fn ok(_: usize, _: &Request) -> Option<String> {
    Some("200 OK".into())
}

fn sink(url: &str, folder: &Path) -> WebhookSink {
    let cursors = folder.join("hook.cursors");
    let secret = Some("correct horse".to_owned());
    let mut options = WebhookOptions::new(url, secret, None, cursors).unwrap();
    options.timeout = Duration::from_millis(500);
    WebhookSink::new(options, DeadLetters::new(folder.join("dead.ndjson")))
}

fn cursors(next: u64) -> Cursors {
    Cursors::from([("s".to_owned(), next)])
}

#[tokio::test]
async fn a_request_holds_the_events_and_a_signature_that_openssl_agrees_with() {
    let (far, folder) = (Far::that(ok), tempfile::tempdir().unwrap());
    let mut sink = sink(&far.url(), folder.path());
    assert_eq!(sink.open(&[]).await.unwrap(), Cursors::new());
    sink.write(&records("s", 4, 9), &cursors(9)).await.unwrap();
    let [request] = &far.requests()[..] else {
        panic!("one batch is one request")
    };
    assert!(request.head.starts_with("POST /hook?x=1 HTTP/1.1\r\n"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("meridian-delivery"), Some("s-4"));
    assert_eq!(request.ids(), ["s-4", "s-5", "s-6", "s-7", "s-8"]);
    let signature = request.header("meridian-signature").unwrap();
    let (time, v1) = signature.split_once(",v1=").unwrap();
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", "correct horse", "-r"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let signed = format!("{}.{}", time.strip_prefix("t=").unwrap(), request.body);
    let mut stdin = openssl.stdin.take().unwrap();
    stdin.write_all(signed.as_bytes()).unwrap();
    drop(stdin);
    let done = openssl.wait_with_output().unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    assert_eq!(said.split_whitespace().next(), Some(v1));
    // The cursor is read back.
    assert_eq!(
        self::sink(&far.url(), folder.path())
            .open(&[])
            .await
            .unwrap(),
        cursors(9)
    );
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let secret_place = Far::that(ok);
    let to = secret_place.url();
    let far = Far::that(move |_, _| Some(format!("302 Found\r\nLocation: {to}")));
    let folder = tempfile::tempdir().unwrap();
    let mut sink = sink(&far.url(), folder.path());
    sink.open(&[]).await.unwrap();
    let Err(SinkError::Blocked(why)) = sink.write(&records("s", 0, 3), &cursors(3)).await else {
        panic!("a redirect is a success")
    };
    assert!(why.contains("302") && why.contains("redirect"), "{why}");
    assert!(secret_place.requests().is_empty());
}

#[tokio::test]
async fn a_name_that_leads_to_this_machine_gets_nowhere() {
    let (far, folder) = (Far::that(ok), tempfile::tempdir().unwrap());
    // The resolver of this machine takes all of localhost's subdomains, or none: both are no success.
    let url = far.url().replace("127.0.0.1", "rebound.localhost");
    let mut sink = sink(&url, folder.path());
    sink.open(&[]).await.unwrap();
    assert!(sink.write(&records("s", 0, 3), &cursors(3)).await.is_err());
    assert!(far.requests().is_empty());
}

#[tokio::test]
async fn events_that_the_far_side_refuses_are_found_and_put_aside() {
    let far = Far::that(|_, request| {
        let poison = request.ids().iter().any(|id| id == "s-3" || id == "s-12");
        Some(
            if poison {
                "422 Unprocessable"
            } else {
                "204 No Content"
            }
            .into(),
        )
    });
    let folder = tempfile::tempdir().unwrap();
    let mut sink = sink(&far.url(), folder.path());
    sink.open(&[]).await.unwrap();
    let confirmed = sink
        .write(&records("s", 0, 20), &cursors(20))
        .await
        .unwrap();
    assert_eq!(confirmed.dead_letters, 2);
    let poison = |request: &&Request| request.ids().iter().any(|id| id == "s-3" || id == "s-12");
    let requests = far.requests();
    let taken: Vec<String> = requests
        .iter()
        .filter(|request| !poison(request))
        .flat_map(Request::ids)
        .collect();
    let rest = (0..20).filter(|offset| ![3, 12].contains(offset));
    assert_eq!(
        taken,
        rest.map(|offset| format!("s-{offset}")).collect::<Vec<_>>()
    );
    let dead = std::fs::read_to_string(folder.path().join("dead.ndjson")).unwrap();
    assert_eq!(dead.lines().count(), 2);
    assert!(dead.contains("s-3") && dead.contains("s-12") && dead.contains("422"));
}

#[tokio::test]
async fn what_fails_and_hangs_is_tried_again_in_order() {
    let far = Far::that(|number, _| match number % 4 {
        1 => Some("503 Service Unavailable".into()),
        2 => None,
        3 => Some("429 Too Many Requests".into()),
        _ => Some("200 OK".into()),
    });
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(&far.url(), folder.path());
    let pipeline = Pipeline::start("hook", sink, Logs::of([("s", 150)]), quick());
    until(|| pipeline.status().lag.events == 0).await;
    assert_eq!(pipeline.status().state, SinkState::Running);
    pipeline.stop().await;
    let mut first_arrivals: Vec<String> = Vec::new();
    for id in far.requests().iter().flat_map(Request::ids) {
        if !first_arrivals.contains(&id) {
            first_arrivals.push(id);
        }
    }
    let all: Vec<String> = (0..150).map(|offset| format!("s-{offset}")).collect();
    assert_eq!(first_arrivals, all);
}
