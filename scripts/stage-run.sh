#!/usr/bin/env bash
# Runs the tests: format, lints, documentation, unit tests, tests against real sshd's, pages through the whole filter.
#
#   scripts/test.sh          everything but Prometheus, the uploaded agent, the browser and the lab
#   scripts/test.sh --all    also Prometheus, the agent as it is uploaded, the browser tests, the lab tests and the check of
#                            dependencies
#
# Installs what it needs with apt when run as root; else says what is missing. Can be run again at any time.
set -euo pipefail

cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.."
all=no
case ${1-} in
    '') ;;
    --all) all=yes ;;
    -h | --help)
        sed -n '2,8s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    *)
        printf 'test.sh: %s is not an option; see --help\n' "$1" >&2
        exit 2
        ;;
esac

say() { printf '\n== %s\n' "$*"; }
fail() {
    printf 'test.sh: %s\n' "$*" >&2
    exit 1
}

# Debian keeps sshd and dropbear where a user's PATH does not look.
PATH="$PATH:/usr/sbin:/sbin"
if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
fi
export PATH

# program:package, as Debian names them.
needed='cc:gcc sshd:openssh-server ssh-keygen:openssh-client dropbear:dropbear-bin dropbearkey:dropbear-bin
busybox:busybox-static curl:curl setsid:util-linux ss:iproute2 sudo:sudo'
[ "$all" = no ] || needed="$needed chromium:chromium node:nodejs npm:npm prometheus:prometheus promtool:prometheus qemu-aarch64-static:qemu-user-static"

# The packages of the programs that are not there.
missing() {
    local pair
    for pair in $needed; do
        command -v "${pair%%:*}" >/dev/null || printf '%s\n' "${pair#*:}"
    done | sort -u | tr '\n' ' '
}

install() {
    local packages
    command -v cargo >/dev/null ||
        fail "Rust is missing. Install it from https://rustup.rs, open a new shell and run this again."
    packages=$(missing)
    if [ -n "$packages" ]; then
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            say "Installing $packages"
            # shellcheck disable=SC2086 # a list of words
            apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages ||
                fail "apt could not install: $packages"
        fi
        packages=$(missing)
        [ -z "$packages" ] || fail "these packages are missing: $packages(as root: apt-get install $packages)"
    fi
    # sshd refuses to start without it, and only the service's own start makes it.
    if [ "$(id -u)" = 0 ]; then mkdir -p /run/sshd; fi
    local component
    for component in fmt clippy; do
        cargo "$component" --version >/dev/null 2>&1 && continue
        command -v rustup >/dev/null || fail "cargo $component is missing; install the component of your Rust"
        if [ "$component" = fmt ]; then rustup component add rustfmt; else rustup component add clippy; fi
    done
    if [ "$all" = yes ]; then
        case $(node --version) in
            v1[89].* | v[2-9][0-9].*) ;;
            *) fail "Node.js $(node --version) is too old; the browser tests need 18 or newer" ;;
        esac
    fi
}

passed=0
# Runs the Rust tests and counts those that passed.
rust_tests() {
    local log=target/test.log
    mkdir -p target
    if cargo nextest --version >/dev/null 2>&1; then
        say "Tests (cargo nextest)"
        cargo nextest run --locked --workspace --no-fail-fast --color never 2>&1 | tee "$log"
        passed=$(sed -n 's/.*tests\{0,1\} run: \([0-9]*\) passed.*/\1/p' "$log" | tail -n 1)
    else
        say "Tests (cargo test: the same tests; cargo-nextest is not installed)"
        cargo test --locked --workspace --no-fail-fast --lib --bins --tests 2>&1 | tee "$log"
        passed=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$log" | awk '{ sum += $1 } END { print sum + 0 }')
    fi
}

# A real Prometheus that scrapes Roundsman and is sent to by it.
prometheus_tests() {
    say "Prometheus"
    cargo test --locked --test export_prometheus 2>&1 | tee target/prometheus.log
    local count
    count=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' target/prometheus.log | tail -n 1)
    [ "${count:-0}" -gt 0 ] || fail "no test with Prometheus ran"
    passed=$((passed + count))
}

# The agent as it is uploaded: its size and cost on this machine, and the one for another architecture in an emulator.
agent_tests() {
    local count tests='--test uploaded'
    say "The agent as it is uploaded"
    # Its Rust target comes from rustup's own server, which not every machine reaches.
    if scripts/build-agents.sh aarch64; then
        tests="$tests --test foreign"
    else
        say "The agent for aarch64 was NOT tested: its Rust target cannot be had here"
    fi
    # shellcheck disable=SC2086 # a list of words
    cargo test --locked --package roundsman-agent $tests 2>&1 | tee target/agent.log
    count=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' target/agent.log | awk '{ sum += $1 } END { print sum + 0 }')
    [ "${count:-0}" -gt 0 ] || fail "no test of the agent ran"
    passed=$((passed + count))
}

browser_tests() {
    say "Browser tests"
    if ! cmp -s tests/browser/package-lock.json tests/browser/node_modules/.installed; then
        (cd tests/browser && npm ci --no-audit --no-fund --ignore-scripts)
        cp tests/browser/package-lock.json tests/browser/node_modules/.installed
    fi
    # The Rust tests have built it.
    [ -x target/debug/roundsman ] || fail "target/debug/roundsman is missing"
    # Months of history for the charts, written by the program's own code.
    cargo build --locked --quiet --example seed_history
    (cd tests/browser && node --test --test-concurrency=1 --test-reporter=spec) 2>&1 | tee target/browser.log
    local count
    count=$(sed -n 's/^ℹ pass \([0-9]*\)$/\1/p; s/^# pass \([0-9]*\)$/\1/p' target/browser.log | tail -n 1)
    [ "${count:-0}" -gt 0 ] || fail "no browser test ran"
    passed=$((passed + count))
}

# Real hosts with systemd, in Docker; scripts/lab.sh installs and starts what that needs.
lab_tests() {
    say "Lab tests"
    scripts/lab.sh test 2>&1 | tee target/lab.log
    local count
    count=$(sed -n 's/.*tests\{0,1\} run: \([0-9]*\) passed.*/\1/p; s/^test result: ok\. \([0-9]*\) passed.*/\1/p' target/lab.log | tail -n 1)
    [ "${count:-0}" -gt 0 ] || fail "no lab test ran"
    passed=$((passed + count))
}

all=yes
agent_tests
printf "%s passed\n" "$passed"
