//! Addresses that Roundsman does not call unless it was told to: a machine's own metadata service answers there, and
//! gives secrets to whoever asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Metadata services outside of the link-local ranges: of Alibaba Cloud, Oracle Cloud and Azure.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(168, 63, 129, 16)];
/// Amazon's metadata service and its EKS Pod Identity agent, and Google's metadata service.
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// Link-local or a metadata service; an IPv4 address inside an IPv6 one is looked at as what it is.
#[must_use]
pub fn is_refused(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_refused_v4(v4),
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local()
                || v6.is_unspecified()
                || METADATA_V6.contains(&v6)
                || embedded(v6).is_some_and(is_refused_v4)
        }
    }
}

fn is_refused_v4(v4: Ipv4Addr) -> bool {
    v4.is_link_local() || v4.is_unspecified() || METADATA_V4.contains(&v4)
}

/// The IPv4 address of `64:ff9b::/96` (RFC 6052) and of `::/96` (RFC 4291, 2.5.5.1); `::1` is none.
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let [first, second, rest @ .., high, low] = v6.segments();
    let is_prefix = rest == [0; 4] && matches!((first, second), (0x64, 0xff9b) | (0, 0));
    let bits = u32::from(high) << 16 | u32::from(low);
    (is_prefix && !v6.is_loopback()).then(|| Ipv4Addr::from_bits(bits))
}

/// Resolves names with the system and leaves out what is refused: looked at when the connection is made, so a name
/// that is changed later leads nowhere else.
#[derive(Debug)]
pub struct Guarded;

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(resolved(name, |address| !is_refused(address)))
    }
}

/// Resolves names with the system and takes every address.
#[derive(Debug)]
pub struct Open;

impl Resolve for Open {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(resolved(name, |_| true))
    }
}

/// Why a name leads nowhere; to be found among the causes of the request's error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    #[error("{name} has no address: {cause}")]
    Unknown { name: String, cause: String },
    #[error("{name} leads to a link-local or metadata address, which is not called")]
    Refused { name: String },
}

async fn resolved(
    name: Name,
    may: impl Fn(IpAddr) -> bool,
) -> Result<Addrs, Box<dyn std::error::Error + Send + Sync>> {
    let text = name.as_str().to_owned();
    let found = tokio::net::lookup_host((text.as_str(), 0)).await;
    let found = found.map_err(|error| NoAddress::Unknown { name: text.clone(), cause: error.to_string() })?;
    let kept: Vec<SocketAddr> = found.filter(|address| may(address.ip())).collect();
    if kept.is_empty() {
        return Err(NoAddress::Refused { name: text }.into());
    }
    Ok(Box::new(kept.into_iter()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_services_are_refused_in_every_spelling() {
        for bad in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b::100.100.100.200",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
            "fe80::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "0.0.0.0",
            "::",
        ] {
            assert!(is_refused(bad.parse().unwrap()), "{bad}");
        }
        for good in
            ["127.0.0.1", "10.0.0.5", "192.0.2.1", "2001:db8::1", "fd00::1", "::1", "64:ff9b::192.0.2.1"]
        {
            assert!(!is_refused(good.parse().unwrap()), "{good}");
        }
    }
}
