//! `scripts/provision-server.sh` on systems that a test makes and throws away: this Debian under an overlay, and a BusyBox
//! alone.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/provision-server.sh")
}

/// A directory with two key pairs.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("roundsman-provision-").tempdir().unwrap();
        for name in ["key", "readings"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "a comment; $(touch /bad)", "-f"])
                .arg(dir.path().join(name))
                .status()
                .unwrap();
            assert!(made.success());
        }
        Self(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// The base64 of a public key.
    fn blob(&self, name: &str) -> String {
        let line = fs::read_to_string(self.path(&format!("{name}.pub"))).unwrap();
        line.split(' ').nth(1).unwrap().to_owned()
    }

    fn file(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
        self.path(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(script())
            .args(arguments)
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs `steps` in a mount namespace whose root is `$R`; `provision …` there is the script with an ssh that goes into
    /// that root in place of a server. What the steps print comes back.
    fn inside(&self, prepare: &str, steps: &str) -> String {
        // As sshd does: the command goes to the user's shell.
        let ssh = self.file(
            "ssh",
            "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nexec chroot \"$R\" /bin/sh -c \"$3\"\n",
        );
        let test = format!(
            "set -eu\nmount -t tmpfs none \"$1\"\ncd \"$1\"\n{prepare}\nexport R\n\
             provision() {{ status=0; {script} --ssh {ssh} --key {key}.pub \"$@\" root@server 2>&1 || status=$?; echo \"status $status\"; }}\n\
             {steps}\n",
            script = script().display(),
            key = self.path("key"),
        );
        let mount = self.path("mount");
        fs::create_dir(&mount).unwrap();
        let output = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--propagation", "private", "sh", "-c", &test, "sh", &mount])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}");
        said
    }
}

/// This system, with everything that is written to it gone afterwards. Its own Roundsman and rules are not there.
const DEBIAN: &str = "mkdir u w R; R=$PWD/R; mount -t overlay none -o lowerdir=/,upperdir=u,workdir=w R; \
    mount -t proc none R/proc; mount --rbind /dev R/dev; mount -t tmpfs none R/run; rm -f R/etc/sudoers.d/roundsman*; chroot R userdel -r roundsman 2>/dev/null || true";

/// A system of BusyBox alone, without sudo, with an adduser as Alpine's.
const BUSYBOX: &str = "mkdir -p R/bin R/etc R/home R/root R/proc R/dev R/tmp; R=$PWD/R; cp /bin/busybox R/bin/; \
    for name in $(R/bin/busybox --list); do ln -sf busybox R/bin/$name; done; cp /bin/busybox R/bin/busybox.real; rm R/bin/busybox; mv R/bin/busybox.real R/bin/busybox; mount --rbind /dev R/dev; rm -f R/bin/su; \
    printf 'root:x:0:0:root:/root:/bin/sh\n' >R/etc/passwd; printf 'root:x:0:\nadm:x:4:\n' >R/etc/group; printf 'root:*:1::::::\n' >R/etc/shadow; \
    printf '#!/bin/sh\nfor name; do :; done\necho \"$name:x:1000:1000:Roundsman, provisioned:/home/$name:/bin/sh\" >>/etc/passwd; echo \"$name:!:1::::::\" >>/etc/shadow; echo \"$name:x:1000:\" >>/etc/group; mkdir /home/$name\n' >R/bin/adduser; \
    printf '#!/bin/sh\necho \"$1 to $2\"; sed -i \"s/^$2:.*/&$1/\" /etc/group\n' >R/bin/addgroup; \
    printf '#!/bin/sh\nwhile [ \"$1\" != -c ]; do shift; done; exec sh -c \"$2\"\n' >R/bin/su; chmod 755 R/bin/adduser R/bin/addgroup R/bin/su";

#[test]
fn the_script_and_what_it_sends_are_clean() {
    let desk = Desk::new();
    let sent = desk.run(&[
        "--key",
        "key.pub",
        "--readings-key",
        "readings.pub",
        "--features",
        "services,logs,all",
        "--service",
        "nginx",
        "--dry-run",
        "host",
    ]);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let text = String::from_utf8(sent.stdout).unwrap();
    assert!(!text.contains("touch /bad"), "comments of keys are left out");
    let sent = desk.file("sent.sh", &text);
    for (path, shell) in [(script().display().to_string(), "sh"), (sent, "sh")] {
        let checked = Command::new("shellcheck").args(["-s", shell, &path]).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    }
}

#[test]
fn what_is_missing_or_cannot_be_meant_is_named() {
    let desk = Desk::new();
    desk.file("none", "nothing\n");
    for (arguments, code, part) in [
        (&["--key", "key.pub"][..], 2, "missing: [USER@]HOST"),
        (&["host"], 2, "missing: --key FILE"),
        (&["--key"], 2, "--key needs a value"),
        (&["--key", "key", "host"], 1, "private key"),
        (&["--key", "none", "host"], 1, "holds no public key"),
        (&["--key", "key.pub", "--features", "read,fly", "host"], 2, "'fly' is not one of"),
        (&["--key", "key.pub", "--user", "a b", "host"], 2, "no user name"),
        (&["--key", "key.pub", "--user", "root", "host"], 2, "root needs no rules"),
        (&["--key", "key.pub", "--service", "a,ALL", "host"], 2, "no service name"),
        (&["--key", "key.pub", "--from", "\" command=\"x", "host"], 2, "no list of addresses"),
        (&["--key", "key.pub", "--readings-key", "key.pub", "host"], 2, "the same key"),
        (&["--key", "key.pub", "--", "-x"], 2, "missing: [USER@]HOST"),
        (&["--key", "key.pub", "--what", "host"], 2, "unknown option --what"),
        (&["--key", "key.pub", "--ssh", "false", "host"], 1, "did not come to its end"),
    ] {
        let output = desk.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
}

#[test]
fn a_debian_server_gets_a_user_a_key_and_exact_rules_once() {
    let desk = Desk::new();
    let said = desk.inside(
        DEBIAN,
        "provision --features read,services,packages,logs --service nginx\necho ---\n\
         provision --features read,services,packages,logs --service nginx\necho ---\n\
         cat $R/etc/sudoers.d/roundsman-roundsman $R/home/roundsman/.ssh/authorized_keys\n\
         chroot $R stat -c '%a %U' /etc/sudoers.d/roundsman-roundsman /home/roundsman/.ssh /home/roundsman/.ssh/authorized_keys\n\
         grep ^roundsman: $R/etc/shadow\nchroot $R visudo -c\nchroot $R id roundsman\necho ---\n\
         chroot $R sudo -l -U roundsman\n\
         for try in 'systemctl restart -- nginx.service' 'systemctl restart -- ssh.service' 'apt-get update' 'apt-get -y upgrade -o x=y' 'sh -c id'; do\n\
           if chroot $R sudo -l -U roundsman $try >/dev/null 2>&1; then echo \"may $try\"; else echo \"may not $try\"; fi\ndone",
    );
    let parts: Vec<&str> = said.split("---\n").collect();
    let [first, second, files, rights] = parts.as_slice() else { unreachable!("{said}") };
    assert!(first.contains("done:    user roundsman") && first.contains("status 0"), "{said}");
    assert!(second.contains("Nothing had to be changed.") && !second.contains("done:"), "{said}");
    for verb in ["start", "stop", "restart", "reload", "enable", "disable"] {
        assert!(
            files.contains(&format!("NOPASSWD: /usr/bin/systemctl {verb} -- nginx.service\n")),
            "{verb}: {files}"
        );
    }
    assert!(files.contains(&format!("restrict ssh-ed25519 {} roundsman\n", desk.blob("key"))), "{files}");
    assert!(files.contains("440 root\n700 roundsman\n600 roundsman\n"), "{files}");
    assert!(files.contains("roundsman:*:"), "not locked, and no password: {files}");
    assert!(files.contains("systemd-journal") && files.contains("adm"), "{files}");
    for (may, what) in [
        ("may", "systemctl restart -- nginx.service"),
        ("may not", "systemctl restart -- ssh.service"),
        ("may", "apt-get update"),
        ("may not", "apt-get -y upgrade -o x=y"),
        ("may not", "sh -c id"),
    ] {
        assert!(rights.contains(&format!("{may} {what}\n")), "{may} {what}: {rights}");
    }
}

#[test]
fn rules_for_all_services_let_nothing_else_through() {
    let desk = Desk::new();
    let said = desk.inside(
        DEBIAN,
        "provision --features services\n\
         for try in 'systemctl restart -- nginx.service' 'systemctl enable -- nginx.service' 'systemctl enable -- /tmp/evil.service' \
         'systemctl start -- a /tmp/b' 'systemctl restart nginx' 'systemctl edit -- x' 'systemctl restart -- x --root=/'; do\n\
           if chroot $R sudo -l -U roundsman $try >/dev/null 2>&1; then echo \"may $try\"; else echo \"may not $try\"; fi\ndone",
    );
    for (may, what) in [
        ("may", "systemctl restart -- nginx.service"),
        ("may", "systemctl enable -- nginx.service"),
        ("may not", "systemctl enable -- /tmp/evil.service"),
        ("may not", "systemctl start -- a /tmp/b"),
        ("may not", "systemctl restart nginx"),
        ("may not", "systemctl edit -- x"),
        ("may not", "systemctl restart -- x --root=/"),
    ] {
        assert!(said.contains(&format!("{may} {what}\n")), "{may} {what}: {said}");
    }
}

#[test]
fn rules_that_visudo_refuses_are_never_installed() {
    let desk = Desk::new();
    let said = desk.inside(
        DEBIAN,
        "provision --features services --service one\nprintf '#!/bin/sh\\nexit 1\\n' >$R/usr/local/sbin/visudo; chmod 755 $R/usr/local/sbin/visudo\n\
         provision --features services --service two\nls -a $R/etc/sudoers.d; cat $R/etc/sudoers.d/roundsman-roundsman",
    );
    assert!(
        said.contains("visudo refuses the rules; nothing was changed") && said.contains("status 1"),
        "{said}"
    );
    assert!(said.contains("-- one.service") && !said.contains("-- two.service"), "{said}");
    assert!(!said.contains("roundsman-roundsman.new"), "{said}");
}

#[test]
fn a_key_for_readings_has_a_forced_command_and_other_keys_stay() {
    let desk = Desk::new();
    let said = desk.inside(
        DEBIAN,
        &format!(
            "provision >/dev/null\nprintf 'ssh-ed25519 AAAAC3Other somebody\\n' >>$R/home/roundsman/.ssh/authorized_keys\n\
             provision --readings-key {readings}.pub --from 10.0.0.0/8 --jump\nprovision --readings-key {readings}.pub --from 10.0.0.0/8 --jump\n\
             cat $R/home/roundsman/.ssh/authorized_keys\ncmp {script} $R/usr/local/lib/roundsman/readings && echo same\n\
             stat -c '%a %U' $R/usr/local/lib/roundsman/readings",
            readings = desk.path("readings"),
            script = script().parent().unwrap().join("readings.sh").display(),
        ),
    );
    assert!(said.contains("ssh-ed25519 AAAAC3Other somebody\n"), "{said}");
    assert!(
        said.contains(&format!(
            "from=\"10.0.0.0/8\",restrict,port-forwarding ssh-ed25519 {} roundsman\n",
            desk.blob("key")
        )),
        "{said}"
    );
    let forced = format!(
        "from=\"10.0.0.0/8\",restrict,command=\"/usr/local/lib/roundsman/readings\" ssh-ed25519 {} roundsman\n",
        desk.blob("readings")
    );
    assert!(said.contains(&forced) && said.contains("same\n755 root\n"), "{said}");
    assert!(said.contains("Nothing had to be changed."), "{said}");
    assert_eq!(said.matches(&format!(" {} roundsman\n", desk.blob("key"))).count(), 1, "{said}");
}

#[test]
fn a_link_in_the_home_of_the_user_leads_root_nowhere() {
    let desk = Desk::new();
    let said = desk.inside(
        DEBIAN,
        "provision >/dev/null\necho secret-of-root >$R/root/secret; chmod 600 $R/root/secret\n\
         rm $R/home/roundsman/.ssh/authorized_keys; ln -s /root/secret $R/home/roundsman/.ssh/authorized_keys\n\
         ln -s /root/other $R/home/roundsman/.ssh/.roundsman.new\nprovision || true\n\
         cat $R/root/secret; ls $R/root; cat $R/home/roundsman/.ssh/authorized_keys 2>/dev/null || true",
    );
    assert_eq!(said.matches("secret-of-root").count(), 1, "{said}");
    assert!(!said.contains("\nother\n"), "{said}");
}

#[test]
fn what_was_given_is_taken_away_again() {
    let desk = Desk::new();
    let said = desk.inside(
        DEBIAN,
        &format!(
            "provision --features services --readings-key {}.pub >/dev/null\nprovision --remove\n\
             ls $R/etc/sudoers.d $R/home; grep roundsman $R/etc/passwd || echo gone\nprovision --remove\n\
             chroot $R useradd -m -s /bin/sh somebody; provision --user somebody >/dev/null; provision --user somebody --remove; \
             grep -c . $R/home/somebody/.ssh/authorized_keys || true",
            desk.path("readings")
        ),
    );
    assert!(
        said.contains("done:    no user roundsman")
            && said.contains("gone")
            && !said.contains("\nroundsman-roundsman\n"),
        "{said}"
    );
    assert!(said.contains("Nothing had to be changed."), "{said}");
    assert!(said.contains("which this script did not make; it stays") && said.ends_with("0\n"), "{said}");
}

#[test]
fn a_busybox_system_gets_user_and_key_and_hears_what_is_missing() {
    let desk = Desk::new();
    let said = desk.inside(
        BUSYBOX,
        "provision --features read,services,logs\nprovision --features read,services,logs\n\
         cat $R/home/roundsman/.ssh/authorized_keys; grep ^roundsman $R/etc/shadow\n\
         printf '#!/bin/sh\\n' >$R/bin/doas; chmod 755 $R/bin/doas; provision --features reboot; provision --from 10.0.0.1",
    );
    assert!(said.contains("done:    user roundsman") && said.contains("status 3"), "{said}");
    // A BusyBox without sshd is taken for dropbear, which knows no restrict.
    let options = "no-agent-forwarding,no-X11-forwarding,no-port-forwarding,no-pty";
    assert!(said.contains(&format!("{options} ssh-ed25519 {} roundsman\n", desk.blob("key"))), "{said}");
    assert!(said.contains("roundsman:*:"), "{said}");
    assert!(
        said.contains("missing: a service manager") && said.contains("Nothing had to be changed."),
        "{said}"
    );
    assert!(said.contains("missing: sudo (doas is there, and Roundsman does not use it)"), "{said}");
    assert!(said.contains("dropbear does not know from="), "{said}");
}

#[test]
fn the_agent_is_copied_for_the_servers_processor_or_named_as_missing() {
    let desk = Desk::new();
    let machine = String::from_utf8(Command::new("uname").arg("-m").output().unwrap().stdout).unwrap();
    fs::create_dir(desk.path("dist")).unwrap();
    desk.file(&format!("dist/{}", machine.trim()), "#!/bin/sh\necho agent\n");
    fs::create_dir(desk.path("empty")).unwrap();
    let said = desk.inside(
        DEBIAN,
        &format!(
            "provision --agents {empty}\nprovision --agents {dist}\nprovision --agents {dist}\nchroot $R /usr/local/bin/roundsman-agent",
            empty = desk.path("empty"),
            dist = desk.path("dist"),
        ),
    );
    assert!(said.contains("missing: an agent for") && said.contains("status 3"), "{said}");
    assert!(
        said.contains("done:    /usr/local/bin/roundsman-agent")
            && said.contains("there:   /usr/local/bin/roundsman-agent"),
        "{said}"
    );
    assert!(said.ends_with("agent\n"), "{said}");
}
