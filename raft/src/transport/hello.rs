//! The first two messages of a connection: who is who, and whether they may talk.

use std::io;

use meridian_proto::raft::v1;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::frame::{self, FrameReader, HELLO_BYTES_MAX};

/// The version of `node.proto`.
const PROTOCOL: u32 = 1;

/// Who a node is to others.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) cluster: String,
    pub(crate) node: u64,
    /// Drawn at each start.
    pub(crate) run: u64,
}

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelloError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it refused this node: {0}")]
    RefusedByPeer(String),
    #[error("{0}")]
    Refused(String),
}

/// Introduces this node to who was dialled, expected to be node `to` (0 if only its address is known), `once` for a single
/// request; returns its id.
pub(crate) async fn dial<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    own: &Identity,
    to: u64,
    once: bool,
    reader: &mut FrameReader<R>,
    writer: &mut W,
) -> Result<u64, HelloError> {
    let hello = v1::Hello {
        protocol: PROTOCOL,
        cluster: own.cluster.clone(),
        node: own.node,
        to,
        run: own.run,
        once,
    };
    writer.write_all(&frame::encode(&hello)).await?;
    writer.flush().await?;
    let welcome: v1::Welcome = reader
        .next(HELLO_BYTES_MAX)
        .await?
        .ok_or(io::ErrorKind::UnexpectedEof)
        .map_err(io::Error::from)?;
    if !welcome.refused.is_empty() {
        return Err(HelloError::RefusedByPeer(welcome.refused));
    }
    if welcome.protocol != PROTOCOL || welcome.cluster != own.cluster {
        return Err(HelloError::Refused(format!(
            "it is of cluster {:?} and speaks version {}, this node is of {:?} and speaks {PROTOCOL}",
            welcome.cluster, welcome.protocol, own.cluster
        )));
    }
    if to != 0 && welcome.node != to {
        return Err(HelloError::Refused(format!(
            "node {} answers where node {to} was expected",
            welcome.node
        )));
    }
    Ok(welcome.node)
}

/// Reads a Hello.
pub(crate) async fn receive<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
) -> Result<v1::Hello, HelloError> {
    let hello = reader.next(HELLO_BYTES_MAX).await?;
    Ok(hello
        .ok_or(io::ErrorKind::UnexpectedEof)
        .map_err(io::Error::from)?)
}

/// Why who dialled is not to be answered, if so.
pub(crate) fn objection(own: &Identity, hello: &v1::Hello) -> Option<String> {
    if hello.protocol != PROTOCOL {
        return Some(format!(
            "it speaks version {} of the messages between nodes, this node speaks {PROTOCOL}",
            hello.protocol
        ));
    }
    if hello.cluster != own.cluster {
        return Some(format!(
            "it is of cluster {:?}, this node of {:?}",
            hello.cluster, own.cluster
        ));
    }
    if hello.node == 0 {
        return Some("0 is no node's id".to_owned());
    }
    if hello.node == own.node {
        return Some(if hello.run == own.run {
            format!("node {} dialled itself", own.node)
        } else {
            format!(
                "this is node {} already: each node needs an id of its own",
                own.node
            )
        });
    }
    if hello.to != 0 && hello.to != own.node {
        return Some(format!(
            "it expected node {}, and this is node {}",
            hello.to, own.node
        ));
    }
    None
}

/// Answers a Hello, with a refusal if there is one.
pub(crate) async fn answer<W: AsyncWrite + Unpin>(
    own: &Identity,
    refused: Option<&str>,
    writer: &mut W,
) -> io::Result<()> {
    let welcome = v1::Welcome {
        protocol: PROTOCOL,
        cluster: own.cluster.clone(),
        node: own.node,
        refused: refused.unwrap_or_default().to_owned(),
    };
    writer.write_all(&frame::encode(&welcome)).await?;
    writer.flush().await
}
