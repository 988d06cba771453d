#!/usr/bin/env bash
# A lab: separate hosts in Docker, each with sshd on port 22 of a loopback address of its own.
#
#   scripts/lab.sh up N [--authorize 'PUBLIC KEY LINE' | --authorize-file FILE]   N hosts run: lab-1 on 127.0.1.1, lab-2 on 127.0.1.2, ...
#   scripts/lab.sh status                   what runs
#   scripts/lab.sh ssh NAME [COMMAND...]    a shell or a command on a host, as root
#   scripts/lab.sh down [--purge]           removes the hosts; with --purge the image, the keys and everything else too
#   scripts/lab.sh test                     runs the lab tests, and leaves the lab as it was
#
# Debian with systemd, but lab-4 (OpenRC), lab-5 (System V init) and lab-6 (BusyBox and dropbear).
# Root on Debian or Ubuntu. Installs docker.io and debootstrap, starts dockerd where none runs, and builds the hosts'
# images once. All of it can be run again at any time. See docs/lab.md.
set -euo pipefail

here=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)
state=${ROUNDSMAN_LAB_DIR:-/var/lib/roundsman-lab}
run=/run/roundsman-lab
label=dev.roundsman.lab
network=roundsman-lab
# A host is a systemd with some 25 MiB of its own; nobody needs more of them than this for trying things.
MOST_HOSTS=50
# From start to "all units are up", on a machine that does other things too.
BOOT_S=180
# A lab host must not be able to take the machine that it runs on: memory, processes.
LIMITS=(--memory=512m --pids-limit=512)
# What the lab tests use at most.
TEST_HOSTS=6
LAB_TESTS=(--test lab_hosts --test lab_actions --test lab_provision --test lab_inits --test lab_rolling --test lab_agent --test lab_push --test lab_readings)
# Another call of this script may be building the image.
LOCK_S=900

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "lab.sh: $*"
    exit 1
}
usage() { sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
misused() {
    say "lab.sh: $*"
    usage >&2
    exit 2
}

# Debian keeps dockerd's and debootstrap's tools where a user's PATH does not look.
PATH="$PATH:/usr/sbin:/sbin"
if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
fi

install() {
    command -v apt-get >/dev/null || fail "missing: $*. Install what your system calls them and run this again."
    say "Installing $* ..."
    apt-get update -q >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" >&2 ||
        fail "apt could not install: $*"
}

# need PROGRAM:PACKAGE ... : installs the packages of the programs that are not there.
need() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} = 0 ] || install "${missing[@]}"
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || fail "${pair%%:*} is missing though ${pair#*:} is installed"
    done
}

# shellcheck source=lab/daemon.sh
. "$here/lab/daemon.sh"
# shellcheck source=lab/image.sh
. "$here/lab/image.sh"
# shellcheck source=lab/hosts.sh
. "$here/lab/hosts.sh"

prepare() {
    [ "$(id -u)" = 0 ] || fail "this needs root: it talks to Docker and builds a system with debootstrap. Run it with sudo."
    case ${DOCKER_HOST-unix://} in
        unix://*) ;;
        *) fail "DOCKER_HOST names another machine, but the hosts get loopback addresses of this one; unset it." ;;
    esac
    mkdir -p "$state"
    chmod 700 "$state"
    exec 9>"$state/lock"
    flock -n 9 || {
        say "Another lab.sh is at work; waiting for it ..."
        flock -w "$LOCK_S" 9 || fail "the other lab.sh is still at work after $LOCK_S s"
    }
}

up() {
    local count=${1-} lines=() number names=() kinds=()
    case $count in '' | *[!0-9]*) misused "up needs the number of hosts" ;; esac
    [ "$count" -ge 1 ] && [ "$count" -le "$MOST_HOSTS" ] || misused "a lab has 1 to $MOST_HOSTS hosts"
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            --authorize)
                [ $# -gt 1 ] || misused "--authorize needs a public key line"
                lines+=("$2")
                shift 2
                ;;
            --authorize-file)
                [ $# -gt 1 ] && [ -r "$2" ] || misused "--authorize-file needs a file that can be read"
                mapfile -t -O "${#lines[@]}" lines < <(grep -v -e '^#' -e '^[[:space:]]*$' "$2")
                shift 2
                ;;
            *) misused "up does not know $1" ;;
        esac
    done
    prepare
    need ssh:openssh-client ssh-keygen:openssh-client
    need_keys
    authorize "${lines[@]}"
    need_daemon
    mapfile -t kinds < <(for ((number = 1; number <= count; number++)); do kind_of "$number"; done | sort -u)
    need_images "${kinds[@]}"
    need_network
    for ((number = 1; number <= count; number++)); do need_host "$number"; done
    publish_keys
    for ((number = 1; number <= count; number++)); do
        wait_for_host "$number"
        names+=("lab-$number")
    done
    say "Running: ${names[*]}"
    how_to_enrol "$count"
}

status() {
    prepare
    if ! command -v docker >/dev/null || ! daemon_answers; then
        echo "The lab is down: no Docker daemon runs."
        return
    fi
    local container hosts
    hosts=$(containers)
    [ -n "$hosts" ] || {
        echo "The lab has no hosts."
        return
    }
    printf '%-8s %-12s %-6s %-8s %-10s %s\n' NAME ADDRESS PORT INIT CONTAINER SYSTEM
    while IFS= read -r container; do host_line "${container#"$prefix"}"; done <<<"$hosts"
}

down() {
    local purge=no
    case ${1-} in
        '') ;;
        --purge) purge=yes ;;
        *) misused "down does not know $1" ;;
    esac
    prepare
    # A daemon of our own that is down still keeps our containers; one of somebody else's that is down is not started for this.
    if command -v docker >/dev/null && { daemon_answers || { [ -d "$state/docker" ] && need_daemon; }; }; then
        remove_hosts
        [ "$purge" = no ] || remove_images
    fi
    end_daemon
    if [ "$purge" = yes ]; then
        case $state in / | /var | /var/lib | /home | /root | /tmp) fail "$state is no directory of a lab" ;; esac
        rm -rf --one-file-system "$state" "$run"
    fi
}

# Hosts that were there before stay; those that were not go again, unless another checkout is testing on them.
lab_test() {
    local before=0 result=0
    prepare
    exec 9>&- 8>"$state/testers"
    flock -s 8
    if command -v docker >/dev/null && daemon_answers; then before=$(containers | wc -l); fi
    [ "$before" -ge "$TEST_HOSTS" ] || up "$TEST_HOSTS"
    exec 9>&-
    run_tests || result=$?
    if [ "$before" = 0 ] && flock -n 8; then down; fi
    return "$result"
}

run_tests() {
    cd -- "$here/.." || return
    # What the hosts are given; nothing is built where nothing has changed.
    "$here/build-agents.sh" "$(uname -m)" || return
    # The target is left out of --all-targets, so its lints are checked here.
    cargo clippy --locked --workspace "${LAB_TESTS[@]}" -- -D warnings || return
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --locked --workspace "${LAB_TESTS[@]}" --test-threads 1 --no-fail-fast --color never
    else
        cargo test --locked --workspace "${LAB_TESTS[@]}" --no-fail-fast -- --test-threads=1
    fi
}

case ${1-} in
    up | status | down)
        "$@"
        ;;
    ssh)
        shift
        login "$@"
        ;;
    test)
        lab_test
        ;;
    -h | --help) usage ;;
    '') misused "what shall be done?" ;;
    *) misused "$1 is no command" ;;
esac
