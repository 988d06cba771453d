//! `roundsman import` as a user runs it.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod program;
#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::fs;

use program::{Program, text};
use serde_json::Value;
use support::sshd::{Sshd, free_port};

fn names(program: &Program) -> Vec<String> {
    let servers = program.run(&["list", "--json"]).well().json();
    let servers = servers.as_array().unwrap().iter();
    let ssh = servers.filter(|server| server["transport"] == "ssh");
    ssh.map(|server| server["name"].as_str().unwrap().to_owned()).collect()
}

fn verdicts(report: &Value) -> Vec<(String, &str)> {
    let place = |line: &Value| match line["at"]["file"].as_str() {
        Some(file) => format!("{}:{}", file.rsplit('/').next().unwrap(), line["at"]["line"]),
        None => line["at"]["line"].to_string(),
    };
    let lines = report["lines"].as_array().unwrap().iter();
    lines.map(|line| (place(line), line["verdict"].as_str().unwrap())).collect()
}

#[test]
fn a_dry_run_shows_every_line_and_adds_nothing() {
    let program = Program::served();
    let list =
        program.file("servers", "root@10.0.0.1 name=web\nbad:0\n10.0.0.1\ndb jump=gate tags=\"a b\"\n");
    let shown = program.run(&["import", text(&list), "--dry-run", "--tag", "new"]);
    assert_eq!(shown.code, 1, "a line is wrong: {}", shown.stderr);
    for part in
        ["2 ", "invalid", "duplicate", "over gate", "becomes the tag a-b", "3 to add, 1 said twice, 1 wrong."]
    {
        assert!(shown.stdout.contains(part), "'{part}': {}", shown.stdout);
    }
    let report = program.run(&["import", text(&list), "--dry-run", "--json"]).json();
    let expected = [("1", "add"), ("2", "invalid"), ("3", "duplicate"), ("4", "add"), ("4", "add")];
    assert_eq!(verdicts(&report), expected.map(|(line, verdict)| (line.to_owned(), verdict)));
    program.run(&["import", text(&list)]).refused(1, &["nothing was added", "--skip-invalid"]);
    assert_eq!(names(&program), [""; 0]);
    program.run(&["import"]).refused(2, &["FILE"]);
    program.run(&["import", text(&list), "--format", "xml"]).refused(2, &["ansible_yaml"]);
    program.run(&["import", "/nowhere"]).refused(1, &["cannot read /nowhere"]);
}

#[test]
fn the_command_line_follows_include_and_finds_keys_and_variables() {
    let program = Program::served();
    program.file(
        "home/.ssh/config.d/work.conf",
        "Host inner\n  HostName 10.1.0.1\n  IdentityFile ~/.ssh/id_work\n",
    );
    program.file("home/.ssh/id_work", "not read in a dry run");
    let config = program.file(
        "home/.ssh/config",
        "Include config.d/*.conf\nHost inner outer\n  ProxyJump gate\nHost *\n  User joe\n",
    );
    let report = program.run(&["import", "--ssh-config", "--dry-run", "--json"]).well().json();
    assert_eq!(report["format"], "ssh_config");
    let servers: Vec<&Value> =
        report["lines"].as_array().unwrap().iter().map(|line| &line["server"]).collect();
    let names: Vec<&str> = servers.iter().map(|server| server["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["gate", "inner", "outer"]);
    assert_eq!(verdicts(&report)[1].0, "work.conf:1");
    assert_eq!(servers[1]["jump_host"], "gate");
    let key = fs::canonicalize(program.path("home/.ssh/id_work")).unwrap();
    assert_eq!(servers[1]["login"]["key"], text(&key));
    assert_eq!(servers[2]["username"], "joe");
    let same = program.run(&["import", text(&config), "--dry-run", "--json"]).well().json();
    assert_eq!(same, report);

    let inventory = program.file("ansible/hosts", "[web]\nweb1\n[db]\ndb1\n");
    program.file("ansible/group_vars/all.yml", "ansible_user: deploy\nansible_port: 2222\n");
    program.file("ansible/group_vars/web/main.yaml", "ansible_user: www\n");
    program.file("ansible/host_vars/db1.yml", "ansible_host: 10.0.0.9\n");
    let report = program.run(&["import", text(&inventory), "--dry-run", "--json"]).well().json();
    let web = &report["lines"][0]["server"];
    let db = &report["lines"][1]["server"];
    assert_eq!((&web["username"], &web["port"]), (&Value::from("www"), &Value::from(2222)));
    assert_eq!((&db["username"], &db["hostname"]), (&Value::from("deploy"), &Value::from("10.0.0.9")));
    assert_eq!(db["tags"], serde_json::json!(["db"]));
}

#[tokio::test]
async fn servers_are_added_with_the_keys_of_the_user_and_known_host_keys() {
    let (sshd, other) = (Sshd::start().await, Sshd::start().await);
    let program = Program::served();
    program.file("home/.ssh/id_one", sshd.client_key().expose());
    program.file("home/.ssh/id_two", other.client_key().expose());
    program.file(
        "home/.ssh/known_hosts",
        &format!("[127.0.0.1]:{} {}\nthe-other {}\n", sshd.port(), sshd.host_key(), other.host_key()),
    );
    program.file(
        "home/.ssh/config",
        &format!(
            "Host one\n HostName 127.0.0.1\n Port {}\n IdentityFile ~/.ssh/id_one\nHost two\n HostName 127.0.0.1\n Port {}\n \
             HostKeyAlias the-other\n IdentityFile ~/.ssh/none\n IdentityFile ~/.ssh/id_two\nHost dead\n HostName 127.0.0.1\n Port {}\n\
             Host *\n User root\n",
            sshd.port(),
            other.port(),
            free_port()
        ),
    );
    let done = program.run(&["import", "--ssh-config", "--tag", "from-config"]);
    assert_eq!(done.code, 1, "one is dead: {}", done.stdout);
    for part in ["✓ one", "✓ two", "✗ dead", "2 of 3 added, 1 failed."] {
        assert!(done.stdout.contains(part), "'{part}': {}{}", done.stdout, done.stderr);
    }
    assert_eq!(names(&program), ["one", "two"]);
    assert_eq!((sshd.logins(), other.logins()), (1, 1));
    let tagged = program.run(&["list", "--tag", "from-config", "--json"]).well().json();
    assert_eq!(tagged.as_array().unwrap().len(), 2);
    let again = program.run(&["import", "--ssh-config", "--unchecked"]).well();
    assert!(
        again.stdout.contains("! dead") && again.stdout.contains("1 of 1 added, 1 of them unchecked."),
        "{}",
        again.stdout
    );
    program.run(&["import", "--ssh-config"]).well();
    assert_eq!(names(&program), ["dead", "one", "two"]);
}

#[tokio::test]
async fn an_unknown_host_key_stops_one_server_and_no_other() {
    let (known, unknown) = (Sshd::start().await, Sshd::start().await);
    let program = Program::served();
    program.file("home/.ssh/known_hosts", &format!("[127.0.0.1]:{} {}\n", known.port(), known.host_key()));
    let (one, two) = (
        program.file("one", known.client_key().expose()),
        program.file("two", unknown.client_key().expose()),
    );
    let list = program.file(
        "list.csv",
        &format!(
            "name;hostname;port;username;identity\nknown;127.0.0.1;{};root;{}\nunknown;127.0.0.1;{};root;{}\n",
            known.port(),
            text(&one),
            unknown.port(),
            text(&two)
        ),
    );
    let done = program.run(&["import", text(&list), "--json"]);
    assert_eq!(done.code, 1);
    let progress = done.json();
    assert_eq!((&progress["added"], &progress["failed"]), (&Value::from(1), &Value::from(1)));
    assert_eq!(progress["items"][1]["fingerprint"], Value::from(unknown.host_key().fingerprint()));
    assert_eq!(unknown.login_attempts(), 0, "no credential was sent");
    program.run(&["import", text(&list), "--accept-new"]).well();
    assert_eq!(names(&program), ["known", "unknown"]);
}

#[tokio::test]
async fn the_passphrase_of_a_key_is_asked_for_once() {
    let (sshd, other) = (Sshd::start().await, Sshd::start().await);
    let program = Program::served();
    let key = program.file("locked", sshd.client_key().expose());
    let locked = std::process::Command::new("ssh-keygen")
        .args(["-q", "-p", "-N", "open sesame", "-P", "", "-f", text(&key)])
        .status()
        .unwrap();
    assert!(locked.success());
    // The same key opens both.
    let public = std::process::Command::new("ssh-keygen")
        .args(["-y", "-P", "open sesame", "-f", text(&key)])
        .output()
        .unwrap();
    other.authorize(String::from_utf8(public.stdout).unwrap().trim());
    let list = program.file(
        "list",
        &format!(
            "root@127.0.0.1:{} name=one identity={key}\nroot@127.0.0.1:{} name=two identity={key}\n",
            sshd.port(),
            other.port(),
            key = text(&key)
        ),
    );
    program.run(&["import", text(&list), "--accept-new"]).refused(1, &["passphrase", "--passphrase-file"]);
    let said = program.at_terminal(&["import", text(&list), "--accept-new"], "open sesame\n");
    assert_eq!(said.matches("Passphrase of").count(), 1, "{said}");
    assert!(said.contains("2 of 2 added."), "{said}");
}
