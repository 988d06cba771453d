//! Addresses that Roundsman does not call unless it was told to: a machine's own metadata service answers there, and
//! gives secrets to whoever asks.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Amazon's metadata service, which is outside of the link-local range.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Link-local or a metadata service; an IPv4 address inside an IPv6 one is looked at as what it is.
#[must_use]
pub fn is_refused(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_unspecified() || v6 == METADATA_V6,
    }
}

/// Resolves names with the system and leaves out what is refused: looked at when the connection is made, so a name
/// that is changed later leads nowhere else.
#[derive(Debug)]
pub struct Guarded;

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let kept: Vec<SocketAddr> = found.filter(|address| !is_refused(address.ip())).collect();
            if kept.is_empty() {
                let text = format!("{} has no address that may be called", name.as_str());
                return Err(std::io::Error::new(std::io::ErrorKind::AddrNotAvailable, text).into());
            }
            Ok(Box::new(kept.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_services_are_refused_in_every_spelling() {
        for bad in ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fd00:ec2::254", "0.0.0.0", "::"]
        {
            assert!(is_refused(bad.parse().unwrap()), "{bad}");
        }
        for good in ["127.0.0.1", "10.0.0.5", "192.0.2.1", "2001:db8::1", "fd00::1"] {
            assert!(!is_refused(good.parse().unwrap()), "{good}");
        }
    }
}
