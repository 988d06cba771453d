//! The shell probe in BusyBox on other machines: each fixture is a root directory of its own (chroot, so root's).
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use roundsman::collect::ShellProbe;
use roundsman::model::{Sections, Snapshot};
use roundsman_agent::local::Reader;
use rstest::rstest;
use tempfile::TempDir;

const OUTER_LIMIT: Duration = Duration::from_secs(60);

/// What `/bin/sh` is on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shell {
    /// Debian's BusyBox brings all of its tools along, whatever stands in PATH.
    BusyBox,
    /// With these tools of BusyBox and no others.
    Dash(&'static [&'static str]),
}

/// A copy of the fixture with a shell, and a `systemctl` that prints what the fixture has of it.
fn machine(name: &str, shell: Shell) -> TempDir {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/proc").join(name);
    let root = tempfile::tempdir().unwrap();
    copy(&fixture, root.path());
    for folder in ["bin", "dev", "etc"] {
        std::fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.path().join("bin/busybox")).expect("busybox-static is needed");
    match shell {
        Shell::BusyBox => {
            symlink("busybox", root.path().join("bin/sh")).unwrap();
            // Its way to its own tools.
            std::fs::create_dir_all(root.path().join("proc/self")).unwrap();
            symlink("/bin/busybox", root.path().join("proc/self/exe")).unwrap();
        }
        Shell::Dash(tools) => {
            install_dash(root.path());
            for tool in tools {
                symlink("busybox", root.path().join("bin").join(tool)).unwrap();
            }
        }
    }
    symlink("/usr/share/zoneinfo/Asia/Tokyo", root.path().join("etc/localtime")).unwrap();
    let null = root.path().join("dev/null");
    let made = std::process::Command::new("mknod").arg(null).args(["c", "1", "3"]).status().unwrap();
    assert!(made.success(), "mknod and chroot need root");
    let script = "#!/bin/sh\n[ \"$1 $2\" = 'show *.service' ] && cat /systemctl-show.txt\n";
    let systemctl = root.path().join("bin/systemctl");
    std::fs::write(&systemctl, script).unwrap();
    std::fs::set_permissions(&systemctl, std::fs::Permissions::from_mode(0o755)).unwrap();
    root
}

/// dash as `/bin/sh`, with the libraries that it is linked to.
fn install_dash(root: &Path) {
    std::fs::copy("/bin/dash", root.join("bin/sh")).unwrap();
    let linked = std::process::Command::new("ldd").arg("/bin/dash").output().unwrap();
    let linked = String::from_utf8(linked.stdout).unwrap();
    for library in linked.split_ascii_whitespace().filter(|word| word.starts_with('/')) {
        let target = root.join(library.trim_start_matches('/'));
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(library, target).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

async fn read(root: &Path) -> Snapshot {
    let mut child = tokio::process::Command::new("chroot")
        .arg(root)
        .arg("/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let pipes = tokio::io::join(child.stdout.take().unwrap(), child.stdin.take().unwrap());
    let reading = async {
        let mut probe = ShellProbe::start(pipes).await.unwrap();
        probe.read(Sections::DETAILS).await.unwrap()
    };
    let snapshot = tokio::time::timeout(OUTER_LIMIT, reading).await.expect("hung");
    assert!(tokio::time::timeout(OUTER_LIMIT, child.wait()).await.expect("hung").unwrap().success());
    snapshot
}

const ALL_TOOLS: Shell = Shell::Dash(&["head", "cat", "stat", "readlink", "uname", "timeout", "df", "awk"]);
const FEW_TOOLS: Shell = Shell::Dash(&["cat", "df"]);
/// The script finds nothing but the shell, whose `read` has to do.
const NO_TOOLS: Shell = Shell::Dash(&[]);

#[rstest]
#[case("debian-12", Shell::BusyBox)]
#[case("alpine-3.20", Shell::BusyBox)]
#[case("rocky-8", Shell::BusyBox)]
#[case("ubuntu-22.04-docker", Shell::BusyBox)]
#[case("lxc-debian-12", Shell::BusyBox)]
#[case("kernel-3.2-hidepid", Shell::BusyBox)]
#[case("debian-12", ALL_TOOLS)]
#[case("rocky-8", ALL_TOOLS)]
#[case("debian-12", FEW_TOOLS)]
#[case("alpine-3.20", NO_TOOLS)]
#[tokio::test]
async fn shell_and_local_reader_agree_on_other_machines(#[case] name: &str, #[case] shell: Shell) {
    let root = machine(name, shell);
    let by_shell = read(root.path()).await;
    let mut local = Reader::new(root.path()).read(Sections::DETAILS);
    // The local reader asks the real system for these, the shell that of the fixture.
    local.taken_at_ms = by_shell.taken_at_ms;
    local.clock_ms = by_shell.clock_ms;
    local.ticks_per_second = by_shell.ticks_per_second;
    local.filesystems.clone_from(&by_shell.filesystems);
    local.services.clone_from(&by_shell.services);
    if let (Some(local), Some(by_shell)) = (&mut local.facts, &by_shell.facts) {
        local.architecture.clone_from(&by_shell.architecture);
        local.virtualisation.clone_from(&by_shell.virtualisation);
        if !matches!(shell, Shell::BusyBox | ALL_TOOLS) {
            local.timezone.clone_from(&by_shell.timezone);
        }
    }
    let mut by_shell = by_shell;
    for snapshot in [&mut by_shell, &mut local] {
        if shell == NO_TOOLS {
            // The shell's own read cannot keep the NULs that part arguments, so the probe does not try.
            snapshot.processes.iter_mut().flatten().for_each(|process| process.command_line = None);
        }
        if matches!(shell, FEW_TOOLS | NO_TOOLS) {
            assert!(
                snapshot.tcp_states.take().is_none()
                    || snapshot.gaps.iter().all(|gap| gap.section != "sockets")
            );
            snapshot.gaps.retain(|gap| gap.section != "sockets");
        }
        snapshot.gaps.retain(|gap| !matches!(gap.section.as_str(), "services" | "filesystems"));
    }
    let (ours, theirs) = (format!("{local:#?}"), format!("{by_shell:#?}"));
    for (local, by_shell) in ours.lines().zip(theirs.lines()) {
        assert_eq!(local, by_shell);
    }
    assert_eq!(local, by_shell);
}

fn gap<'a>(snapshot: &'a Snapshot, section: &str) -> &'a str {
    snapshot.gaps.iter().find(|gap| gap.section == section).map_or("", |gap| &gap.reason)
}

#[rstest]
#[case("TCP: inuse 19000 orphan 0 tw 1001 alloc 1 mem 1\n", 8)]
#[case("TCP: inuse 3 orphan 0 tw 0 alloc 1 mem 1\n", 20_001)]
#[tokio::test]
async fn very_many_sockets_are_not_gone_through_and_both_probes_say_so(
    #[case] sockstat: &str,
    #[case] sockets: usize,
    #[values(Shell::BusyBox, ALL_TOOLS)] shell: Shell,
) {
    let root = machine("debian-12", shell);
    let table = root.path().join("proc/net/tcp");
    let text = std::fs::read_to_string(&table).unwrap();
    let (heading, first) = (text.lines().next().unwrap(), text.lines().nth(1).unwrap());
    std::fs::write(&table, format!("{heading}\n{}", format!("{first}\n").repeat(sockets))).unwrap();
    std::fs::write(root.path().join("proc/net/sockstat"), sockstat).unwrap();
    std::fs::remove_file(root.path().join("proc/net/sockstat6")).unwrap();
    for snapshot in [read(root.path()).await, Reader::new(root.path()).read(Sections::DETAILS)] {
        assert_eq!(snapshot.tcp_states, None);
        assert!(gap(&snapshot, "sockets").contains("more than 20000"), "{:?}", snapshot.gaps);
        assert!(snapshot.tcp.is_some(), "what costs nothing is known nevertheless");
    }
}

#[tokio::test]
async fn without_awk_the_states_of_sockets_are_unknown_with_what_helps() {
    let snapshot = read(machine("debian-12", FEW_TOOLS).path()).await;
    assert_eq!(snapshot.tcp_states, None);
    assert!(gap(&snapshot, "sockets").contains("no awk"), "{:?}", snapshot.gaps);
}

#[tokio::test]
async fn services_are_asked_in_one_go() {
    let root = machine("debian-12", Shell::BusyBox);
    let snapshot = read(root.path()).await;
    let services = snapshot.services.unwrap();
    let failed: Vec<_> = services.iter().filter(|service| service.state == "failed").collect();
    assert_eq!(services.len(), 4);
    assert_eq!(failed.first().unwrap().name, "backup");
    let boot_at_ms = snapshot.taken_at_ms.unwrap() - snapshot.uptime_ms.unwrap();
    assert_eq!(services.first().unwrap().since_ms, Some(boot_at_ms + 25_010));
    assert_eq!(snapshot.facts.unwrap().timezone.as_deref(), Some("Asia/Tokyo"));
}

#[tokio::test]
async fn a_filesystem_is_asked_for_under_its_mount() {
    let snapshot = read(machine("alpine-3.20", Shell::BusyBox).path()).await;
    // There is no /boot in the file tree; its line is simply missing.
    assert_eq!(snapshot.filesystems.len(), 1);
    let root = snapshot.filesystems.first().unwrap();
    assert!(root.size_bytes > 0 && root.used_bytes <= root.size_bytes);
    assert_eq!(
        (root.mount.as_str(), root.device.as_str(), root.fs_type.as_str()),
        ("/", "/dev/vda2", "ext4")
    );
}

#[tokio::test]
async fn a_silent_systemctl_is_a_gap_with_a_reason() {
    let root = machine("debian-12", Shell::BusyBox);
    std::fs::write(root.path().join("systemctl-show.txt"), "").unwrap();
    let snapshot = read(root.path()).await;
    assert_eq!(snapshot.services, None);
    let gap = snapshot.gaps.iter().find(|gap| gap.section == "services").unwrap();
    assert_eq!(gap.reason, "systemctl does not answer");
}
