# Sourced by lab.sh: the Docker daemon of the lab. Uses one that answers, else starts one of its own and ends only that.

# Where docker looks without being told, so that a plain `docker stop roundsman-lab-1` works.
socket=/var/run/docker.sock
daemon_pid_file=$state/dockerd.pid
daemon_log=$state/dockerd.log
# A daemon that has not answered by then has failed; its log says why.
DAEMON_START_S=60
# Containers are gone before it is told to end, so it has little to do.
DAEMON_END_S=60

daemon_answers() { timeout 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# The process id of the daemon that this script started, if it runs. A number in a file may have become another process's.
own_daemon() {
    local pid
    pid=$(cat "$daemon_pid_file" 2>/dev/null) || return 1
    case $pid in '' | *[!0-9]*) return 1 ;; esac
    tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qxF -- "--pidfile=$daemon_pid_file" || return 1
    printf '%s\n' "$pid"
}

# Starts a daemon that leaves firewall and forwarding of this machine alone: its proxy carries the published ports.
launch_daemon() {
    local driver=$1 waited=0
    local options=(--data-root="$state/docker" --exec-root="$run/docker" --pidfile="$daemon_pid_file"
        --host="unix://$socket" --bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false)
    [ "$driver" = auto ] || options+=(--storage-driver="$driver")
    rm -f "$daemon_pid_file"
    mkdir -p "$run"
    # Without the descriptors of the locks: the daemon outlives this script.
    setsid dockerd "${options[@]}" </dev/null >>"$daemon_log" 2>&1 7>&- 8>&- 9>&- &
    local child=$!
    while ! daemon_answers; do
        if ! kill -0 "$child" 2>/dev/null || [ "$waited" -ge "$((DAEMON_START_S * 2))" ]; then
            end_daemon
            return 1
        fi
        sleep 0.5
        waited=$((waited + 1))
    done
}

# Runs a daemon, whichever works here.
need_daemon() {
    need docker:docker.io
    if daemon_answers; then return; fi
    if [ -d /run/systemd/system ] && systemctl cat docker.service >/dev/null 2>&1; then
        say "Starting docker.service ..."
        systemctl start docker.service || say "docker.service does not start (systemctl status docker.service)"
        if daemon_answers; then return; fi
    fi
    need dockerd:docker.io
    : >"$daemon_log"
    say "Starting dockerd (log: $daemon_log) ..."
    launch_daemon auto && return
    say "dockerd does not start with the storage driver that it prefers; trying vfs, which works everywhere and takes more disk."
    launch_daemon vfs || {
        tail -n 20 "$daemon_log" >&2
        fail "dockerd does not start; the end of its log ($daemon_log) is above"
    }
}

# Ends the daemon that this script started, if it did.
end_daemon() {
    local pid waited=0
    pid=$(own_daemon) || return 0
    kill "$pid"
    while kill -0 "$pid" 2>/dev/null; do
        [ "$waited" -lt "$((DAEMON_END_S * 5))" ] || fail "dockerd (process $pid) does not end; see $daemon_log"
        sleep 0.2
        waited=$((waited + 1))
    done
}
