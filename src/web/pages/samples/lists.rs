//! What a server runs, what a preflight finds and what the settings hold, for the tests of the pages.

use crate::fleet::UserTable;
use crate::model::{LoggedInUser, Process, ProcessUsage, Rights, Role, Service, SessionId, TokenId};
use crate::web::pages::enrol::{Outcome, Preflight, PreflightStep};
use crate::web::pages::server::HostKey;
use crate::web::pages::settings::{SessionInfo, SettingsData, TokenInfo};

use super::seconds_ago;

/// The processes of a database server, one of them hostile, one a zombie.
pub(crate) fn processes() -> Vec<ProcessUsage> {
    let one =
        |pid: u32, user: &str, name: &str, line: Option<&str>, cpu: Option<f64>, mib: u64, state: char| {
            ProcessUsage {
                process: Process {
                    pid,
                    parent_pid: 1,
                    uid: Some(1000),
                    user: Some(user.to_owned()),
                    state,
                    name: name.to_owned(),
                    command_line: line.map(ToOwned::to_owned),
                    rss_bytes: mib << 20,
                    threads: pid % 17 + 1,
                    start_ticks: u64::from(pid) * 100,
                    ..Process::default()
                },
                cpu_percent: cpu,
                started_at_ms: Some(1_795_000_000_000 + u64::from(pid) * 10_000),
            }
        };
    let evil = "<script>alert(1)</script>\u{1b}[2J --password=x";
    let mut all = vec![
        one(1, "root", "systemd", Some("/sbin/init splash"), Some(0.1), 13, 'S'),
        one(812, "postgres", "postgres", Some("postgres: checkpointer"), Some(91.2), 2210, 'R'),
        one(
            813,
            "postgres",
            "postgres",
            Some(
                "/usr/lib/postgresql/15/bin/postgres -D /var/lib/postgresql/15/main -c config_file=/etc/postgresql/15/main/postgresql.conf",
            ),
            Some(12.4),
            4400,
            'S',
        ),
        one(990, "www-data", "nginx", Some("nginx: worker process"), Some(3.3), 21, 'S'),
        one(1204, "nobody", evil, Some(evil), None, 1, 'S'),
        one(1333, "anna", "defunct-job", None, Some(0.0), 0, 'Z'),
        one(31, "root", "kworker/0:1-events", None, Some(0.4), 0, 'I'),
        one(
            2210,
            "root",
            "borg",
            Some("borg create --stats ::backup-2026-11-20 /srv/data"),
            Some(22.8),
            310,
            'D',
        ),
    ];
    for index in 0..60 {
        all.push(one(
            3000 + index,
            "app",
            "puma",
            Some("puma: cluster worker 3: 812 [shop]"),
            Some(f64::from(index % 9) / 3.0),
            120 + u64::from(index),
            'S',
        ));
    }
    all
}

/// The services of a machine, one failed, one starting.
pub(crate) fn services() -> Vec<Service> {
    let one =
        |name: &str, description: &str, state: &str, sub_state: &str, restarts: u64, mib: u64| Service {
            name: name.to_owned(),
            description: description.to_owned(),
            state: state.to_owned(),
            sub_state: sub_state.to_owned(),
            enabled: Some("enabled".to_owned()),
            main_pid: (mib > 0).then_some(812),
            memory_bytes: (mib > 0).then_some(mib << 20),
            restarts: Some(restarts),
            since_ms: Some(1_795_000_000_000),
        };
    vec![
        one("nginx", "A high performance web server and a reverse proxy server", "active", "running", 0, 21),
        one("postgresql", "PostgreSQL RDBMS", "activating", "start", 2, 4400),
        one("certbot", "Renews certificates", "failed", "failed", 5, 0),
        one("ssh", "OpenBSD Secure Shell server", "active", "running", 0, 6),
        one("cron", "Regular background program processing daemon", "active", "running", 0, 2),
        one("apt-daily", "Daily apt download activities", "inactive", "dead", 0, 0),
        one("evil", "<script>alert(1)</script>", "active", "exited", 0, 0),
    ]
}

/// Who is logged in: one over SSH, one at the console.
pub(crate) fn user_table() -> UserTable {
    let user = |name: &str, terminal: &str, from: Option<&str>| LoggedInUser {
        name: name.to_owned(),
        terminal: Some(terminal.to_owned()),
        remote_host: from.map(str::to_owned),
        since_ms: Some(1_795_165_000_000),
    };
    UserTable {
        taken_at: seconds_ago(4),
        users: vec![user("ada", "pts/0", Some("203.0.113.9")), user("<b>deploy</b>", "tty1", None)],
    }
}

/// A preflight that came through to an unknown key, or one that stopped at the login.
pub(crate) fn preflight(comes_through: bool) -> Preflight {
    let step = |title: &str, outcome: Outcome, detail: &str, took_ms: Option<f64>| PreflightStep {
        title: title.to_owned(),
        outcome,
        detail: detail.to_owned(),
        fix: None,
        took_ms,
    };
    let mut steps = vec![
        step("Name", Outcome::Passed, "web-1.example.net is 203.0.113.10", Some(1.2)),
        step("TCP", Outcome::Passed, "port 22 answers", Some(14.0)),
        step("SSH banner", Outcome::Passed, "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3", Some(22.0)),
        step("Key exchange", Outcome::Passed, "curve25519-sha256, aes256-gcm@openssh.com", Some(3.1)),
        step("Host key", Outcome::Warning, "not known yet: compare the fingerprint", None),
    ];
    let tail = ["Authentication", "Shell", "/proc", "sudo", "Docker"];
    if comes_through {
        steps.extend(tail.map(|title| step(title, Outcome::NotTried, "after the key is approved", None)));
    } else {
        steps.push(PreflightStep {
            fix: Some("ssh-copy-id -i /var/lib/roundsman/id_ed25519.pub root@web-1.example.net".to_owned()),
            ..step(
                "Authentication",
                Outcome::Failed,
                "The server refused the key for root; it accepts: publickey.",
                Some(31.0),
            )
        });
        steps.extend(tail[1..].iter().map(|title| step(title, Outcome::NotTried, "", None)));
    }
    Preflight {
        steps,
        host_key: comes_through.then(|| HostKey {
            algorithm: "ssh-ed25519".to_owned(),
            fingerprint: "SHA256:nThbg6kXUpJWGl7E1IGOCspRomTxdCARLviKw6E5SY8".to_owned(),
            line: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
                .to_owned(),
        }),
        host_key_known_from: None,
        can_add: comes_through,
    }
}

pub(crate) fn settings() -> SettingsData {
    let token =
        |number: u128, name: &str, role: Role, expires_in: Option<i64>, used: Option<i64>| TokenInfo {
            id: TokenId::new(uuid::Uuid::from_u128(number)),
            name: name.to_owned(),
            rights: Rights::Role(role),
            created_at: seconds_ago(3_000_000),
            expires_at: expires_in.map(|seconds| seconds_ago(-seconds)),
            last_used_at: used.map(seconds_ago),
        };
    let session = |number: u128, address: &str, user_agent: &str, is_this_one: bool| SessionInfo {
        id: SessionId::new(uuid::Uuid::from_u128(number)),
        address: address.to_owned(),
        user_agent: user_agent.to_owned(),
        created_at: seconds_ago(90_000),
        last_seen_at: seconds_ago(if is_this_one { 1 } else { 7300 }),
        is_this_one,
    };
    SettingsData {
        when_busy: crate::model::WhenBusy::Queue,
        heavy_seconds: "30".to_owned(),
        keeping: crate::web::pages::keeping::tests::data(),
        public_key: Some(
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl roundsman@hub"
                .to_owned(),
        ),
        tokens: vec![
            token(1, "grafana", Role::Viewer, Some(8_000_000), Some(12)),
            token(2, "ci", Role::Operator, None, None),
            token(3, "old-laptop", Role::Admin, Some(-50), Some(400_000)),
        ],
        new_token: None,
        sessions: vec![
            session(
                1,
                "203.0.113.77",
                "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
                true,
            ),
            session(2, "2001:db8::77", "<script>alert(1)</script>", false),
        ],
        problems: Vec::new(),
        password_min_chars: 12,
    }
}
