//! One MQTT 3.1.1 connection, on mqttbytes: not the broker's own codec.

use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;
use mqttbytes::v4::{self, Connect, ConnectReturnCode, Packet, Publish, Subscribe};
use mqttbytes::{Error, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Largest packet accepted, bytes.
const PACKET_MAX: usize = 1 << 20;

/// A connected client.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    received: BytesMut,
    outgoing: BytesMut,
}

impl Client {
    /// Connects with a clean session and waits for CONNACK.
    pub(crate) async fn connect(address: SocketAddr, id: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut client = Self {
            stream,
            received: BytesMut::new(),
            outgoing: BytesMut::new(),
        };
        let mut connect = Connect::new(id);
        connect.keep_alive = 600;
        connect.write(&mut client.outgoing).map_err(codec)?;
        client.flush().await?;
        match client.receive().await? {
            Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => Ok(client),
            other => Err(io::Error::other(format!("refused: {other:?}"))),
        }
    }

    /// Subscribes and waits for SUBACK.
    pub(crate) async fn subscribe(&mut self, filter: &str, qos: QoS) -> io::Result<()> {
        let mut subscribe = Subscribe::new(filter, qos);
        subscribe.pkid = 1;
        subscribe.write(&mut self.outgoing).map_err(codec)?;
        self.flush().await?;
        loop {
            match self.receive().await? {
                Packet::SubAck(ack)
                    if matches!(ack.return_codes[..], [v4::SubscribeReasonCode::Success(_)]) =>
                {
                    return Ok(());
                }
                Packet::Publish(_) => {} // Retained ones may come before.
                other => return Err(io::Error::other(format!("{filter} refused: {other:?}"))),
            }
        }
    }

    /// Puts a PUBLISH behind what is to be sent.
    pub(crate) fn publish(&mut self, publish: &Publish) -> io::Result<()> {
        publish.write(&mut self.outgoing).map(drop).map_err(codec)
    }

    /// Puts an acknowledgement behind what is to be sent.
    pub(crate) fn acknowledge(&mut self, packet: &Packet) -> io::Result<()> {
        let out = &mut self.outgoing;
        let written = match packet {
            Packet::PubAck(ack) => ack.write(out),
            Packet::PubRec(received) => received.write(out),
            Packet::PubRel(release) => release.write(out),
            Packet::PubComp(complete) => complete.write(out),
            other => {
                return Err(io::Error::other(format!(
                    "not an acknowledgement: {other:?}"
                )));
            }
        };
        written.map(drop).map_err(codec)
    }

    /// Sends what is waiting.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all_buf(&mut self.outgoing).await
    }

    /// Reads once from the socket. Cancel safe.
    pub(crate) async fn fill(&mut self) -> io::Result<()> {
        self.received.reserve(32 * 1024);
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the broker closed the connection",
            )),
            _ => Ok(()),
        }
    }

    /// The next whole packet that was read.
    pub(crate) fn next(&mut self) -> io::Result<Option<Packet>> {
        match v4::read(&mut self.received, PACKET_MAX) {
            Ok(packet) => Ok(Some(packet)),
            Err(Error::InsufficientBytes(_)) => Ok(None),
            Err(error) => Err(codec(error)),
        }
    }

    async fn receive(&mut self) -> io::Result<Packet> {
        loop {
            if let Some(packet) = self.next()? {
                return Ok(packet);
            }
            self.fill().await?;
        }
    }
}

fn codec(error: Error) -> io::Error {
    io::Error::other(format!("MQTT: {error:?}"))
}
