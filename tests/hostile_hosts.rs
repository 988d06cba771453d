//! Servers that are broken, overloaded or hostile, each a real sshd whose shells see a machine of their own: what can be read of
//! them is read, what cannot is named, the servers beside them go on, and what was known before stays.
//!
//! The machines are mount namespaces, which needs root. They end with the process that holds them.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use roundsman::fleet::{ServerState, blind_spots};
use roundsman::model::{Caller, Event, Reachability, Role, SeriesKey};
use serde_json::json;
use support::app::TestApp;
use support::processes;
use support::rounds::{assert_on_time, rounds};
use support::sshd::Sshd;
use tokio::sync::broadcast::Receiver;

/// A mount namespace of its own, made by a script of bash; ends with the process that holds it.
struct Machine {
    holder: Child,
}

impl Machine {
    fn made_by(script: &str) -> Self {
        let script = format!("set -e\n{script}\necho made\nread -r _");
        let mut holder = Command::new("unshare")
            .args(["--mount", "bash", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let machine = Self { holder };
        assert_eq!(said, "made\n");
        machine
    }

    /// An sshd whose shells run in it; `before` stands in front of the shell.
    async fn sshd(&self, before: &str) -> Sshd {
        let enter = format!("exec nsenter --mount=/proc/{}/ns/mnt {before}", self.holder.id());
        Sshd::with_login_shell(&format!("{enter} /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"")).await
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        processes::signal("KILL", &processes::descendants(self.holder.id()));
        self.holder.kill().unwrap();
        self.holder.wait().unwrap();
    }
}

/// A fleet with a server that is well, whose readings must come on time whatever its neighbour does.
struct Fleet {
    app: TestApp,
    _well: Sshd,
    well: ServerState,
    events: Receiver<Event>,
}

impl Fleet {
    async fn start() -> Self {
        let (app, sshd) = (TestApp::start().await, Sshd::start().await);
        let well = app.with_server("well", &sshd).await;
        rounds(&app, &well, 2).await;
        let events = app.services.fleet.subscribe();
        Self { app, _well: sshd, well, events }
    }

    /// Reads the odd server some times; its state after that.
    async fn beside(&mut self, name: &str, sshd: &Sshd, count: usize) -> ServerState {
        let odd = self.app.with_server(name, sshd).await;
        rounds(&self.app, &odd, count).await;
        rounds(&self.app, &self.well, 2).await;
        assert_on_time(&self.app, &mut self.events, &self.well);
        let state = self.app.state(name);
        assert_eq!(state.reachability, Reachability::Reachable, "{state:?}");
        assert!(state.figures.memory_percent.is_some(), "{state:?}");
        state
    }
}

fn gap<'a>(state: &'a ServerState, section: &str) -> &'a str {
    state.gaps.iter().find(|gap| gap.section == section).map_or("", |gap| gap.reason.as_str())
}

/// Binds a file of no use over a program.
fn without(programs: &[&str]) -> String {
    let hide =
        |program: &&str| format!("mount --bind /dev/null \"$(readlink -f $(command -v {program}))\"\n");
    programs.iter().map(hide).collect()
}

#[tokio::test]
async fn a_hung_mount_blocks_no_reading() {
    let dir = tempfile::tempdir().unwrap();
    let hung = dir.path().join("hung");
    fs::create_dir(&hung).unwrap();
    // A FUSE filesystem whose daemon never answers: whoever looks at it waits until the daemon ends.
    let machine = Machine::made_by(&format!(
        "exec 5<>/dev/fuse\nmount -i -t fuse -o fd=5,rootmode=40000,user_id=0,group_id=0 daemon {}",
        hung.display()
    ));
    let mount = format!("/proc/{}/ns/mnt", machine.holder.id());
    let probing = Command::new("timeout")
        .args(["-s", "KILL", "1", "nsenter", &format!("--mount={mount}"), "stat", "-f"])
        .arg(&hung)
        .output()
        .unwrap();
    assert!(!probing.status.success(), "it does hang: {probing:?}");
    let mut fleet = Fleet::start().await;
    let state = fleet.beside("hung", &machine.sshd("").await, 6).await;
    assert!(!state.filesystems.is_empty(), "the other filesystems are told: {:?}", state.gaps);
    assert!(state.figures.disk_percent.is_some());
}

#[tokio::test]
async fn five_thousand_mounts_are_a_reading_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("table");
    let place = dir.path().join("m");
    fs::create_dir(&place).unwrap();
    let line = |number: i32| format!("none {}/{number} tmpfs size=4k,x-mount.mkdir 0 0\n", place.display());
    fs::write(&table, (0..5_000).map(line).collect::<String>()).unwrap();
    let machine = Machine::made_by(&format!("mount -a -T {}", table.display()));
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", machine.holder.id())).unwrap();
    assert!(mounts.lines().count() > 5_000);
    let mut fleet = Fleet::start().await;
    let state = fleet.beside("mounts", &machine.sshd("").await, 4).await;
    assert!(!state.filesystems.is_empty());
}

/// A `/proc` of files, as of another time and with as many processes as one likes.
fn proc_of(root: &Path, processes: u32) {
    let machine = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/proc/debian-12/proc");
    let copied = Command::new("cp").arg("-r").arg(machine).arg(root).status().unwrap();
    assert!(copied.success());
    for pid in 1..=processes {
        fs::create_dir_all(root.join(pid.to_string())).unwrap();
    }
    fs::write(root.join("1/comm"), "systemd\n").unwrap();
}

#[tokio::test]
async fn a_hundred_thousand_processes_are_counted_and_not_listed() {
    let dir = tempfile::tempdir().unwrap();
    let proc = dir.path().join("proc");
    proc_of(&proc, 100_000);
    let machine = Machine::made_by(&format!("mount --bind {} /proc", proc.display()));
    let mut fleet = Fleet::start().await;
    let state = fleet.beside("crowd", &machine.sshd("").await, 3).await;
    assert_eq!(state.figures.processes, Some(100_000.0));
    assert!(gap(&state, "processes").contains("more than 40000 processes"), "{:?}", state.gaps);
}

#[tokio::test]
async fn a_clock_years_off_puts_no_sample_elsewhere_than_now() {
    let dir = tempfile::tempdir().unwrap();
    let proc = dir.path().join("proc");
    proc_of(&proc, 3);
    let stat = fs::read_to_string(proc.join("stat")).unwrap();
    assert!(stat.contains("btime "), "its clock is that of when it was recorded");
    let machine = Machine::made_by(&format!("mount --bind {} /proc", proc.display()));
    let mut fleet = Fleet::start().await;
    let before = fleet.app.services.clock.now();
    let state = fleet.beside("late", &machine.sshd("").await, 3).await;
    let after = fleet.app.services.clock.now();
    let key = SeriesKey::plain("memory_percent");
    let points = fleet.app.history.range(state.server.number, &key, before, after, 100).await.unwrap();
    assert!(!points.is_empty());
    assert!(state.last_seen_at.unwrap() >= before);
}

#[tokio::test]
async fn a_user_that_sees_its_own_processes_only_is_told_so() {
    let machine = Machine::made_by("mount -t proc -o hidepid=2 proc /proc");
    let sshd = machine.sshd("setpriv --reuid=65534 --regid=65534 --clear-groups").await;
    let mut fleet = Fleet::start().await;
    let state = fleet.beside("hidden", &sshd, 3).await;
    assert!(gap(&state, "processes").contains("hidepid"), "{:?}", state.gaps);
    assert_eq!(state.figures.processes, None, "a count of one's own processes is none of the machine's");
    assert!(blind_spots(&state).iter().any(|spot| spot.subject == "processes"));
}

#[tokio::test]
async fn without_head_df_and_stat_the_rest_is_read_and_what_is_missing_is_named() {
    let bare = Machine::made_by(&without(&["head", "df", "stat"]));
    let mut fleet = Fleet::start().await;
    let state = fleet.beside("bare", &bare.sshd("").await, 3).await;
    assert!(state.figures.cpu_percent.is_some() && state.figures.load1.is_some());
    assert!(state.filesystems.is_empty());
    assert!(gap(&state, "filesystems").contains("stat"), "{:?}", state.gaps);
    let processes = fleet.app.services.fleet.processes(&Caller::roundsman(), "bare").unwrap();
    assert!(processes.total > 3);

    let only_df = Machine::made_by(&without(&["head", "stat"]));
    let state = fleet.beside("only-df", &only_df.sshd("").await, 3).await;
    assert!(!state.filesystems.is_empty(), "{:?}", state.gaps);
}

#[tokio::test]
async fn another_locale_changes_no_figure() {
    let words = "export LANG=de_DE.UTF-8 LC_ALL=tr_TR.UTF-8 LC_NUMERIC=de_DE.UTF-8 LANGUAGE=de POSIXLY_CORRECT=1 IFS=0";
    let sshd = Sshd::with_login_shell(&format!("{words}; exec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"")).await;
    let mut fleet = Fleet::start().await;
    let state = fleet.beside("abroad", &sshd, 3).await;
    let well = fleet.app.state("well");
    let sizes = |state: &ServerState| -> Vec<_> {
        state.filesystems.iter().map(|one| (one.mount.clone(), one.size_bytes)).collect()
    };
    assert_eq!(sizes(&state), sizes(&well));
    assert_eq!(state.figures.memory_total_bytes, well.figures.memory_total_bytes);
    assert_eq!(state.figures.total_services, well.figures.total_services);
}

#[tokio::test]
async fn a_service_manager_without_end_costs_the_services_and_not_the_figures() {
    let dir = tempfile::tempdir().unwrap();
    let endless = dir.path().join("systemctl");
    fs::write(&endless, "#!/bin/sh\nexec yes 'Id=a.service'\n").unwrap();
    let machine = Machine::made_by(&format!(
        "chmod 755 {0}\nmount -t tmpfs none /run\nmkdir -p /run/systemd/system\n\
         mount --bind {0} \"$(readlink -f $(command -v systemctl))\"",
        endless.display(),
    ));
    let mut fleet = Fleet::start().await;
    let sshd = machine.sshd("").await;
    let state = fleet.beside("endless", &sshd, 4).await;
    assert!(state.figures.cpu_percent.is_some());
    assert!(gap(&state, "services").contains("are left out for"), "{:?}", state.gaps);
    rounds(&fleet.app, &state, 3).await;
    assert_eq!(fleet.app.state("endless").reachability, Reachability::Reachable);
}

#[tokio::test]
async fn a_process_named_to_break_pages_and_queries_is_text_everywhere() {
    const NAME: &str = "\"); DROP <script>\n)";
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join(NAME);
    fs::copy("/bin/bash", &program).unwrap();
    // Large, so that it is among those that are shown.
    let mut hostile = Command::new(&program)
        .args(["-c", "printf -v x '%*s' 200000000 ''; echo; read -r _"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(hostile.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut fleet = Fleet::start().await;
    let sshd = Sshd::start().await;
    fleet.beside("named", &sshd, 3).await;
    let (admin, person) = (fleet.app.token(Role::Admin).await, fleet.app.login(Role::Viewer).await);
    let answer = fleet.app.get("/api/v1/fleet/servers/named/processes").by(&admin).send().await.expect(200);
    let pid = json!(hostile.id());
    let found = answer["processes"].as_array().unwrap().iter().find(|one| one["pid"] == pid).cloned();
    let name = found.as_ref().map(|one| one["name"].as_str().unwrap().to_owned());
    let page = fleet.app.get("/servers/named/processes").by(&person).send().await.text();
    hostile.kill().unwrap();
    hostile.wait().unwrap();
    assert_eq!(name.as_deref(), Some("\"); DROP <scrip"), "{answer}");
    assert!(page.contains("DROP &#60;scrip") || page.contains("DROP &lt;scrip"), "{page}");
    assert!(!page.contains("DROP <scrip"));
}
