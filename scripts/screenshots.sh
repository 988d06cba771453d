#!/usr/bin/env bash
# Makes the pictures of docs/img: a central program of its own looks after three hosts of the lab, and a browser photographs its pages.
#
#   scripts/screenshots.sh [--minutes N] [--out DIR]     N minutes of readings (4 by default; 15 fill the charts)
#
# Root on Debian or Ubuntu, because of the lab (scripts/lab.sh). Takes target/release/roundsman, or the program that
# ROUNDSMAN_PROGRAM names, or builds one. All figures are measured; a lab that was down is down again afterwards.
set -euo pipefail

root=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd)
minutes=4
out=$root/docs/img
hosts=3

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "screenshots.sh: $*"
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --minutes)
            minutes=${2-}
            case $minutes in '' | *[!0-9]*) fail "--minutes needs a number" ;; esac
            shift 2
            ;;
        --out)
            out=${2-}
            [ -n "$out" ] || fail "--out needs a directory"
            shift 2
            ;;
        -h | --help)
            sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) fail "$1 is no option; see --help" ;;
    esac
done

[ "$(id -u)" = 0 ] || fail "this needs root, because of the lab. Run it with sudo."
missing=()
for pair in chromium:chromium node:nodejs npm:npm pngquant:pngquant; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || fail "missing: ${missing[*]}. Install them and run this again."
    say "Installing ${missing[*]} ..."
    apt-get update -q >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >&2 ||
        fail "apt could not install: ${missing[*]}"
fi

program=${ROUNDSMAN_PROGRAM:-$root/target/release/roundsman}
if ! [ -x "$program" ]; then
    [ -z "${ROUNDSMAN_PROGRAM-}" ] || fail "ROUNDSMAN_PROGRAM names no program: $program"
    say "Building Roundsman ..."
    PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin" cargo build --manifest-path "$root/Cargo.toml" --locked --package roundsman --bin roundsman
    program=$root/target/debug/roundsman
fi
if ! cmp -s "$root/tests/browser/package-lock.json" "$root/tests/browser/node_modules/.installed"; then
    (cd "$root/tests/browser" && npm ci --no-audit --no-fund --ignore-scripts)
    cp "$root/tests/browser/package-lock.json" "$root/tests/browser/node_modules/.installed"
fi

# The lab tests stop and freeze hosts; they wait until the pictures are made.
lab=${ROUNDSMAN_LAB_DIR:-/var/lib/roundsman-lab}
mkdir -p "$lab"
exec 7>"$lab/test.lock"
flock 7
work=$(mktemp -d)
was_down=no
"$root/scripts/lab.sh" status | grep -q '^lab-' || was_down=yes
cleanup() {
    rm -rf "$work"
    [ "$was_down" = no ] || "$root/scripts/lab.sh" down
}
trap cleanup EXIT
"$root/scripts/lab.sh" up "$hosts"
mkdir -p "$out"
ROUNDSMAN_PROGRAM=$program node "$root/scripts/lab/screenshots.mjs" "$work" "$((minutes * 60))" "$root/scripts/lab.sh"
for picture in "$work"/*.png; do
    # 256 colours are enough for a page; a picture that would suffer stays as it is.
    pngquant --force --strip --speed 1 --quality 60-95 --output "$picture" "$picture" || [ $? = 99 ]
    install -m 644 "$picture" "$out/"
    say "$(stat -c '%n: %s bytes' "$out/$(basename "$picture")")"
done
