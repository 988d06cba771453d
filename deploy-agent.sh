#!/bin/sh
# Brings the Roundsman agent to a server, or takes it away, with plain ssh and scp: no running Roundsman is needed. What
# happens on the server is scripts/agent/manage.sh, which Roundsman itself sends too, so either can go on where the other
# left off. The host key is always checked: ssh asks for an unknown one, and refuses a changed one.
#
#   ./deploy-agent.sh [USER@]HOST [options]
#
#   --key FILE            private key to log in with
#   --port N              port of sshd, 22 by default
#   --mode stream         only uploaded; Roundsman starts it over SSH and nothing runs in between (the default)
#   --mode serve          also a service that answers on the server's own 127.0.0.1:8083; needs root or sudo there
#   --mode push           also a service that reports to ROUNDSMAN_URL with the token in ROUNDSMAN_TOKEN or in the file
#                         that ROUNDSMAN_TOKEN_FILE names; needs root or sudo there
#   --serve-port N        another port for --mode serve
#   --agents DIR          where the agents lie: roundsman-agent-ARCHITECTURE (dist/agents by default)
#   --known-hosts FILE    trusted host keys, in place of ssh's own files
#   --remove              take the agent away: service, user, files
#
# Can be run again at any time; a second run finds the agent current. Exit status: 0 done, 1 failed, 2 wrong use,
# 3 there is no agent for the server's processor.
set -u

here=$(cd "$(dirname "$0")" && pwd) || exit 1
script=$here/scripts/agent/manage.sh
target='' key='' port=22 mode=stream serve_port=8083 agents=$here/dist/agents known='' remove=no

usage() { sed -n '2,/^set -u/{/^#/s/^# \{0,1\}//p;}' "$0"; }
wrong() { echo "deploy-agent.sh: $*; see --help" >&2; exit 2; }
fail() { echo "failed:  $*" >&2; exit 1; }
say() { echo "$*"; }

while [ $# -gt 0 ]; do
    case $1 in
        --key|--port|--mode|--serve-port|--agents|--known-hosts)
            [ $# -ge 2 ] || wrong "$1 needs a value"
            case $1 in
                --key) key=$2 ;;
                --port) port=$2 ;;
                --mode) mode=$2 ;;
                --serve-port) serve_port=$2 ;;
                --agents) agents=$2 ;;
                --known-hosts) known=$2 ;;
            esac
            shift ;;
        --remove) remove=yes ;;
        --help|-h) usage; exit 0 ;;
        -*) wrong "unknown option $1" ;;
        *) [ -z "$target" ] || wrong "only one server at a time"; target=$1 ;;
    esac
    shift
done
[ -n "$target" ] || wrong "the server is missing"
case $port$serve_port in *[!0-9]*) wrong "a port is a number" ;; esac
case $mode in stream|serve|push) ;; *) wrong "the mode is stream, serve or push" ;; esac
[ -r "$script" ] || fail "$script is missing; run this from the whole source tree"

# One login for everything.
tmp=$(mktemp -d "${TMPDIR:-/tmp}/deploy-agent.XXXXXX") || exit 1
options="-o StrictHostKeyChecking=ask -o ConnectTimeout=20 -o ControlMaster=auto -o ControlPath=$tmp/c -o ControlPersist=60"
trap 'ssh -q -O exit -o ControlPath="$tmp/c" -p "$port" "$target" 2>/dev/null; rm -rf "$tmp"' 0
trap 'exit 1' 1 2 13 15
# No word of these holds a blank that is not quoted here.
[ -z "$key" ] || set -- "$@" -i "$key" -o IdentitiesOnly=yes
[ -z "$known" ] || set -- "$@" -o "UserKnownHostsFile=$known" -o GlobalKnownHostsFile=/dev/null
# shellcheck disable=SC2086
on_server() { command=$1; shift; ssh $options -p "$port" "$@" "$target" "$command"; }

on_server true "$@" </dev/null || fail "ssh did not reach $target; its own message stands above"
say "Connection: $target answers, and its host key is a trusted one"
user=$(on_server 'id -u' "$@" </dev/null) || fail "$target runs no commands"
if [ "$user" = 0 ]; then root='' ; else root='sudo -n '; fi

if [ "$remove" = yes ]; then
    # As root, or the user's own files only where there is no service.
    on_server 'sh -s -- remove' "$@" <"$script"
    case $? in
        0) exit 0 ;;
        4) on_server "${root}sh -s -- remove" "$@" <"$script" || fail "its service cannot be removed without root"
           on_server 'sh -s -- remove' "$@" <"$script" || fail "its files cannot be removed" ;;
        *) fail "it could not be removed" ;;
    esac
    exit 0
fi

machine=$(on_server 'uname -m' "$@" </dev/null) || fail "$target did not say what processor it has"
case $machine in arm64) machine=aarch64 ;; amd64) machine=x86_64 ;; i?86) machine=i686 ;; esac
binary=$agents/roundsman-agent-$machine
if [ ! -f "$binary" ]; then
    echo "failed:  there is no agent for $machine in $agents; scripts/build-agents.sh makes them. Readings go on without one." >&2
    exit 3
fi
sum=$(sha256sum <"$binary") && sum=${sum%% *}
size=$(wc -c <"$binary") && size=$((size))
say "Processor: $machine; there is an agent for it, $size bytes"

said=$(on_server "sh -s -- place $sum $size" "$@" <"$script") || fail "$said"
printf '%s\n' "$said" | sed -n 's/^passed over /Passed over /p'
place=$(printf '%s\n' "$said" | sed -n 's/^place //p;s/^current //p')
case $place in /*) ;; *) fail "$target named no place" ;; esac
# What goes into a remote command line is quoted; a place with a quotation mark in it is refused.
case $place in *[\'\"\\\$\`]*) fail "the home directory there has a name that cannot be used: $place" ;; esac
if printf '%s\n' "$said" | grep -q '^current '; then
    say "Upload: $place is already current"
else
    # shellcheck disable=SC2086
    if ! scp -q $options -P "$port" "$@" "$binary" "$target:$place" 2>"$tmp/scp"; then
        on_server "umask 077; cat >'$place'" "$@" <"$binary" || fail "the upload: $(tail -n 1 "$tmp/scp")"
    fi
    on_server "chmod 700 '$place'" "$@" </dev/null || fail "$place did not arrive"
    say "Upload: $place, $size bytes"
fi
said=$(on_server "sh -s -- finish '$place' $sum" "$@" <"$script") || fail "the agent does not start on $target"
printf '%s\n' "$said" | sed -n 's/^runs /Start: /p'
answer=$(echo 'r 1 -' | on_server "'$place' stream" "$@" | tail -n 1 | cut -c 1-24)
case $answer in '{"request":1,"snapshot":'*) say "Verification: a reading arrived" ;; *) fail "the agent took no reading" ;; esac

case $mode in
    serve)
        on_server "${root}sh -s -- serve '$place' $serve_port" "$@" <"$script" || fail "the service was not installed"
        say "Service: 127.0.0.1:$serve_port on $target" ;;
    push)
        url=${ROUNDSMAN_URL:-}
        [ -n "$url" ] || fail "set ROUNDSMAN_URL to the address of the central server"
        if [ -n "${ROUNDSMAN_TOKEN_FILE:-}" ]; then token=$(head -n 1 "$ROUNDSMAN_TOKEN_FILE"); else token=${ROUNDSMAN_TOKEN:-}; fi
        [ -n "$token" ] || fail "set ROUNDSMAN_TOKEN_FILE or ROUNDSMAN_TOKEN: roundsman token create makes one"
        case $url$token in *[!A-Za-z0-9:/._~%+=@,-]*) fail "the address or the token holds a character that does not belong there" ;; esac
        # Over standard input, so that no process list shows it.
        printf 'ROUNDSMAN_URL=%s\nROUNDSMAN_TOKEN=%s\n' "$url" "$token" | on_server "umask 077; cat >'$place.env'" "$@" || fail "the settings did not arrive"
        on_server "${root}sh -s -- push '$place' '$place.env'" "$@" <"$script" || {
            # Where it could not even become root, what was laid there for it is still there.
            on_server "rm -f '$place.env'" "$@" </dev/null
            fail "the service was not installed"
        }
        say "Service: reports to $url" ;;
esac
say "The agent is deployed."
