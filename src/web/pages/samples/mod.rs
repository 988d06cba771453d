//! Builders of realistic servers for the tests of the pages.

mod groups;
mod keys;
mod lists;
mod measured;
mod operations;
mod tasks;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::fleet::{Cadence, Figures, ServerState, Summary};
use crate::model::{
    Account, Facts, Filesystem, Gap, Health, Interface, Layer, OrganizationId, Port, Reachability, Role,
    Server, ServerId, ServerName, ServerNumber, ServiceManager, Status, Tag, TcpStates, Timestamp, Transport,
};
use crate::web::pages::Viewer;

pub(crate) use groups::{dependencies, group};
pub(crate) use keys::{host_keys, key_detail, known_hosts};
pub(crate) use lists::{preflight, processes, services, settings, user_table};
pub(crate) use measured::{container_table, custom_metric, custom_states, trial};
pub(crate) use operations::{operation, record};
pub(crate) use tasks::{task, task_runs};

const GIB: u64 = 1 << 30;

/// 2026-11-20T10:00:00Z, the time of every page in the tests.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_millis(1_795_168_800_000)
}

pub(crate) fn seconds_ago(seconds: i64) -> Timestamp {
    Timestamp::from_millis(now().as_millis() - seconds * 1000)
}

pub(crate) fn viewer(role: Role) -> Viewer {
    Viewer {
        name: "anna".to_owned(),
        role,
        csrf_token: "csrf-token-of-the-test".to_owned(),
        organization_name: "Default".to_owned(),
        alarm: None,
    }
}

/// One server in the making.
#[derive(Debug)]
pub(crate) struct Sample {
    server: Server,
    state: ServerState,
}

impl Sample {
    pub(crate) fn named(name: &str) -> Self {
        let seed = name.bytes().fold(7_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let share = |salt: u64, from: f64, to: f64| {
            let mixed = seed.wrapping_add(salt).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
            from + (to - from) * (mixed % 1000) as f64 / 1000.0
        };
        let cpu = share(1, 1.0, 55.0);
        let figures = Figures {
            containers_running: None,
            custom: Arc::default(),
            cpu_percent: Some(cpu),
            memory_percent: Some(share(2, 20.0, 78.0)),
            memory_used_bytes: Some(share(2, 20.0, 78.0) / 100.0 * 16.0 * GIB as f64),
            memory_total_bytes: Some(16.0 * GIB as f64),
            swap_percent: Some(share(3, 0.0, 5.0)),
            disk_percent: Some(share(4, 11.0, 84.0)),
            network_rx_bytes: Some(share(5, 900.0, 9_000_000.0)),
            network_tx_bytes: Some(share(6, 900.0, 2_000_000.0)),
            disk_read_bytes: Some(share(7, 0.0, 400_000.0)),
            disk_written_bytes: Some(share(8, 0.0, 4_000_000.0)),
            load1: Some(share(9, 0.01, 6.0)),
            load5: Some(share(10, 0.01, 5.0)),
            load15: Some(share(11, 0.01, 4.0)),
            uptime_seconds: Some(share(12, 4000.0, 9_000_000.0)),
            processes: Some(share(13, 60.0, 400.0).round()),
            active_services: Some(38.0),
            failed_services: Some(0.0),
            total_services: Some(52.0),
            active_users: Some(1.0),
            clock_offset_seconds: Some(0.012),
            pending_updates: Some(7.0),
            pending_security_updates: Some(2.0),
            response_time_ms: Some(share(14, 0.8, 60.0)),
        };
        let wave = |salt: u64| {
            (0..60_u64)
                .map(|i| Some((cpu + share(i * 7 + salt, -9.0, 9.0) + 6.0 * (i as f64 / 6.0).sin()).max(0.4)))
                .collect::<Vec<_>>()
        };
        let server = Server {
            id: ServerId::new(uuid::Uuid::from_u128(
                (0x0193_u128 << 112) | (7 << 76) | (2 << 62) | (u128::from(seed) & ((1 << 62) - 1)),
            )),
            number: ServerNumber(1),
            organization: OrganizationId::DEFAULT,
            name: ServerName::parse(name).unwrap(),
            description: String::new(),
            transport: Transport::Ssh,
            hostname: Some(format!("{name}.example.net")),
            port: Port::SSH,
            username: Some("root".to_owned()),
            region: None,
            environment: Some("production".to_owned()),
            tags: Vec::new(),
            metadata: BTreeMap::new(),
            status: Status::Active,
            interval_ms: 5000,
            heavy_interval_ms: None,
            created_at: seconds_ago(9_000_000),
            updated_at: seconds_ago(3600),
        };
        let state = ServerState {
            way: Arc::default(),
            jump: None,
            groups: Vec::new(),
            cadence: Cadence::default(),
            findings: Arc::default(),
            channels_allowed: None,
            agent: None,
            probe: None,
            push: None,
            http: None,
            api: None,
            host_key: None,
            offered_host_key: None,
            server: Arc::new(server.clone()),
            health: Health::Healthy,
            health_reasons: Vec::new(),
            reachability: Reachability::Reachable,
            last_seen_at: Some(seconds_ago(2)),
            last_health_check_at: Some(seconds_ago(20)),
            figures: Arc::new(figures),
            facts: Some(Arc::new(facts(name))),
            filesystems: filesystems(&[
                ("/", 41),
                ("/boot", 28),
                ("/var/lib/postgresql", 84),
                ("/srv/data", 93),
            ]),
            interfaces: interfaces(),
            tcp_states: Some(tcp_states()),
            gaps: Arc::new([]),
            watched: Arc::new([]),
            updates: None,
            cpu_limit_x1000: None,
            memory_limit_bytes: None,
            logins_today: 1,
            cpu_recent: wave(0),
            memory_recent: wave(100),
        };
        Self { server, state }
    }

    pub(crate) fn state(self) -> ServerState {
        ServerState { server: Arc::new(self.server), ..self.state }
    }

    pub(crate) fn tag(mut self, tag: &str) -> Self {
        self.server.tags.push(Tag::parse(tag).unwrap());
        self
    }

    pub(crate) fn region(mut self, region: &str) -> Self {
        self.server.region = Some(region.to_owned());
        self
    }

    pub(crate) fn environment(mut self, environment: &str) -> Self {
        self.server.environment = Some(environment.to_owned());
        self
    }

    pub(crate) fn cpu(mut self, percent: f64) -> Self {
        Arc::make_mut(&mut self.state.figures).cpu_percent = Some(percent);
        self
    }

    pub(crate) fn status(mut self, status: Status) -> Self {
        self.server.status = status;
        self
    }

    pub(crate) fn local(mut self) -> Self {
        self.server.transport = Transport::Local;
        self.server.hostname = None;
        self
    }

    /// Never read yet.
    pub(crate) fn unread(mut self) -> Self {
        self.state.figures = Arc::new(Figures::default());
        self.state.health = Health::Unknown;
        self.state.reachability = Reachability::Connecting;
        self.state.last_seen_at = None;
        self.state.facts = None;
        self.state.filesystems = Arc::new([]);
        self.state.interfaces = Arc::new([]);
        self.state.tcp_states = None;
        self.state.cpu_recent.clear();
        self.state.memory_recent.clear();
        self
    }

    pub(crate) fn unreachable(mut self, reason: &str) -> Self {
        self.state.health = Health::Unreachable;
        self.state.last_seen_at = Some(seconds_ago(185));
        self.state.reachability = Reachability::Unreachable {
            layer: Some(Layer::Tcp),
            reason: reason.to_owned(),
            since: seconds_ago(180),
        };
        self
    }

    pub(crate) fn health(mut self, health: Health, reason: &str) -> Self {
        self.state.health = health;
        self.state.health_reasons.push(reason.to_owned());
        self
    }

    /// Every text that a server or a person can set, set to what breaks a careless page.
    pub(crate) fn hostile(mut self) -> Self {
        let evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u{1b}[31m\u{202e}";
        self.server.description = format!("{evil} {}", "long ".repeat(80));
        self.server.hostname = Some(evil.to_owned());
        self.server.username = Some(evil.to_owned());
        // The edge takes control characters from what a person types; a server's text is not checked before.
        self.server.region = Some("<script>alert(1)</script>\"'>".to_owned());
        self.server.environment = self.server.region.clone();
        self.server.metadata.insert(evil.to_owned(), evil.to_owned());
        self.state.health_reasons = vec![evil.to_owned(), "x".repeat(5000)];
        self.state.health = Health::Critical;
        self.state.facts = Some(Arc::new(Facts {
            os_name: Some(evil.to_owned()),
            kernel: Some("k".repeat(3000)),
            addresses: vec![evil.to_owned(); 30],
            ..facts(evil)
        }));
        let mounts: Vec<Filesystem> = (0..40)
            .map(|index| Filesystem {
                mount: format!("/mnt/{evil}/{index}"),
                device: evil.to_owned(),
                size_bytes: GIB,
                ..Filesystem::default()
            })
            .collect();
        self.state.filesystems = mounts.into();
        self.state.interfaces = Arc::new([Interface { name: evil.to_owned(), ..Interface::default() }]);
        self.state.gaps = Arc::new([Gap { section: evil.to_owned(), reason: evil.to_owned() }]);
        self
    }

    pub(crate) fn gap(mut self, section: &str, reason: &str) -> Self {
        let mut gaps = self.state.gaps.to_vec();
        gaps.push(Gap { section: section.to_owned(), reason: reason.to_owned() });
        self.state.gaps = gaps.into();
        self
    }

    pub(crate) fn filesystem_count(mut self, count: u64) -> Self {
        let mounts: Vec<(String, u64)> = (0..count)
            .map(|index| (format!("/srv/tenants/customer-{index:02}/volume"), index * 100 / count))
            .collect();
        let pairs: Vec<(&str, u64)> = mounts.iter().map(|(mount, used)| (mount.as_str(), *used)).collect();
        self.state.filesystems = filesystems(&pairs);
        self
    }
}

fn facts(name: &str) -> Facts {
    Facts {
        hostname: Some(name.to_owned()),
        os_name: Some("Debian GNU/Linux 12 (bookworm)".to_owned()),
        os_id: Some("debian".to_owned()),
        os_version: Some("12".to_owned()),
        kernel: Some("6.1.0-32-amd64".to_owned()),
        architecture: Some("x86_64".to_owned()),
        cpu_model: Some("AMD EPYC 7713 64-Core Processor".to_owned()),
        cpu_cores: Some(8),
        virtualisation: Some("kvm".to_owned()),
        in_container: Some(false),
        service_manager: ServiceManager::Systemd,
        addresses: vec!["10.12.0.14".to_owned(), "2001:db8:12::14".to_owned()],
        machine_vendor: Some("QEMU".to_owned()),
        machine_model: Some("Standard PC (Q35 + ICH9, 2009)".to_owned()),
        reboot_required: Some(true),
        timezone: Some("Europe/Berlin".to_owned()),
        accounts: [("root", 0, None), ("ada", 1000, Some("Ada Lovelace")), ("deploy", 1001, None)]
            .into_iter()
            .map(|(name, uid, full_name)| Account {
                name: name.to_owned(),
                uid,
                full_name: full_name.map(str::to_owned),
                home: format!("/home/{name}"),
                shell: "/bin/bash".to_owned(),
                is_administrator: uid < 1001,
            })
            .collect(),
    }
}

fn filesystems(mounts: &[(&str, u64)]) -> Arc<[Filesystem]> {
    let one = |(index, (mount, used)): (usize, &(&str, u64))| Filesystem {
        mount: (*mount).to_owned(),
        device: format!("/dev/vda{}", index + 1),
        fs_type: "ext4".to_owned(),
        size_bytes: 80 * GIB,
        used_bytes: 80 * GIB * used / 100,
        available_bytes: 80 * GIB * (100 - used) / 100,
        inodes_total: Some(5_242_880),
        inodes_used: Some(52_428 * used / 2),
    };
    mounts.iter().enumerate().map(one).collect()
}

fn tcp_states() -> TcpStates {
    TcpStates { listen: 12, established: 34, time_wait: 5, close_wait: 2, ..TcpStates::default() }
}

fn interfaces() -> Arc<[Interface]> {
    Arc::new([
        Interface {
            name: "eth0".to_owned(),
            rx_bytes: 912 * GIB,
            tx_bytes: 120 * GIB,
            rx_errors: 0,
            tx_dropped: 3,
            ..Interface::default()
        },
        Interface { name: "wg0".to_owned(), rx_bytes: 3 * GIB, tx_bytes: GIB, ..Interface::default() },
    ])
}

/// A fleet as a small team has it, with every state in it.
pub(crate) fn small_fleet() -> Vec<ServerState> {
    vec![
        Sample::named("roundsman").local().tag("core").state(),
        Sample::named("web-1").region("Frankfurt").tag("web").tag("nginx").state(),
        Sample::named("web-2")
            .region("Frankfurt")
            .tag("web")
            .tag("nginx")
            .cpu(86.4)
            .health(Health::Degraded, "CPU has been over 80% for 5 minutes.")
            .state(),
        Sample::named("web-3").region("Helsinki").tag("web").status(Status::Maintenance).state(),
        Sample::named("db-primary")
            .region("Frankfurt")
            .tag("postgres")
            .tag("backup=daily")
            .health(Health::Critical, "Filesystem /srv/data is 93% full.")
            .state(),
        Sample::named("db-replica")
            .region("Helsinki")
            .tag("postgres")
            .unreachable(
                "Connection refused on port 22; is sshd running, and does a firewall block 203.0.113.9?",
            )
            .state(),
        Sample::named("build-arm64-runner-with-a-rather-long-name.internal")
            .region("Helsinki")
            .environment("staging")
            .tag("ci")
            .unread()
            .state(),
        Sample::named("mail").region("Nuremberg").tag("mail").state(),
        Sample::named("git").region("Nuremberg").environment("development").status(Status::Inactive).state(),
        Sample::named("metrics-lab")
            .region("Nuremberg")
            .environment("development")
            .tag("lab")
            .cpu(99.2)
            .state(),
    ]
}

pub(crate) fn large_fleet(count: usize) -> Vec<ServerState> {
    (0..count)
        .map(|index| {
            let sample = Sample::named(&format!("node-{index:04}"))
                .region(["Frankfurt", "Helsinki", "Nuremberg"][index % 3])
                .tag("k8s")
                .tag(&format!("rack:{}", index % 40));
            match index % 97 {
                3 => sample.unreachable("The name does not resolve."),
                5 => sample.health(Health::Critical, "Service nginx has failed."),
                11 | 12 => sample.health(Health::Degraded, "Memory is over 90%."),
                _ => sample,
            }
            .state()
        })
        .collect()
}

/// What the registry would count over these servers.
pub(crate) fn summary(servers: &[ServerState]) -> Summary {
    let status = |status| servers.iter().filter(|state| state.server.status == status).count() as u32;
    let health = |health| servers.iter().filter(|state| state.health == health).count() as u32;
    let average = |figure: fn(&Figures) -> Option<f64>| {
        let known: Vec<f64> = servers.iter().filter_map(|state| figure(&state.figures)).collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    };
    Summary {
        total_servers: servers.len() as u32,
        active_servers: status(Status::Active),
        maintenance_servers: status(Status::Maintenance),
        inactive_servers: status(Status::Inactive),
        healthy_servers: health(Health::Healthy),
        degraded_servers: health(Health::Degraded),
        critical_servers: health(Health::Critical),
        unreachable_servers: health(Health::Unreachable),
        unknown_servers: health(Health::Unknown),
        average_cpu_percent: average(|figures| figures.cpu_percent),
        average_memory_percent: average(|figures| figures.memory_percent),
        average_disk_percent: average(|figures| figures.disk_percent),
        ..Summary::default()
    }
}
