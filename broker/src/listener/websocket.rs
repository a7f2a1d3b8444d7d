//! MQTT in WebSocket frames [MQTT-6.0.0-1]: a byte stream again, since packets and frames need not end together
//! [MQTT-6.0.0-2].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use futures::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{
    HeaderValue, StatusCode, header::SEC_WEBSOCKET_PROTOCOL,
};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};

/// Largest frame that is taken whole, bytes.
const FRAME_MAX: usize = 1 << 20;

/// The bytes in the binary frames of a WebSocket.
pub(crate) struct WebSocketBytes<S> {
    inner: WebSocketStream<S>,
    rest: Bytes,
}

/// Does the handshake: path `/mqtt`, subprotocol `mqtt` [MQTT-6.0.0-3].
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
) -> io::Result<WebSocketBytes<S>> {
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * FRAME_MAX)
        .max_message_size(Some(FRAME_MAX))
        .max_frame_size(Some(FRAME_MAX));
    let inner = tokio_tungstenite::accept_hdr_async_with_config(stream, check, Some(config)).await;
    inner
        .map(|inner| WebSocketBytes {
            inner,
            rest: Bytes::new(),
        })
        .map_err(io::Error::other)
}

/// Does the client's side of the handshake with the broker at `place`, `host:port`.
pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    place: &str,
) -> io::Result<WebSocketBytes<S>> {
    let mut request = format!("ws://{place}/mqtt")
        .into_client_request()
        .map_err(io::Error::other)?;
    request
        .headers_mut()
        .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("mqtt"));
    let (inner, _response) = tokio_tungstenite::client_async(request, stream)
        .await
        .map_err(io::Error::other)?;
    Ok(WebSocketBytes {
        inner,
        rest: Bytes::new(),
    })
}

#[allow(clippy::result_large_err, reason = "the library's signature")]
fn check(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let refuse = |status, text: &str| {
        let mut refusal = ErrorResponse::new(Some(text.to_owned()));
        *refusal.status_mut() = status;
        refusal
    };
    if request.uri().path() != "/mqtt" {
        return Err(refuse(StatusCode::NOT_FOUND, "MQTT is at /mqtt"));
    }
    let offered = request
        .headers()
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut offered = offered.flat_map(|value| value.split(',')).map(str::trim);
    let Some(chosen) = offered.find(|protocol| ["mqtt", "mqttv3.1"].contains(protocol)) else {
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            "offer the subprotocol mqtt",
        ));
    };
    if let Ok(value) = HeaderValue::from_str(chosen) {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    Ok(response)
}

fn broken(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocketBytes<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if !self.rest.is_empty() {
                let count = self.rest.len().min(buffer.remaining());
                buffer.put_slice(&self.rest[..count]);
                self.rest.advance(count);
                return Poll::Ready(Ok(()));
            }
            match std::task::ready!(Pin::new(&mut self.inner).poll_next(context)) {
                None | Some(Ok(Message::Close(_)) | Err(tungstenite::Error::ConnectionClosed)) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                // The library answers pings.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "MQTT comes in binary frames [MQTT-6.0.0-1]",
                    )));
                }
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocketBytes<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(Pin::new(&mut self.inner).poll_ready(context)).map_err(broken)?;
        let bytes = &bytes[..bytes.len().min(FRAME_MAX)];
        Pin::new(&mut self.inner)
            .start_send(Message::Binary(Bytes::copy_from_slice(bytes)))
            .map_err(broken)?;
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner)
            .poll_flush(context)
            .map_err(broken)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner)
            .poll_close(context)
            .map_err(broken)
    }
}
