#!/usr/bin/env bash
# Builds Roundsman (server and agent) where something changed, then serves.
#
#   scripts/start.sh [--build-only] [-- OPTIONS OF 'roundsman serve']
#   scripts/start.sh -- --listen 127.0.0.1:9090 --data /srv/roundsman
#
# Needs Rust and a C compiler. On Debian and Ubuntu, root installs a missing compiler with apt; everybody else is told.
set -euo pipefail

root=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd)
build_only=no

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "start.sh: $*"
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --)
            shift
            break
            ;;
        --build-only)
            build_only=yes
            shift
            ;;
        -h | --help)
            sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) break ;;
    esac
done

# Says what is missing, and installs it where that is possible without asking anybody.
need() {
    # rustup puts cargo here, and a non-login shell of root does not look there.
    if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    fi
    command -v cargo >/dev/null ||
        fail "Rust is missing. Install it from https://rustup.rs, open a new shell and run this again."
    if ! command -v cc >/dev/null || ! [ -e "$(cc -print-file-name=libc.a)" ]; then
        say "A C compiler with the files of the C library is missing (Debian packages: gcc libc6-dev)."
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            say "Installing gcc and libc6-dev with apt ..."
            apt-get update -q >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -q -y gcc libc6-dev >&2 ||
                fail "apt could not install gcc and libc6-dev; its messages are above."
        else
            fail "Install them (as root: apt-get install gcc libc6-dev) and run this again."
        fi
    fi
}

# The addresses that --listen, else ROUNDSMAN_LISTEN, else the default says, one a line.
addresses() {
    local found=no
    while [ $# -gt 0 ]; do
        case $1 in
            --listen=*)
                printf '%s\n' "${1#--listen=}"
                found=yes
                ;;
            --listen)
                [ $# -gt 1 ] && printf '%s\n' "$2"
                found=yes
                ;;
            --config | --config=*) found=yes ;; # the file may say; the program checks it
        esac
        shift
    done
    if [ "$found" = no ]; then
        local listen=${ROUNDSMAN_LISTEN:-127.0.0.1:9083}
        printf '%s\n' "${listen//,/$'\n'}"
    fi
}

# Fails before minutes of building when the port is taken.
check_ports() {
    local address host port answer
    while IFS= read -r address; do
        address=${address// /}
        port=${address##*:}
        host=${address%:*}
        host=${host#[}
        host=${host%]}
        case $port in '' | 0 | *[!0-9]*) continue ;; esac # what is no address, the program explains
        if { exec 9<>"/dev/tcp/$host/$port"; } 2>/dev/null; then
            printf 'GET /api/health HTTP/1.0\r\nHost: localhost\r\n\r\n' >&9 || true
            answer=$(timeout 2 head -c 4096 <&9 | tr -d '\0' || true)
            exec 9>&- 9<&-
            case $answer in
                *'"status":"ok"'*) fail "Roundsman runs on $address already: open http://$address/ or stop it first." ;;
                *) fail "Port $port on $host is taken by another program (find it: ss -ltnp 'sport = :$port'). Choose another: scripts/start.sh -- --listen 127.0.0.1:9090" ;;
            esac
        fi
    done < <(addresses "$@")
}

build() {
    say "Building Roundsman (the first time takes some minutes; afterwards only what changed) ..."
    cargo build --manifest-path "$root/Cargo.toml" --target-dir "$root/target" --locked --release \
        --package roundsman --bin roundsman
    # One for servers like this machine; scripts/build-agents.sh makes those for others.
    "$root/scripts/build-agents.sh" --out "$root/target/release/agents" "$(uname -m)"
}

need
[ "$build_only" = yes ] || check_ports "$@"
build
[ "$build_only" = yes ] && exit 0
exec "$root/target/release/roundsman" serve "$@"
