//! What changes rarely: system, hardware, virtualisation, addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::mounts::Mount;
use crate::limits;
use crate::snapshot::{Account, Facts, ServiceManager};
use crate::text::{clean_some, first_line, lines};

/// Paths whose mere existence says something; [`facts`] is given those that exist.
pub const MARKERS: &[&str] = &[
    "/run/systemd/system",
    "/run/openrc",
    "/etc/init.d",
    "/.dockerenv",
    "/run/.containerenv",
    "/run/reboot-required",
    "/var/run/reboot-required",
    "/proc/xen",
];

/// Files that [`facts`] reads, besides those of the base reading.
pub const FILES: &[&str] = &[
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/osrelease",
    "/etc/os-release",
    "/usr/lib/os-release",
    "/etc/timezone",
    "/run/systemd/container",
    "/sys/class/dmi/id/sys_vendor",
    "/sys/class/dmi/id/product_name",
    "/sys/hypervisor/type",
    "/proc/device-tree/model",
    "/proc/net/if_inet6",
    "/etc/passwd",
    "/etc/group",
];

/// Files that may be huge, of which only the first lines are read: path and lines. The routing trie of a
/// router with a full table has millions of lines; the model of the first core is that of all.
pub const FIRST_LINES: &[(&str, usize)] = &[("/proc/cpuinfo", 40), ("/proc/net/fib_trie", 4_000)];

/// What the facts are made of.
#[derive(Debug, Clone, Copy)]
pub struct FactSources<'a> {
    pub files: &'a BTreeMap<String, Vec<u8>>,
    /// Those of [`MARKERS`] that exist.
    pub markers: &'a BTreeSet<String>,
    pub mounts: &'a [Mount],
    /// As `uname -m` says it.
    pub architecture: Option<&'a str>,
    /// Where `/etc/localtime` points to.
    pub localtime: Option<&'a str>,
    pub cpu_cores: Option<u32>,
}

/// Puts the facts together.
#[must_use]
pub fn facts(sources: &FactSources<'_>) -> Facts {
    let file = |path: &str| sources.files.get(path).map(Vec::as_slice);
    let text = |path: &str| {
        let line = first_line(file(path)?)?;
        clean_some(line.trim_end_matches('\0').as_bytes(), limits::TEXT_BYTES)
    };
    let release = file("/etc/os-release").or_else(|| file("/usr/lib/os-release"));
    let field = |key: &str| clean_some(os_release(release?, key)?.as_bytes(), limits::TEXT_BYTES);
    let os_id = field("ID");
    let container = container(sources);
    Facts {
        hostname: text("/proc/sys/kernel/hostname"),
        os_name: field("PRETTY_NAME").or_else(|| field("NAME")),
        reboot_required: reboot_required(sources.markers, os_id.as_deref(), field("ID_LIKE").as_deref()),
        os_id,
        os_version: field("VERSION_ID"),
        kernel: text("/proc/sys/kernel/osrelease"),
        architecture: sources.architecture.and_then(|word| clean_some(word.as_bytes(), limits::TEXT_BYTES)),
        cpu_model: file("/proc/cpuinfo").and_then(cpu_model).or_else(|| text("/proc/device-tree/model")),
        cpu_cores: sources.cpu_cores,
        in_container: Some(container.is_some()),
        virtualisation: container.or_else(|| hypervisor(sources)),
        service_manager: service_manager(sources),
        addresses: addresses(file("/proc/net/fib_trie"), file("/proc/net/if_inet6")),
        machine_vendor: text("/sys/class/dmi/id/sys_vendor"),
        machine_model: text("/sys/class/dmi/id/product_name").or_else(|| text("/proc/device-tree/model")),
        timezone: sources.localtime.and_then(zone).or_else(|| text("/etc/timezone")),
        accounts: accounts(file("/etc/passwd").unwrap_or_default(), file("/etc/group").unwrap_or_default()),
    }
}

/// A value of os-release(5), without its quotes.
fn os_release(bytes: &[u8], key: &str) -> Option<String> {
    lines(bytes).find_map(|line| {
        let value = line.strip_prefix(key)?.strip_prefix('=')?.trim();
        Some(value.trim_matches(['"', '\'']).to_owned())
    })
}

/// Debian and its kin leave a file; of others only the presence of that file says something.
fn reboot_required(markers: &BTreeSet<String>, id: Option<&str>, like: Option<&str>) -> Option<bool> {
    let marked = markers.contains("/run/reboot-required") || markers.contains("/var/run/reboot-required");
    let mut kin = like.unwrap_or("").split(' ').chain(id);
    (marked || kin.any(|id| matches!(id, "debian" | "ubuntu"))).then_some(marked)
}

fn cpu_model(cpuinfo: &[u8]) -> Option<String> {
    ["model name", "cpu model", "Model", "Hardware", "cpu", "Processor"].into_iter().find_map(|wanted| {
        lines(cpuinfo).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == wanted).then(|| clean_some(value.as_bytes(), limits::TEXT_BYTES))?
        })
    })
}

fn container(sources: &FactSources<'_>) -> Option<String> {
    let said = sources.files.get("/run/systemd/container").and_then(|content| first_line(content));
    if let Some(kind) = said.and_then(|kind| clean_some(kind.as_bytes(), limits::TEXT_BYTES)) {
        return Some(kind);
    }
    let marked = |path: &str| sources.markers.contains(path);
    if marked("/run/.containerenv") {
        Some("podman".to_owned())
    } else if marked("/.dockerenv") && !owns_its_disk(sources.mounts) {
        Some("docker".to_owned())
    } else if sources.mounts.iter().any(|mount| mount.fs_type == "fuse.lxcfs") {
        Some("lxc".to_owned())
    } else {
        None
    }
}

/// A whole filesystem of a block device is the root: then this is a machine, and a container's mark in it only
/// says that its image was once built as one.
fn owns_its_disk(mounts: &[Mount]) -> bool {
    let root = mounts.iter().rev().find(|mount| mount.path == "/");
    root.is_some_and(|mount| mount.root == "/" && mount.source.starts_with("/dev/"))
}

/// Names as systemd-detect-virt(1) has them, told from the firmware's tables and the CPU's flags.
fn hypervisor(sources: &FactSources<'_>) -> Option<String> {
    let text =
        |path: &str| sources.files.get(path).and_then(|content| first_line(content)).unwrap_or_default();
    let (vendor, model) = (text("/sys/class/dmi/id/sys_vendor"), text("/sys/class/dmi/id/product_name"));
    let table = [
        ("KVM", "kvm"),
        ("OpenStack", "kvm"),
        ("Hetzner", "kvm"),
        ("DigitalOcean", "kvm"),
        ("QEMU", "qemu"),
        ("VMware", "vmware"),
        ("VirtualBox", "oracle"),
        ("innotek", "oracle"),
        ("Xen", "xen"),
        ("Amazon EC2", "amazon"),
        ("Google", "google"),
        ("Parallels", "parallels"),
        ("BHYVE", "bhyve"),
        ("Firecracker", "firecracker"),
    ];
    let cpuinfo = sources.files.get("/proc/cpuinfo");
    let flagged = cpuinfo.map(|content| {
        lines(content)
            .any(|line| line.starts_with("flags") && line.split(' ').any(|flag| flag == "hypervisor"))
    });
    let named = table.iter().find(|(word, _)| vendor.contains(word) || model.contains(word));
    let name = if let Some((_, name)) = named.filter(|_| flagged != Some(false)) {
        name
    } else if vendor == "Microsoft Corporation" && model == "Virtual Machine" {
        "microsoft"
    } else if text("/sys/hypervisor/type") == "xen" || sources.markers.contains("/proc/xen") {
        "xen"
    } else {
        match (flagged, sources.architecture) {
            (Some(true), _) => "vm-other",
            // Only x86 tells a guest by a flag of the CPU.
            (Some(false), Some("x86_64" | "i686" | "i586")) => "none",
            _ => return None,
        }
    };
    Some(name.to_owned())
}

/// Shells that let nobody in, by the last part of their path.
const NO_SHELLS: [&str; 6] = ["nologin", "false", "true", "sync", "shutdown", "halt"];

/// Accounts with a login shell, as passwd(5) and group(5) have them; whether a password or key opens them is not told.
fn accounts(passwd: &[u8], group: &[u8]) -> Vec<Account> {
    let mut administrators: BTreeSet<String> = BTreeSet::new();
    for line in lines(group) {
        let mut fields = line.trim_end().splitn(4, ':');
        if fields.next().is_some_and(|name| matches!(name, "sudo" | "wheel" | "admin")) {
            let members = fields.nth(2).unwrap_or_default();
            administrators.extend(members.split(',').map(str::to_owned));
        }
    }
    let account = |line: std::borrow::Cow<'_, str>| {
        let fields: Vec<&str> = line.trim_end().split(':').collect();
        let [name, _, uid, _, comment, home, shell] = fields.as_slice() else { return None };
        // An empty shell is /bin/sh, passwd(5).
        let shell = if shell.is_empty() { "/bin/sh" } else { shell };
        if NO_SHELLS.contains(&shell.rsplit('/').next().unwrap_or(shell)) {
            return None;
        }
        let text = |text: &str| clean_some(text.as_bytes(), limits::TEXT_BYTES);
        let uid = uid.parse().ok()?;
        Some(Account {
            is_administrator: uid == 0 || administrators.contains(*name),
            name: text(name)?,
            uid,
            full_name: text(comment.split(',').next().unwrap_or_default()),
            home: text(home).unwrap_or_default(),
            shell: text(shell)?,
        })
    };
    lines(passwd).take(limits::ACCOUNTS).filter_map(account).take(limits::LOGIN_ACCOUNTS).collect()
}

fn service_manager(sources: &FactSources<'_>) -> ServiceManager {
    let marked = |path: &str| sources.markers.contains(path);
    let init = sources.files.get("/proc/1/comm").and_then(|content| first_line(content));
    if marked("/run/systemd/system") {
        ServiceManager::Systemd
    } else if marked("/run/openrc") {
        ServiceManager::OpenRc
    } else if marked("/etc/init.d") && init.as_deref() == Some("init") {
        ServiceManager::SysV
    } else {
        ServiceManager::Unknown
    }
}

/// Addresses of this machine but loopback and link-local ones: IPv4 out of the `host LOCAL` leaves of
/// `/proc/net/fib_trie`, IPv6 out of `/proc/net/if_inet6`. Both spare a call of `ip`, which is not everywhere.
fn addresses(fib_trie: Option<&[u8]>, if_inet6: Option<&[u8]>) -> Vec<String> {
    let mut found: BTreeSet<IpAddr> = BTreeSet::new();
    let mut leaf: Option<Ipv4Addr> = None;
    for line in lines(fib_trie.unwrap_or_default()) {
        if let Some((_, address)) = line.split_once("|-- ") {
            leaf = address.trim().parse().ok();
        } else if line.contains("/32 host LOCAL") {
            found.extend(leaf.filter(|ip| !ip.is_loopback() && !ip.is_link_local()).map(IpAddr::V4));
        }
    }
    for line in lines(if_inet6.unwrap_or_default()) {
        let address =
            line.get(..32).and_then(|hex| u128::from_str_radix(hex, 16).ok()).map(Ipv6Addr::from_bits);
        found.extend(address.filter(|ip| !ip.is_loopback() && !ip.is_unicast_link_local()).map(IpAddr::V6));
    }
    found.into_iter().take(limits::ADDRESSES).map(|address| address.to_string()).collect()
}

/// `/usr/share/zoneinfo/Europe/Paris` or `../usr/share/…` to `Europe/Paris`.
fn zone(target: &str) -> Option<String> {
    let (_, zone) = target.trim().rsplit_once("zoneinfo/")?;
    clean_some(zone.as_bytes(), limits::TEXT_BYTES)
}
