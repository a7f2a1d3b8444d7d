//! `meridian pub` and `meridian sub`, with mosquitto's letters.

use std::future::Future;
use std::io::{BufRead as _, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use clap::{ArgAction, Args};
use meridian_mqtt::packet::{Ack, Packet, Publish, QoS, Version};
use meridian_mqtt::reason::ReasonCode;
use tokio::time::Instant;

use super::Outcome;
use super::client::{Client, Options, Tls};
use super::format::Format;
use super::terminal::printable;

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
struct ConnectArgs {
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// The broker's host
    #[arg(short = 'h', long, default_value = "127.0.0.1")]
    host: String,
    /// The broker's port; 1883, or 8883 with --cafile, or 8083 and 8084 with --ws
    #[arg(short, long)]
    port: Option<u16>,
    /// The client's id; a random one without it
    #[arg(short = 'i', long)]
    id: Option<String>,
    /// User name
    #[arg(short, long)]
    username: Option<String>,
    /// Password
    #[arg(short = 'P', long)]
    pw: Option<String>,
    /// Protocol version: 5 or 311
    #[arg(short = 'V', long, default_value = "5")]
    protocol_version: String,
    /// Keep alive, seconds
    #[arg(short, long, default_value_t = 60)]
    keepalive: u16,
    /// Use TLS, trusting these certificates (PEM)
    #[arg(long)]
    cafile: Option<PathBuf>,
    /// Do not check that the broker's certificate is for its host; for tests only
    #[arg(long, requires = "cafile")]
    insecure: bool,
    /// Speak MQTT over WebSocket, path /mqtt
    #[arg(long)]
    ws: bool,
    /// The client's certificate (PEM)
    #[arg(long, requires = "key", requires = "cafile")]
    cert: Option<PathBuf>,
    /// The client's key (PEM)
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
    /// Quality of service
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Topic of the will
    #[arg(long)]
    will_topic: Option<String>,
    /// Payload of the will
    #[arg(long, requires = "will_topic", default_value = "")]
    will_payload: String,
    /// Retain the will
    #[arg(long, requires = "will_topic")]
    will_retain: bool,
    /// Quality of service of the will
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    will_qos: u8,
}

#[derive(Debug, Args)]
pub(super) struct PubArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// The topic
    #[arg(short, long)]
    topic: String,
    #[command(flatten)]
    payload: Payload,
    /// Retain the message
    #[arg(short, long)]
    retain: bool,
}

/// What to publish: one of these.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Payload {
    /// The payload
    #[arg(short, long)]
    message: Option<String>,
    /// A file's content as the payload
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// All of standard input as the payload
    #[arg(short = 's', long = "stdin-file")]
    stdin: bool,
    /// Each line of standard input as a payload
    #[arg(short, long = "stdin-line", alias = "lines")]
    lines: bool,
    /// An empty payload
    #[arg(short, long = "null-message", alias = "null")]
    null: bool,
}

#[derive(Debug, Args)]
pub(super) struct SubArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// A topic filter; may be given several times
    #[arg(short, long, required = true)]
    topic: Vec<String>,
    /// Print the topic before the payload
    #[arg(short, long)]
    verbose: bool,
    /// Print each message in this format: %t topic, %p payload, %x %X hexadecimal, %l length, %q QoS, %r retained, %m
    /// packet identifier, %I ISO time, %U Unix time, %j JSON, %J JSON with a JSON payload
    #[arg(short = 'F', long = "output-format", conflicts_with = "verbose")]
    format: Option<String>,
    /// Leave after so many messages
    #[arg(short = 'C', long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Leave after so many seconds, with exit code 27
    #[arg(short = 'W', long, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    timeout: Option<u64>,
    /// Keep the session while away (needs -i)
    #[arg(short = 'c', long, requires = "id")]
    disable_clean_session: bool,
    /// Seconds that the session is kept, with -c
    #[arg(short = 'x', long, default_value_t = u32::MAX)]
    session_expiry_interval: u32,
    /// Leave out retained messages
    #[arg(short = 'R', long)]
    no_retained: bool,
}

pub(super) fn publish(args: PubArgs) -> Outcome {
    let options = args.connect.options(true, 0)?;
    let qos = level(args.connect.qos);
    super::runtime()?.block_on(async {
        let mut client = Client::connect(&options).await?;
        if args.payload.lines {
            // Lines are bytes: a payload need not be text.
            for line in std::io::stdin().lock().split(b'\n') {
                let line = line.map_err(|error| format!("standard input: {error}"))?;
                client
                    .publish(&args.topic, Bytes::from(line), qos, args.retain)
                    .await?;
            }
        } else {
            let payload = args.payload.read()?;
            client
                .publish(&args.topic, payload, qos, args.retain)
                .await?;
        }
        client.disconnect().await
    })
}

impl Payload {
    /// The one payload that these say.
    fn read(&self) -> Result<Bytes, String> {
        if let Some(message) = &self.message {
            return Ok(Bytes::from(message.clone()));
        }
        if let Some(file) = &self.file {
            let content = std::fs::read(file);
            return content
                .map(Bytes::from)
                .map_err(|error| format!("{}: {error}", file.display()));
        }
        let mut all = Vec::new();
        if self.stdin {
            std::io::stdin()
                .read_to_end(&mut all)
                .map_err(|error| format!("standard input: {error}"))?;
        }
        Ok(Bytes::from(all))
    }
}

/// Exit code of `sub` whose time was over, as mosquitto_sub has it.
const TIMED_OUT: u8 = 27;

pub(super) fn subscribe(args: SubArgs) -> Result<ExitCode, String> {
    let expiry = if args.disable_clean_session {
        args.session_expiry_interval
    } else {
        0
    };
    let options = args.connect.options(!args.disable_clean_session, expiry)?;
    let format = match (&args.format, args.verbose) {
        (Some(format), _) => format,
        (None, true) => "%t %p",
        (None, false) => "%p",
    };
    let format = Format::read(format)?;
    super::runtime()?.block_on(async {
        let deadline = args
            .timeout
            .map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let subscriber = Subscriber {
            args: &args,
            options: &options,
            format: &format,
            deadline,
        };
        Ok(match subscriber.run().await? {
            Some(()) => ExitCode::SUCCESS,
            None => ExitCode::from(TIMED_OUT),
        })
    })
}

/// `meridian sub`, under way.
struct Subscriber<'a> {
    args: &'a SubArgs,
    options: &'a Options,
    format: &'a Format,
    deadline: Option<Instant>,
}

impl Subscriber<'_> {
    /// Prints what comes until the count is reached, or `None` when the time is over. Connects again when the
    /// connection is lost after it once stood.
    async fn run(&self) -> Result<Option<()>, String> {
        let mut left = self.args.count.unwrap_or(u64::MAX);
        let Some(client) = self.within(self.connect()).await else {
            return Ok(None);
        };
        let mut client = client?;
        while left > 0 {
            let Some(received) = self.within(client.receive()).await else {
                client.disconnect().await?;
                return Ok(None);
            };
            let lost = match received {
                Ok(Packet::Publish(publish)) => {
                    self.print(&publish)?;
                    left -= 1;
                    acknowledge(&mut client, &publish).await.err()
                }
                Ok(Packet::PubRel(ack)) => client.send(&Packet::PubComp(ack)).await.err(),
                Ok(Packet::Disconnect(disconnect)) => {
                    Some(format!("the broker left: {}", disconnect.reason))
                }
                Ok(_) => None,
                Err(error) => Some(error),
            };
            let Some(lost) = lost else { continue };
            eprintln!("meridian: {}; connecting again", printable(&lost));
            let Some(again) = self.within(self.connect_again()).await else {
                return Ok(None);
            };
            client = again;
        }
        client.disconnect().await.map(Some)
    }

    /// What `future` comes to, or `None` when the time is over.
    async fn within<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        match self.deadline {
            None => Some(future.await),
            Some(deadline) => tokio::time::timeout_at(deadline, future).await.ok(),
        }
    }

    async fn connect(&self) -> Result<Client, String> {
        let mut client = Client::connect(self.options).await?;
        let qos = level(self.args.connect.qos);
        client
            .subscribe(&self.args.topic, qos, !self.args.no_retained)
            .await?;
        Ok(client)
    }

    async fn connect_again(&self) -> Client {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            match self.connect().await {
                Ok(client) => return client,
                Err(error) => eprintln!("meridian: {}", printable(&error)),
            }
        }
    }

    fn print(&self, publish: &Publish) -> Outcome {
        let line = match self.format.line(publish, SystemTime::now()) {
            Ok(line) => line,
            // One message that does not fit the format is no reason to miss the next.
            Err(error) => {
                eprintln!("meridian: {}", printable(&error));
                return Ok(());
            }
        };
        let mut out = std::io::stdout().lock();
        out.write_all(&line)
            .and_then(|()| out.flush())
            .map_err(|error| error.to_string())
    }
}

async fn acknowledge(client: &mut Client, publish: &Publish) -> Outcome {
    let Some(packet_id) = publish.packet_id else {
        return Ok(());
    };
    let ack = Ack {
        packet_id,
        reason: ReasonCode::Success,
        reason_string: None,
        user: Vec::new(),
    };
    let answer = if publish.qos == QoS::ExactlyOnce {
        Packet::PubRec(ack)
    } else {
        Packet::PubAck(ack)
    };
    client.send(&answer).await
}

fn level(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

impl ConnectArgs {
    fn options(&self, clean_start: bool, session_expiry_s: u32) -> Result<Options, String> {
        let version = match self.protocol_version.as_str() {
            "5" | "mqttv5" => Version::V5,
            "311" | "4" | "mqttv311" => Version::V311,
            other => return Err(format!("{other} is no version: write 5 or 311")),
        };
        let tls = self.cafile.clone().map(|cafile| Tls {
            cafile,
            pair: self.cert.clone().zip(self.key.clone()),
            any_host: self.insecure,
        });
        let port = self.port.unwrap_or(match (self.ws, tls.is_some()) {
            (false, false) => 1883,
            (false, true) => 8883,
            (true, false) => 8083,
            (true, true) => 8084,
        });
        let unique = format!(
            "meridian-{}-{}",
            std::process::id(),
            crate::clock::wall_ms()
        );
        Ok(Options {
            host: self.host.clone(),
            port,
            tls,
            websocket: self.ws,
            version,
            client_id: self.id.clone().unwrap_or(unique),
            clean_start,
            session_expiry_s,
            keep_alive_s: self.keepalive,
            username: self.username.clone(),
            password: self.pw.clone(),
            will: self.will_topic.clone().map(|topic| {
                (
                    topic,
                    Bytes::from(self.will_payload.clone()),
                    level(self.will_qos),
                    self.will_retain,
                )
            }),
        })
    }
}
