//! PROXY protocol, version 2: whose connection is it that a load balancer passes on?
//!
//! Only for listeners that nobody but the balancer can reach: whoever writes the header says what he likes.

use std::io;
use std::net::SocketAddr;

use ppp::v2::{Addresses, Command, Header, PROTOCOL_PREFIX};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Prefix, version and command, family, length.
const FIXED_BYTES: usize = 16;
/// Addresses and extensions. Balancers send some hundred bytes.
const REST_BYTES_MAX: usize = 4096;

/// Reads the header and not a byte more. The address that it names, or `direct` if the balancer speaks for itself.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    direct: SocketAddr,
) -> io::Result<SocketAddr> {
    let mut header = vec![0; FIXED_BYTES];
    stream.read_exact(&mut header).await?;
    let wrong = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
    if !header.starts_with(PROTOCOL_PREFIX) {
        return Err(wrong("no PROXY protocol header of version 2".into()));
    }
    let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if rest > REST_BYTES_MAX {
        return Err(wrong(format!("a PROXY header of {rest} bytes")));
    }
    header.resize(FIXED_BYTES + rest, 0);
    stream.read_exact(&mut header[FIXED_BYTES..]).await?;
    let header = Header::try_from(header.as_slice()).map_err(|error| wrong(error.to_string()))?;
    Ok(match (header.command, &header.addresses) {
        // A health check, for instance.
        (Command::Local, _) => direct,
        (Command::Proxy, Addresses::IPv4(ip)) => (ip.source_address, ip.source_port).into(),
        (Command::Proxy, Addresses::IPv6(ip)) => (ip.source_address, ip.source_port).into(),
        (Command::Proxy, Addresses::Unspecified | Addresses::Unix(_)) => direct,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIRECT: ([u8; 4], u16) = ([10, 0, 0, 1], 1234);

    async fn address(bytes: &[u8]) -> io::Result<(SocketAddr, Vec<u8>)> {
        let mut stream = bytes;
        let address = read(&mut stream, DIRECT.into()).await?;
        Ok((address, stream.to_vec()))
    }
    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [PROTOCOL_PREFIX, &[command, family], &length, rest].concat()
    }

    #[tokio::test]
    async fn the_source_is_read_and_what_follows_is_left_alone() {
        let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0xC0, 0x00, 0x22, 0xB3];
        let bytes = [header(0x21, 0x11, &v4), b"\x10\x0c".to_vec()].concat();
        let (source, left) = address(&bytes).await.unwrap();
        assert_eq!(source, "192.0.2.7:49152".parse().unwrap());
        assert_eq!(left, b"\x10\x0c");
        let mut v6 = [0; 36];
        v6[..2].copy_from_slice(&[0x20, 0x01]);
        v6[32..34].copy_from_slice(&[0, 80]);
        let (source, _) = address(&header(0x21, 0x21, &v6)).await.unwrap();
        assert_eq!(source, "[2001::]:80".parse().unwrap());
        let (local, _) = address(&header(0x20, 0x00, &[])).await.unwrap();
        assert_eq!(local, DIRECT.into());
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let long = [header(0x21, 0x11, &[])[..14].to_vec(), vec![0xFF, 0xFF]].concat();
        let cut = header(0x21, 0x11, &[1, 2, 3]);
        for wrong in [
            b"PROXY TCP4 1.2.3.4 ".to_vec(),
            b"\x10\x0c\0\x04MQTT\x05\x02\0\x3c\0\0\0\0".to_vec(),
            long,
            cut,
            vec![],
        ] {
            assert!(address(&wrong).await.is_err(), "{wrong:?}");
        }
    }
}
