//! Networks of the test's own: namespaces and the links between them.

use std::process::Command;

/// Network namespaces in a row, each linked to the next only; the first to this one. Removed when dropped.
pub(crate) struct Namespaces {
    names: Vec<String>,
    /// The first address.
    net: u32,
}

impl Namespaces {
    pub(crate) fn in_a_row(count: usize) -> Self {
        let process = std::process::id();
        // 198.18.0.0/15 is for tests between networks (RFC 2544): a /28 of it for this process.
        let net = (198 << 24) + (18 << 16) + ((process & 0x0fff) << 4);
        let names = (1..=count).map(|number| format!("rm{process}n{number}")).collect();
        let made = Self { names, net };
        for number in 0..count {
            made.link(number);
        }
        made
    }

    /// As `ip netns` knows it; the first is 0.
    pub(crate) fn name(&self, number: usize) -> &str {
        self.names.get(number).unwrap()
    }

    /// The address of a namespace on the link to the one before it.
    pub(crate) fn address(&self, number: usize) -> String {
        self.ip(number, 2)
    }

    /// The device that leads to a namespace, in the one before it.
    pub(crate) fn link_to(&self, number: usize) -> String {
        format!("{}a", self.name(number))
    }

    fn ip(&self, link: usize, side: u32) -> String {
        std::net::Ipv4Addr::from(self.net + 4 * u32::try_from(link).unwrap() + side).to_string()
    }

    fn link(&self, number: usize) {
        let name = self.name(number);
        let before = self.ip(number, 1);
        let (near, far) = (self.link_to(number), format!("{name}b"));
        ip(&format!("netns add {name}"));
        ip(&format!("link add {near} type veth peer name {far}"));
        ip(&format!("link set {far} netns {name}"));
        ip(&format!("-n {name} addr add {}/30 dev {far}", self.address(number)));
        ip(&format!("-n {name} link set {far} up"));
        ip(&format!("-n {name} link set lo up"));
        let inside = match number.checked_sub(1).and_then(|before| self.names.get(before)) {
            Some(previous) => {
                ip(&format!("link set {near} netns {previous}"));
                format!("-n {previous} ")
            }
            None => String::new(),
        };
        ip(&format!("{inside}addr add {before}/30 dev {near}"));
        ip(&format!("{inside}link set {near} up"));
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            let _one_may_never_have_been_made = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// `ip` with these words.
pub(crate) fn ip(words: &str) {
    let done = Command::new("ip").args(words.split(' ')).output().expect("iproute2 is installed");
    assert!(done.status.success(), "ip {words}: {}", String::from_utf8_lossy(&done.stderr));
}
