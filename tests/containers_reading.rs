//! Containers of Docker and Podman: as their documented answers say it, over a socket, by their programs, and hostile.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use roundsman::collect::{ShellProbe, rates};
use roundsman::model::{Container, Role, Sections, SeriesKey, Snapshot};
use roundsman_agent::local::Reader;
use roundsman_agent::proc::containers::{ContainersText, EngineText, containers};
use serde_json::Value;
use support::app::TestApp;
use support::in_time;
use support::sshd::Sshd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::process::Command;

const WEB: &str = "8dfafdbc3a40e1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f7081920";
const DB: &str = "9cd87474be90a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f607182930";
const CONTAINERS: Sections = Sections { containers: true, ..Sections::BASE };

/// In a mount namespace: this machine may run a Docker of its own, whose socket would be asked first.
const HIDE_DOCKER: &str = "mount -t tmpfs none /run";

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/containers");
    fs::read(folder.join(name)).unwrap()
}

fn answered(engine: &'static str, list: Vec<u8>, more: Vec<u8>) -> ContainersText {
    ContainersText {
        engines: vec![(engine, EngineText::Answered { list, more })],
        ..ContainersText::default()
    }
}

fn of<'a>(all: &'a [Container], name: &str) -> &'a Container {
    all.iter().find(|one| one.name == name).unwrap_or_else(|| panic!("no {name} in {all:?}"))
}

#[test]
fn the_list_of_the_engine_api_is_read_with_what_inspect_adds() {
    let text = answered("docker", fixture("docker-list.json"), fixture("docker-inspect.json"));
    let (found, gaps) = containers(&text);
    let found = found.unwrap();
    assert!(gaps.is_empty(), "{gaps:?}");
    let web = of(&found, "web-1");
    assert_eq!((web.id.as_str(), web.engine.as_str(), web.image.as_str()), (WEB, "docker", "nginx:1.27"));
    assert_eq!(
        (web.state.as_str(), web.health.as_deref(), web.exit_code),
        ("running", Some("healthy"), None)
    );
    assert_eq!(web.ports, ["0.0.0.0:8080->80/tcp", "443/tcp", "[::]:8080->80/tcp"]);
    assert_eq!(web.labels, ["com.example.role=frontend", "com.example.text=a \"quoted\" one"]);
    assert_eq!((web.restarts, web.started_ms), (Some(3), Some(1_772_366_400_123)));
    let db = of(&found, "db");
    assert_eq!((db.state.as_str(), db.exit_code, db.restarts), ("exited", Some(137), Some(0)));
}

#[test]
fn what_podman_inspect_prints_is_read_as_the_same() {
    let (found, gaps) = containers(&answered("podman", fixture("podman-inspect.jsonl"), Vec::new()));
    let found = found.unwrap();
    assert!(gaps.is_empty(), "{gaps:?}");
    let web = of(&found, "web-1");
    assert_eq!((web.id.as_str(), web.engine.as_str()), (WEB, "podman"));
    assert_eq!(web.image, "docker.io/library/nginx:1.27");
    assert_eq!(
        (web.state.as_str(), web.health.as_deref(), web.restarts),
        ("running", Some("unhealthy"), Some(1))
    );
    assert_eq!(web.ports, ["127.0.0.1:8080->80/tcp"]);
    assert_eq!(web.created_ms, Some(1_772_366_399_000));
}

#[test]
fn a_container_that_two_engines_show_is_there_once() {
    let mut text = answered("podman", fixture("podman-inspect.jsonl"), Vec::new());
    let said = EngineText::Answered { list: fixture("docker-list.json"), more: Vec::new() };
    text.engines.push(("docker", said));
    let found = containers(&text).0.unwrap();
    assert_eq!(found.iter().filter(|one| one.id == WEB).count(), 1);
    assert_eq!(of(&found, "web-1").engine, "podman");
}

#[test]
fn a_refusal_and_a_silence_are_gaps_with_what_helps() {
    let engines =
        vec![("podman", EngineText::Silent), ("docker", EngineText::Denied { user: "deploy".to_owned() })];
    let (found, gaps) = containers(&ContainersText { engines, ..ContainersText::default() });
    assert_eq!(found, None);
    assert!(gaps[0].reason.contains("Podman does not answer"));
    assert!(gaps[1].reason.contains("usermod -aG docker deploy"), "{gaps:?}");
    let hostile = vec![("docker", EngineText::Denied { user: "x; rm -rf /".to_owned() })];
    let (_, gaps) = containers(&ContainersText { engines: hostile, ..ContainersText::default() });
    assert!(!gaps[0].reason.contains("rm -rf"), "{gaps:?}");
    let refused = answered("docker", br#"{"message":"client version 1.24 is too old"}"#.to_vec(), Vec::new());
    assert!(containers(&refused).1[0].reason.starts_with("partial"));
}

fn is_clean(text: &str) -> bool {
    text.len() <= 256 && !text.chars().any(|c| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}'))
}

proptest! {
    #[test]
    fn hostile_answers_are_bounded_and_cleaned(
        list in prop_oneof![
            any::<Vec<u8>>(),
            "[{\\[\\]}\":,a-z0-9\\\\]{0,400}".prop_map(String::into_bytes),
            (any::<String>(), any::<String>(), any::<i64>()).prop_map(|(name, label, number)| {
                serde_json::json!([{ "Id": WEB, "Names": [name], "State": label, "Labels": { label.clone(): name },
                    "Status": name, "Ports": [{ "PrivatePort": number, "IP": label }], "Created": number }])
                    .to_string().into_bytes()
            }),
        ],
        more in any::<Vec<u8>>(),
        file in any::<Vec<u8>>(),
    ) {
        let mut text = answered("docker", list, more);
        for name in ["cpu.stat", "memory.current", "memory.max", "memory.stat", "io.stat"] {
            text.cgroups.insert(format!("/sys/fs/cgroup/docker/{WEB}/{name}"), file.clone());
        }
        for one in containers(&text).0.into_iter().flatten() {
            prop_assert!(is_clean(&one.name) && is_clean(&one.image) && is_clean(&one.state));
            prop_assert!(one.labels.iter().chain(&one.ports).all(|text| is_clean(text)));
            prop_assert!(!one.name.is_empty() && one.labels.len() <= 64 && one.ports.len() <= 64);
        }
    }
}

#[test]
fn endless_lists_end() {
    let one = format!("{{\"Id\":\"{WEB}\",\"Names\":[\"/a\"]}},");
    let unique = (0..3000).map(|number| one.replace(WEB, &format!("{number:064x}"))).collect::<String>();
    let list = format!("[{}]", unique.trim_end_matches(',')).into_bytes();
    let (found, gaps) = containers(&answered("docker", list, Vec::new()));
    assert_eq!(found.unwrap().len(), 1000);
    assert!(gaps.iter().any(|gap| gap.reason.contains("more containers")), "{gaps:?}");
}

/// A cgroup tree of version 2 with one container that runs.
fn write_groups(root: &Path, cpu_us: u64) {
    let group = root.join(format!("system.slice/docker-{WEB}.scope"));
    fs::create_dir_all(&group).unwrap();
    fs::write(root.join("cgroup.controllers"), "cpu io memory\n").unwrap();
    for (name, content) in [
        ("cpu.stat", format!("usage_usec {cpu_us}\nuser_usec 1\nsystem_usec 2\n")),
        ("memory.current", "10000\n".to_owned()),
        ("memory.stat", "anon 1\ninactive_file 4000\n".to_owned()),
        ("memory.max", "1073741824\n".to_owned()),
        ("io.stat", "8:0 rbytes=100 wbytes=200 rios=1 wios=2 dbytes=0 dios=0\n".to_owned()),
        ("cgroup.procs", format!("{}\n", std::process::id())),
    ] {
        fs::write(group.join(name), content).unwrap();
    }
}

/// Answers as an engine: the list, and inspect for every container. Ends with the test's runtime.
fn engine(socket: &Path, list: Vec<u8>) -> Arc<Mutex<Vec<String>>> {
    let listener = UnixListener::bind(socket).unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (list, log) = (list.clone(), Arc::clone(&log));
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    request.push(byte);
                }
                let path = String::from_utf8_lossy(&request).split(' ').nth(1).unwrap_or_default().to_owned();
                log.lock().unwrap().push(path.clone());
                let all: Value = serde_json::from_slice(&fixture("docker-inspect.json")).unwrap();
                let one =
                    all.as_array().unwrap().iter().find(|one| path.contains(one["Id"].as_str().unwrap()));
                let sized =
                    String::from_utf8_lossy(&list).replace("\"Image\":", "\"SizeRw\":12288,\"Image\":");
                let list = if path.contains("size=1") { sized.into_bytes() } else { list };
                let body = one.map_or(list, |one| one.to_string().into_bytes());
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                drop(stream.write_all(&[head.into_bytes(), body].concat()).await);
            });
        }
    });
    asked
}

fn check_figures(web: &Container) {
    assert_eq!((web.cpu_us, web.memory_bytes), (Some(5_000_000), Some(6000)));
    assert_eq!(web.memory_limit_bytes, Some(1 << 30));
    assert_eq!((web.block_read_bytes, web.block_written_bytes), (Some(100), Some(200)));
    assert!(web.rx_bytes.is_some() && web.tx_bytes.is_some());
    assert_eq!((web.restarts, web.started_ms), (Some(3), Some(1_772_366_400_123)));
}

#[tokio::test]
async fn the_local_reader_asks_the_socket_and_reads_the_cgroups() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("run")).unwrap();
    write_groups(&root.path().join("sys/fs/cgroup"), 5_000_000);
    let net = root.path().join(format!("proc/{}/net", std::process::id()));
    fs::create_dir_all(&net).unwrap();
    fs::write(net.join("dev"), "Inter-|\n face |\n  eth0: 7 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n").unwrap();
    engine(&root.path().join("run/docker.sock"), fixture("docker-list.json"));
    let path = root.path().to_owned();
    let read = tokio::task::spawn_blocking(move || Reader::new(&path).read(CONTAINERS));
    let snapshot = in_time("a reading", read).await.unwrap();
    let found = snapshot.containers.unwrap();
    check_figures(of(&found, "web-1"));
    assert_eq!((of(&found, "web-1").rx_bytes, of(&found, "web-1").tx_bytes), (Some(7), Some(9)));
    assert_eq!(of(&found, "db").cpu_us, None, "what does not run uses nothing that is known");
}

#[tokio::test]
async fn an_engine_that_hangs_is_a_gap_and_the_reading_goes_on() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("run")).unwrap();
    fs::create_dir_all(root.path().join("proc")).unwrap();
    fs::write(root.path().join("proc/uptime"), "100.0 1.0\n").unwrap();
    let _never_answers = std::os::unix::net::UnixListener::bind(root.path().join("run/docker.sock")).unwrap();
    let path = root.path().to_owned();
    let read = tokio::task::spawn_blocking(move || Reader::new(&path).read(CONTAINERS));
    let snapshot = in_time("a reading", read).await.unwrap();
    assert_eq!((snapshot.containers, snapshot.uptime_ms), (None, Some(100_000)));
    assert!(snapshot.gaps.iter().any(|gap| gap.reason == "Docker does not answer"), "{:?}", snapshot.gaps);
}

async fn shell_reading(command: &mut Command, count: usize, mut between: impl FnMut()) -> Vec<Snapshot> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let pipes = tokio::io::join(child.stdout.take().unwrap(), child.stdin.take().unwrap());
    let mut probe = in_time("the script", ShellProbe::start(pipes)).await.unwrap();
    let mut found = Vec::new();
    for _ in 0..count {
        found.push(in_time("a reading", probe.read(CONTAINERS)).await.unwrap());
        between();
    }
    found
}

#[rstest::rstest]
#[case::dash("dash")]
#[case::bash("bash")]
#[case::busybox("busybox sh")]
#[tokio::test]
async fn the_shell_probe_asks_the_socket_and_reads_the_cgroups(#[case] shell: &str) {
    let dir = tempfile::tempdir().unwrap();
    let groups = dir.path().join("groups");
    write_groups(&groups, 5_000_000);
    let asked = engine(&dir.path().join("docker.sock"), fixture("docker-list.json"));
    // A mount namespace of the test's own, in which the tree stands where cgroups are.
    let script = format!("{HIDE_DOCKER} && mount --bind {} /sys/fs/cgroup && exec {shell}", groups.display());
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]).env("XDG_RUNTIME_DIR", dir.path());
    let readings = shell_reading(&mut command, 2, || write_groups(&groups, 6_000_000)).await;
    let found = readings[0].containers.clone().unwrap();
    check_figures(of(&found, "web-1"));
    assert!(asked.lock().unwrap().iter().any(|path| path.contains(DB)), "{asked:?}");
    let previous = rates::ContainerCounts::of(&readings[0]).unwrap();
    let later = Snapshot { uptime_ms: readings[0].uptime_ms.map(|ms| ms + 10_000), ..readings[1].clone() };
    let usages = rates::containers(Some(&previous), &later).unwrap();
    let web = usages.iter().find(|one| one.container.name == "web-1").unwrap();
    assert_eq!(web.cpu_percent, Some(10.0), "a second of CPU in ten");
}

#[tokio::test]
async fn where_there_is_no_socket_the_program_of_podman_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join(".local/share/containers/storage")).unwrap();
    let podman = dir.path().join("podman");
    let lines = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/containers/podman-inspect.jsonl");
    let script = format!(
        "#!/bin/sh\n[ \"$*\" != 'ps -a --format json' ] || {{ printf '[\\n {{ \"Id\": \"{WEB}\" }}]\\n'; exit; }}\ncase $1 in ps) echo {WEB} ;; inspect) [ \"${{6}}\" = {WEB} ] && cat {} ;; esac\n",
        lines.display()
    );
    fs::write(&podman, script).unwrap();
    fs::set_permissions(&podman, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("dash");
    command.env("HOME", dir.path()).env("PATH", &path).env_remove("XDG_RUNTIME_DIR");
    let readings = shell_reading(&mut command, 1, || {}).await;
    let found = readings[0].containers.clone().expect("podman answered");
    assert_eq!(of(&found, "web-1").engine, "podman");
    let mut agent = Command::new(support::agent::program());
    agent.arg("snapshot").env("HOME", dir.path()).env("PATH", path).env_remove("XDG_RUNTIME_DIR");
    let said = in_time("the agent", agent.output()).await.unwrap().stdout;
    let snapshot: Snapshot = serde_json::from_slice(&said).unwrap();
    let found = snapshot.containers.expect("podman answered the agent");
    assert_eq!(of(&found, "web-1").engine, "podman");
}

#[tokio::test]
async fn containers_of_a_server_are_on_its_page_in_the_api_and_in_history() {
    let dir = tempfile::tempdir().unwrap();
    engine(&dir.path().join("docker.sock"), fixture("docker-list.json"));
    let alone = format!("unshare -m sh -c '{HIDE_DOCKER} && eval \"$SSH_ORIGINAL_COMMAND\"'");
    let options = format!("SetEnv XDG_RUNTIME_DIR={}\nForceCommand {alone}", dir.path().display());
    let sshd = Sshd::start_with(&options).await;
    let app = TestApp::start().await;
    let server = app.with_server("docks", &sshd).await;
    app.until("docks", "seen with containers", |state| state.figures.containers_running == Some(1.0)).await;
    let (viewer, admin) = (app.token(Role::Viewer).await, app.token(Role::Admin).await);
    let table = app.get("/api/v1/fleet/servers/docks/containers").by(&viewer).send().await.expect(200);
    assert_eq!(table["containers"].as_array().unwrap().len(), 2);
    // Sizes are asked for apart, as they are dear; an open page brings the next reading of details.
    let sized = async {
        loop {
            app.services.fleet.look(&roundsman::model::Caller::roundsman(), "docks").unwrap();
            let table =
                app.get("/api/v1/fleet/servers/docks/containers").by(&viewer).send().await.expect(200);
            if table["containers"][0]["size_bytes"] == 12_288 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    in_time("the sizes", sized).await;
    let page = app.get("/servers/docks/containers").by(&viewer).send().await.text();
    assert!(page.contains("web-1") && page.contains("nginx:1.27") && page.contains("exited (137)"), "{page}");
    let keys = app.history.series(server.server.number);
    let named = |metric: &str, label: &str| {
        keys.iter().any(|key: &SeriesKey| key.metric.as_str() == metric && key.labels.as_str() == label)
    };
    assert!(named("container_restarts", "web-1") && named("container_restarts", "db"), "{keys:?}");
    assert!(named("containers_running", ""));

    let filter = "/api/v1/fleet/servers/docks/container-filter";
    let set = |prefix: &str| app.call("PUT", filter).json(&serde_json::json!({ "prefix": prefix }));
    set("web-").by(&viewer).send().await.expect(403);
    set("web $(id)").by(&admin).send().await.expect(422);
    assert_eq!(set("db").by(&admin).send().await.expect(200)["prefix"], "db");
    app.until("docks", "read with the filter", |state| state.figures.containers_running == Some(0.0)).await;
    let table = app.get("/api/v1/fleet/servers/docks/containers").by(&viewer).send().await.expect(200);
    assert_eq!(table["containers"].as_array().unwrap().len(), 1);
    assert_eq!(table["prefix"], "db");
    let app = app.restart().await;
    app.until("docks", "read after a restart", |state| state.figures.containers_running == Some(0.0)).await;
}

#[tokio::test]
async fn a_server_without_an_engine_says_so() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("bare", &sshd).await;
    app.until("bare", "read", |state| state.figures.total_services.is_some() || !state.gaps.is_empty()).await;
    let viewer = app.token(Role::Viewer).await;
    let answer = app.get("/api/v1/fleet/servers/bare/containers").by(&viewer).send().await;
    // This machine may run a Docker of its own.
    if answer.status == 409 {
        assert!(answer.text().contains("neither Docker nor Podman") || answer.text().contains("not answer"));
    } else {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}
