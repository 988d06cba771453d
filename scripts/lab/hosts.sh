# Sourced by lab.sh: the hosts. Keys, containers, their network, and what a person is told about them.

prefix=roundsman-lab-
key=$state/id_ed25519
authorized=$state/authorized_keys
known_hosts=$state/known_hosts
port_file=$state/port

# What starts the services of a host. Those after the sixth are like the first.
kind_of() {
    case $1 in
        4) echo openrc ;;
        5) echo sysv ;;
        6) echo busybox ;;
        *) echo systemd ;;
    esac
}

# Hosts on which a container runs.
has_container() { [ "$1" -le 2 ]; }

address_of() { printf '127.0.1.%s\n' "$1"; }

# A host as known_hosts names it.
known_as() {
    if [ "$(port_of_lab)" = 22 ]; then address_of "$1"; else printf '[%s]:%s\n' "$(address_of "$1")" "$(port_of_lab)"; fi
}

# The SSH port that the hosts of this lab have: 22, unless this machine's own sshd holds it on every address.
port_of_lab() {
    if [ -s "$port_file" ]; then cat "$port_file"; else echo 22; fi
}

# Chooses the port once a lab, because enrolled servers would lose their hosts if it changed under them.
choose_port() {
    [ -z "$(containers)" ] || return 0
    local port=22
    if ss -Hltn 'sport = :22' | awk '{ print $4 }' | grep -qxE '(0\.0\.0\.0|\*|\[::\]):22'; then
        port=2222
        say "An sshd of this machine has port 22 on all addresses, so the hosts of the lab have port $port instead."
    fi
    printf '%s\n' "$port" >"$port_file"
}

# The lab's own key, and a host key for each host that stays the same when the host is made again.
need_keys() {
    [ -s "$key" ] || ssh-keygen -q -t ed25519 -N '' -C roundsman-lab -f "$key"
    [ -e "$authorized" ] || install_file 600 "$authorized" <"$key.pub"
}

# Writes stdin to a file in one step, so that a kill leaves the old one or the new one.
install_file() {
    local mode=$1 path=$2
    cat >"$path.new"
    chmod "$mode" "$path.new"
    mv "$path.new" "$path"
}

# Lets the given keys log in to all hosts; without any, the key of the Roundsman that runs on this machine.
authorize() {
    local line known=("$@")
    lets_roundsman_in=no
    if [ ${#known[@]} = 0 ]; then mapfile -t known < <(key_of_running_roundsman); fi
    for line in "${known[@]}"; do
        case $line in
            *[[:cntrl:]]*) fail "a public key is one line without control characters" ;;
            ssh-* | ecdsa-* | sk-*) ;;
            *) fail "this is no public key line: $line" ;;
        esac
        ssh-keygen -l -f - >/dev/null 2>&1 <<<"$line" || fail "this is no public key line: $line"
        grep -qxF -- "$line" "$authorized" || { cat "$authorized" && printf '%s\n' "$line"; } | install_file 600 "$authorized"
        lets_roundsman_in=yes
    done
}

# The default public key, as the API says on the control socket, which only its owner and root can use.
key_of_running_roundsman() {
    local control
    control=$(cat "${ROUNDSMAN_RUNTIME_DIR:-/run/roundsman}/control" 2>/dev/null) && [ -S "$control" ] && command -v curl >/dev/null || return 0
    { curl -s -m 5 --unix-socket "$control" http://localhost/api/v1/keys || true; } |
        sed 's/},{/}\n{/g' | grep '"is_default":true' | sed -n 's/.*"public_key":"\([^"]*\)".*/\1/p' | head -n 1
}

containers() {
    docker ps -a --filter "label=$label=host" --format '{{.Names}}' | sort -V
}

need_network() {
    [ -n "$(docker network ls -q --filter "label=$label=network")" ] ||
        docker network create --label "$label=network" "$network" >/dev/null ||
        fail "docker could not make the network $network"
    command -v ss >/dev/null || install iproute2
    choose_port
}

# What a host is made from; a host that was made from something else is made again.
recipe() {
    local kind
    kind=$(kind_of "$1")
    (cd "$here/lab" && find host "$kind" -type f -print0 | sort -z | xargs -0 sha256sum &&
        printf '%s\n' "$2" "$(port_of_lab)" "${LIMITS[@]}" "$(declare -f create_host)") | sha256sum | cut -c 1-12
}

# Makes, starts or wakes one host, whatever state an earlier run left it in.
need_host() {
    local number=$1 image name=$prefix$1 now want
    image=$(image_name "$(kind_of "$number")")
    want=$(recipe "$number" "$image")
    now=$(docker inspect --format "{{.State.Status}} {{index .Config.Labels \"$label.recipe\"}}" "$name" 2>/dev/null) || now=missing
    case $now in
        missing) ;;
        *" $want") ;;
        *)
            say "lab-$number was made by another version of this script; making it again."
            docker rm -f -v "$name" >/dev/null
            now=missing
            ;;
    esac
    [ "$now" != missing ] || create_host "$number" "$image" "$want"
    case ${now%% *} in
        running) return ;;
        paused) docker unpause "$name" >/dev/null ;;
        missing | created)
            # A host that never started may have been left without its files.
            host_files "$number" | docker cp -q - "$name:/" >/dev/null || fail "docker could not copy the files of lab-$number"
            start_host "$number"
            ;;
        *) start_host "$number" ;;
    esac
}

create_host() {
    local number=$1 image=$2 recipe=$3 options=(--stop-timeout 2)
    # What lab-boot needs for a boot id of its own, and init to end the host: within a container that ends the container.
    # A host that has rebooted ended with a signal, and Docker starts it again; one that was stopped by Docker stays so.
    options+=(--cap-add SYS_ADMIN --cap-add SYS_BOOT --security-opt apparmor=unconfined --restart on-failure)
    # systemd needs the cgroups to be writable, on old and new cgroups.
    if [ "$(kind_of "$number")" = systemd ]; then
        options+=(--stop-signal SIGRTMIN+3 --volume /sys/fs/cgroup:/sys/fs/cgroup:rw --cgroupns=host)
    fi
    # A container in a container mounts a /proc of its own, which the kernel allows where none of the outer one is covered.
    if has_container "$number"; then options+=(--security-opt systempaths=unconfined); fi
    docker create --name "$prefix$number" --hostname "lab-$number" --network "$network" \
        --label "$label=host" --label "$label.recipe=$recipe" "${options[@]}" "${LIMITS[@]}" \
        --tmpfs /run --tmpfs /run/lock --tmpfs /tmp \
        --publish "$(address_of "$number"):$(port_of_lab):22" "$image" /usr/local/lib/lab-boot >/dev/null 2>"$state/docker.err" || {
        cat "$state/docker.err" >&2
        fail "docker could not make lab-$number"
    }
}

start_host() {
    docker start "$prefix$1" >/dev/null ||
        fail "lab-$1 does not start; is port $(port_of_lab) of $(address_of "$1") taken? (ss -ltnp 'sport = :$(port_of_lab)')"
}

# The files of one host as a tar stream: units or start scripts, sshd's settings, keys.
host_files() {
    local number=$1 dir=$state/hosts/lab-$1 root kind
    kind=$(kind_of "$number")
    mkdir -p "$dir"
    [ -s "$dir/ssh_host_ed25519_key.pub" ] || {
        rm -f "$dir/ssh_host_ed25519_key"
        ssh-keygen -q -t ed25519 -N '' -C "lab-$number" -f "$dir/ssh_host_ed25519_key"
    }
    root=$dir/files
    rm -rf "$root"
    cp -a "$here/lab/host" "$root"
    cp -a "$here/lab/$kind/." "$root/"
    start_at_boot "$number" "$root"
    cp "$dir/ssh_host_ed25519_key" "$dir/ssh_host_ed25519_key.pub" "$root/etc/ssh/"
    mkdir -p "$root/root/.ssh"
    cp "$authorized" "$root/root/.ssh/authorized_keys"
    chmod -R go-w "$root"
    chmod 700 "$root/root" "$root/root/.ssh"
    chmod 600 "$root/etc/ssh/ssh_host_ed25519_key" "$root/root/.ssh/authorized_keys"
    tar -C "$root" --owner=0 --group=0 --numeric-owner -c etc usr srv root
}

# Links as systemctl enable, rc-update add and update-rc.d would make them.
start_at_boot() {
    local number=$1 root=$2 service services=(lab-web lab-worker)
    case $(kind_of "$number") in
        systemd)
            if has_container "$number"; then services+=(lab-box); fi
            mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
            for service in "${services[@]}"; do
                ln -sfn "/etc/systemd/system/$service.service" "$root/etc/systemd/system/multi-user.target.wants/$service.service"
            done
            ;;
        openrc)
            mkdir -p "$root/etc/runlevels/default"
            for service in "${services[@]}"; do ln -sfn "/etc/init.d/$service" "$root/etc/runlevels/default/$service"; done
            ;;
        sysv)
            mkdir -p "$root/etc/rc2.d"
            for service in "${services[@]}"; do ln -sfn "../init.d/$service" "$root/etc/rc2.d/S02$service"; done
            ;;
    esac
}

# Hosts that run already learn of new keys; known_hosts names the key of every host.
publish_keys() {
    local container number
    while IFS= read -r container; do
        number=${container#"$prefix"}
        [ -s "$state/hosts/lab-$number/ssh_host_ed25519_key.pub" ] || continue
        printf '%s %s\n' "$(known_as "$number")" "$(cut -d ' ' -f 1,2 "$state/hosts/lab-$number/ssh_host_ed25519_key.pub")"
        docker cp -q "$authorized" "$container:/root/.ssh/authorized_keys" >/dev/null
    done < <(containers) | install_file 600 "$known_hosts" ||
        fail "the hosts could not be told who may log in"
}

ssh_to() {
    local number=$1
    shift
    ssh -F none -i "$key" -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile="$known_hosts" \
        -o ConnectTimeout=10 -o LogLevel=ERROR -p "$(port_of_lab)" "root@$(address_of "$number")" "$@"
}

# Until every service of the host is up: a host that is half up would look degraded to whoever enrols it.
wait_for_host() {
    local number=$1 said='' started=$SECONDS
    while [ $((SECONDS - started)) -lt "$BOOT_S" ]; do
        said=$(state_of_host "$number" --wait)
        case $said in
            running)
                if ssh_to "$number" true 2>/dev/null; then return; fi
                ;;
            degraded)
                docker exec "$prefix$number" systemctl --failed --no-legend >&2
                say "lab-$number runs, but the units above failed."
                return
                ;;
        esac
        sleep 0.2
    done
    docker logs --tail 20 "$prefix$number" >&2 || true
    fail "lab-$number is not up after $BOOT_S s; its services are '$said' (docker exec $prefix$number ...)"
}

# running, degraded, starting, or nothing where nobody answers.
state_of_host() {
    local number=$1 inside
    shift
    inside=(timeout "$BOOT_S" docker exec "$prefix$number")
    case $(kind_of "$number") in
        # Ends with 1 where a unit failed.
        systemd) "${inside[@]}" systemctl is-system-running "$@" 2>/dev/null || true ;;
        # BusyBox has no pgrep.
        *) "${inside[@]}" sh -c 'all=$(cat /proc/[0-9]*/cmdline 2>/dev/null | tr "\0" " ")
            case $all in *srv/lab-[w]eb*bin/lab-[w]orker* | *bin/lab-[w]orker*srv/lab-[w]eb*) echo running ;; *) echo starting ;; esac' 2>/dev/null || true ;;
    esac
}

host_line() {
    local number=$1 status system=-
    status=$(docker inspect --format '{{.State.Status}}' "$prefix$number")
    if [ "$status" = running ]; then
        system=$(state_of_host "$number")
    fi
    printf '%-8s %-12s %-6s %-8s %-10s %s\n' "lab-$number" "$(address_of "$number")" "$(port_of_lab)" "$(kind_of "$number")" "$status" "${system:--}"
}

login() {
    local number=${1-}
    [ "$(id -u)" = 0 ] || fail "the lab's key belongs to root; run this with sudo"
    number=${number#"$prefix"}
    number=${number#lab-}
    case $number in '' | *[!0-9]*) misused "ssh needs the name of a host, for example lab-1" ;; esac
    shift
    { [ -s "$known_hosts" ] && ssh-keygen -F "$(known_as "$number")" -f "$known_hosts" >/dev/null; } ||
        fail "lab-$number does not run; start it with: scripts/lab.sh up $number"
    ssh_to "$number" "$@"
}

how_to_enrol() {
    local number port identity='' address
    port=$(port_of_lab)
    # Where this call let no key of a Roundsman in, the lab's own opens the hosts.
    [ "$lets_roundsman_in" = yes ] || identity=" --identity $key"
    echo "Enrol them:"
    for ((number = 1; number <= $1; number++)); do
        address=$(address_of "$number")
        [ "$port" = 22 ] || address=$address:$port
        echo "  roundsman add root@$address --name lab-$number --tag lab --accept-new$identity"
    done
    if [ -n "$identity" ]; then
        echo "or let Roundsman's own key in first (roundsman serve prints it, and Settings shows it):"
        echo "  scripts/lab.sh up $1 --authorize 'ssh-ed25519 ...'"
    fi
}

remove_hosts() {
    local ids
    ids=$(docker ps -aq --filter "label=$label=host")
    # shellcheck disable=SC2086 # a list of ids
    [ -z "$ids" ] || docker rm -f -v $ids >/dev/null
    ids=$(docker network ls -q --filter "label=$label=network")
    # shellcheck disable=SC2086 # a list of ids
    [ -z "$ids" ] || docker network rm $ids >/dev/null
    # Whoever was let in is forgotten with the hosts.
    rm -f "$authorized" "$known_hosts" "$port_file"
}
