//! `roundsman exec`, `action`, `cp` and `op` through a running Roundsman, against real daemons.

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod program;
#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::path::Path;

use program::{Program, text};
use support::sshd::Sshd;

fn enrol(program: &Program, sshd: &Sshd, name: &str) {
    let key = program.file(&format!("key-{name}"), sshd.client_key().expose());
    let address = format!("root@127.0.0.1:{}", sshd.port());
    program
        .run(&["add", &address, "--name", name, "--identity", text(&key), "--accept-new", "--tag", "web"])
        .well();
}

/// web-1 and web-2, and a Roundsman that knows them.
async fn two_servers() -> (Program, Sshd, Sshd) {
    let (first, second) = (Sshd::start().await, Sshd::start().await);
    let program = Program::served();
    enrol(&program, &first, "web-1");
    enrol(&program, &second, "web-2");
    (program, first, second)
}

#[tokio::test]
async fn one_server_answers_as_ssh_does_and_over_the_same_login() {
    let sshd = Sshd::start().await;
    let program = Program::served();
    enrol(&program, &sshd, "web-1");
    let done = program.run(&["exec", "web-1", "--", "echo out; echo err >&2; exit 7"]);
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (7, "out\n", "err\n"));
    assert_eq!(sshd.logins(), 1);
    let listed = program.run(&["op", "list", "--json"]).well().json();
    let id = listed.pointer("/0/id").unwrap().as_str().unwrap();
    let shown = program.run(&["op", "show", id]).well().stdout;
    assert!(shown.contains("web-1") && shown.contains("exit status 7"), "{shown}");
    program.run(&["exec", "nobody", "--", "true"]).refused(1, &["nobody"]);
}

#[tokio::test]
async fn equal_outputs_of_several_servers_are_shown_once() {
    let (program, first, _second) = two_servers().await;
    let done = program.run(&["exec", "web-1", "web-2", "--", "echo same"]).well();
    assert_eq!(done.stdout.matches("same").count(), 1, "{}", done.stdout);
    assert!(done.stdout.contains("(2 servers)"), "{}", done.stdout);
    assert_eq!(done.stderr, "", "nothing but answers where nobody looks");
    // Only the first listens on this port.
    let only_first = format!("echo \"${{SSH_CONNECTION##* }}\" | grep -q '^{}$'", first.port());
    let mixed = program.run(&["exec", "web-1", "web-2", "--", &only_first]);
    assert_eq!(mixed.code, 1, "one did and one did not: {}", mixed.stdout);
    assert!(mixed.stderr.contains("1 identical, 1 differs"), "{}", mixed.stderr);
    let said = format!("echo same; [ \"${{SSH_CONNECTION##* }}\" = {} ] || echo another", first.port());
    let differing = program.run(&["exec", "--tag", "web", "--diff", "--", &said]).well().stdout;
    assert!(differing.contains("differs:\n same\n+another\n"), "{differing}");
    let apart = program.run(&["exec", "--tag", "web", "--no-fold", "--", "echo same"]).well();
    assert_eq!(apart.stdout.matches("same").count(), 2, "{}", apart.stdout);
    assert!(apart.stderr.contains("On 2 servers: web-1, web-2."), "{}", apart.stderr);
}

#[tokio::test]
async fn a_failed_operation_is_retried_by_its_id_and_waited_for() {
    let (program, first, _second) = two_servers().await;
    let flag = program.path("flag");
    let command =
        format!("[ \"${{SSH_CONNECTION##* }}\" != {} ] || [ -e '{}' ]", first.port(), flag.display());
    let begun = program.run(&["--json", "exec", "--tag", "web", "--", &command]);
    assert_eq!(begun.code, 1, "{}", begun.stdout);
    let id = begun.json().pointer("/id").unwrap().as_str().unwrap().to_owned();
    std::fs::write(&flag, "").unwrap();
    let again = program.run(&["op", "retry", &id]).well();
    assert!(again.stdout.contains("web-1: exit status 0"), "{}", again.stdout);
    assert!(!again.stdout.contains("web-2"), "only where it failed: {}", again.stdout);
    let new = program.run(&["op", "list", "--json"]).well().json();
    assert_eq!(new.pointer("/0/retry_of").unwrap(), id.as_str());
    program.run(&["op", "retry", new.pointer("/0/id").unwrap().as_str().unwrap()]).refused(1, &["no server"]);
    program.run(&["op", "retry", &id, "--only", "unreachable"]).refused(1, &["no server"]);
    program.run(&["op", "retry", &id, "--server", "ghost"]).refused(1, &["ghost"]);
    let chosen = program.run(&["op", "retry", &id, "--server", "web-2"]).well().stdout;
    assert!(chosen.contains("web-2: exit status 0") && !chosen.contains("web-1"), "{chosen}");
    let narrowed =
        program.run(&["op", "retry", &id, "--only", "failed,succeeded", "--server", "web-1"]).well();
    assert!(narrowed.stdout.contains("web-1") && !narrowed.stdout.contains("web-2"), "{}", narrowed.stdout);
    program.run(&["op", "cancel", &id]).refused(1, &["ended"]);
    let shown = program.run(&["op", "show", "--follow", &id]).well().stdout;
    assert!(shown.contains("partial"), "{shown}");
}

#[tokio::test]
async fn any_kind_of_action_is_shown_asked_for_and_done() {
    let (program, _first, _second) = two_servers().await;
    let script = program.file("fix.sh", "#!/bin/sh\necho \"$1 and $2 in $MODE\"\n");
    let file = format!("script={}", text(&script));
    let given =
        ["--parameter-file", &file, "-p", "arguments=one", "-p", "arguments=two words", "--env", "MODE=fast"];
    let all = [&["action", "run_script", "--tag", "web"][..], &given].concat();
    let done = program.run(&all).well();
    assert_eq!(done.stdout, "── web-1, web-2 (2 servers): exit status 0\none and two words in fast\n");
    let words = ["action", "restart_container", "--container", "podman:shop", "--tag", "web"];
    let planned = program.run(&[&words[..], &["--dry-run", "--batch", "1"]].concat()).well().stdout;
    assert!(planned.contains("2  web-2   podman restart shop"), "{planned}");
    // A reboot names what it touches and is not done unasked.
    program.run(&["action", "reboot", "web-2"]).refused(2, &["Reboot on web-2", "--yes"]);
    assert_eq!(program.run(&["op", "list", "--action", "reboot", "--json"]).well().stdout.trim(), "[]");
    program.run(&["action", "restart_service", "web-1"]).refused(2, &["service"]);
    program.run(&["action", "dance", "web-1"]).refused(2, &["dance"]);
    program.run(&["action", "health_check"]).refused(2, &["--tag"]);
    let target = program.path("placed");
    let content = program.file("content", "as it is\n");
    let (path, content) = (format!("path={}", target.display()), format!("content={}", text(&content)));
    program.run(&["action", "upload_file", "web-1", "-p", &path, "--parameter-file", &content]).well();
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "as it is\n");
}

#[tokio::test]
async fn diagnostics_of_an_operation_come_as_files() {
    let (program, _first, _second) = two_servers().await;
    let begun = program.run(&["action", "collect_diagnostics", "--tag", "web", "--json"]).well().json();
    let id = begun.pointer("/id").unwrap().as_str().unwrap();
    let to = program.path("bundles");
    program.run(&["op", "diagnostics", id, text(&to)]).well();
    for name in ["web-1.tar.gz", "web-2.tar.gz"] {
        assert!(std::fs::read(to.join(name)).unwrap().starts_with(&[0x1f, 0x8b]), "{name}");
    }
    program.run(&["op", "diagnostics", "0", text(&to)]).refused(1, &["no operation"]);
}

#[tokio::test]
async fn one_file_goes_to_several_servers_and_comes_from_each() {
    // Each has a directory of its own at this path.
    let own = |dir: &Path| format!("mount --bind {} /mnt", dir.join("home").display());
    let (first, second) = (Sshd::with_mounts("", own).await, Sshd::with_mounts("", own).await);
    let program = Program::served();
    enrol(&program, &first, "web-1");
    enrol(&program, &second, "web-2");
    let file = program.file("motd", "welcome\n");
    let sent = program.run(&["cp", text(&file), "web-1,web-2:/mnt/", "--mode", "640"]).well();
    assert_eq!(sent.stdout, "web-1: /mnt/motd: 8 bytes\nweb-2: /mnt/motd: 8 bytes\n");
    for sshd in [&first, &second] {
        assert_eq!(std::fs::read_to_string(sshd.home().join("motd")).unwrap(), "welcome\n");
    }
    std::fs::write(second.home().join("motd"), "changed\n").unwrap();
    let to = program.path("fetched");
    program.run(&["cp", ":/mnt/motd", text(&to), "--tag", "web"]).well();
    assert_eq!(std::fs::read_to_string(to.join("web-1/motd")).unwrap(), "welcome\n");
    assert_eq!(std::fs::read_to_string(to.join("web-2/motd")).unwrap(), "changed\n");
    std::fs::remove_file(second.home().join("motd")).unwrap();
    let half = program.run(&["cp", "web-1,web-2:/mnt/motd", text(&to)]);
    assert_eq!(half.code, 1, "{}", half.stdout);
    assert!(half.stderr.contains("web-2: ") && !half.stderr.contains("web-1: "), "{}", half.stderr);
    let folder = program.path("home");
    program.run(&["cp", text(&folder), "web-1:there"]).refused(1, &["directory", "tar"]);
    program.run(&["cp", "web-1,web-2:/mnt/motd", text(&file)]).refused(2, &["TO/SERVER/NAME"]);
    program.run(&["cp", text(&file), "motd"]).refused(2, &["SERVER:PATH"]);
}

#[tokio::test]
async fn what_servers_need_of_each_other_is_said_listed_and_taken_back() {
    let (program, _first, _second) = two_servers().await;
    let added = program.run(&["dependency", "add", "web-1:nginx", "web-2:postgresql"]).well().stdout;
    assert_eq!(added, "web-1:nginx needs web-2:postgresql\n");
    program.run(&["dependency", "add", "web-2:postgresql", "web-1:nginx"]).refused(1, &["web-1"]);
    program.run(&["dependency", "add", "web-1", "web-2:postgresql"]).refused(2, &["SERVER:SERVICE"]);
    let listed = program.run(&["dependency", "list", "--server", "web-2"]).well().stdout;
    assert!(listed.contains("postgresql"), "{listed}");
    let planned =
        program.run(&["exec", "--tag", "web", "--by-dependencies", "--dry-run", "--", "true"]).well();
    let order: Vec<usize> =
        ["web-2", "web-1"].iter().map(|name| planned.stdout.find(name).unwrap()).collect();
    assert!(order.is_sorted(), "what is needed comes first: {}", planned.stdout);
    program.run(&["dependency", "remove", "web-1:nginx", "web-2:postgresql"]).well();
    program.run(&["dependency", "remove", "web-1:nginx", "web-2:postgresql"]).refused(1, &["does not need"]);
}

#[tokio::test]
async fn a_task_does_any_kind_of_action() {
    let (program, _first, _second) = two_servers().await;
    let told = program.path("told");
    let script = program.file("fix.sh", &format!("echo \"$1\" >'{}'\n", told.display()));
    let file = format!("script={}", text(&script));
    let words = ["--action", "run_script", "--parameter-file", &file, "-p", "arguments=a word"];
    let task = [&["task", "add", "nightly", "--cron", "@daily", "--server", "web-1"][..], &words].concat();
    program.run(&task).well();
    program.run(&["task", "run", "nightly"]).well();
    assert_eq!(std::fs::read_to_string(&told).unwrap(), "a word\n");
}

#[test]
fn shells_and_man_are_told_of_every_command() {
    let program = Program::prepared();
    for shell in ["bash", "zsh", "fish"] {
        let said = program.run(&["completions", shell]).well().stdout;
        assert!(said.contains("ssh-config") && said.contains("dependency"), "{shell}");
    }
    assert!(program.run(&["man"]).well().stdout.contains(".TH roundsman 1"));
    let folder = program.path("man1");
    program.run(&["man", text(&folder)]).well();
    let page = std::fs::read_to_string(folder.join("roundsman-exec.1")).unwrap();
    assert!(page.contains("ssh\\-config"), "{page}");
    program.run(&["man", "/proc/nowhere"]).refused(1, &["/proc/nowhere"]);
}
