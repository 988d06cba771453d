//! Plans by their verdicts: names, duplicates, jump hosts, keys, limits.

use super::super::plan as plan_of_text;
use super::super::plan::{KnownKey, KnownServer, Login};
use super::*;

fn around() -> Surroundings {
    Surroundings {
        servers: vec![
            KnownServer {
                name: "gate".to_owned(),
                hostname: Some("10.0.0.1".to_owned()),
                port: 22,
                ..KnownServer::default()
            },
            KnownServer {
                name: "inner".to_owned(),
                hostname: Some("192.168.0.5".to_owned()),
                port: 22,
                jump_host: Some("gate".to_owned()),
                proxy: None,
            },
        ],
        keys: vec![KnownKey {
            id: "key-1".to_owned(),
            name: "work".to_owned(),
            source_path: Some("/home/joe/.ssh/work".to_owned()),
        }],
        ..Surroundings::default()
    }
}

fn plan(text: &str) -> Plan {
    plan_of_text(text, Some(Format::Lines), &around())
}

fn added(plan: &Plan) -> Vec<&Planned> {
    plan.additions().map(|(_, server)| server).collect()
}

#[test]
fn every_line_has_a_verdict() {
    let plan = plan("web\n10.0.0.1\nWEB:22\nbad:0\nweb-2 name=gate\n");
    let verdicts: Vec<String> = plan
        .lines
        .iter()
        .map(|line| match &line.verdict {
            Verdict::Add { server } => format!("add {}", server.name),
            Verdict::Exists { name } => format!("exists {name}"),
            Verdict::Duplicate { of, name } => format!("duplicate {of} {name}"),
            Verdict::Invalid { field, .. } => format!("invalid {field}"),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(verdicts, ["add web", "exists gate", "duplicate 1 web", "invalid hostname", "add gate-2"]);
    assert!(plan.lines[4].remarks[0].contains("taken"), "{:?}", plan.lines[4]);
    assert!(!plan.is_clean());
}

#[test]
fn names_become_valid_and_stay_unique() {
    let plan = plan(
        "a name=\"web one\"\nb name=web-one\nc name=12345\n[fd00::5]\nd name=01890000-0000-7000-8000-000000000001\n",
    );
    let names: Vec<&str> = added(&plan).into_iter().map(|server| server.name.as_str()).collect();
    assert_eq!(
        names,
        ["web-one", "web-one-2", "server-12345", "fd00--5", "server-01890000-0000-7000-8000-000000000001"]
    );
}

#[test]
fn a_jump_host_becomes_a_server_before_those_behind_it() {
    let plan = plan(
        "10.9.0.1 name=one jump=bastion.example.com\n10.9.0.2 name=two jump=joe@bastion.example.com\n10.9.0.3 jump=one\n",
    );
    let all = added(&plan);
    let names: Vec<&str> = all.iter().map(|server| server.name.as_str()).collect();
    assert_eq!(names, ["bastion.example.com", "one", "two", "10.9.0.3"]);
    let jumps: Vec<Option<&str>> = all.iter().map(|server| server.jump_host.as_deref()).collect();
    assert_eq!(jumps, [None, Some("bastion.example.com"), Some("bastion.example.com"), Some("one")]);
    assert_eq!(all[1].behind, Some(0));
    assert!(plan.lines[0].remarks[0].contains("jump host of one"), "{:?}", plan.lines[0]);
}

#[test]
fn a_jump_host_that_is_there_is_used_by_name_and_by_address() {
    let plan = plan(
        "10.9.0.1 jump=gate\n10.9.0.2 jump=10.0.0.1\n192.168.0.5 jump=gate\n192.168.0.5\n10.9.0.3 jump=inner\n",
    );
    let jumps: Vec<Option<&str>> =
        added(&plan).into_iter().map(|server| server.jump_host.as_deref()).collect();
    // The same private address behind no gate is another server.
    assert_eq!(jumps, [Some("gate"), Some("gate"), None, Some("inner")]);
    assert!(matches!(&plan.lines[2].verdict, Verdict::Exists { name } if name == "inner"));
}

#[test]
fn ways_that_come_back_to_themselves_are_refused() {
    let plan = plan("a jump=b\nb jump=a\nc jump=c\nd jump=bad\nbad port=0\n");
    let count = plan
        .lines
        .iter()
        .filter(|line| matches!(&line.verdict, Verdict::Invalid { field, .. } if field == "jump_host"));
    assert_eq!(count.count(), 4, "{:#?}", plan.lines);
}

#[test]
fn a_path_is_the_name_of_a_kept_key_and_nothing_more() {
    let plan = plan(
        "a identity=/home/joe/.ssh/work\nb identity=work\nc identity=~/.ssh/work\nd identity=/etc/shadow\ne identity=default\n",
    );
    let logins: Vec<&Login> = added(&plan).into_iter().map(|server| &server.login).collect();
    let kept = Login::Key("key-1".to_owned());
    assert_eq!(logins, [&kept, &kept, &kept, &Login::Default, &Login::Default]);
    assert!(plan.lines[3].remarks[0].contains("not one that Roundsman keeps"), "{:?}", plan.lines[3]);
    assert!(plan.lines[4].remarks.is_empty());
}

#[test]
fn tags_that_do_not_fit_are_adapted_and_said() {
    let plan = plan("web tags=\"db servers,ok\"\n");
    assert_eq!(added(&plan)[0].tags, ["db-servers", "ok"]);
    assert!(plan.lines[0].remarks[0].contains("becomes the tag db-servers"));
}

#[test]
fn proxies_are_checked_and_carry_no_password() {
    let plan = plan(
        "a proxy=socks5://p:1080\nb proxy=http://joe@[fd00::1]\nc proxy=http://joe:secret@p\nd proxy=ftp://p\n",
    );
    let proxies: Vec<Option<&str>> = added(&plan).into_iter().map(|server| server.proxy.as_deref()).collect();
    assert_eq!(proxies, [Some("socks5://p:1080"), Some("http://joe@[fd00::1]:3128")]);
    assert_eq!(plan.counts().invalid, 2);
    assert!(!format!("{plan:?}").contains("secret"));
}

#[test]
fn more_servers_than_one_roundsman_looks_after_are_left_out_and_said() {
    let text: String = (0..5010).map(|number| format!("h{number}.example.com\n")).collect();
    let plan = plan(&text);
    assert_eq!((plan.counts().add, plan.counts().invalid), (5000, 1));
    let large = plan_of_text(&"x".repeat(super::super::TEXT_BYTES + 1), None, &around());
    assert!(
        matches!(&large.lines[0].verdict, Verdict::Invalid { message, .. } if message.contains("larger"))
    );
}
