//! The texts that run on a server around a detached command, and what they answer. Pure.
//!
//! One run has a directory of its own, mode 0700: below `$HOME/.cache/roundsman/runs`, or in `/var/tmp` where there is no
//! home to write to. In it are `pid` (process, start time, boot), `child` (the command's own process and start time), `out`
//! and `err` up to a limit, `out.more` and `err.more` (bytes beyond it), `code` (exit status and seconds), `late` and `done`.
//! A process is known by its number and its start time together, so that a reused number is never mistaken for it.

use crate::quote::{CannotQuote, quote};

/// Bytes of one stream that one look brings at most.
pub(super) const LOOK_BYTES: usize = 256 * 1024;
/// The first word of an answer.
const HEAD: &str = "run ";

/// What the scripts share. `$i` is the run, `$d` its directory.
const SHARED: &str = r#"h=; [ -n "$HOME" ] && [ -O "$HOME" ] && h=$HOME/.cache/roundsman/runs/
v=/var/tmp/roundsman-run-
place() { d=; [ -n "$h" ] && [ -d "$h$i" ] && d=$h$i; [ -z "$d" ] && [ -d "$v$i" ] && [ -O "$v$i" ] && d=$v$i; [ -n "$d" ]; }
boot() { cat /proc/sys/kernel/random/boot_id 2>/dev/null || echo -; }
ticks() { x=$(cat "/proc/$1/stat" 2>/dev/null); set -- ${x##*) }; echo "${20:-0}"; }
lives() {
[ -n "$1" ] || return 1
if [ "$2" = 0 ]; then kill -0 "$1" 2>/dev/null; return; fi
x=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
set -- "$2" ${x##*) }
[ "${21}" = "$1" ] && [ "$2" != Z ]
}
running() {
p= t= b=; read -r p t b 2>/dev/null <"$1/pid"
[ -n "$b" ] && [ "$b" = "$(boot)" ] || return 1
lives "$p" "$t" && return
p= t=; read -r p t 2>/dev/null <"$1/child"
lives "$p" "$t"
}
hit() {
r=1 p= t=; read -r p t 2>/dev/null <"$d/child"
lives "$p" "$t" && { kill -$1 -$p 2>/dev/null || kill -$1 $p 2>/dev/null; } && r=0
for q in $(grep -l "ROUNDSMAN_DETACHED=$i" /proc/[0-9]*/environ 2>/dev/null); do
q=${q#/proc/}; kill -$1 ${q%/environ} 2>/dev/null && r=0
done
return $r
}
finish() { hit TERM || return 0; for w in 0.1 0.4 0.5 1; do sleep $w 2>/dev/null || sleep 1; hit 0 || return 0; done; hit KILL; }
"#;

/// Becomes the command, after it has said which process it is.
const COMMAND: &str = r#"x=$(cat /proc/$$/stat 2>/dev/null); set -- "$1" "$2" ${x##*) }; echo "$$ ${22:-0}" >"$1/child"; exec /bin/sh -c "$2""#;

/// Stays beside the command: keeps its output to the limit, ends it when its time is over, notes how it ended. `dd` writes each
/// piece as it comes, which `head` does not; what comes after the limit is read and counted, so that the command never waits.
const BESIDE: &str = r#"d=$1 i=$2 n=$3 m=$4
trap "" HUP
echo "$$ $(ticks $$) $(boot)" >"$d/pid.new" && : >"$d/out" && : >"$d/err" && mv "$d/pid.new" "$d/pid" || exit 1
echo begun
exec >/dev/null 2>&1
if [ "$6" = 1 ]; then exec <"$d/in"; rm -f "$d/in"; fi
S=; command -v setsid >/dev/null && S=setsid
keep() {
o=0
while dd bs=4096 count=64 2>/dev/null >>"$1"; do
w=$(wc -c <"$1"); [ "$w" -gt "$o" ] || return; o=$w; [ "$o" -lt "$m" ] || break
done
wc -c >"$1.more"
}
(
exec </dev/null; t=0
while [ $t -lt $n ]; do
[ -e "$d/code" ] || [ ! -d "$d" ] && exit
s=1; [ $t -ge 10 ] && s=5; [ $((n-t)) -lt $s ] && s=$((n-t))
sleep $s; t=$((t+s))
done
[ -e "$d/code" ] || [ ! -d "$d" ] && exit
: >"$d/late"; finish
) &
a=$(date +%s)
{ { { ROUNDSMAN_DETACHED=$i $S /bin/sh -c "$7" sh "$d" "$5" 2>&3 3>&-
echo "$? $(($(date +%s)-a))" >"$d/code.new"; mv "$d/code.new" "$d/code"; } | keep "$d/out" 3>&-; } 3>&1 >/dev/null | keep "$d/err"; }
: >"$d/done"
"#;

/// Makes the directory, removes what was left behind long ago, begins, and says so. 125: nothing was begun.
const BEGIN: &str = r#"old() {
for s in "$1"*; do
[ -d "$s" ] && [ ! -L "$s" ] && [ -O "$s" ] && [ -n "$(find "$s" -prune -mtime +7 2>/dev/null)" ] && ! running "$s" && rm -rf "$s"
done
}
[ -n "$h" ] && old "$h"; old "$v"
d=
[ -n "$h" ] && mkdir -p "$h" 2>/dev/null && mkdir "$h$i" 2>/dev/null && d=$h$i
[ -n "$d" ] || mkdir "$v$i" && d=${d:-$v$i} || exit 125
no() { echo "the run could not be begun in $d; is the disk full?" >&2; rm -rf "$d"; exit 125; }
if [ $f = 1 ]; then cat >"$d/in" || no; fi
S=; command -v setsid >/dev/null 2>&1 && S=setsid
r=$($S /bin/sh -c "$B" sh "$d" "$i" "$n" "$m" "$c" "$f" "$C" </dev/null 2>/dev/null &)
[ "$r" = begun ] || no
echo begun
"#;

/// Says how far a run is, and brings what it printed after `$o` and `$e` bytes.
const LOOK: &str = r#"place || { echo "run absent"; exit 0; }
if [ ! -e "$d/pid" ]; then s=starting; elif running "$d"; then s=runs; else s=gone; [ "$b" = "$(boot)" ] || s=rebooted; fi
[ -e "$d/done" ] && s=done
c=- u=-; read -r c u 2>/dev/null <"$d/code"
y=0; [ -e "$d/late" ] && y=1
size() { wc -c 2>/dev/null <"$1" || echo 0; }
w=$(size "$d/out"); x=$(size "$d/err"); w=$((w)) x=$((x))
g=0; read -r g 2>/dev/null <"$d/out.more"; j=0; read -r j 2>/dev/null <"$d/err.more"
a=$((w-o)); [ $a -lt 0 ] && a=0; [ $a -gt $k ] && a=$k
b=$((x-e)); [ $b -lt 0 ] && b=0; [ $b -gt $l ] && b=$l
echo "run $s $c $u $y $w ${g:-0} $x ${j:-0} $a $b"
[ $a -gt 0 ] && tail -c +$((o+1)) "$d/out" | head -c $a
[ $b -gt 0 ] && tail -c +$((e+1)) "$d/err" | head -c $b
exit 0
"#;

/// What is to run detached.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) command: &'a str,
    pub(super) limit_s: u64,
    /// Bytes of each stream that are kept on the server; up to a quarter of a MiB more may come before it is noticed.
    pub(super) output_limit: usize,
    /// The script's own standard input is the command's.
    pub(super) has_input: bool,
}

/// Begins a run; `id` is a word of letters, digits and dashes that was never used before.
pub(super) fn begin(id: &str, job: &Job<'_>) -> Result<String, CannotQuote> {
    let beside = format!("{SHARED}{BESIDE}");
    Ok(format!(
        "umask 077\ni={} n={} m={} f={} c={} B={} C={}\n{SHARED}{BEGIN}",
        quote(id)?,
        job.limit_s,
        job.output_limit,
        u8::from(job.has_input),
        quote(job.command)?,
        quote(&beside)?,
        quote(COMMAND)?,
    ))
}

/// How far a run is. What was read before, and at most so many bytes more of each stream.
pub(super) fn look(id: &str, read: (usize, usize), room: (usize, usize)) -> Result<String, CannotQuote> {
    Ok(format!("i={} o={} e={} k={} l={}\n{SHARED}{LOOK}", quote(id)?, read.0, read.1, room.0, room.1))
}

/// Ends the command of a run with everything that it started: asks with TERM, insists with KILL.
pub(super) fn end(id: &str) -> Result<String, CannotQuote> {
    Ok(format!("i={}\n{SHARED}place && running \"$d\" && finish\nexit 0\n", quote(id)?))
}

/// Removes what a run left behind.
pub(super) fn sweep(id: &str) -> Result<String, CannotQuote> {
    Ok(format!("i={}\n{SHARED}place && rm -rf \"$d\"\nexit 0\n", quote(id)?))
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// There is nothing of it.
    Absent,
    Starting,
    Runs,
    /// It has ended, and all of its output is there.
    Done,
    /// Nothing of it lives, and it left no end.
    Gone,
    /// The server was restarted since it began.
    Rebooted,
}

/// One answer to a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) state: State,
    /// 128 and the number of the signal where one ended it, as shells say it.
    pub(super) exit_status: Option<u32>,
    /// By the server's clock.
    pub(super) seconds: Option<u64>,
    /// Its time was over.
    pub(super) late: bool,
    pub(super) stdout: Stream,
    pub(super) stderr: Stream,
}

/// One stream of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Stream {
    /// On the server, what was read before included.
    pub(super) bytes: u64,
    /// That came after the limit.
    pub(super) more: u64,
    pub(super) new: Vec<u8>,
}

impl Seen {
    const fn absent() -> Self {
        Self {
            state: State::Absent,
            exit_status: None,
            seconds: None,
            late: false,
            stdout: Stream { bytes: 0, more: 0, new: Vec::new() },
            stderr: Stream { bytes: 0, more: 0, new: Vec::new() },
        }
    }

    /// None: this is no answer of [`look`].
    pub(super) fn parse(answer: &[u8]) -> Option<Self> {
        let end = answer.iter().position(|byte| *byte == b'\n')?;
        let line = std::str::from_utf8(answer.get(..end)?).ok()?.strip_prefix(HEAD)?;
        if line == "absent" {
            return Some(Self::absent());
        }
        let words: Vec<&str> = line.split(' ').collect();
        let [state, code, seconds, late, out, out_more, err, err_more, out_new, err_new] = words.as_slice()
        else {
            return None;
        };
        let state = match *state {
            "starting" => State::Starting,
            "runs" => State::Runs,
            "done" => State::Done,
            "gone" => State::Gone,
            "rebooted" => State::Rebooted,
            _ => return None,
        };
        let rest = answer.get(end + 1..)?;
        let at = out_new.parse::<usize>().ok()?;
        let (stdout, rest) = (rest.get(..at)?, rest.get(at..)?);
        let stderr = rest.get(..err_new.parse::<usize>().ok()?)?;
        let stream = |bytes: &str, more: &str, new: &[u8]| {
            Some(Stream { bytes: bytes.parse().ok()?, more: more.parse().ok()?, new: new.to_vec() })
        };
        Some(Self {
            state,
            exit_status: code.parse().ok(),
            seconds: seconds.parse().ok(),
            late: *late == "1",
            stdout: stream(out, out_more, stdout)?,
            stderr: stream(err, err_more, stderr)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::Path;
    use std::process::{Command, Output, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    const SHELLS: [&[&str]; 3] = [&["dash"], &["bash"], &["busybox", "ash"]];
    const KEPT: (usize, usize) = (LOOK_BYTES, LOOK_BYTES);

    /// Everything in the script runs in this shell too.
    fn run(shell: &[&str], home: &Path, script: &str, input: &str) -> Output {
        let script = script.replace("/bin/sh", &shell.join(" "));
        let mut child = Command::new(shell[0])
            .args(&shell[1..])
            .args(["-c", &script])
            .env("HOME", home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn started(shell: &[&str], home: &Path, id: &str, command: &str, limit_s: u64) {
        let job = Job { command, limit_s, output_limit: 100_000, has_input: true };
        let output = run(shell, home, &begin(id, &job).unwrap(), "from input\n");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "begun\n", "{shell:?} {output:?}");
    }

    fn seen(shell: &[&str], home: &Path, id: &str, read: (usize, usize)) -> Seen {
        Seen::parse(&run(shell, home, &look(id, read, KEPT).unwrap(), "").stdout).unwrap()
    }

    fn until(shell: &[&str], home: &Path, id: &str, holds: impl Fn(&Seen) -> bool) -> Seen {
        let begun = Instant::now();
        loop {
            let found = seen(shell, home, id, (0, 0));
            if holds(&found) {
                return found;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{shell:?} {found:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn a_run_leaves_its_output_its_end_and_then_nothing_in_every_shell() {
        for shell in SHELLS {
            let home = tempfile::tempdir().unwrap();
            started(
                shell,
                home.path(),
                "run-1",
                "cat; echo 'it'\"'\"'s err' >&2; printf 'a\\000b'; exit 7",
                60,
            );
            let found = until(shell, home.path(), "run-1", |seen| seen.state == State::Done);
            assert_eq!((found.exit_status, found.late), (Some(7), false), "{shell:?}");
            assert_eq!(found.stdout.new, b"from input\na\0b", "{shell:?}");
            assert_eq!(found.stderr.new, b"it's err\n", "{shell:?}");
            assert_eq!(seen(shell, home.path(), "run-1", (11, 9)).stdout.new, b"a\0b", "{shell:?}");
            let runs = home.path().join(".cache/roundsman/runs");
            let mode = std::os::unix::fs::PermissionsExt::mode(
                &std::fs::metadata(runs.join("run-1")).unwrap().permissions(),
            );
            assert_eq!(mode & 0o777, 0o700);
            assert!(!runs.join("run-1/in").exists(), "the input does not stay");
            run(shell, home.path(), &sweep("run-1").unwrap(), "");
            assert_eq!(seen(shell, home.path(), "run-1", (0, 0)).state, State::Absent);
            assert_eq!(std::fs::read_dir(&runs).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_run_is_ended_with_what_it_started_by_a_person_or_by_its_time_limit() {
        for shell in SHELLS {
            let home = tempfile::tempdir().unwrap();
            started(shell, home.path(), "mine", "sleep 600 & echo $!; sleep 600", 600);
            started(shell, home.path(), "late", "sleep 600 & echo $!; sleep 600", 1);
            let child = |id: &str| {
                let found = until(shell, home.path(), id, |seen| seen.stdout.new.ends_with(b"\n"));
                String::from_utf8(found.stdout.new).unwrap().trim().to_owned()
            };
            let children = [child("mine"), child("late")];
            run(shell, home.path(), &end("mine").unwrap(), "");
            let found = until(shell, home.path(), "mine", |seen| seen.state == State::Done);
            assert_eq!((found.exit_status, found.late), (Some(143), false), "{shell:?}");
            let found = until(shell, home.path(), "late", |seen| seen.state == State::Done);
            assert!(found.late && found.exit_status == Some(143), "{shell:?} {found:?}");
            for pid in children {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                assert!(stat.is_empty() || stat.contains(") Z "), "{shell:?}: {stat}");
            }
        }
    }

    #[test]
    fn output_without_end_stays_within_its_limit_on_the_server_and_is_counted() {
        for shell in SHELLS {
            let home = tempfile::tempdir().unwrap();
            started(shell, home.path(), "much", "yes | head -c 3000000; yes | head -c 50 >&2", 60);
            let found = until(shell, home.path(), "much", |seen| seen.state == State::Done);
            assert!(found.stdout.bytes <= 100_000 + 64 * 4096, "{shell:?} {}", found.stdout.bytes);
            // BusyBox's head writes a little less than it was asked for to a pipe that nobody empties; cat counts.
            assert_eq!(found.stdout.bytes + found.stdout.more, 3_000_000, "{shell:?}");
            assert_eq!((found.stderr.bytes, found.stderr.more), (50, 0));
        }
    }

    #[test]
    fn a_process_that_only_has_the_number_is_not_the_run() {
        let home = tempfile::tempdir().unwrap();
        let runs = home.path().join(".cache/roundsman/runs/old");
        std::fs::create_dir_all(&runs).unwrap();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let mut other = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
        let write = |name: &str, text: String| std::fs::write(runs.join(name), text).unwrap();
        for shell in SHELLS {
            write("pid", format!("{} 1 {boot}", other.id()));
            write("child", format!("{} 1\n", other.id()));
            assert_eq!(seen(shell, home.path(), "old", (0, 0)).state, State::Gone, "{shell:?}");
            run(shell, home.path(), &end("old").unwrap(), "");
            assert!(other.try_wait().unwrap().is_none(), "{shell:?}: another process was ended");
            write("pid", format!("{} 1 another-boot\n", other.id()));
            assert_eq!(seen(shell, home.path(), "old", (0, 0)).state, State::Rebooted, "{shell:?}");
        }
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn what_was_left_behind_long_ago_goes_with_the_next_run_and_what_is_new_stays() {
        for shell in SHELLS {
            let home = tempfile::tempdir().unwrap();
            let runs = home.path().join(".cache/roundsman/runs");
            for name in ["stale", "recent"] {
                std::fs::create_dir_all(runs.join(name)).unwrap();
            }
            let aged = Command::new("touch").args(["-d", "9 days ago"]).arg(runs.join("stale")).status();
            assert!(aged.unwrap().success());
            started(shell, home.path(), "next", "true", 60);
            until(shell, home.path(), "next", |seen| seen.state == State::Done);
            assert!(!runs.join("stale").exists() && runs.join("recent").exists(), "{shell:?}");
        }
    }

    #[test]
    fn an_answer_that_is_none_is_not_believed() {
        let good = b"run done 0 1 0 3 0 2 0 3 2\nabcde";
        let found = Seen::parse(good).unwrap();
        assert_eq!((found.stdout.new.as_slice(), found.stderr.new.as_slice()), (&b"abc"[..], &b"de"[..]));
        for bad in [
            &b""[..],
            b"run done",
            b"run done 0 1 0 3 0 2 0 3 2\nabcd",
            b"run done 0 1 0 3 0 2 0 99999999999999999999 2\nabcde",
            b"run flying 0 1 0 3 0 2 0 3 2\nabcde",
            b"Welcome!\nrun absent\n",
        ] {
            assert_eq!(Seen::parse(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }
}
