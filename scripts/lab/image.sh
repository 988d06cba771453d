# Sourced by lab.sh: the image of a lab host. Debian from its own mirror; nothing comes from a registry of images.

suite=bookworm
packages=systemd,systemd-sysv,dbus,libpam-systemd,openssh-server,procps,iproute2,sudo,busybox,ca-certificates
# Empty: the one that debootstrap knows.
mirror=${ROUNDSMAN_LAB_MIRROR:-}

# Named after all that it is made from, so that a changed list makes another image.
image_name() {
    printf 'roundsman-lab:%s\n' "$(printf '%s\n' "$suite" "$packages" 3 | sha256sum | cut -c 1-12)"
}

image_exists() { docker image inspect "$1" >/dev/null 2>&1; }

need_image() {
    local image=$1 root=$state/image.partial
    image_exists "$image" && return
    need debootstrap:debootstrap unshare:util-linux
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || install debian-archive-keyring
    say "Building the image of a lab host from ${mirror:-a Debian mirror} (once; one to three minutes) ..."
    rm -rf --one-file-system "$root"
    # In a mount namespace of its own: what debootstrap mounts goes with it, however it ends.
    unshare --mount --propagation private \
        debootstrap --variant=minbase --include="$packages" "$suite" "$root" ${mirror:+"$mirror"} >"$state/debootstrap.log" 2>&1 || {
        tail -n 20 "$state/debootstrap.log" >&2
        fail "debootstrap failed; its whole log is $state/debootstrap.log"
    }
    # Every host gets an identity of its own, and no package list grows old in it.
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*.log "$root"/etc/ssh/ssh_host_*
    : >"$root/etc/machine-id"
    # systemd would take this one over, the same on each host.
    rm -f "$root/var/lib/dbus/machine-id"
    # A host without a console, hardware and access to a mirror; what would wait for those would fail or nag.
    local unit
    for unit in console-getty.service getty@tty1.service systemd-udevd.service systemd-udev-trigger.service \
        systemd-timesyncd.service systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer \
        e2scrub_all.timer e2scrub_reap.service; do
        ln -sfn /dev/null "$root/etc/systemd/system/$unit"
    done
    tar -C "$root" --numeric-owner -c . |
        docker import --change 'CMD ["/sbin/init"]' --change 'ENV container=docker' --change "LABEL $label=image" \
            - "$image" >/dev/null ||
        fail "docker could not import the image"
    rm -rf --one-file-system "$root"
}
