//! A small MQTT client for the command line and the demo, on the broker's own codec.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use meridian_mqtt::codec::{Decoder, PACKET_BYTES_MAX, encode};
use meridian_mqtt::packet::{
    Connect, ConnectProperties, Disconnect, Packet, PacketId, Publish, PublishProperties, QoS,
    RetainHandling, Subscribe, Subscription, Version, Will,
};
use meridian_mqtt::reason::ReasonCode;
use meridian_mqtt::text::Text;
use meridian_mqtt::topic::{TopicFilter, TopicName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(super) use super::tls::Tls;
use crate::connection::Stream;

/// How to reach a broker, and as whom.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<Tls>,
    pub(super) websocket: bool,
    pub(super) version: Version,
    pub(super) client_id: String,
    pub(super) clean_start: bool,
    pub(super) session_expiry_s: u32,
    pub(super) keep_alive_s: u16,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) will: Option<(String, Bytes, QoS, bool)>,
}

/// A connected client.
pub(super) struct Client {
    stream: Box<dyn Stream>,
    decoder: Decoder,
    version: Version,
    input: BytesMut,
    next_id: u16,
    keep_alive: Duration,
}

impl Client {
    pub(super) async fn connect(options: &Options) -> Result<Client, String> {
        let place = format!("{}:{}", options.host, options.port);
        let unreachable =
            |error: std::io::Error| format!("{place}: {error}; is a broker running there?");
        let address: SocketAddr = tokio::net::lookup_host(&place)
            .await
            .map_err(unreachable)?
            .next()
            .ok_or(format!("{place} has no address"))?;
        let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let stream: Box<dyn Stream> = match &options.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let name = rustls::pki_types::ServerName::try_from(options.host.clone())
                    .map_err(|error| error.to_string())?;
                let connector = tokio_rustls::TlsConnector::from(Arc::new(tls.config()?));
                Box::new(
                    connector
                        .connect(name, tcp)
                        .await
                        .map_err(|error| format!("{place}: {error}"))?,
                )
            }
        };
        let stream: Box<dyn Stream> = if options.websocket {
            let websocket = crate::listener::connect_websocket(stream, &place).await;
            Box::new(websocket.map_err(|error| format!("{place}: {error}"))?)
        } else {
            stream
        };
        let mut client = Client {
            stream,
            decoder: Decoder::client(options.version, PACKET_BYTES_MAX),
            version: options.version,
            input: BytesMut::new(),
            next_id: 0,
            keep_alive: Duration::from_secs(u64::from(options.keep_alive_s.max(2)) / 2),
        };
        client
            .send(&Packet::Connect(Box::new(connect_packet(options)?)))
            .await?;
        match client.receive().await? {
            Packet::ConnAck(connack) if connack.reason == ReasonCode::Success => Ok(client),
            Packet::ConnAck(connack) => Err(format!(
                "{place} refused the connection: {}",
                connack.reason
            )),
            other => Err(format!("{place} answered CONNECT with {other:?}")),
        }
    }

    pub(super) async fn send(&mut self, packet: &Packet) -> Result<(), String> {
        let mut out = BytesMut::new();
        encode(packet, self.version, PACKET_BYTES_MAX, &mut out)
            .map_err(|error| error.to_string())?;
        self.stream.write_all(&out).await.map_err(lost)?;
        self.stream.flush().await.map_err(lost)
    }

    /// The next packet; pings while there is none.
    pub(super) async fn receive(&mut self) -> Result<Packet, String> {
        loop {
            if let Some(packet) = self
                .decoder
                .decode(&mut self.input)
                .map_err(|error| error.to_string())?
            {
                if matches!(packet, Packet::PingResp) {
                    continue;
                }
                return Ok(packet);
            }
            match tokio::time::timeout(self.keep_alive, self.stream.read_buf(&mut self.input)).await
            {
                Ok(Ok(0)) => return Err("the broker closed the connection".into()),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(lost(error)),
                Err(_) => self.send(&Packet::PingReq).await?,
            }
        }
    }

    /// Publishes, and waits until the broker owns the message.
    pub(super) async fn publish(
        &mut self,
        topic: &str,
        payload: Bytes,
        qos: QoS,
        retain: bool,
    ) -> Result<(), String> {
        let id = (qos > QoS::AtMostOnce).then(|| self.free_id());
        self.send(&Packet::Publish(Publish {
            dup: false,
            qos,
            retain,
            topic: Some(topic_name(topic)?),
            packet_id: id,
            topic_alias: None,
            subscription_ids: Vec::new(),
            properties: PublishProperties::default(),
            payload,
        }))
        .await?;
        let Some(id) = id else { return Ok(()) };
        loop {
            match self.receive().await? {
                Packet::PubAck(ack) | Packet::PubComp(ack) if ack.packet_id == id => {
                    return answered(ack.reason);
                }
                Packet::PubRec(mut ack) if ack.packet_id == id => {
                    answered(ack.reason)?;
                    ack.reason = ReasonCode::Success;
                    self.send(&Packet::PubRel(ack)).await?;
                }
                Packet::Disconnect(disconnect) => {
                    return Err(format!("the broker left: {}", disconnect.reason));
                }
                _ => {}
            }
        }
    }

    pub(super) async fn subscribe(
        &mut self,
        filters: &[String],
        qos: QoS,
        retained: bool,
    ) -> Result<(), String> {
        let packet_id = self.free_id();
        let retain_handling = if retained {
            RetainHandling::Send
        } else {
            RetainHandling::Never
        };
        let filters: Result<Vec<Subscription>, String> = filters
            .iter()
            .map(|filter| {
                let text = Text::new(Bytes::from(filter.clone()))
                    .map_err(|error| format!("{filter}: {error}"))?;
                let parsed =
                    TopicFilter::new(text).map_err(|error| format!("{filter}: {error}"))?;
                Ok(Subscription {
                    filter: Ok(parsed),
                    qos,
                    no_local: false,
                    retain_as_published: true,
                    retain_handling,
                })
            })
            .collect();
        let packet = Subscribe {
            packet_id,
            subscription_id: None,
            user: Vec::new(),
            filters: filters?,
        };
        self.send(&Packet::Subscribe(packet)).await?;
        loop {
            match self.receive().await? {
                Packet::SubAck(suback) => {
                    return suback
                        .reasons
                        .iter()
                        .find(|reason| reason.is_error())
                        .map_or(Ok(()), |reason| {
                            Err(format!("the broker refused the subscription: {reason}"))
                        });
                }
                Packet::Disconnect(disconnect) => {
                    return Err(format!("the broker left: {}", disconnect.reason));
                }
                _ => {}
            }
        }
    }

    pub(super) async fn disconnect(mut self) -> Result<(), String> {
        let disconnect = Disconnect {
            reason: ReasonCode::Success,
            session_expiry_s: None,
            reason_string: None,
            user: Vec::new(),
            server_reference: None,
        };
        self.send(&Packet::Disconnect(disconnect)).await?;
        self.stream.shutdown().await.map_err(lost)
    }

    fn free_id(&mut self) -> PacketId {
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        PacketId::new(self.next_id).expect("never 0")
    }
}

fn answered(reason: ReasonCode) -> Result<(), String> {
    if reason.is_error() {
        Err(format!("the broker refused the message: {reason}"))
    } else {
        Ok(())
    }
}

fn lost(error: std::io::Error) -> String {
    format!("the connection was lost: {error}")
}

pub(super) fn topic_name(topic: &str) -> Result<TopicName, String> {
    let text = Text::new(Bytes::copy_from_slice(topic.as_bytes()))
        .map_err(|error| format!("{topic}: {error}"))?;
    TopicName::new(text).map_err(|error| format!("{topic}: {error}"))
}

fn text(value: &str) -> Result<Text, String> {
    Text::new(Bytes::copy_from_slice(value.as_bytes())).map_err(|error| format!("{value}: {error}"))
}

fn connect_packet(options: &Options) -> Result<Connect, String> {
    let mut properties = ConnectProperties::default();
    if options.version == Version::V5 {
        properties.session_expiry_s =
            (options.session_expiry_s > 0).then_some(options.session_expiry_s);
    }
    let will = match &options.will {
        None => None,
        Some((topic, payload, qos, retain)) => Some(Will {
            topic: topic_name(topic)?,
            payload: payload.clone(),
            qos: *qos,
            retain: *retain,
            delay_s: 0,
            properties: PublishProperties::default(),
        }),
    };
    Ok(Connect {
        version: options.version,
        clean_start: options.clean_start,
        keep_alive_s: options.keep_alive_s,
        client_id: text(&options.client_id)?,
        will,
        username: options.username.as_deref().map(text).transpose()?,
        password: options.password.clone().map(Bytes::from),
        properties,
    })
}
