#!/usr/bin/env bash
# Builds the release binaries where something changed and runs one benchmark; the last line printed is JSON.
#
#   scripts/bench.sh fleet [--servers 1000] [--interval 5s] [--seconds 60]
#   scripts/bench.sh start [--servers 1000] [--starts 5]
#   scripts/bench.sh history [--servers 1000] [--hours 24] [--interval 10s] [--input FILE.csv]
#
# Only loopback is used. docs/benchmarks.md says what is measured and how to read it.
set -euo pipefail

root=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd)
cd "$root"

usage() {
    sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}
case ${1:-} in
    fleet | start | history) ;;
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
# Two sockets a server for the generator, one for the program; both inherit this limit.
ulimit -n "$(ulimit -Hn)"
cargo build --release --quiet -p roundsman -p roundsman-bench >&2
target=${CARGO_TARGET_DIR:-target}
exec "$target/release/roundsman-bench" --program "$target/release/roundsman" "$@"
