//! `meridian pub` and `meridian sub`, with mosquitto's letters.

use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::{ArgAction, Args};
use meridian_mqtt::packet::{Packet, QoS, Version};
use meridian_mqtt::reason::ReasonCode;

use super::Outcome;
use super::client::{Client, Options, Tls};

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
struct ConnectArgs {
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// The broker's host
    #[arg(short = 'h', long, default_value = "127.0.0.1")]
    host: String,
    /// The broker's port; 1883, or 8883 with --cafile
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
    /// The payload
    #[arg(short, long, conflicts_with_all = ["file", "lines", "null"])]
    message: Option<String>,
    /// A file's content as the payload
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// Each line of standard input as a payload
    #[arg(short, long)]
    lines: bool,
    /// An empty payload
    #[arg(short, long)]
    null: bool,
    /// Retain the message
    #[arg(short, long)]
    retain: bool,
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
    /// Leave after so many messages
    #[arg(short = 'C', long)]
    count: Option<u64>,
    /// Leave after so many seconds
    #[arg(short = 'W', long)]
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
        if args.lines {
            for line in std::io::stdin().lock().lines() {
                let line = line.map_err(|error| error.to_string())?;
                client
                    .publish(&args.topic, Bytes::from(line), qos, args.retain)
                    .await?;
            }
        } else {
            let payload = match (&args.message, &args.file) {
                (Some(message), _) => Bytes::from(message.clone()),
                (None, Some(file)) => Bytes::from(
                    std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?,
                ),
                (None, None) if args.null => Bytes::new(),
                (None, None) => {
                    return Err("say what to publish: -m TEXT, -f FILE, -l or -n".into());
                }
            };
            client
                .publish(&args.topic, payload, qos, args.retain)
                .await?;
        }
        client.disconnect().await
    })
}

pub(super) fn subscribe(args: SubArgs) -> Outcome {
    let expiry = if args.disable_clean_session {
        args.session_expiry_interval
    } else {
        0
    };
    let options = args.connect.options(!args.disable_clean_session, expiry)?;
    let timeout = args.timeout.map(Duration::from_secs);
    super::runtime()?.block_on(async {
        let reading = follow(&args, &options);
        match timeout {
            Some(timeout) => tokio::time::timeout(timeout, reading)
                .await
                .unwrap_or(Ok(())),
            None => reading.await,
        }
    })
}

/// Prints what comes; connects again when the connection is lost after it once stood.
async fn follow(args: &SubArgs, options: &Options) -> Outcome {
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut client = Client::connect(options).await?;
    client
        .subscribe(&args.topic, level(args.connect.qos), !args.no_retained)
        .await?;
    while left > 0 {
        let lost = match client.receive().await {
            Ok(Packet::Publish(publish)) => {
                print(
                    args.verbose,
                    publish.topic.as_ref().map_or("", |topic| topic.as_str()),
                    &publish.payload,
                )?;
                left -= 1;
                if let Some(packet_id) = publish.packet_id {
                    let ack = meridian_mqtt::packet::Ack {
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
                    client.send(&answer).await.err()
                } else {
                    None
                }
            }
            Ok(Packet::PubRel(ack)) => client.send(&Packet::PubComp(ack)).await.err(),
            Ok(Packet::Disconnect(disconnect)) => {
                Some(format!("the broker left: {}", disconnect.reason))
            }
            Ok(_) => None,
            Err(error) => Some(error),
        };
        let Some(lost) = lost else { continue };
        eprintln!("meridian: {lost}; connecting again");
        client = loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            match Client::connect(options).await {
                Ok(mut client) => {
                    client
                        .subscribe(&args.topic, level(args.connect.qos), !args.no_retained)
                        .await?;
                    break client;
                }
                Err(error) => eprintln!("meridian: {error}"),
            }
        };
    }
    client.disconnect().await
}

fn print(verbose: bool, topic: &str, payload: &[u8]) -> Outcome {
    let mut out = std::io::stdout().lock();
    let mut line = Vec::with_capacity(topic.len() + payload.len() + 2);
    if verbose {
        line.extend_from_slice(topic.as_bytes());
        line.push(b' ');
    }
    line.extend_from_slice(payload);
    line.push(b'\n');
    out.write_all(&line)
        .and_then(|()| out.flush())
        .map_err(|error| error.to_string())
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
        });
        let port = self.port.unwrap_or(if tls.is_some() { 8883 } else { 1883 });
        let unique = format!(
            "meridian-{}-{}",
            std::process::id(),
            crate::clock::wall_ms()
        );
        Ok(Options {
            host: self.host.clone(),
            port,
            tls,
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
