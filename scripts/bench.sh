#!/usr/bin/env bash
# Builds the release binaries where something changed and runs one benchmark; the last line printed is JSON.
#
#   scripts/bench.sh fleet [--servers 1000] [--interval 5s] [--seconds 60]
#   scripts/bench.sh start [--servers 1000] [--starts 5]
#   scripts/bench.sh fanout [--servers 128] [--times 3] [--rounds 12]
#   scripts/bench.sh sessions [--servers 1000] [--readings 100] [--seconds 30]
#   scripts/bench.sh operations [--servers 1000] [--times 5]
#   scripts/bench.sh history [--servers 1000] [--hours 24] [--interval 10s] [--input FILE.csv]
#   scripts/bench.sh agent [--counts 60 500 2000]
#
# agent needs root (PID namespaces) and installs what it compares with: Debian's prometheus-node-exporter, unpacked and
# never started as a service, and Glances from PyPI, both under target/bench-peers.
# fanout needs root: it makes an account for its logins and removes it, and installs the tools that it compares with
# (Debian's pssh; the others from PyPI into target/bench-peers). Only loopback is used. docs/benchmarks.md says what is measured and how to read it.
set -euo pipefail

root=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd)
cd "$root"

usage() {
    sed -n '2,15s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}
case ${1:-} in
    fleet | start | fanout | sessions | operations | history | agent) ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
esac

if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
fi
command -v cargo >/dev/null || {
    echo "bench.sh: Rust is missing. Install it from https://rustup.rs, open a new shell and run this again." >&2
    exit 1
}
fail() {
    printf 'bench.sh: %s\n' "$*" >&2
    exit 1
}

# The tools that fanout compares with, each as its makers deliver it.
install_peers() {
    local program packages=''
    [ "$(id -u)" = 0 ] || fail "fanout makes an account for its logins; run it as root"
    for program in parallel-ssh:pssh sshd:openssh-server ssh:openssh-client xargs:findutils useradd:passwd; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "${program%%:*}" >/dev/null || packages="$packages ${program#*:}"
    done
    python3 -c 'import ensurepip, venv' 2>/dev/null || packages="$packages python3-venv"
    if [ -n "$packages" ]; then
        # shellcheck disable=SC2086 # a list of words
        apt-get update -q >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages >&2 ||
            fail "these packages are missing:$packages"
    fi
    if [ ! -e target/bench-peers/.installed ]; then
        python3 -m venv target/bench-peers >&2
        target/bench-peers/bin/pip install --quiet parallel-ssh==2.16.0.post1 ClusterShell==1.10.1 \
            asyncssh==2.24.1 ansible-core==2.19.14 >&2 || fail "the tools to compare with could not be installed from PyPI"
        touch target/bench-peers/.installed
    fi
}
# What agent compares with. Nothing is installed into the system, where a package would start a service.
agent_peers() {
    [ "$(id -u)" = 0 ] || fail "agent makes PID namespaces; run it as root"
    if [ ! -x target/bench-peers/node-exporter/usr/bin/prometheus-node-exporter ]; then
        mkdir -p target/bench-peers/node-exporter
        (cd target/bench-peers && apt-get download -q prometheus-node-exporter >&2 &&
            dpkg-deb -x prometheus-node-exporter_*.deb node-exporter) || fail "prometheus-node-exporter could not be fetched with apt"
    fi
    if [ ! -x target/bench-peers/glances/bin/glances ]; then
        python3 -c 'import ensurepip, venv' 2>/dev/null || fail "python3-venv is missing (apt-get install python3-venv)"
        python3 -m venv target/bench-peers/glances >&2 &&
            target/bench-peers/glances/bin/pip install --quiet glances==4.3.3 >&2 || fail "Glances could not be installed from PyPI"
    fi
}
if [ "$1" = agent ]; then
    shift
    agent_peers
    scripts/build-agents.sh "$(uname -m)"
    exec python3 benches/agent/agent.py --agent "dist/agents/roundsman-agent-$(uname -m)" --readings scripts/readings.sh \
        --node-exporter target/bench-peers/node-exporter/usr/bin/prometheus-node-exporter \
        --glances target/bench-peers/glances/bin/glances "$@"
fi
if [ "$1" = fanout ]; then install_peers; fi
# Two sockets a server for the generator, one for the program; both inherit this limit.
ulimit -n "$(ulimit -Hn)"
cargo build --release --quiet -p roundsman -p roundsman-bench >&2
target=${CARGO_TARGET_DIR:-target}
exec "$target/release/roundsman-bench" --program "$target/release/roundsman" "$@"
