//! Configurations as people have them; tests/import_ssh_config.rs compares with ssh itself.

use super::super::found::{Entry, Found};
use super::*;

struct NoFiles(Local);

impl Files for NoFiles {
    fn local(&self) -> &Local {
        &self.0
    }
    fn variable(&self, name: &str) -> Option<String> {
        (name == "KEYS").then(|| "/keys".to_owned())
    }
    fn include(&self, pattern: &str) -> Result<Vec<(String, String)>, String> {
        match pattern {
            "work" => Ok(vec![(
                "/home/joe/.ssh/work".to_owned(),
                "Host inner\n HostName 10.9.9.9\nUser nobody\n".to_owned(),
            )]),
            "loop" => Ok(vec![("/home/joe/.ssh/loop".to_owned(), "Include loop\n".to_owned())]),
            _ => Ok(Vec::new()),
        }
    }
    fn variables(&self, _: &str, _: &str) -> Result<Vec<(String, String)>, String> {
        Ok(Vec::new())
    }
}

fn joe() -> NoFiles {
    NoFiles(Local {
        user: "joe".to_owned(),
        home: "/home/joe".to_owned(),
        hostname: "desk.example.com".to_owned(),
        uid: 1000,
    })
}

fn entries(text: &str) -> Vec<Entry> {
    let mut findings = Findings::default();
    read(text, Some(&joe()), &mut findings);
    findings.into_entries()
}

fn pasted(text: &str) -> Vec<Entry> {
    let mut findings = Findings::default();
    read(text, None, &mut findings);
    findings.into_entries()
}

fn servers(entries: &[Entry]) -> Vec<&Candidate> {
    entries
        .iter()
        .filter_map(|entry| match &entry.found {
            Found::Server(candidate) => Some(&**candidate),
            _ => None,
        })
        .collect()
}

fn said(entries: &[Entry], line: u32) -> String {
    let entry =
        entries.iter().find(|entry| entry.at.line == line && !matches!(entry.found, Found::Server(_)));
    format!("{:?}", entry.map(|entry| &entry.found))
}

#[test]
fn names_are_servers_and_patterns_are_defaults() {
    let found = entries(
        "Host web-* !web-9\n User deploy\nHost web-1 web-9\n HostName 10.0.0.%h\nHost *\n User root\n Port 2222\n",
    );
    let all = servers(&found);
    assert_eq!(all.len(), 2);
    assert_eq!((all[0].name.as_deref(), all[0].user.as_deref()), (Some("web-1"), Some("deploy")));
    assert_eq!((all[0].host.as_str(), all[0].port), ("10.0.0.web-1", Some(2222)));
    assert_eq!(all[1].user.as_deref(), Some("root"));
}

#[test]
fn a_chain_of_jump_hosts_is_the_way_from_here() {
    let found = entries(
        "Host gate\n HostName gate.example.com\n User gw\nHost inner\n ProxyJump gate\n HostName 10.0.0.1\n\
         Host deep\n ProxyJump inner,joe@last:2200\nHost loop\n ProxyJump loop\nHost a\n ProxyJump b\nHost b\n ProxyJump a\n",
    );
    let all = servers(&found);
    let way = |name: &str| {
        let server = all.iter().find(|server| server.name.as_deref() == Some(name)).unwrap();
        let hop = |hop: &Candidate| {
            format!("{}@{}:{}", hop.user.as_deref().unwrap(), hop.host, hop.port.unwrap_or(22))
        };
        server.jump.iter().map(hop).collect::<Vec<_>>()
    };
    assert_eq!(way("inner"), ["gw@gate.example.com:22"]);
    assert_eq!(way("deep"), ["gw@gate.example.com:22", "joe@10.0.0.1:22", "joe@last:2200"]);
    assert!(said(&found, 9).contains("comes back"), "{found:?}");
    assert_eq!(all.len(), 3);
}

#[test]
fn the_paths_of_keys_have_their_tokens_replaced() {
    let found = entries(
        "Host web\n HostName w.example.com\n IdentityFile ~/.ssh/%n\n IdentityFile ${KEYS}/%h-%r-%p%%\n CertificateFile %d/c\n",
    );
    let web = servers(&found)[0];
    assert_eq!(web.identities, ["/home/joe/.ssh/web", "/keys/w.example.com-joe-22%"]);
    assert_eq!(web.certificate.as_deref(), Some("/home/joe/c"));
    let found = pasted("Host web\n IdentityFile ~/.ssh/%n\n");
    assert_eq!(servers(&found)[0].identities, ["~/.ssh/%n"]);
}

#[test]
fn what_is_not_supported_is_named_on_its_line() {
    let found = entries(
        "Match exec \"true\"\n User evil\nMatch final\n User late\nHost tor\n ProxyCommand cloudflared %h\nHost web\n PKCS11Provider /x.so\n \
         ForwardAgent yes\n StrictHostKeyChecking no\n Usr joe\n Port ssh\n User a b\nHost \"open\nHost github.com\n User git\n",
    );
    for (line, part) in [
        (1, "Match exec"),
        (3, "Match final"),
        (6, "ProxyCommand"),
        (5, "ProxyCommand of line 6"),
        (8, "PKCS11Provider"),
        (9, "ForwardAgent"),
        (10, "always checks"),
        (11, "no option"),
        (12, "not a port"),
        (13, "one value"),
        (14, "not closed"),
        (15, "keeps code"),
    ] {
        assert!(said(&found, line).contains(part), "{line} {part}: {found:#?}");
    }
    let all = servers(&found);
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].user.as_deref(), Some("joe"));
}

#[test]
fn include_is_followed_by_the_command_line_only() {
    let found = entries("Include work nothing\nHost web\n Include work\nHost inner\n Port 7\n");
    let all = servers(&found);
    assert_eq!(all.iter().map(|server| server.host.as_str()).collect::<Vec<_>>(), ["10.9.9.9", "web"]);
    // Below `Host web` the file applies to web only, and its own block goes on in no other file.
    assert_eq!(all[0].port, Some(7));
    assert_eq!(found[1].at.file.as_deref(), Some("/home/joe/.ssh/work"), "{found:#?}");
    let found = pasted("Include /etc/passwd\nHost web\n");
    assert!(said(&found, 1).contains("only the command line follows Include"), "{found:?}");
    assert!(said(&entries("Include loop\n"), 1).contains("files one from another"));
}

#[test]
fn a_text_made_to_keep_a_processor_busy_is_given_up() {
    let mut text = String::new();
    for number in 0..3000 {
        text.push_str(&format!("Host {}{number}\n", "*a".repeat(60)));
        text.push_str(&format!("Host {}{number}\n", "a".repeat(120)));
    }
    let started = std::time::Instant::now();
    let found = entries(&text);
    assert!(found.iter().any(|entry| format!("{:?}", entry.found).contains("in parts")));
    assert!(started.elapsed() < std::time::Duration::from_secs(60));
}
