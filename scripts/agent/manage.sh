#!/bin/sh
# Places, checks, serves and removes the agent on the server that it runs on. Roundsman and deploy-agent.sh send this same
# text over SSH: sh -s -- VERB ... <manage.sh. POSIX sh; Debian, Red Hat family, Alpine and BusyBox alike.
#
#   place SHA256 BYTES    says 'arch NAME', then 'current PATH' where this very file is in place already, else 'place PATH',
#                         the first private directory that has room and may run programs; 'passed over DIR: why' before it
#   finish PATH SHA256    proves that the file runs and is the one that was sent; removes what it replaces
#   serve PATH PORT [TOKENFILE]  as root: a service of an unprivileged user that answers on 127.0.0.1:PORT; takes TOKENFILE
#                         and removes it: whoever shows what is in it sees command lines too
#   push PATH ENVFILE     as root: a service that reports to the central server; takes ENVFILE and removes it
#   remove                every file of the agent and, as root, its service and user; says what it removed
#
# Exit status: 0 done, 1 it cannot be done here (the last line says why), 2 wrong use, 4 root is needed.

name=roundsman-agent
installed=/usr/local/bin/$name
unit=/etc/systemd/system/$name.service
init=/etc/init.d/$name
settings=/etc/roundsman/agent.env
token=/etc/roundsman/agent.token
state=/var/lib/$name

fail() { echo "$*" >&2; exit 1; }
is_root() { [ "$(id -u)" = 0 ]; }
need_root() { is_root || { echo "this needs root" >&2; exit 4; }; }

# One directory a line, in the order in which they are tried.
candidates() {
    [ -z "$HOME" ] || printf '%s\n' "${XDG_CACHE_HOME:-$HOME/.cache}/roundsman"
    [ -z "$XDG_RUNTIME_DIR" ] || printf '%s\n' "$XDG_RUNTIME_DIR/roundsman"
    for base in /var/tmp /tmp /dev/shm; do printf '%s\n' "$base/roundsman-$(id -u)"; done
}

# SHA-256 of a file; nothing where there is no tool for it.
hash_of() {
    h=$( { sha256sum || busybox sha256sum || openssl dgst -sha256 -r; } <"$1" 2>/dev/null)
    printf '%s' "${h%% *}"
}

# Whether the directory is private to this user; another one may have made it first in a place that all can write to.
is_ours() { [ -d "$1" ] && [ ! -L "$1" ] && [ -O "$1" ]; }

# Sets 'why' where the directory cannot hold and run a file of so many bytes.
try() {
    dir=$1 bytes=$2 why=
    [ -d "$dir" ] || e=$( (umask 077; mkdir -p "$dir") 2>&1 ) || { why=${e##*: }; return 1; }
    is_ours "$dir" || { why="it belongs to somebody else"; return 1; }
    chmod 700 "$dir" 2>/dev/null || { why="its mode cannot be set"; return 1; }
    probe=$dir/.try-$$
    e=$( { printf '#!/bin/sh\nexit 0\n' >"$probe" && chmod 700 "$probe"; } 2>&1 ) || why=${e##*: }
    if [ -z "$why" ]; then "$probe" >/dev/null 2>&1 </dev/null || why="programs may not run there (noexec)"; fi
    if [ -z "$why" ]; then
        e=$(dd if=/dev/zero of="$probe" bs=4096 count=$(( bytes / 4096 + 1 )) 2>&1) || why="it has no room: $(printf '%s' "$e" | sed -n 's/.*: //;1p')"
    fi
    rm -f "$probe"
    [ -z "$why" ] || { rmdir "$dir" 2>/dev/null; return 1; }
}

place() {
    echo "arch $(uname -m)"
    file=$name-$(printf '%.12s' "$1")
    candidates | {
        while IFS= read -r dir; do
            if [ -x "$dir/$file" ] && is_ours "$dir" && [ "$(hash_of "$dir/$file")" = "$1" ] && "$dir/$file" version >/dev/null 2>&1 </dev/null; then
                echo "current $dir/$file"
                exit 0
            fi
        done
        exit 1
    } && return 0
    candidates | {
        while IFS= read -r dir; do
            if try "$dir" "$2" </dev/null; then echo "place $dir/$file"; exit 0; fi
            echo "passed over $dir: $why"
        done
        exit 1
    } || fail "no directory of this login can hold and run the agent"
}

# Takes away the files of other versions, here and in the other directories.
clear() {
    candidates | while IFS= read -r dir; do
        is_ours "$dir" || continue
        for old in "$dir/$name"-*; do
            [ -f "$old" ] && [ "$old" != "$1" ] && rm -f "$old" && echo "removed $old"
        done
        [ "${1%/*}" = "$dir" ] || rmdir "$dir" 2>/dev/null
    done
    :
}

finish() {
    h=$(hash_of "$1")
    [ -z "$h" ] || [ "$h" = "$2" ] || { rm -f "$1"; fail "the file arrived changed (its SHA-256 is $h)"; }
    version=$("$1" version 2>&1 </dev/null) || { rm -f "$1"; fail "it does not run here: $(printf '%.200s' "$version")"; }
    echo "runs $version"
    clear "$1"
}

manager() {
    if [ -d /run/systemd/system ]; then echo systemd
    elif command -v rc-update >/dev/null 2>&1; then echo openrc
    elif [ -d /etc/init.d ]; then echo sysv
    else echo none; fi
}

# With a group of its own: what is for its eyes is for nobody else's.
make_user() {
    id -u $name >/dev/null 2>&1 && return 0
    if command -v useradd >/dev/null 2>&1; then
        useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin $name
    else
        addgroup -S $name 2>/dev/null
        adduser -S -D -H -h /nonexistent -s /sbin/nologin -G $name $name
    fi || fail "the user $name cannot be made"
}

remove_user() {
    id -u $name >/dev/null 2>&1 || return 0
    # A process that was just told to end may be there for a moment.
    wait_until no_process
    said=$({ if command -v userdel >/dev/null 2>&1; then userdel $name; else deluser $name; fi; } 2>&1) ||
        fail "the user $name cannot be removed: $(printf '%.200s' "$said")"
    if command -v delgroup >/dev/null 2>&1; then delgroup $name >/dev/null 2>&1; fi
    echo "removed the user $name"
}

# The processes of the service's user. Its executable would be a surer sign, but in a container not even root may see that.
processes() { grep -ls "^Uid:.$(id -u $name)[^0-9]" /proc/[0-9]*/status; }
a_process() { [ -n "$(processes)" ]; }
no_process() { ! a_process; }
wait_until() {
    tries=0
    until "$@"; do
        tries=$((tries + 1)); [ $tries -lt 10 ] || return 1
        sleep 1
    done
}
# What was started is there, and is still there a second later; what it starts itself comes and goes.
lives() {
    wait_until a_process || return 1
    before=$(processes)
    sleep 1
    for one in $before; do [ ! -e "$one" ] || return 0; done
    return 1
}

# The arguments are what the service runs the agent with.
systemd_unit() {
    cat <<END
[Unit]
Description=Roundsman agent
After=network-online.target
Wants=network-online.target

[Service]
ExecStart=$installed $*
EnvironmentFile=-$settings
User=$name
StateDirectory=$name
StateDirectoryMode=0700
Restart=always
RestartSec=5
Nice=10
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
LockPersonality=yes
MemoryMax=64M
TasksMax=32

[Install]
WantedBy=multi-user.target
END
}

openrc_script() {
    cat <<END
#!/sbin/openrc-run
description="Roundsman agent"
[ ! -r $settings ] || { set -a; . $settings; set +a; }
export STATE_DIRECTORY=$state
# It is started again when it ends.
supervisor=supervise-daemon
respawn_delay=5
respawn_max=0
supervise_daemon_args="--nicelevel 10"
command=$installed
command_args="$*"
command_user=$name
pidfile=/run/$name.pid
depend() { use net; }
END
}

sysv_script() {
    cat <<END
#!/bin/sh
### BEGIN INIT INFO
# Provides:          $name
# Required-Start:    \$remote_fs \$network
# Required-Stop:     \$remote_fs
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: Roundsman agent
### END INIT INFO
pid=/var/run/$name.pid
[ ! -r $settings ] || { set -a; . $settings; set +a; }
STATE_DIRECTORY=$state; export STATE_DIRECTORY
case "\$1" in
    # Known by its user: an executable that was replaced, or that a container hides, is nobody's.
    start) start-stop-daemon --start --quiet --oknodo --background --make-pidfile --pidfile \$pid --chuid $name --user $name --nicelevel 10 --startas $installed -- $* ;;
    stop) start-stop-daemon --stop --quiet --oknodo --retry 5 --pidfile \$pid --user $name && rm -f \$pid ;;
    restart|force-reload) \$0 stop; \$0 start ;;
    status) start-stop-daemon --status --pidfile \$pid --user $name && echo running || { echo stopped; exit 3; } ;;
    *) echo "usage: \$0 start|stop|restart|status" >&2; exit 2 ;;
esac
END
}

# Ends a service that is there, in the way in which it was started, and what that leaves running: a second agent would find its
# port taken.
halt() {
    [ -e $unit ] || [ -e $init ] || return 0
    case $(manager) in
        systemd) systemctl stop $name ;;
        openrc) rc-service --quiet $name stop || rc-service --quiet $name zap ;;
        sysv) $init stop </dev/null ;;
    esac
    id -u $name >/dev/null 2>&1 || return 0
    for signal in TERM KILL; do
        for one in $(processes); do one=${one#/proc/}; kill -$signal "${one%/status}" 2>/dev/null; done
        wait_until no_process && return 0
    done
    return 1
}

# Before anything is changed.
need_manager() { [ "$(manager)" != none ] || fail "there is no systemd, OpenRC or SysV init here that could keep a service"; }

# Makes the service, starts it now and at every boot.
service() {
    # systemd makes it by itself.
    [ "$(manager)" = systemd ] || { mkdir -p $state && chown $name $state && chmod 700 $state; } || fail "$state cannot be made"
    case $(manager) in
        systemd)
            systemd_unit "$@" >$unit && systemctl daemon-reload && systemctl enable --quiet $name && systemctl restart $name &&
                sleep 1 && systemctl is-active --quiet $name || fail "the service did not start: $(systemctl status --no-pager -n 3 $name 2>&1 | tail -n 1)" ;;
        openrc)
            openrc_script "$@" >$init && chmod 755 $init && rc-update add $name default >/dev/null && rc-service --quiet $name start && lives || fail "the service did not start" ;;
        sysv)
            sysv_script "$@" >$init && chmod 755 $init || fail "$init cannot be written"
            if command -v update-rc.d >/dev/null 2>&1; then update-rc.d $name defaults >/dev/null
            elif command -v chkconfig >/dev/null 2>&1; then chkconfig --add $name; fi
            { $init start >/dev/null 2>&1 </dev/null && lives; } || fail "the service did not start" ;;
    esac
    echo "serves $(manager)"
}

# Puts the program in place. What runs is ended first: the program of a service that runs may be replaced, but is then not the one
# that its start script knows.
settle() {
    halt || fail "the service that is there does not stop"
    [ "$1" = "$installed" ] || { cp "$1" $installed.new && chmod 755 $installed.new && mv -f $installed.new $installed; } || fail "$installed cannot be written"
}

# A file with a secret stays nowhere but where the service reads it, however this ends.
takes() {
    taken=$1
    trap 'rm -f "$taken"' 0
    [ -f "$taken" ] || fail "there is no file with $2"
}

serve() {
    need_root
    case $2 in ''|*[!0-9]*) echo "serve needs a port" >&2; exit 2 ;; esac
    [ $# = 2 ] || takes "$3" "the token"
    need_manager
    make_user
    settle "$1"
    rm -f $settings $state/push.state
    if [ $# = 3 ]; then
        mkdir -p /etc/roundsman && chown $name "$3" && chmod 400 "$3" && mv -f "$3" $token || fail "$token cannot be written"
        service serve --port "$2" --token-file $token
    else
        rm -f $token
        service serve --port "$2"
    fi
}

push() {
    need_root
    takes "$2" "ROUNDSMAN_URL and ROUNDSMAN_TOKEN"
    need_manager
    make_user
    settle "$1"
    mkdir -p /etc/roundsman && chown root "$2" && chgrp "$(id -g $name)" "$2" && chmod 640 "$2" && mv -f "$2" $settings || fail "$settings cannot be written"
    # It is to use the token that it was given now.
    rm -f $state/push.state $token
    service push
}

remove() {
    found=
    if [ -e $unit ] || [ -e $init ] || [ -e $installed ] || [ -e $settings ] || [ -e $token ]; then
        need_root
        halt || fail "the service does not stop"
        case $(manager) in
            systemd) [ ! -e $unit ] || systemctl disable --quiet $name ;;
            openrc) [ ! -e $init ] || rc-update del $name >/dev/null ;;
        esac
        for file in $unit $init $installed $settings $token; do
            [ ! -e $file ] || { rm -f $file && echo "removed $file" && found=yes; }
        done
        rm -f $state/push.state $state/push.new $state/push.body*; rmdir $state 2>/dev/null
        rmdir /etc/roundsman 2>/dev/null
        case $(manager) in
            systemd) systemctl daemon-reload ;;
            sysv) if command -v update-rc.d >/dev/null 2>&1; then update-rc.d $name remove >/dev/null 2>&1; fi ;;
        esac
        remove_user
    fi
    said=$(clear /)
    [ -z "$said" ] || { printf '%s\n' "$said"; found=yes; }
    [ -n "$found" ] || echo "there was nothing to remove"
}

main() {
    LC_ALL=C; export LC_ALL
    umask 022
    [ $# -gt 0 ] || { echo "usage: manage.sh place|finish|serve|push|remove" >&2; exit 2; }
    verb=$1; shift
    case $verb in
        serve) [ $# = 2 ] || [ $# = 3 ] || { echo "serve needs two or three arguments" >&2; exit 2; }; serve "$@" ;;
        place|finish|push) [ $# = 2 ] || { echo "$verb needs two arguments" >&2; exit 2; }; "$verb" "$@" ;;
        remove) remove ;;
        *) echo "unknown verb $verb" >&2; exit 2 ;;
    esac
}
main "$@"; exit
