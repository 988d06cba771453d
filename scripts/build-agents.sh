#!/usr/bin/env bash
# Builds the agent as one static program for each architecture, into dist/agents/roundsman-agent-ARCH.
#
#   scripts/build-agents.sh [--out DIR] [ARCH ...]     default: x86_64 aarch64
#
# ARCH is what 'uname -m' says on the servers: x86_64, aarch64, armv7l, i686, riscv64. Uses the musl target of rustup,
# which is added where it is missing and needs no C compiler; where it cannot be had, this machine's own architecture is
# built with the C library of the system, which is larger. Fails where a program is larger than 1.25 (so 1.5) MiB.
set -euo pipefail

root=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd)
out=$root/dist/agents
# SPEC of the agent: what is uploaded to every server stays small.
limit_bytes=1310720

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "build-agents.sh: $*"
    exit 1
}

architectures=()
while [ $# -gt 0 ]; do
    case $1 in
        --out)
            [ $# -gt 1 ] || fail "--out needs a directory"
            out=$2
            shift 2
            ;;
        -h | --help)
            sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        -*) fail "$1 is not an option; see --help" ;;
        *)
            architectures+=("$1")
            shift
            ;;
    esac
done
[ ${#architectures[@]} -gt 0 ] || architectures=(x86_64 aarch64)

# rustup puts cargo here, and a non-login shell of root does not look there.
if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
fi
command -v cargo >/dev/null || fail "Rust is missing. Install it from https://rustup.rs, open a new shell and run this again."

# The musl target that runs on an architecture.
musl_target() {
    case $1 in
        x86_64 | aarch64) printf '%s-unknown-linux-musl' "$1" ;;
        armv7l) printf 'armv7-unknown-linux-musleabihf' ;;
        i686) printf 'i686-unknown-linux-musl' ;;
        riscv64) printf 'riscv64gc-unknown-linux-musl' ;;
        *) fail "no target is known for the architecture '$1'" ;;
    esac
}

# Whether the standard library for a target is there, or could be added.
have() {
    [ -d "$(rustc --print sysroot)/lib/rustlib/$1/lib" ] && return
    command -v rustup >/dev/null || return
    say "Adding the Rust target $1 ..."
    timeout 300 rustup target add "$1" >&2
}

# Builds for a target with these flags; says where the program is. A directory of its own, else each build would throw
# the work of those with other flags away.
build() {
    local target=$1
    shift
    # Not RUSTFLAGS alone: a set CARGO_ENCODED_RUSTFLAGS would win over it.
    env -u CARGO_ENCODED_RUSTFLAGS RUSTFLAGS="$*" cargo build --manifest-path "$root/Cargo.toml" \
        --target-dir "$root/target/agent-build" --locked --quiet --profile agent --package roundsman-agent --target "$target" >&2
    printf '%s' "$root/target/agent-build/$target/agent/roundsman-agent"
}

one() {
    local arch=$1 target host program bytes made
    target=$(musl_target "$arch")
    host=$(rustc -vV | sed -n 's/^host: //p')
    if have "$target"; then
        # Without position independence there are no relocations to carry and to apply. rust-lld and the start files of
        # the target itself link for any architecture.
        program=$(build "$target" -C target-feature=+crt-static -C relocation-model=static \
            -C linker=rust-lld -C linker-flavor=ld.lld -C link-self-contained=yes)
    elif [ "${host%%-*}" = "$arch" ]; then
        # A larger C library leaves less room, so size comes first here.
        say "The target $target cannot be added; using the C library of this system."
        export CARGO_PROFILE_AGENT_OPT_LEVEL=z
        limit_bytes=1572864
        program=$(build "$host" -C target-feature=+crt-static -C relocation-model=static -C force-unwind-tables=no \
            -C link-arg=-Wl,--gc-sections -C link-arg=-Wl,--no-eh-frame-hdr -C link-arg=-Wl,--build-id=none)
    else
        fail "for $arch the Rust target $target is needed (rustup target add $target), and it cannot be added here"
    fi
    bytes=$(stat -c %s "$program")
    [ "$bytes" -lt "$limit_bytes" ] || fail "the agent for $arch has $bytes bytes; at most $limit_bytes are allowed"
    mkdir -p "$out"
    made=$out/roundsman-agent-$arch
    # A new file instead of a changed one: an agent may be read for an upload right now.
    if ! cmp -s "$program" "$made"; then
        cp "$program" "$made.new" && mv "$made.new" "$made"
    fi
    say "$made: $bytes bytes"
}

for arch in "${architectures[@]}"; do one "$arch"; done
