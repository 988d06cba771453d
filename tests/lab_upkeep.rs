//! Reboots and package updates of real hosts: Debian with systemd, OpenRC and System V init, and BusyBox.
//!
//! Run by `scripts/lab.sh test`, which starts the hosts.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod lab;
#[expect(dead_code, reason = "this program uses a part of the harness")]
mod program;

use lab::acting::{enrolled, operate, result};
use lab::central::Central;
use lab::{Host, Init, Lab, until};
use serde_json::{Value, json};

const HOSTS: usize = 6;
/// A lab host needs a few seconds.
const BACK_WITHIN_S: u64 = 150;

/// One of each init system.
fn one_of_each(lab: &Lab) -> Vec<Host> {
    [1, 4, 5, 6].map(|number| lab.host(number)).into()
}

fn boot_id(host: &Host) -> String {
    host.ssh("cat /proc/sys/kernel/random/boot_id").trim().to_owned()
}

/// Both services of the host run.
fn serves(host: &Host) -> bool {
    let asked = match host.init {
        Init::BusyBox => "ps | grep -q '[s]rv/lab-web' && ps | grep -q '[b]in/lab-worker'",
        _ => "pgrep -f srv/lab-we[b] && pgrep -f bin/lab-worke[r]",
    };
    host.try_ssh(asked).status.success()
}

#[tokio::test]
async fn a_reboot_is_done_when_every_kind_of_host_answers_from_another_boot_with_its_services() {
    let lab = Lab::up(HOSTS);
    let central = enrolled(&lab).await;
    let hosts = one_of_each(&lab);
    let before: Vec<String> = hosts.iter().map(boot_id).collect();
    let untouched = boot_id(&lab.host(2));
    let done = operate(&central, "reboot", &hosts, json!({ "timeout_s": BACK_WITHIN_S })).await.unwrap();
    for (host, before) in hosts.iter().zip(&before) {
        let (result, now) = (result(&done, host), boot_id(host));
        assert_eq!(result["status"], "succeeded", "{}: {result}", host.name);
        assert_ne!(now, *before, "{}", host.name);
        let said = result["stdout"].as_str().unwrap();
        assert!(
            said.contains(&format!("Boot {before}\n")) && said.contains(&format!("Boot {now}: back")),
            "{said}"
        );
        let command = result["command"].as_str().unwrap();
        let words = match host.init {
            Init::Systemd => "systemctl reboot",
            Init::OpenRc => "openrc-shutdown --reboot now",
            Init::SysV | Init::BusyBox => "reboot",
        };
        assert!(command == words || host.init == Init::OpenRc && command.contains(words), "{command}");
        until(&format!("{} is up", host.name), async || serves(host).then_some(())).await;
        until(&format!("{} is read again", host.name), async || {
            (central.server(host).await["health_status"] != "unreachable").then_some(())
        })
        .await;
    }
    assert_eq!(boot_id(&lab.host(2)), untouched);
}

#[tokio::test]
async fn a_detached_command_that_a_reboot_has_ended_is_told_so() {
    let lab = Lab::up(HOSTS);
    let central = enrolled(&lab).await;
    let host = lab.host(5);
    let body = json!({
        "operation_type": "run_command", "server_ids": [host.name],
        "parameters": { "command": "echo begun; sleep 86397", "detached": true },
    });
    let begun = central.post("/api/v1/fleet/operations", &body).await.unwrap();
    until("it runs", async || host.try_ssh("pgrep -f 'sleep 8639[7]'").status.success().then_some(())).await;
    let only = std::slice::from_ref(&host);
    let rebooted = operate(&central, "reboot", only, json!({ "timeout_s": BACK_WITHIN_S })).await.unwrap();
    assert_eq!(result(&rebooted, &host)["status"], "succeeded", "{rebooted}");
    let ended = central.ended(&begun).await;
    let told = result(&ended, &host);
    assert_ne!(told["status"], "succeeded", "{told}");
    assert!(told["error"].as_str().unwrap().contains("restarted while it ran"), "{told}");
}

/// What a test did to a host, with the command that undoes it when this is dropped.
struct Undone(Host, &'static str);

impl Drop for Undone {
    fn drop(&mut self) {
        // A panic here would hide the test's own.
        drop(self.0.try_ssh(self.1));
    }
}

/// A host that Docker does not start again, until this is dropped.
struct Lost(Host);

impl Lost {
    fn of(host: Host) -> Self {
        host.docker_with(&["update", "--restart", "no"]);
        Self(host)
    }
}

impl Drop for Lost {
    fn drop(&mut self) {
        self.0.docker_with(&["update", "--restart", "on-failure"]);
    }
}

#[tokio::test]
async fn a_host_that_refuses_to_reboot_and_one_that_stays_away_are_told_apart() {
    let lab = Lab::up(HOSTS);
    let central = enrolled(&lab).await;
    let (refusing, leaving) = (lab.host(3), lab.host(6));
    let before = boot_id(&refusing);
    refusing.ssh("systemctl mask --runtime reboot.target");
    let _undone = Undone(refusing.clone(), "systemctl unmask --runtime reboot.target");
    let _lost = Lost::of(leaving.clone());
    let hosts = [refusing.clone(), leaving.clone()];
    let done = operate(&central, "reboot", &hosts, json!({ "timeout_s": 25 })).await.unwrap();
    assert_eq!(done["status"], "failed", "{done}");
    let told = |host: &Host| {
        let result = result(&done, host);
        assert_eq!(result["status"], "failed", "{result}");
        result.to_string()
    };
    let (refused, lost) = (told(&refusing), told(&leaving));
    assert!(refused.contains("refuses to reboot") && refused.contains("Call to Reboot failed"), "{refused}");
    assert!(lost.contains("did not come back within 25 s"), "{lost}");
    assert_eq!(boot_id(&refusing), before);
}

#[tokio::test]
async fn processes_of_a_name_are_listed_and_ended_on_every_kind_of_host() {
    let lab = Lab::up(HOSTS);
    let central = enrolled(&lab).await;
    let hosts = lab.hosts();
    let _ended: Vec<Undone> = hosts
        .iter()
        .map(|host| {
            host.ssh(
                "printf '#!/bin/sh\\nwhile :; do sleep 1; done\\n' >/root/lab-nap; chmod 755 /root/lab-nap; \
                 for i in 1 2; do setsid /root/lab-nap $i >/dev/null 2>&1 </dev/null & done",
            );
            Undone(
                host.clone(),
                "for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" = lab-nap ] && kill -9 ${p#/proc/}; done; rm -f /root/lab-nap",
            )
        })
        .collect();
    let named = |more: Value| {
        let mut parameters = json!({ "process": "lab-nap" });
        parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        parameters
    };
    for (more, status, lines) in [
        (json!({ "compare": true }), "succeeded", 2),
        (json!({ "most": 1 }), "failed", 2),
        (json!({ "containing": "lab-nap 1" }), "succeeded", 1),
        (json!({ "signal": "KILL" }), "succeeded", 1),
        (json!({}), "failed", 0),
    ] {
        let done = operate(&central, "kill_process", &hosts, named(more.clone())).await.unwrap();
        for host in &hosts {
            let result = result(&done, host);
            assert_eq!(result["status"], status, "{more} on {}: {result}", host.name);
            assert_eq!(result["stdout"].as_str().unwrap().lines().count(), lines, "{more}: {result}");
        }
    }
}

/// Two packages in version 1.0, and a repository on the host that offers 1.1 of both; nothing else is offered.
const REPOSITORY: &str = r#"set -e
r=/srv/lab-repo; rm -rf $r; mkdir -p $r; cd $r
for p in lab-tool lab-extra; do for v in 1.0 1.1; do
  d=$r/build/DEBIAN; f=${p}_$v.deb; rm -rf $r/build; mkdir -p $d $r/build/usr/share/$p
  echo $v >$r/build/usr/share/$p/version
  printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: Lab <lab@localhost>\nDescription: nothing\n' $p $v >$d/control
  dpkg-deb --build $r/build $f >/dev/null
  { dpkg-deb -f $f; echo "Filename: ./$f"; echo "Size: $(stat -c %s $f)"; echo "SHA256: $(sha256sum <$f | cut -c 1-64)"; echo; } >>Packages
done; done
rm -rf build
{ echo 'Suite: lab'; LC_ALL=C date -u +'Date: %a, %d %b %Y %H:%M:%S UTC'; echo SHA256:
  echo " $(sha256sum <Packages | cut -c 1-64) $(stat -c %s Packages) Packages"; } >Release
[ -e /etc/apt/sources.list.before ] || mv /etc/apt/sources.list /etc/apt/sources.list.before
echo "deb [trusted=yes] file:$r ./" >/etc/apt/sources.list
apt-mark unhold lab-tool lab-extra >/dev/null 2>&1 || true
dpkg -i --force-downgrade lab-tool_1.0.deb lab-extra_1.0.deb >/dev/null 2>&1
apt-get update -q >/dev/null"#;
const NO_REPOSITORY: &str = "apt-mark unhold lab-tool lab-extra; dpkg --purge lab-tool lab-extra; rm -rf /srv/lab-repo; \
    mv /etc/apt/sources.list.before /etc/apt/sources.list; rm -rf /var/lib/apt/lists/*";

/// Hosts that update from a repository of their own, until this is dropped.
struct Updatable(Vec<Host>);

impl Updatable {
    fn of(hosts: Vec<Host>) -> Self {
        let updatable = Self(hosts);
        for host in &updatable.0 {
            host.ssh(REPOSITORY);
        }
        updatable
    }

    /// Every host has these versions of the two.
    #[track_caller]
    fn have(&self, tool: &str, extra: &str) {
        for host in &self.0 {
            let found = host.ssh("cat /usr/share/lab-tool/version /usr/share/lab-extra/version");
            assert_eq!(found, format!("{tool}\n{extra}\n"), "{}", host.name);
        }
    }

    async fn update(&self, central: &Central, packages: &[&str], expected: &str) -> Vec<Value> {
        let done =
            operate(central, "update_packages", &self.0, json!({ "packages": packages })).await.unwrap();
        let results: Vec<Value> = self.0.iter().map(|host| result(&done, host).clone()).collect();
        for result in &results {
            assert_eq!(result["status"], expected, "{packages:?}: {result}");
        }
        results
    }

    /// The probe counts so many, which it does anew after each update.
    async fn pend(&self, central: &Central, count: u64) {
        for host in &self.0 {
            let path = format!("/api/v1/fleet/servers/{}/facts", host.name);
            until(&format!("{count} updates pend on {}", host.name), async || {
                (central.try_get(&path).await.ok()?["updates"]["pending"] == count).then_some(())
            })
            .await;
        }
    }
}

impl Drop for Updatable {
    fn drop(&mut self) {
        for host in &self.0 {
            drop(host.try_ssh(NO_REPOSITORY));
        }
    }
}

#[tokio::test]
async fn packages_are_updated_by_name_and_all_and_a_held_or_unknown_one_says_so() {
    let lab = Lab::up(HOSTS);
    let hosts = Updatable::of([1, 4, 5].map(|number| lab.host(number)).into());
    let central = enrolled(&lab).await;
    for host in &hosts.0 {
        let refresh = format!("/api/v1/fleet/servers/{}/facts/refresh", host.name);
        central.post_for_nothing(&refresh).await;
    }
    hosts.pend(&central, 2).await;

    hosts.update(&central, &["lab-tool"], "succeeded").await;
    hosts.have("1.1", "1.0");
    hosts.pend(&central, 1).await;

    for unknown in hosts.update(&central, &["no-such-tool"], "failed").await {
        let said = unknown["stderr"].as_str().unwrap();
        assert!(said.contains("Unable to locate package no-such-tool"), "{unknown}");
    }
    for host in &hosts.0 {
        host.ssh("apt-mark hold lab-extra");
    }
    for held in hosts.update(&central, &["lab-extra"], "failed").await {
        assert!(held["stderr"].as_str().unwrap().contains("Held packages were changed"), "{held}");
    }
    for kept in hosts.update(&central, &[], "succeeded").await {
        assert!(kept["stdout"].as_str().unwrap().contains("kept back"), "{kept}");
    }
    hosts.have("1.1", "1.0");
    for host in &hosts.0 {
        host.ssh("apt-mark unhold lab-extra");
    }
    hosts.update(&central, &[], "succeeded").await;
    hosts.have("1.1", "1.1");
    hosts.pend(&central, 0).await;

    let bare = lab.host(6);
    let only = std::slice::from_ref(&bare);
    let done = operate(&central, "update_packages", only, json!({})).await.unwrap();
    let none = result(&done, &bare);
    assert_eq!((&none["status"], &none["exit_status"]), (&json!("failed"), &json!(127)), "{none}");
    assert!(none["stderr"].as_str().unwrap().contains("no package manager is known here"), "{none}");
}
