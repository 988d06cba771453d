//! The POSIX shell commands that put a key beside another one in `authorized_keys`, and that take one away.
//!
//! Pure: builds text for the server's shell. Lines are found by the exact key, where sshd looks for it:
//! at the start or behind the options; one that only mentions it stays. The file keeps its owner, mode and SELinux context, and is replaced as a whole or not at all.

use crate::quote::quote;

use super::error::SshError;
use super::keyring::PublicFacts;

/// Whose file is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// The one that is logged in.
    Own,
    /// Another one's. Root runs the command, which becomes that one before it looks at any file.
    Of(String),
}

/// Two keys of which one takes the place of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replacement<'a> {
    /// Public key lines.
    pub old: &'a str,
    pub new: &'a str,
}

/// The first file that sshd reads, the second one that it reads by default, and OpenWrt's own place for root's keys. `is`
/// skips options as sshd does (`advance_past_options` in auth2-pubkeyfile.c) and leaves the line from the key on in `rest`.
const FIND: &str = r#"t=$(printf '\t')
d=.ssh
if [ -f /etc/openwrt_release ] && [ "$(id -u)" = 0 ]; then d=/etc/dropbear; fi
bare() {
while :; do case $l in ' '*|"$t"*) l=${l#?};; *) break;; esac; done
}
is_key() {
case $l in "$1 "*|"$1$t"*) ;; *) return 1;; esac
rest=$l
l=${l#"$1"}
bare
case $l in "$2"|"$2 "*|"$2$t"*) return 0;; esac
return 1
}
is() {
case $1 in *"$3"*) l=$1;; *) return 1;; esac
bare
case $l in '#'*) return 1;; esac
if o=$l; is_key "$2" "$3"; then return 0; fi
l=$o
quoted=no
while :; do
case $quoted$l in
no|yes) return 1;;
no' '*|no"$t"*) break;;
*'\"'*) case $l in '\"'*) l=${l#??}; continue;; esac;;
esac
case $quoted$l in no'"'*) quoted=yes;; yes'"'*) quoted=no;; esac
l=${l#?}
done
bare
is_key "$2" "$3"
}
has() {
[ -f "$1" ] || return 1
while IFS= read -r line || [ -n "$line" ]; do if is "$line" "$2" "$3"; then return 0; fi; done <"$1"
return 1
}
"#;

const HOME: &str = "umask 077\ncd || exit 1\n";

const ADD: &str = r#"for f in "$d/authorized_keys" "$d/authorized_keys2"; do
if has "$f" "$newkind" "$new"; then echo 'it was there already'; exit 0; fi
done
options=
f=$d/authorized_keys
found=no
for g in "$d/authorized_keys" "$d/authorized_keys2"; do
if [ "$found" = no ] && has "$g" "$kind" "$old"; then
found=yes
f=$g
options=${line%"$rest"}
fi
done
if [ "$found$copy" = noyes ]; then echo 'the old key stands in no authorized_keys there, so its restrictions cannot be given to the new one' >&2; exit 1; fi
[ -d "$d" ] || mkdir "$d" || exit 1
made=no
[ -e "$f" ] || made=yes
if [ -s "$f" ] && [ -n "$(tail -c 1 "$f")" ]; then echo >>"$f" || exit 1; fi
printf '%s%s\n' "$options" "$newline" >>"$f" || exit 1
if [ "$made" = yes ]; then
chmod 700 "$d" && chmod 600 "$f" || exit 1
if command -v restorecon >/dev/null 2>&1; then restorecon -RF "$d" 2>/dev/null || :; fi
fi
has "$f" "$newkind" "$new" || { echo "$f does not hold the new key after it was written" >&2; exit 1; }
echo "it was added to $f"
"#;

const REMOVE: &str = r#"if [ "$need" = yes ] && ! has "$d/authorized_keys" "$newkind" "$new" && ! has "$d/authorized_keys2" "$newkind" "$new"; then
echo 'the new key stands in no authorized_keys there; the old one is left' >&2
exit 1
fi
removed=0
for f in "$d/authorized_keys" "$d/authorized_keys2"; do
has "$f" "$kind" "$old" || continue
if [ -L "$f" ]; then
p=$(readlink -f "$f") && [ -n "$p" ] || { echo "$f is a link that leads nowhere" >&2; exit 1; }
f=$p
fi
sum=$(cksum <"$f") || exit 1
tmp=$f.roundsman.$$
trap 'rm -f "$tmp"' EXIT HUP INT TERM
cp -p "$f" "$tmp" || exit 1
kept=0
gone=0
while IFS= read -r line || [ -n "$line" ]; do
if is "$line" "$kind" "$old"; then gone=$((gone + 1)); else printf '%s\n' "$line" || exit 1; kept=$((kept + 1)); fi
done <"$f" >"$tmp" || exit 1
if [ "$(wc -l <"$tmp")" -ne "$kept" ]; then echo "$f could not be written anew" >&2; exit 1; fi
if [ "$(cksum <"$f")" != "$sum" ]; then echo "$f was changed by somebody else meanwhile; try again" >&2; exit 1; fi
if command -v chcon >/dev/null 2>&1; then chcon --reference="$f" "$tmp" 2>/dev/null || :; fi
mv -f "$tmp" "$f" || exit 1
trap - EXIT HUP INT TERM
removed=$((removed + gone))
done
echo "$removed removed"
"#;

/// Adds the new key with the options (`restrict`, `from=`, a forced command) of the old one's line. Safe to repeat.
/// `copy_or_fail`: fails where the old key has no line, so that a restricted key is never followed by a free one.
///
/// # Errors
/// [`SshError::KeyUnreadable`]: not public key lines.
pub fn add_command(keys: Replacement<'_>, account: &Account, copy_or_fail: bool) -> Result<String, SshError> {
    let (kind, old) = blob(keys.old)?;
    let (newkind, new) = blob(keys.new)?;
    let copy = if copy_or_fail { "yes" } else { "no" };
    let line = ("newline", keys.new.trim());
    script(
        account,
        &[("kind", kind), ("old", old), ("newkind", newkind), ("new", new), line, ("copy", copy)],
        ADD,
    )
}

/// Takes every line of the old key away; the new one has to be there unless `new_has_no_line` (a certificate opens the
/// account without one). Safe to repeat; prints how many lines went.
///
/// # Errors
/// [`SshError::KeyUnreadable`]: not public key lines.
pub fn remove_command(
    keys: Replacement<'_>,
    account: &Account,
    new_has_no_line: bool,
) -> Result<String, SshError> {
    let (kind, old) = blob(keys.old)?;
    let (newkind, new) = blob(keys.new)?;
    let need = if new_has_no_line { "no" } else { "yes" };
    let values = [("kind", kind), ("old", old), ("newkind", newkind), ("new", new), ("need", need)];
    script(account, &values, REMOVE)
}

fn script(account: &Account, values: &[(&str, &str)], body: &str) -> Result<String, SshError> {
    let word = |text: &str| quote(text).map_err(|error| unusable(&error.to_string()));
    let mut text = String::new();
    for (name, value) in values {
        text.push_str(&format!("{name}={}\n", word(value)?));
    }
    let text = format!("{text}{HOME}{FIND}{body}");
    match account {
        Account::Own => Ok(text),
        // Whoever owns the directory may put links into it, which root would follow.
        Account::Of(name) => Ok(format!("exec su -s /bin/sh {} -c {}", word(name)?, word(&text)?)),
    }
}

fn unusable(cause: &str) -> SshError {
    SshError::KeyUnreadable { path: "(public)".to_owned(), cause: cause.to_owned() }
}

/// Algorithm and key of one public key line.
fn blob(line: &str) -> Result<(&str, &str), SshError> {
    let line = line.trim();
    if line.chars().any(char::is_control) || PublicFacts::of(line).is_none() {
        return Err(unusable("it is not one line with a public key"));
    }
    let mut fields = line.split_ascii_whitespace();
    match (fields.next(), fields.next()) {
        (Some(kind), Some(blob)) => Ok((kind, blob)),
        _ => Err(unusable("it is not one line with a public key")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::path::Path;
    use std::process::{Command, Output};

    use super::*;
    use crate::ssh::keys::generate_ed25519;

    const SHELLS: [&[&str]; 3] = [&["bash", "--posix"], &["dash"], &["busybox", "ash"]];

    fn run(shell: &[&str], home: &Path, command: &str) -> Output {
        let (program, rest) = shell.split_first().unwrap();
        Command::new(program).args(rest).args(["-c", command]).env("HOME", home).output().unwrap()
    }

    fn well(shell: &[&str], home: &Path, command: &str) -> String {
        let output = run(shell, home, command);
        assert!(output.status.success(), "{shell:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn key(comment: &str) -> String {
        generate_ed25519(comment).unwrap().1
    }

    fn home_with(text: &str) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join(".ssh")).unwrap();
        fs::write(home.path().join(".ssh/authorized_keys"), text).unwrap();
        home
    }

    fn file(home: &Path) -> String {
        fs::read_to_string(home.join(".ssh/authorized_keys")).unwrap()
    }

    #[test]
    fn the_new_key_gets_the_options_of_the_old_one_and_the_old_one_goes() {
        let (old, new, other) = (key("old key"), key("it's new"), key("somebody's"));
        let (_, old_blob) = blob(&old).unwrap();
        for shell in SHELLS {
            let options = r#"restrict,command="echo \"a b\" $HOME",from="10.0.0.0/8" "#;
            let text =
                format!("# {old}\n{other}\n\n{options}{old}\n\tssh-ed25519  {old_blob}\n{other} again");
            let home = home_with(&text);
            let keys = Replacement { old: &old, new: &new };
            let add = add_command(keys, &Account::Own, true).unwrap();
            assert_eq!(well(shell, home.path(), &add), "it was added to .ssh/authorized_keys", "{shell:?}");
            assert_eq!(file(home.path()), format!("{text}\n{options}{new}\n"), "{shell:?}");
            assert_eq!(well(shell, home.path(), &add), "it was there already", "{shell:?}");
            let remove = remove_command(keys, &Account::Own, false).unwrap();
            assert_eq!(well(shell, home.path(), &remove), "2 removed", "{shell:?}");
            let left = format!("# {old}\n{other}\n\n{other} again\n{options}{new}\n");
            assert_eq!(file(home.path()), left, "{shell:?}");
            assert_eq!(well(shell, home.path(), &remove), "0 removed", "{shell:?}");
            assert_eq!(fs::read_dir(home.path().join(".ssh")).unwrap().count(), 1, "nothing is left behind");
        }
    }

    #[test]
    fn the_file_keeps_its_mode_and_owner_and_a_link_stays_a_link() {
        let (old, new) = (key("old"), key("new"));
        for shell in SHELLS {
            let home = home_with("");
            let (link, real) = (home.path().join(".ssh/authorized_keys"), home.path().join("kept elsewhere"));
            fs::rename(&link, &real).unwrap();
            fs::write(&real, format!("{old}\n{new}\n")).unwrap();
            fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
            std::os::unix::fs::chown(&real, Some(4321), Some(1234)).unwrap();
            std::os::unix::fs::symlink(&real, &link).unwrap();
            let keys = Replacement { old: &old, new: &new };
            let remove = remove_command(keys, &Account::Own, false).unwrap();
            assert_eq!(well(shell, home.path(), &remove), "1 removed", "{shell:?}");
            let meta = fs::metadata(&real).unwrap();
            assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o640, 4321, 1234), "{shell:?}");
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "{shell:?}");
            assert_eq!(fs::read_to_string(&real).unwrap(), format!("{new}\n"));
        }
    }

    #[test]
    fn the_old_key_is_left_where_the_new_one_is_not() {
        let (old, new) = (key("old"), key("new"));
        let text = format!("# {new}\n{old}\n");
        for shell in SHELLS {
            let home = home_with(&text);
            let keys = Replacement { old: &old, new: &new };
            let refused = run(shell, home.path(), &remove_command(keys, &Account::Own, false).unwrap());
            assert_eq!(refused.status.code(), Some(1), "{shell:?}");
            assert_eq!(file(home.path()), text, "{shell:?}");
            let certified = remove_command(keys, &Account::Own, true).unwrap();
            assert_eq!(well(shell, home.path(), &certified), "1 removed", "{shell:?}");
        }
    }

    #[test]
    fn a_restricted_key_is_never_followed_by_a_free_one() {
        let (old, new) = (key("old"), key("new"));
        let keys = Replacement { old: &old, new: &new };
        for shell in SHELLS {
            let home = home_with("");
            let refused = run(shell, home.path(), &add_command(keys, &Account::Own, true).unwrap());
            assert_eq!(refused.status.code(), Some(1), "{shell:?}");
            assert_eq!(file(home.path()), "", "{shell:?}");
            well(shell, home.path(), &add_command(keys, &Account::Own, false).unwrap());
            assert_eq!(file(home.path()), format!("{new}\n"), "{shell:?}");
        }
    }

    #[test]
    fn a_first_key_makes_its_directory_with_the_rights_that_sshd_wants() {
        let (old, new) = (key("old"), key("new"));
        let keys = Replacement { old: &old, new: &new };
        for shell in SHELLS {
            let home = tempfile::tempdir().unwrap();
            well(shell, home.path(), &add_command(keys, &Account::Own, false).unwrap());
            let mode = |path: &str| fs::metadata(home.path().join(path)).unwrap().mode() & 0o777;
            assert_eq!((mode(".ssh"), mode(".ssh/authorized_keys")), (0o700, 0o600), "{shell:?}");
        }
    }

    /// Runs a command as root where `reader` is an account with this home, in a mount namespace of its own.
    fn beside_reader(home: &Path, command: &str) -> Output {
        let passwd = home.parent().unwrap().join("passwd");
        let account =
            format!("root:*:0:0::/root:/bin/sh\nreader:*:4711:4711::{}:/bin/false\n", home.display());
        fs::write(&passwd, account).unwrap();
        let script = r#"mount --bind "$1" /etc/passwd && exec /bin/sh -c "$2""#;
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "/bin/sh", "-c", script, "sh"]).arg(&passwd).arg(command).output().unwrap()
    }

    #[test]
    fn the_file_of_another_account_is_written_as_that_account() {
        let (old, new) = (key("old"), key("new"));
        let keys = Replacement { old: &old, new: &new };
        let account = Account::Of("reader".to_owned());
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let home = dir.path().join("home");
        let file = home.join(".ssh/authorized_keys");
        let secret = dir.path().join("of root");
        fs::create_dir_all(home.join(".ssh")).unwrap();
        fs::write(&file, format!("restrict {old}\n")).unwrap();
        for path in [&home, &home.join(".ssh"), &file] {
            std::os::unix::fs::chown(path, Some(4711), Some(4711)).unwrap();
        }
        for command in
            [add_command(keys, &account, true).unwrap(), remove_command(keys, &account, false).unwrap()]
        {
            let done = beside_reader(&home, &command);
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("restrict {new}\n"));
        assert_eq!(fs::metadata(&file).unwrap().uid(), 4711);
        let text = format!("{old}\n{new}\n");
        fs::write(&secret, &text).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(&secret, &file).unwrap();
        let other = key("another");
        for command in [
            add_command(Replacement { old: &old, new: &other }, &account, true).unwrap(),
            remove_command(keys, &account, false).unwrap(),
        ] {
            assert!(
                !beside_reader(&home, &command).status.success(),
                "a link was followed with root's rights"
            );
            assert_eq!(fs::read_to_string(&secret).unwrap(), text);
        }
        let nobody = remove_command(keys, &Account::Of("no-such-name".to_owned()), false).unwrap();
        assert!(!beside_reader(&home, &nobody).status.success());
    }

    #[test]
    fn a_line_that_only_mentions_the_old_key_stays() {
        let (old, new, other) = (key("old"), key("new"), key("somebody's"));
        let (kind, old_blob) = blob(&old).unwrap();
        let others = format!(
            "{other} was {kind} {old_blob} before\ncommand=\"echo \\\"{kind} {old_blob} \" {other}\n\
             environment=\"K= {kind} {old_blob} x\" {other}\n"
        );
        let quoted = r#"command="echo \" "#;
        for shell in SHELLS {
            let home = home_with(&format!("{others}{quoted}{kind} {old_blob} \" \t{old}\n"));
            let keys = Replacement { old: &old, new: &new };
            well(shell, home.path(), &add_command(keys, &Account::Own, true).unwrap());
            let remove = remove_command(keys, &Account::Own, false).unwrap();
            assert_eq!(well(shell, home.path(), &remove), "1 removed", "{shell:?}");
            let expected = format!("{others}{quoted}{kind} {old_blob} \" \t{new}\n");
            assert_eq!(file(home.path()), expected, "{shell:?}");
        }
    }

    #[test]
    fn a_full_disk_leaves_the_file_as_it_is() {
        let (old, new) = (key("old"), key("new"));
        let text = format!("{old}\n{new}\n");
        let home = home_with(&text);
        let keys = Replacement { old: &old, new: &new };
        // A limit of no bytes at all fails every write as a full disk does.
        let command =
            format!("trap '' XFSZ; ulimit -f 0\n{}", remove_command(keys, &Account::Own, false).unwrap());
        for shell in [&["bash", "--posix"][..], &["dash"]] {
            let refused = run(shell, home.path(), &command);
            assert_eq!(refused.status.code(), Some(1), "{shell:?}");
            assert_eq!(file(home.path()), text, "{shell:?}");
            assert_eq!(fs::read_dir(home.path().join(".ssh")).unwrap().count(), 1, "{shell:?}");
        }
    }

    #[test]
    fn only_public_key_lines_become_commands() {
        let good = key("good");
        for bad in ["", "ssh-ed25519 AAAA", "$(reboot)", &format!("{good}\nssh-ed25519 AAAAevil")] {
            let keys = Replacement { old: &good, new: bad };
            assert!(add_command(keys, &Account::Own, false).is_err(), "{bad}");
            let keys = Replacement { old: bad, new: &good };
            assert!(remove_command(keys, &Account::Own, false).is_err(), "{bad}");
        }
    }
}
