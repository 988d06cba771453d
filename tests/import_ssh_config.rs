//! What is read from a client configuration against what OpenSSH itself makes of it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use roundsman::fleet::import::{Candidate, Entry, Files, Format, Found, Local, read};

const MAIN: &str = r#"
# options before the first Host apply to all
ConnectTimeout 7
Include extra.d/*.conf

Host web1 web2 !web9 "db one"
    HostName %h.example.com
    User=deploy
    Port 2201
    IdentityFile ~/.ssh/id_web
    IdentityFile "/keys/with blank"

Host web1
    HostName ignored.example.com
    Port 9
    ProxyJump gate

Host web*
    ProxyJump none
    IdentityFile ~/.ssh/id_web
    IdentityFile ~/.ssh/id_all

Host gate
    HostName 10.1.2.3
    User gatekeeper
    HostKeyAlias the-gate

Host deep
    ProxyJump gate,mid@hop.example.com:2022
    CertificateFile ~/.ssh/id-cert.pub

Host uri
    ProxyJump ssh://joe@gate:2200

Host cmd
    ProxyCommand ssh -W %h:%p gate

Host first-command
    ProxyCommand none
    ProxyJump gate

Host UPPER.Example.COM v6 v4
    HostName %h

Host v6
    User six
Host addr6
    HostName fd00::1
Host *.lab lab-?
    User lab
Host one.lab lab-1 lab-22
    Port 5

Match host web2.example.com
    User matched-host
Match host 10.1.2.3 user gatekeeper
    ConnectTimeout 99
Match originalhost deep
    User deep-user
Match !originalhost deep,web* host *.lab
    HostKeyAlias in-the-lab
Match user lab
    ConnectTimeout 1m
Match all
    HostKeyAlias everything-else
Host *
    User fallback
    Port 2299
"#;

const EXTRA: &str =
    "Host from-include web1\n  User included\n  Include deeper\nMatch originalhost deep\n  Port 77\n";
const DEEPER: &str = "Port 4711\nHost never\n  Port 1\nHost from-include\n  HostKeyAlias nested\n";

struct Home<'a> {
    dir: &'a Path,
    local: Local,
}

impl Files for Home<'_> {
    fn local(&self) -> &Local {
        &self.local
    }
    fn variable(&self, _: &str) -> Option<String> {
        None
    }
    fn include(&self, pattern: &str) -> Result<Vec<(String, String)>, String> {
        let path = self.dir.join(pattern.replace("*.conf", "a.conf"));
        Ok(vec![(path.display().to_string(), fs::read_to_string(path).unwrap())])
    }
    fn variables(&self, _: &str, _: &str) -> Result<Vec<(String, String)>, String> {
        Ok(Vec::new())
    }
}

/// What `ssh -G` prints, each option with its values.
fn by_openssh(config: &Path, name: &str) -> BTreeMap<String, Vec<String>> {
    let output =
        Command::new("ssh").arg("-G").arg("-F").arg(config).arg(name).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let mut options: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        options.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    options
}

fn candidates(entries: &[Entry]) -> Vec<&Candidate> {
    let found = entries.iter().filter_map(|entry| match &entry.found {
        Found::Server(candidate) => Some(&**candidate),
        // `Host never` stands in a file that is included below another Host.
        Found::Note { text } if text.contains("never") => None,
        other => panic!("{}: {other:?}", entry.at),
    });
    found.collect()
}

/// `user@host:port` of the hops as the configuration names them, which is what `ssh -G` shows of them.
fn compare(candidate: &Candidate, openssh: &BTreeMap<String, Vec<String>>) {
    let name = candidate.name.as_deref().unwrap();
    let one = |key: &str| openssh.get(key).and_then(|values| values.first()).cloned();
    assert_eq!(Some(candidate.host.clone()), one("hostname"), "{name}");
    assert_eq!(Some(candidate.port.unwrap_or(22).to_string()), one("port"), "{name}");
    assert_eq!(candidate.user, one("user"), "{name}");
    assert_eq!(candidate.host_key_alias, one("hostkeyalias"), "{name}");
    let timeout =
        candidate.connect_timeout_ms.map_or_else(|| "none".to_owned(), |millis| (millis / 1000).to_string());
    assert_eq!(Some(timeout), one("connecttimeout"), "{name}");
    let certificate = openssh.get("certificatefile").and_then(|files| files.first()).cloned();
    assert_eq!(candidate.certificate, certificate, "{name}");
    if !candidate.identities.is_empty() {
        assert_eq!(Some(&candidate.identities), openssh.get("identityfile"), "{name}");
    }
    let jump = one("proxyjump");
    let command = one("proxycommand").filter(|command| command != "none");
    assert_eq!(
        !candidate.jump.is_empty(),
        jump.is_some() || command.is_some(),
        "{name}: {jump:?} {command:?}"
    );
}

#[test]
fn every_name_resolves_as_ssh_resolves_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("extra.d")).unwrap();
    fs::write(
        dir.path().join("extra.d/a.conf"),
        EXTRA.replace("deeper", &dir.path().join("deeper").display().to_string()),
    )
    .unwrap();
    fs::write(dir.path().join("deeper"), DEEPER).unwrap();
    // ssh looks for relative names below the home of the user; the test has none of its own there.
    let config = dir.path().join("config");
    let text = MAIN.replace("extra.d", &dir.path().join("extra.d").display().to_string());
    fs::write(&config, &text).unwrap();
    let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    // An empty home: ssh -G prints paths as they are written, so nothing is to be replaced here either.
    let local = Local { user: user.trim().to_owned(), home: "~".to_owned(), ..Local::default() };
    let home = Home { dir: dir.path(), local };
    let (format, entries) = read(&text, None, Some(&home));
    assert_eq!(format, Format::SshConfig);
    let all = candidates(&entries);
    let names: Vec<&str> = all.iter().filter_map(|candidate| candidate.name.as_deref()).collect();
    assert_eq!(
        names,
        [
            "from-include",
            "web1",
            "web2",
            "db one",
            "gate",
            "deep",
            "uri",
            "cmd",
            "first-command",
            "UPPER.Example.COM",
            "v6",
            "v4",
            "addr6",
            "one.lab",
            "lab-1",
            "lab-22"
        ]
    );
    for candidate in all {
        let name = candidate.name.as_deref().unwrap();
        // ssh takes no name with a blank on its command line; the pattern is read all the same.
        if name != "db one" {
            compare(candidate, &by_openssh(&config, name));
        }
    }
}

#[test]
fn generated_configurations_resolve_as_ssh_resolves_them() {
    let dir = tempfile::tempdir().unwrap();
    let local = Local { user: "nobody-here".to_owned(), home: "~".to_owned(), ..Local::default() };
    let home = Home { dir: dir.path(), local };
    let patterns = ["a*", "*b", "?a", "!ab", "ab", "ba", "aa", "b?", "*", "!*a"];
    let criteria = [
        "host ab.x",
        "originalhost a*",
        "user u1",
        "!user u2",
        "host *.x,!ab.x",
        "all",
        "!originalhost ab,ba",
    ];
    // A small generator of our own: the same 40 files at every run.
    let mut seed = 7_u32;
    let mut next = |below: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        usize::try_from(seed >> 16).unwrap() % below
    };
    for round in 0..40 {
        let mut text = String::from("Match originalhost hop*\n  ProxyJump none\nHost ab ba aa\n");
        for _ in 0..8 {
            match next(4) {
                0 => text.push_str(&format!("Match {}\n", criteria.get(next(criteria.len())).unwrap())),
                _ => {
                    let (one, two) = (
                        patterns.get(next(patterns.len())).unwrap(),
                        patterns.get(next(patterns.len())).unwrap(),
                    );
                    text.push_str(&format!("Host {one} {two}\n"));
                }
            }
            for _ in 0..next(3) {
                let number = next(3);
                match next(6) {
                    0 => text.push_str("  HostName %h.x\n"),
                    1 => text.push_str(&format!("  User u{number}\n")),
                    2 => text.push_str(&format!("  Port {}\n", 100 + number)),
                    3 => text.push_str(&format!("  ProxyJump hop{number}\n")),
                    4 => text.push_str("  ProxyCommand none\n"),
                    _ => text.push_str(&format!("  IdentityFile /k{number}\n")),
                }
            }
        }
        text.push_str("Host *\n  User last\n");
        let config = dir.path().join(format!("config-{round}"));
        fs::write(&config, &text).unwrap();
        let (_, entries) = read(&text, Some(Format::SshConfig), Some(&home));
        for candidate in candidates(&entries) {
            let name = candidate.name.as_deref().unwrap();
            let openssh = by_openssh(&config, name);
            let shown = std::panic::catch_unwind(|| compare(candidate, &openssh));
            assert!(shown.is_ok(), "{text}");
        }
    }
}
