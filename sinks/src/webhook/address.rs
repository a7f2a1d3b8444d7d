//! Which addresses a webhook may lead to.
//!
//! The name is resolved once for each connection, and the connection goes to the addresses that were looked at: a name
//! that says one thing to the check and another to the socket (DNS rebinding) gets nowhere.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Resolves as usual, and refuses what no webhook is.
#[derive(Debug, Default)]
pub(super) struct Guard(DefaultResolver);

impl Resolver for Guard {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let addresses = self.0.resolve(uri, config, timeout)?;
        let host = uri.host().unwrap_or_default();
        for address in &*addresses {
            if let Err(why) = permitted(host, address.ip()) {
                let why = format!("{host} is {}: {why}", address.ip());
                let error = io::Error::new(io::ErrorKind::PermissionDenied, why);
                return Err(ureq::Error::Io(error));
            }
        }
        Ok(addresses)
    }
}

/// Loopback only for a host that says so itself; link-local, where clouds keep credentials, never.
pub(super) fn permitted(host: &str, address: IpAddr) -> Result<(), &'static str> {
    let address = address.to_canonical();
    let says_loopback = host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse()
            .is_ok_and(|ip: IpAddr| ip.is_loopback());
    if address.is_loopback() && !says_loopback {
        return Err("a name that is not localhost leads to this machine");
    }
    if address.is_unspecified() || address.is_multicast() {
        return Err("that is no host's address");
    }
    let (link_local, metadata) = match address {
        IpAddr::V4(ip) => (
            ip.is_link_local(),
            ip == ALIBABA_METADATA || ip.is_broadcast(),
        ),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip == AWS_METADATA),
    };
    if link_local || metadata {
        return Err("link-local and metadata addresses are refused");
    }
    Ok(())
}

/// AWS's instance metadata over IPv6; everybody else's is link-local.
const AWS_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
/// Alibaba Cloud's.
const ALIBABA_METADATA: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);

#[cfg(test)]
mod tests {
    use super::permitted;

    #[test]
    fn metadata_and_link_local_addresses_are_refused_however_they_are_written() {
        for address in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            let said = permitted(address, address.parse().unwrap());
            assert!(said.is_err(), "{address}");
        }
    }

    #[test]
    fn this_machine_is_reached_by_its_own_names_only() {
        let (v4, v6) = ("127.0.0.1".parse().unwrap(), "::1".parse().unwrap());
        for host in ["localhost", "127.0.0.1", "[::1]", "127.9.9.9"] {
            assert!(
                permitted(host, v4).is_ok() && permitted(host, v6).is_ok(),
                "{host}"
            );
        }
        for host in ["rebound.example", "localhost.example", "10.0.0.1"] {
            assert!(
                permitted(host, v4).is_err() && permitted(host, v6).is_err(),
                "{host}"
            );
        }
        assert!(permitted("rebound.example", "::ffff:127.0.0.1".parse().unwrap()).is_err());
        assert!(permitted("hooks.example", "203.0.113.9".parse().unwrap()).is_ok());
        assert!(permitted("hooks.intern", "10.1.2.3".parse().unwrap()).is_ok());
    }
}
