//! Network counters: `/proc/net/dev`, `/proc/net/sockstat`, `/proc/net/snmp`. Sockets by state: `sockets`.

use crate::limits;
use crate::snapshot::{Interface, TcpSockets};
use crate::text::{clean, lines};

/// Names of interfaces that carry what another interface of the machine carries too. Only asked where the
/// machine has no network card of its own (a container), see [`mark_totals`].
const COUNTED_ELSEWHERE: &[&str] = &[
    "veth",
    "docker",
    "br-",
    "br",
    "virbr",
    "lxcbr",
    "lxdbr",
    "incusbr",
    "cni",
    "flannel",
    "cali",
    "vxlan",
    "vnet",
    "tap",
    "tun",
    "wg",
    "bond",
    "team",
    "ifb",
    "dummy",
    "podman",
    "kube",
    "nodelocaldns",
    "cilium",
    "lxc",
    "gre",
    "sit",
    "ip6tnl",
    "tailscale",
    "zt",
];

/// Parses `/proc/net/dev`: all interfaces but `lo`. Source: proc_pid_net(5).
#[must_use]
pub fn dev(bytes: &[u8]) -> Vec<Interface> {
    lines(bytes).filter_map(|line| interface(&line)).take(limits::INTERFACES).collect()
}

fn interface(line: &str) -> Option<Interface> {
    // Old kernels leave no space after the colon; a name may hold one itself (an alias), the counters may not.
    let (name, rest) = line.rsplit_once(':')?;
    let name = clean(name.as_bytes(), limits::TEXT_BYTES);
    if name == "lo" || name.is_empty() {
        return None;
    }
    let mut numbers = [0_u64; 12];
    let mut words = rest.split_ascii_whitespace();
    for number in &mut numbers {
        *number = words.next()?.parse().ok()?;
    }
    let [
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        _,
        _,
        _,
        _,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
    ] = numbers;
    Some(Interface {
        name,
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
        counted_elsewhere: false,
    })
}

/// Marks the interfaces that totals leave out, so that no byte counts twice.
///
/// `cards` are the names with a `device` under `/sys/class/net/NAME`: hardware, or what a hypervisor shows as
/// such. Where there is one, all traffic with the outside passes a card, so the cards are the total: bridges,
/// bonds, VLANs, tunnels and the ends of veth pairs repeat it. Where there is none, names decide.
pub fn mark_totals(interfaces: &mut [Interface], cards: &[String]) {
    let any_card = interfaces.iter().any(|interface| cards.contains(&interface.name));
    for interface in interfaces {
        interface.counted_elsewhere = if any_card {
            !cards.contains(&interface.name)
        } else {
            interface.name.contains('.')
                || COUNTED_ELSEWHERE.iter().any(|prefix| named(&interface.name, prefix))
        };
    }
}

/// `br` names `br0` and `br`, not `bridge-of-sighs`; `veth` and `br-` name all that start so.
fn named(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| {
        prefix.len() > 2 || rest.is_empty() || rest.starts_with(|c: char| c.is_ascii_digit())
    })
}

/// Joins `/proc/net/sockstat`, `sockstat6` and `snmp`. `None`: none of them says anything of TCP.
/// Established comes from `CurrEstab`, which counts IPv4 and IPv6 (and CLOSE-WAIT) together.
#[must_use]
pub fn tcp(sockstat: Option<&[u8]>, sockstat6: Option<&[u8]>, snmp: Option<&[u8]>) -> Option<TcpSockets> {
    let in_use_4 = sockstat.and_then(|file| socket_field(file, "TCP:", "inuse"));
    let in_use_6 = sockstat6.and_then(|file| socket_field(file, "TCP6:", "inuse"));
    let sockets = TcpSockets {
        established: snmp.and_then(current_established),
        time_wait: sockstat.and_then(|file| socket_field(file, "TCP:", "tw")),
        in_use: in_use_4.map(|count| count.saturating_add(in_use_6.unwrap_or(0))),
    };
    (sockets != TcpSockets::default()).then_some(sockets)
}

/// `TCP: inuse 1 orphan 0 tw 0 …`: names and numbers in turn.
pub(super) fn socket_field(bytes: &[u8], family: &str, name: &str) -> Option<u64> {
    lines(bytes).find_map(|line| {
        let mut words = line.strip_prefix(family)?.split_ascii_whitespace();
        while let Some(word) = words.next() {
            let value = words.next()?;
            if word == name {
                return value.parse().ok();
            }
        }
        None
    })
}

/// `/proc/net/snmp` has two `Tcp:` lines: the names, then the numbers.
fn current_established(bytes: &[u8]) -> Option<u64> {
    let mut rows = lines(bytes).filter_map(|line| line.strip_prefix("Tcp:").map(str::to_owned));
    let (names, values) = (rows.next()?, rows.next()?);
    let position = names.split_ascii_whitespace().position(|name| name == "CurrEstab")?;
    values.split_ascii_whitespace().nth(position)?.parse().ok()
}
