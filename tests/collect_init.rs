//! Services of OpenRC and SysV init, read by both probes from the files that these leave, and pending updates.
//!
//! The files of OpenRC are a capture of OpenRC 0.45.2 as Debian 12 has it: what `openrc` wrote under `/run/openrc` after
//! `rc-service` started a daemon with a pid file, one under `supervise-daemon` (its child killed once), one whose process
//! was then killed, and one whose start failed. The daemons' numbers are those of processes of this test. `cron` is the
//! script of Debian's package; the others are written after the LSB's header and after what RHEL 6 scripts look like.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use roundsman::collect::ShellProbe;
use roundsman::model::{Sections, Service, ServiceManager, Snapshot};
use roundsman_agent::local::Reader;
use roundsman_agent::proc::packages;

const OUTER_LIMIT: Duration = Duration::from_secs(60);
/// No process has it: over the largest pid_max that Linux allows.
const NOBODY: u32 = 4_194_305;
const SECTIONS: Sections = Sections { services: true, facts: true, ..Sections::BASE };

/// A tree of files that looks like a machine, and a process that stands for a daemon.
struct Machine {
    root: PathBuf,
    daemon: Child,
}

impl Machine {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("roundsman-{name}-{}", std::process::id()));
        if root.exists() {
            fs::remove_dir_all(&root).unwrap();
        }
        let daemon = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
        let machine = Self { root, daemon };
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if name != "1"
                && (!name.starts_with(|c: char| c.is_ascii_digit())
                    || name == machine.daemon.id().to_string())
            {
                machine.link(&format!("/proc/{name}"), &format!("/proc/{name}"));
            }
        }
        machine.file("/proc/1/comm", "init\n");
        machine.file("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
        machine.file("/etc/group", "root:x:0:\n");
        machine
    }

    fn pid(&self) -> u32 {
        self.daemon.id()
    }

    fn file(&self, path: &str, content: &str) {
        let path = self.root.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        let path = self.root.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    fn local(&self) -> Snapshot {
        Reader::new(&self.root).read(SECTIONS)
    }

    /// The shell probe where this tree's `/etc` and `/run` are those of the machine.
    async fn shell(&self) -> Snapshot {
        let root = self.root.display();
        let script = format!(
            "mount --bind {root}/run /run && mount --bind {root}/etc /etc && mount --bind {root}/proc/1/comm /proc/1/comm \
             && exec sh"
        );
        let mut child = tokio::process::Command::new("unshare")
            .args(["-m", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pipes = tokio::io::join(child.stdout.take().unwrap(), child.stdin.take().unwrap());
        let reading = async {
            let mut probe = ShellProbe::start(pipes).await.unwrap();
            probe.read(SECTIONS).await.unwrap()
        };
        let snapshot = tokio::time::timeout(OUTER_LIMIT, reading).await.expect("hung");
        assert!(tokio::time::timeout(OUTER_LIMIT, child.wait()).await.expect("hung").unwrap().success());
        snapshot
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        fs::remove_dir_all(&self.root).unwrap();
    }
}

fn openrc() -> Machine {
    let machine = Machine::new("openrc");
    let script = |name: &str, description: &str, rest: &str| {
        machine.file(
            &format!("/etc/init.d/{name}"),
            &format!("#!/usr/sbin/openrc-run\ndescription=\"{description}\"\n{rest}"),
        );
    };
    let command = "command=/bin/sleep\ncommand_args=6000\ncommand_background=true\npidfile=/run/X.pid\n";
    script("sleeper", "Sleeps", &command.replace('X', "sleeper"));
    script("crasher", "Dies", &command.replace('X', "crasher"));
    script("supervised", "Sleeps under supervision", "supervisor=supervise-daemon\n");
    script("broken", "Cannot start", "start() { return 1; }\n");
    script("resting", "Was never started", "");
    machine.file("/etc/init.d/functions.sh", "# no service\n");
    machine.link("/etc/runlevels/default/sleeper", "/etc/init.d/sleeper");
    machine.link("/etc/runlevels/nonetwork/local", "/etc/init.d/local");
    for name in ["sleeper", "crasher", "supervised"] {
        machine.link(&format!("/run/openrc/started/{name}"), &format!("/etc/init.d/{name}"));
    }
    machine.link("/run/openrc/failed/broken", "/etc/init.d/broken");
    machine.file("/run/openrc/softlevel", "default\n");
    let supervised = "exec=/bin/sleep\nargv_0=/bin/sleep\nargv_1=6000\npidfile=/run/supervised.pid\n";
    machine.file("/run/openrc/daemons/supervised/001", supervised);
    // The values of the capture end without a line break.
    machine.file("/run/openrc/options/supervised/child_pid", &machine.pid().to_string());
    machine.file("/run/openrc/options/supervised/start_count", "1");
    machine.file("/run/openrc/options/supervised/pidfile", "/run/supervised.pid");
    machine.file("/run/openrc/options/sleeper/pidfile", "/run/sleeper.pid");
    machine.file("/run/openrc/options/crasher/pidfile", "/run/crasher.pid");
    machine.file("/run/sleeper.pid", &format!("{}\n", machine.pid()));
    machine.file("/run/crasher.pid", &format!("{NOBODY}\n"));
    machine.file("/run/supervised.pid", &format!("{NOBODY}\n"));
    machine
}

fn sysv() -> Machine {
    let machine = Machine::new("sysv");
    let script = |name: &str, levels: &str, rest: &str| {
        let header = format!("# Default-Start:     {levels}\n# Short-Description: The {name}\n");
        machine
            .file(&format!("/etc/init.d/{name}"), &format!("#!/bin/sh\n### BEGIN INIT INFO\n{header}{rest}"));
    };
    script("cron", "2 3 4 5", "NAME=cron\nDAEMON=/usr/sbin/cron\nPIDFILE=/var/run/crond.pid\n");
    script("dead", "2 3 4 5", "NAME=deadd\nPIDFILE=\"/run/$NAME.pid\"\n");
    script("stopped", "2 3 4 5", "    start-stop-daemon --start --pidfile /run/stopped.pid --exec /bin/x\n");
    script("usual", "2 3 4 5", "");
    script("oneshot", "2 3 4 5", "");
    script("iptables", "2 3 4 5", "");
    script("hostname.sh", "S", "");
    script("halt", "", "");
    machine
        .file("/etc/init.d/lockedd", "#!/bin/sh\n# chkconfig: 2345 10 90\n# pidfile: /var/run/lockedd.pid\n");
    machine.file("/etc/init.d/README", "pidfile\n");
    machine.file("/run/crond.pid", &machine.pid().to_string());
    machine.file("/run/deadd.pid", &NOBODY.to_string());
    machine.file("/run/usual/usual.pid", &format!("{}\nsecond line\n", machine.pid()));
    machine.file("/run/hostile.pid", "1; reboot\n");
    // As on Debian, where /var/lock is /run/lock.
    machine.file("/run/lock/subsys/iptables", "");
    machine.file("/run/lock/subsys/lockedd", "");
    machine.link("/var/lock", "../run/lock");
    machine.link("/var/run", "../run");
    machine.link("/etc/rc2.d/S01cron", "../init.d/cron");
    machine.link("/etc/rc5.d/S02usual", "../init.d/usual");
    machine.link("/etc/rc0.d/K01stopped", "../init.d/stopped");
    machine
}

fn states(services: &[Service]) -> Vec<(&str, &str, &str, &str)> {
    services
        .iter()
        .map(|one| {
            (
                one.name.as_str(),
                one.state.as_str(),
                one.sub_state.as_str(),
                one.enabled.as_deref().unwrap_or("?"),
            )
        })
        .collect()
}

#[test]
fn services_of_openrc_are_told_from_what_it_keeps() {
    let machine = openrc();
    let snapshot = machine.local();
    assert_eq!(snapshot.facts.unwrap().service_manager, ServiceManager::OpenRc);
    let services = snapshot.services.unwrap();
    assert_eq!(
        states(&services),
        [
            ("broken", "failed", "failed", "disabled"),
            ("crasher", "failed", "crashed", "disabled"),
            ("resting", "inactive", "stopped", "disabled"),
            ("sleeper", "active", "started", "enabled"),
            ("supervised", "active", "started", "disabled"),
        ]
    );
    let of = |name: &str| services.iter().find(|service| service.name == name).unwrap();
    let (sleeper, supervised) = (of("sleeper"), of("supervised"));
    assert_eq!((sleeper.main_pid, sleeper.description.as_str()), (Some(machine.pid()), "Sleeps"));
    assert!(sleeper.memory_bytes.unwrap() > 0);
    assert_eq!((supervised.main_pid, supervised.restarts), (Some(machine.pid()), Some(1)));
    let now_ms = snapshot.clock_ms.unwrap();
    assert!(now_ms.abs_diff(sleeper.since_ms.unwrap()) < 120_000);
    assert_eq!(of("resting").since_ms, None);
    assert!(snapshot.gaps.iter().all(|gap| gap.section != "services"), "{:?}", snapshot.gaps);
}

#[test]
fn services_of_sysv_init_are_told_from_scripts_pid_files_and_locks() {
    let machine = sysv();
    let snapshot = machine.local();
    assert_eq!(snapshot.facts.unwrap().service_manager, ServiceManager::SysV);
    let services = snapshot.services.unwrap();
    assert_eq!(
        states(&services),
        [
            ("cron", "active", "running", "enabled"),
            ("dead", "failed", "dead, its pid file is left", "disabled"),
            ("iptables", "active", "exited", "disabled"),
            ("lockedd", "failed", "dead, its lock is left", "disabled"),
            ("oneshot", "unknown", "", "disabled"),
            ("stopped", "inactive", "stopped", "disabled"),
            ("usual", "active", "running", "enabled"),
        ]
    );
    let cron = services.iter().find(|service| service.name == "cron").unwrap();
    assert_eq!((cron.main_pid, cron.description.as_str()), (Some(machine.pid()), "The cron"));
    assert!(cron.since_ms.unwrap().abs_diff(snapshot.clock_ms.unwrap()) < 120_000);
}

/// What does not move is equal; a start told from the clock may be cut to another second.
fn same(shell: &Snapshot, local: &Snapshot) {
    let (shell, local) = (shell.services.clone().unwrap(), local.services.clone().unwrap());
    let fixed = |service: &Service| Service { since_ms: None, memory_bytes: None, ..service.clone() };
    let all = |services: &[Service]| services.iter().map(fixed).collect::<Vec<_>>();
    assert_eq!(all(&shell), all(&local));
    for (one, other) in shell.iter().zip(&local) {
        assert_eq!(one.memory_bytes, other.memory_bytes, "{}", one.name);
        match (one.since_ms, other.since_ms) {
            (Some(a), Some(b)) => assert!(a.abs_diff(b) <= 2000, "{}: {a} {b}", one.name),
            (a, b) => assert_eq!(a, b, "{}", one.name),
        }
    }
}

#[tokio::test]
async fn both_probes_agree_on_services_of_openrc() {
    let machine = openrc();
    let shell = machine.shell().await;
    same(&shell, &machine.local());
    assert_eq!(shell.facts.unwrap().service_manager, ServiceManager::OpenRc);
}

#[tokio::test]
async fn both_probes_agree_on_services_of_sysv_init() {
    let machine = sysv();
    let shell = machine.shell().await;
    same(&shell, &machine.local());
    assert_eq!(shell.facts.unwrap().service_manager, ServiceManager::SysV);
}

#[test]
fn without_a_service_manager_services_are_unknown_with_the_reason() {
    let machine = Machine::new("no-manager");
    machine.file("/proc/1/comm", "tini\n");
    machine.file("/etc/init.d/cron", "#!/bin/sh\n");
    let snapshot = machine.local();
    assert_eq!(snapshot.services, None);
    assert!(
        snapshot
            .gaps
            .iter()
            .any(|gap| gap.section == "services" && gap.reason.contains("no service manager"))
    );
}

/// Outputs in the documented form of each manager; those of apt and apk are captures.
#[test]
fn pending_updates_are_counted_as_each_package_manager_tells_them() {
    let apt = "apt 0\nNOTE: This is only a simulation!\nReading package lists...\n\
        Inst libc6 [2.36-9] (2.36-9+deb12u7 Debian:12.6/stable [amd64])\n\
        Inst openssl [3.0.11-1] (3.0.13-1~deb12u2 Debian:12.6/stable, Debian-Security:12/stable-security [amd64])\n\
        Conf libc6 (2.36-9+deb12u7 Debian:12.6/stable [amd64])\n";
    let dnf = "dnf 100\n\nbash.x86_64    5.2.26-3.fc40    updates\na-very-long-package-name-that-wraps.noarch\n     \
        1.0-2.fc40   updates\nObsoleting Packages\nold.x86_64   1-1   updates\nsecurity 0\n\
        FEDORA-2024-1 Important/Sec. bash-5.2.26-3.fc40.x86_64\n";
    let zypper = "zypper 0\nS | Repository | Name | Current | Available | Arch\n--+---\nv | repo-update | curl | 8.0 | 8.1 | x86_64\n\
        security 0\nRepository | Name | Category | Severity\nrepo | openSUSE-2024-1 | security | important\n";
    let apk = "apk 0\nInstalled:                                Available:\nbusybox-1.36.1-r28                      < 1.36.1-r29 \n";
    let pacman = "pacman 1\n";
    let counted = |text: &str| {
        let updates = packages::updates(text.as_bytes()).unwrap().unwrap();
        (updates.manager, updates.pending, updates.security)
    };
    for (text, expected) in [
        (apt, ("apt", Some(2), Some(1))),
        (dnf, ("dnf", Some(2), Some(1))),
        (zypper, ("zypper", Some(1), Some(1))),
        (apk, ("apk", Some(1), None)),
        (pacman, ("pacman", Some(0), None)),
        ("yum 0\n\nsecurity 1\n", ("yum", Some(0), None)),
    ] {
        let (manager, pending, security) = expected;
        assert_eq!(counted(text), (manager.to_owned(), pending, security));
    }
}

#[test]
fn updates_that_nobody_can_tell_are_unknown_with_the_reason_and_never_none() {
    assert_eq!(packages::updates(b"none 0\n"), Ok(None));
    assert_eq!(packages::updates(b""), Ok(None));
    assert_eq!(packages::updates(b"garbage\n\xff\n"), Ok(None));
    for (text, word) in [
        ("apt -\n", "no lists"),
        ("apt 124\n", "too long"),
        ("dnf 1\n", "status 1"),
        ("apt 100\nE: broken\n", "status 100"),
    ] {
        let reason = packages::updates(text.as_bytes()).unwrap_err();
        assert!(reason.contains(word), "{reason}");
    }
}

/// What the script does with programs of the managers in its path, without network and within its time.
fn scripted(name: &str, programs: &[(&str, &str)]) -> Vec<u8> {
    let folder = std::env::temp_dir().join(format!("roundsman-packages-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    for (program, text) in programs {
        let path = folder.join(program);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let script = format!("{}packages", packages::SCRIPT.replace("/var/lib/dpkg/status", "/nonexistent"));
    let output = run_script(&folder, &script);
    fs::remove_dir_all(&folder).unwrap();
    output
}

fn run_script(folder: &Path, script: &str) -> Vec<u8> {
    let path = format!("{}:/usr/bin:/bin", folder.display());
    Command::new("sh").args(["-c", script]).env("PATH", path).output().unwrap().stdout
}

#[test]
fn the_script_asks_the_manager_that_is_there_and_never_the_network() {
    let dnf = "case \"$*\" in *' -C '*) ;; *) exit 9 ;; esac\n\
        case \"$*\" in *updateinfo*) echo 'X Low/Sec. a-1.x86_64'; exit 0 ;; esac\necho 'a.x86_64 1 updates'; exit 100";
    let output = scripted("dnf", &[("dnf", dnf)]);
    let updates = packages::updates(&output).unwrap().unwrap();
    assert_eq!((updates.manager.as_str(), updates.pending, updates.security), ("dnf", Some(1), Some(1)));
    let apk = scripted("apk", &[("apk", "echo nothing")]);
    assert!(packages::updates(&apk).unwrap_err().contains("no lists"), "{apk:?}");
    let none = scripted("none", &[]);
    assert_eq!(packages::updates(&none), Ok(None));
}

/// This machine's own package manager, where it has one: both probes say the same.
#[tokio::test]
async fn both_probes_agree_on_pending_updates_of_this_machine() {
    let sections = Sections { packages: true, ..Sections::BASE };
    let mut child = tokio::process::Command::new("sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let pipes = tokio::io::join(child.stdout.take().unwrap(), child.stdin.take().unwrap());
    let mut probe = ShellProbe::start(pipes).await.unwrap();
    let shell = probe.read(sections).await.unwrap();
    let local = tokio::task::spawn_blocking(move || Reader::default().read(sections)).await.unwrap();
    let gap = |snapshot: &Snapshot| snapshot.gaps.iter().find(|gap| gap.section == "packages").cloned();
    if gap(&shell).into_iter().chain(gap(&local)).all(|gap| !gap.reason.contains("too long")) {
        assert_eq!(shell.updates, local.updates);
        assert_eq!(gap(&shell), gap(&local));
    }
}
