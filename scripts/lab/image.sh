# Sourced by lab.sh: the images of lab hosts. Debian from its own mirror; nothing comes from a registry of images.
#
# One debootstrap makes the systems with systemd; the others are made from a copy of that one.

suite=bookworm
packages=systemd,systemd-sysv,dbus,libpam-systemd,openssh-server,procps,iproute2,sudo,busybox,ca-certificates,dropbear-bin
# Empty: the one that debootstrap knows.
mirror=${ROUNDSMAN_LAB_MIRROR:-}
# What apt adds to systemd: containers; and what it puts in the place of systemd.
declare -A more=([systemd]="podman crun" [openrc]="sysvinit-core openrc" [sysv]="sysvinit-core sysv-rc")

# Named after all that it is made from, so that a changed list makes another image.
image_name() {
    local kind=$1 recipe
    recipe=$(printf '%s\n' "$suite" "$packages" "$kind" "${more[$kind]-}" 5 "$(declare -f "make_$kind")" | sha256sum | cut -c 1-12)
    case $kind in
        systemd) printf 'roundsman-lab:%s\n' "$recipe" ;;
        *) printf 'roundsman-lab-%s:%s\n' "$kind" "$recipe" ;;
    esac
}

image_exists() { docker image inspect "$1" >/dev/null 2>&1; }

# Builds what is missing of the images of these kinds.
need_images() {
    local kind image root=$state/image.partial
    for kind in "$@"; do
        image=$(image_name "$kind")
        image_exists "$image" && continue
        rm -rf --one-file-system "$root"
        [ "$kind" = systemd ] || { image_exists "$(image_name systemd)" || need_images systemd; }
        say "Building the image of a lab host with $kind ..."
        "make_$kind" "$root"
        # Every host gets an identity of its own, and no package list grows old in it.
        rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*.log "$root"/etc/ssh/ssh_host_*
        tar -C "$root" --numeric-owner -c . |
            docker import --change 'CMD ["/sbin/init"]' --change 'ENV container=docker' --change "LABEL $label=image" \
                - "$image" >/dev/null ||
            fail "docker could not import the image"
        rm -rf --one-file-system "$root"
    done
}

make_systemd() {
    local root=$1 unit
    need debootstrap:debootstrap unshare:util-linux
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || install debian-archive-keyring
    say "It comes from ${mirror:-a Debian mirror} (once; one to three minutes)."
    # In a mount namespace of its own: what debootstrap mounts goes with it, however it ends.
    unshare --mount --propagation private \
        debootstrap --variant=minbase --include="$packages" "$suite" "$root" ${mirror:+"$mirror"} >"$state/debootstrap.log" 2>&1 || {
        tail -n 20 "$state/debootstrap.log" >&2
        fail "debootstrap failed; its whole log is $state/debootstrap.log"
    }
    with_packages "$root" systemd
    : >"$root/etc/machine-id"
    # systemd would take this one over, the same on each host.
    rm -f "$root/var/lib/dbus/machine-id"
    # A host without a console, hardware and access to a mirror; what would wait for those would fail or nag.
    for unit in console-getty.service getty@tty1.service systemd-udevd.service systemd-udev-trigger.service \
        systemd-timesyncd.service systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer \
        e2scrub_all.timer e2scrub_reap.service podman.service podman.socket podman-auto-update.service \
        podman-auto-update.timer podman-restart.service; do
        ln -sfn /dev/null "$root/etc/systemd/system/$unit"
    done
}

# The files of the image with systemd, as a system to change.
copy_of_systemd() {
    local root=$1 container
    mkdir -p "$root"
    container=$(docker create --label "$label=image" "$(image_name systemd)" 2>"$state/docker.err") &&
        docker export "$container" | tar -C "$root" --numeric-owner -x && docker rm "$container" >/dev/null ||
        fail "docker could not give back the image with systemd"
}

# Packages with what they need, which debootstrap does not always find out. Services start when the host does.
with_packages() {
    local root=$1 kind=$2 packages
    read -ra packages <<<"${more[$kind]}"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    # shellcheck disable=SC2016 # the inner shell expands it
    unshare --mount --pid --fork --propagation private sh -c '
        mount -t proc proc "$1/proc" && root=$1 && shift && export DEBIAN_FRONTEND=noninteractive LC_ALL=C &&
            chroot "$root" apt-get update -q && chroot "$root" apt-get install -q -y --no-install-recommends "$@"
    ' sh "$root" "${packages[@]}" >"$state/apt-$kind.log" 2>&1 || {
        tail -n 20 "$state/apt-$kind.log" >&2
        fail "apt could not put ${packages[*]} into the image; its whole log is $state/apt-$kind.log"
    }
    rm -f "$root/usr/sbin/policy-rc.d"
}

make_sysv() {
    local root=$1
    copy_of_systemd "$root"
    with_packages "$root" sysv
    # Mounts, clocks and consoles are Docker's business. Without an order written down, services start by their numbers.
    rm -f "$root"/etc/rcS.d/S* "$root"/etc/init.d/.depend.*
}

make_openrc() {
    local root=$1
    copy_of_systemd "$root"
    with_packages "$root" openrc
    rm -f "$root"/etc/runlevels/*/*
    ln -sfn /etc/init.d/ssh "$root/etc/runlevels/default/ssh"
    ln -sfn /sbin/openrc-init "$root/sbin/init"
}

# BusyBox for every program, dropbear for SSH, the libraries of both, and nothing else.
make_busybox() {
    local root=$1 from=$state/image.from program
    rm -rf --one-file-system "$from"
    copy_of_systemd "$from"
    mkdir -p "$root"/{bin,sbin,etc,root,proc,sys,dev,tmp,run,var/log,usr/bin,usr/sbin,lib,lib64,usr/lib}
    for program in /bin/busybox /usr/sbin/dropbear /usr/bin/dropbearkey /usr/lib/dropbear/dropbearconvert; do
        install_program "$from" "$root" "$program"
    done
    ln -sfn /usr/lib/dropbear/dropbearconvert "$root/usr/bin/dropbearconvert"
    chroot "$root" /bin/busybox --install -s
    rm -rf --one-file-system "$from"
}

# A program with the libraries that it is linked to.
install_program() {
    local from=$1 root=$2 program=$3 library
    command install -D -m 755 "$from$program" "$root$program"
    while IFS= read -r library; do
        [ -e "$root$library" ] || command install -D -m 755 "$(readlink -f "$from$library")" "$root$library"
    done < <(chroot "$from" ldd "$program" | grep -o '/[^ ]*')
}

# Programs of the images that are not the newest any more stay until `down --purge`.
remove_images() {
    local ids
    ids=$(docker ps -aq --filter "label=$label=image")
    # shellcheck disable=SC2086 # a list of ids
    [ -z "$ids" ] || docker rm -f -v $ids >/dev/null
    ids=$(docker images -q --filter "label=$label=image" | sort -u)
    # shellcheck disable=SC2086 # a list of ids
    [ -z "$ids" ] || docker rmi -f $ids >/dev/null
}
