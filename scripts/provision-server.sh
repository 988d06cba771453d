#!/bin/sh
# Gives Roundsman a user of its own on a server, with a restricted key and the sudo rules that the wanted features need.
#
#   scripts/provision-server.sh --key FILE [OPTIONS] [USER@]HOST [-- SSH OPTIONS]
#
#   --key FILE            public key of Roundsman ('roundsman key show default' prints it); - is standard input
#   --user NAME           the user to make or to keep [default: roundsman]
#   --readings-key FILE   a second public key, which can only take readings (docs/least-privilege.md)
#   --features LIST       of read,services,containers,reboot,packages,logs,all [default: read]
#   --service NAME        with the feature services: this one only; may be given several times
#   --from PATTERNS       addresses that the keys may come from, as in sshd(8), from="..."
#   --jump                the server is a jump host: the key may forward ports
#   --terminal            the key may have a terminal
#   --agent               also install the agent from dist/agents (or --agents DIR)
#   --docker              also install Docker by the distribution's packages
#   --gvisor              also install gVisor's runsc by the distribution's packages
#   --remove              take everything away again that this script put there
#   --dry-run             print what would be run on the server, and touch nothing
#   --ssh PROGRAM         in place of ssh
#
# USER@HOST has to be root, or to have sudo without a password. What stands behind -- goes to ssh (-p 2222, -i FILE, -J GATE).
# Debian and Ubuntu, RHEL and its relatives, Alpine. A second run changes nothing and says so.
# Exit codes: 0 all is in place, 1 it failed, 2 wrong use, 3 something is missing on the server and is named.
set -eu

here=$(cd -- "$(dirname -- "$0")" && pwd)

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "provision-server.sh: $*"
    exit 1
}
misused() {
    say "provision-server.sh: $*"
    say "See: scripts/provision-server.sh --help"
    exit 2
}

user=roundsman key='' readings_key='' features=read services='' from='' target='' ssh=ssh agents=$here/../dist/agents
jump=no terminal=no agent=no docker=no gvisor=no remove=no dry_run=no

needs_value() { [ $# -ge 2 ] || misused "$1 needs a value"; }
while [ $# -gt 0 ]; do
    case $1 in
        --user) needs_value "$@"; user=$2; shift ;;
        --key) needs_value "$@"; key=$2; shift ;;
        --readings-key) needs_value "$@"; readings_key=$2; shift ;;
        --features) needs_value "$@"; features=$2; shift ;;
        --service) needs_value "$@"; services="$services $2"; shift ;;
        --from) needs_value "$@"; from=$2; shift ;;
        --agents) needs_value "$@"; agents=$2; agent=yes; shift ;;
        --ssh) needs_value "$@"; ssh=$2; shift ;;
        --jump) jump=yes ;;
        --terminal) terminal=yes ;;
        --agent) agent=yes ;;
        --docker) docker=yes ;;
        --gvisor) gvisor=yes ;;
        --remove) remove=yes ;;
        --dry-run) dry_run=yes ;;
        -h | --help) sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//p;}' "$0"; exit 0 ;;
        --) shift; break ;;
        -*) misused "unknown option $1" ;;
        *) [ -z "$target" ] || misused "one server at a time: $target, $1"; target=$1 ;;
    esac
    shift
done

[ -n "$target" ] || misused "missing: [USER@]HOST, the server"
case $target in -*) misused "'$target' is no server" ;; esac
# grep looks at each line by itself, so a line break is refused first.
case $user in *[!a-z0-9_-]*) misused "--user is no user name" ;; esac
printf '%s' "$user" | grep -Eqx '[a-z_][a-z0-9_-]{0,30}' || misused "--user '$user' is no user name"
[ "$user" != root ] || misused "--user root: root needs no rules; add the key to root by hand if that is what you want"
[ "$remove" = yes ] || [ -n "$key" ] || misused "missing: --key FILE, the public key of Roundsman ('roundsman key show default' prints it)"

# One public key line, without its comment: comments of others do not belong into files of root.
public_key() {
    if [ "$1" = - ]; then text=$(cat); else text=$(cat -- "$1") || fail "cannot read $1"; fi
    case $text in *PRIVATE*) fail "$1 is a private key; the public one is wanted, usually the file with .pub" ;; esac
    line=$(printf '%s\n' "$text" | grep -Eo '(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com) AAAA[A-Za-z0-9+/]+={0,3}' | head -n 1)
    [ -n "$line" ] || fail "$1 holds no public key line such as 'ssh-ed25519 AAAA...'"
    printf '%s' "$line"
}
key_line='' readings_line=''
[ -z "$key" ] || key_line=$(public_key "$key")
[ -z "$readings_key" ] || readings_line=$(public_key "$readings_key")
[ -z "$key_line" ] || [ "$key_line" != "$readings_line" ] || misused "--key and --readings-key are the same key; the second login needs one of its own"

case ",$features," in *[!a-z,]*) misused "--features '$features' is no list of words" ;; esac
for feature in $(printf '%s' "$features" | tr , ' '); do
    case $feature in
        read | services | containers | reboot | packages | logs | all) ;;
        *) misused "--features: '$feature' is not one of read,services,containers,reboot,packages,logs,all" ;;
    esac
done
for service in $services; do
    printf '%s' "$service" | grep -Eqx '[A-Za-z0-9_][A-Za-z0-9._@-]{0,200}' || misused "--service '$service' is no service name"
done
case $from in *[!0-9A-Za-z.:/,*?!_-]*) misused "--from '$from' is no list of addresses" ;; esac
readings_script=$here/readings.sh
[ -z "$readings_line" ] || [ -r "$readings_script" ] || fail "missing: $readings_script, which the readings key needs"

# What runs on the server, in any POSIX sh. Every value was checked above and has no quotation marks.
remote_script() {
    cat <<EOF
set -eu
user='$user' key='$key_line' readings='$readings_line' features='$(printf '%s' "$features" | tr , ' ')' services='${services# }'
from='$from' jump=$jump terminal=$terminal docker=$docker gvisor=$gvisor remove=$remove
readings_text() {
cat <<'END_OF_READINGS'
EOF
    if [ -n "$readings_line" ]; then cat -- "$readings_script"; fi
    printf 'END_OF_READINGS\n}\n'
    cat <<'EOF'
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
LC_ALL=C
export LC_ALL
umask 022
changes=0 lacking=0
readings_file=/usr/local/lib/roundsman/readings
sudoers=/etc/sudoers.d/roundsman-$user
# Only a user that this script made is taken away again.
gecos='Roundsman, provisioned'
did() { changes=$((changes + 1)); echo "done:    $*"; }
there() { echo "there:   $*"; }
lacks() { lacking=$((lacking + 1)); echo "missing: $*"; }
die() { echo "failed:  $*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }
wants() { case " $features " in *" $1 "*) return 0 ;; esac; return 1; }

# put FILE MODE TEXT: a file of root with this text, in one step.
put() {
    if [ -f "$1" ] && [ ! -L "$1" ] && [ "$(cat "$1")" = "$3" ] && [ "$(stat -c '%a %u' "$1")" = "$2 0" ]; then
        there "$1"
        return 0
    fi
    printf '%s\n' "$3" >"$1.new"
    chown 0:0 "$1.new"
    chmod "$2" "$1.new"
    mv "$1.new" "$1"
    did "$1"
}

# The daemon that carries this connection: dropbear knows fewer options of a key.
daemon() {
    pid=$$ depth=0
    while [ "$pid" -gt 1 ] && [ "$depth" -lt 20 ] && [ -r "/proc/$pid/stat" ]; do
        name=$(sed 's/^[^(]*(\(.*\)).*$/\1/' "/proc/$pid/stat")
        case $name in
            dropbear*) echo dropbear; return ;;
            sshd*) echo sshd; return ;;
        esac
        pid=$(sed 's/^.*) [^ ]* \([0-9]*\) .*$/\1/' "/proc/$pid/stat")
        depth=$((depth + 1))
    done
    if has sshd; then echo sshd; else echo dropbear; fi
}

# OpenSSH 7.2 brought restrict; before it, and for dropbear, each is named.
key_options() {
    kind=$(daemon) version=''
    if [ "$kind" = sshd ]; then version=$(sshd -V 2>&1 | sed -n 's/.*OpenSSH_\([0-9]*\)\.\([0-9]*\).*/\1 \2/p' | head -n 1); fi
    [ -n "$version" ] || [ "$kind" = dropbear ] || version=$(ssh -V 2>&1 | sed -n 's/.*OpenSSH_\([0-9]*\)\.\([0-9]*\).*/\1 \2/p' | head -n 1)
    major=${version% *} minor=${version#* }
    if [ "$kind" = dropbear ]; then
        options=no-agent-forwarding,no-X11-forwarding
    elif [ -n "$version" ] && { [ "$major" -lt 7 ] || { [ "$major" = 7 ] && [ "$minor" -lt 2 ]; }; }; then
        options=no-agent-forwarding,no-X11-forwarding,no-user-rc
    else
        options=restrict
        if [ "$1" = action ] && [ "$jump" = yes ]; then options=$options,port-forwarding; fi
        if [ "$1" = action ] && [ "$terminal" = yes ]; then options=$options,pty; fi
    fi
    if [ "$options" != "${options#no-}" ]; then
        [ "$1" = action ] && [ "$jump" = yes ] || options=$options,no-port-forwarding
        [ "$1" = action ] && [ "$terminal" = yes ] || options=$options,no-pty
    fi
    if [ -n "$from" ]; then
        [ "$kind" != dropbear ] || die "--from: dropbear does not know from=\"...\" and would refuse the key"
        options="from=\"$from\",$options"
    fi
    if [ "$1" = readings ]; then options="$options,command=\"$readings_file\""; fi
    echo "$options"
}

passwd_of() { sed -n "s/^$1:/$1:/p" /etc/passwd | head -n 1; }
field() { echo "$1" | cut -d: -f"$2"; }

make_user() {
    if [ -n "$(passwd_of "$user")" ]; then
        there "user $user"
    else
        if has useradd; then
            useradd -r -m -d "/home/$user" -s /bin/sh -c "$gecos" "$user" || die "useradd could not make $user"
        elif has adduser; then
            adduser -D -h "/home/$user" -s /bin/sh -g "$gecos" "$user" || die "adduser could not make $user"
        else
            die "neither useradd nor adduser is there; make the user $user by hand and run this again"
        fi
        # No password at all, and not locked: sshd without PAM refuses a locked user's key too.
        if has usermod; then usermod -p '*' "$user"; elif has chpasswd; then echo "$user:*" | chpasswd -e >/dev/null; else sed -i "s/^$user:!*:/$user:*:/" /etc/shadow; fi
        did "user $user"
    fi
    entry=$(passwd_of "$user")
    home=$(field "$entry" 6)
    case $home in *[!A-Za-z0-9/._-]*) die "the home of $user has a name that is not handled: $home" ;; esac
    [ -d "$home" ] || die "the home of $user, $home, is not there"
    case $(field "$entry" 7) in */false | */nologin) die "$user has the login shell $(field "$entry" 7), so no command can run; usermod -s /bin/sh $user" ;; esac
}

# The home belongs to somebody else than us: what is read and written there is read and written as that user, so that a
# link in it leads nowhere that the user could not go.
as_user() { su -s /bin/sh "$user" -c "HOME='$home'; cd \"\$HOME\" && $1"; }
keys_there() { as_user 'cat .ssh/authorized_keys 2>/dev/null || true'; }
keep_keys() { as_user 'umask 077; mkdir -p .ssh && chmod 700 .ssh && cat >.ssh/.roundsman.new && mv .ssh/.roundsman.new .ssh/authorized_keys'; }

# authorize LINE OPTIONS: this key with these options, once; other keys stay.
authorize() {
    file=$home/.ssh/authorized_keys
    wanted="$2 $1 roundsman"
    known=$(keys_there) || die "nothing can be run as $user: su failed"
    if printf '%s\n' "$known" | grep -qxF -- "$wanted" && [ "$(printf '%s\n' "$known" | grep -cF -- "$1")" = 1 ]; then
        there "key in $file"
        return 0
    fi
    others=$(printf '%s\n' "$known" | grep -vF -- "$1" || true)
    printf '%s\n%s\n' "$others" "$wanted" | sed '/^$/d' | keep_keys || die "$file could not be written as $user"
    if has restorecon; then restorecon -R "$home/.ssh" 2>/dev/null || true; fi
    did "key in $file"
}

rule() { rules="$rules$user ALL=(root) NOPASSWD: $1
"; }
# The program's path as sudo will find it.
path_of() { command -v "$1"; }

service_rules() {
    verbs='start stop restart reload enable disable'
    if [ -d /run/systemd/system ] || { has systemctl && ! has rc-service; }; then
        systemctl=$(path_of systemctl)
        for verb in $verbs; do
            if [ -z "$services" ]; then
                # A unit may be named by a path, and enable would install it: no slashes.
                rule "$systemctl $verb -- *, !$systemctl $verb -- */*"
            fi
            for service in $services; do rule "$systemctl $verb -- ${service%.service}.service"; done
        done
    elif has rc-service; then
        for verb in start stop restart reload; do
            for service in ${services:-'[A-Za-z0-9]*'}; do
                rule "$(path_of rc-service) $service $verb, !$(path_of rc-service) */*, !$(path_of rc-service) * * $verb"
            done
        done
    elif has service; then
        for verb in start stop restart reload; do
            for service in ${services:-'[A-Za-z0-9]*'}; do
                rule "$(path_of service) $service $verb, !$(path_of service) */*, !$(path_of service) * * $verb"
            done
        done
    else
        lacks "a service manager: neither systemctl, rc-service nor service is there"
    fi
}

package_rules() {
    if has apt-get; then
        rule "$(path_of apt-get) update, $(path_of apt-get) -y upgrade"
    elif has dnf; then
        rule "$(path_of dnf) -y upgrade, $(path_of dnf) -y check-update"
    elif has yum; then
        rule "$(path_of yum) -y update"
    elif has apk; then
        rule "$(path_of apk) update, $(path_of apk) upgrade"
    else
        lacks "a package manager that is known: apt-get, dnf, yum or apk"
    fi
}

reboot_rules() {
    if [ -d /run/systemd/system ]; then rule "$(path_of systemctl) reboot"; elif has reboot; then rule "$(path_of reboot)"; else lacks "reboot"; fi
}

# in_group GROUP WHY: a right that a group gives.
in_group() {
    if ! grep -q "^$1:" /etc/group; then
        lacks "the group $1, which $2"
    elif id -nG "$user" | tr ' ' '\n' | grep -qx "$1"; then
        there "$user in group $1"
    else
        if has usermod; then usermod -a -G "$1" "$user"; else addgroup "$user" "$1"; fi
        did "$user in group $1"
    fi
}

sudo_rules() {
    rules=''
    if wants all; then rule ALL; else
        if wants services; then service_rules; fi
        if wants reboot; then reboot_rules; fi
        if wants packages; then package_rules; fi
    fi
    if [ -z "$rules" ]; then
        [ ! -e "$sudoers" ] || { rm "$sudoers"; did "no sudo rules any more: $sudoers"; }
        return 0
    fi
    if ! has sudo || ! has visudo; then
        if has doas; then with=' (doas is there, and Roundsman does not use it)'; else with=''; fi
        if has apt-get; then how='apt-get install sudo'; elif has dnf; then how='dnf install sudo'; elif has apk; then how='apk add sudo'; else how='install sudo'; fi
        lacks "sudo$with, so not all of '$features' can be done: $how, then run this again"
        return 0
    fi
    text="# Made by Roundsman's provision-server.sh for: $features
Defaults:$user !requiretty
${rules%?}"
    if [ -f "$sudoers" ] && [ "$(cat "$sudoers")" = "$text" ] && [ "$(stat -c '%a %u' "$sudoers")" = "440 0" ]; then
        there "$sudoers"
    else
        # A name with a dot is read by no sudo, so this is tried out beside the others.
        printf '%s\n' "$text" >"$sudoers.new"
        chown 0:0 "$sudoers.new"
        chmod 440 "$sudoers.new"
        visudo -c -f "$sudoers.new" >/dev/null || { visudo -c -f "$sudoers.new" || true; rm -f "$sudoers.new"; die "visudo refuses the rules; nothing was changed"; }
        [ ! -f "$sudoers" ] || cp -p "$sudoers" "$sudoers.old"
        mv "$sudoers.new" "$sudoers"
        if ! visudo -c >/dev/null 2>&1; then
            if [ -f "$sudoers.old" ]; then mv "$sudoers.old" "$sudoers"; else rm -f "$sudoers"; fi
            die "with the new rules visudo finds the whole of sudoers broken (visudo -c says why); they were taken back"
        fi
        rm -f "$sudoers.old"
        did "$sudoers"
    fi
    grep -Eq '^[#@]includedir[[:space:]]+"?/etc/sudoers\.d"?' /etc/sudoers ||
        lacks "the line '@includedir /etc/sudoers.d' in /etc/sudoers, without which the rules are not read; add it with visudo"
}

install_packages() {
    if has apt-get; then
        DEBIAN_FRONTEND=noninteractive apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" >/dev/null
    elif has dnf; then
        dnf -q -y install "$@" >/dev/null
    elif has apk; then
        apk add -q "$@"
    else
        return 1
    fi
}

install_docker() {
    if has docker; then there "docker"; else
        if has apt-get; then packages=docker.io; elif has apk; then packages=docker; elif has dnf; then
            if dnf -q list --available moby-engine >/dev/null 2>&1; then packages=moby-engine; else packages='podman podman-docker'; fi
        else
            lacks "docker: no package manager that is known (apt-get, dnf, apk)"
            return 0
        fi
        # shellcheck disable=SC2086 # a list of packages
        install_packages $packages || { lacks "docker: the packages $packages could not be installed"; return 0; }
        did "docker by the packages $packages"
    fi
    if [ -d /run/systemd/system ]; then
        unit=docker.service
        systemctl cat "$unit" >/dev/null 2>&1 || unit=podman.socket
        if ! systemctl is-enabled -q "$unit" 2>/dev/null || ! systemctl is-active -q "$unit"; then
            systemctl enable -q --now "$unit" && did "$unit runs and starts with the system"
        fi
    elif has rc-update; then
        rc-update show default 2>/dev/null | grep -q ' docker ' || { rc-update add docker default >/dev/null && rc-service docker start >/dev/null && did "docker runs and starts with the system"; }
    fi
}

install_gvisor() {
    if has runsc; then there "runsc"; return 0; fi
    known=no
    if has apt-get; then apt-cache policy runsc 2>/dev/null | grep -q 'Candidate: [0-9]' && known=yes
    elif has dnf; then dnf -q list --available runsc >/dev/null 2>&1 && known=yes
    elif has apk; then apk search -q -e runsc 2>/dev/null | grep -q . && known=yes
    fi
    if [ "$known" = no ]; then
        lacks "the package runsc: this distribution has none (or its lists are old). gVisor's own packages: https://gvisor.dev/docs/user_guide/install/"
    elif install_packages runsc; then did "runsc by the package runsc"
    else lacks "runsc: its package could not be installed"
    fi
    if has runsc && has docker; then
        docker info --format '{{range $name, $runtime := .Runtimes}}{{$name}} {{end}}' 2>/dev/null | tr ' ' '\n' | grep -qx runsc ||
            lacks "the runtime runsc in /etc/docker/daemon.json: 'runsc install', then restart docker when its containers may stop"
    fi
}

take_away() {
    entry=$(passwd_of "$user")
    if [ -e "$sudoers" ]; then rm "$sudoers"; did "no $sudoers"; fi
    if [ -e "$readings_file" ] && ! grep -lF "$readings_file" /home/*/.ssh/authorized_keys /root/.ssh/authorized_keys 2>/dev/null | grep -qv "^/home/$user/"; then
        rm "$readings_file"
        rmdir /usr/local/lib/roundsman 2>/dev/null || true
        did "no $readings_file"
    fi
    if [ -e /usr/local/bin/roundsman-agent ]; then rm /usr/local/bin/roundsman-agent; did "no /usr/local/bin/roundsman-agent"; fi
    if [ -z "$entry" ]; then there "no user $user"; return 0; fi
    if [ "$(field "$entry" 5)" = "$gecos" ]; then
        # Sessions of Roundsman; userdel refuses while there are any.
        tries=0
        while has pkill && pkill -KILL -u "$user" && [ "$tries" -lt 10 ]; do tries=$((tries + 1)); sleep 1; done
        if has userdel; then userdel -r "$user" 2>/dev/null || die "userdel could not remove $user (does something still run as it?)"
        else deluser --remove-home "$user" 2>/dev/null || die "deluser could not remove $user"
        fi
        did "no user $user"
    else
        home=$(field "$entry" 6)
        known=$(keys_there) || die "nothing can be run as $user: su failed"
        if [ -n "$key" ] && printf '%s\n' "$known" | grep -qF -- "$key"; then
            printf '%s\n' "$known" | { grep -vF -- "$key" || true; } | keep_keys
            did "no key of Roundsman in $home/.ssh/authorized_keys"
        fi
        there "user $user, which this script did not make; it stays"
    fi
}

main() {
    [ "$(id -u)" = 0 ] || die "this has to run as root"
    if [ "$remove" = yes ]; then
        take_away
    else
        make_user
        options=$(key_options action)
        authorize "$key" "$options"
        if [ -n "$readings" ]; then
            mkdir -p /usr/local/lib/roundsman
            put "$readings_file" 755 "$(readings_text)"
            options=$(key_options readings)
            authorize "$readings" "$options"
        fi
        if [ "$docker" = yes ]; then install_docker; fi
        if [ "$gvisor" = yes ]; then install_gvisor; fi
        sudo_rules
        if wants logs; then
            if has journalctl; then in_group systemd-journal 'reads the journal'; fi
            if grep -q '^adm:' /etc/group; then in_group adm 'reads the files of syslog'; fi
        fi
        if wants containers; then
            if has docker; then
                in_group docker 'may use the socket of Docker'
                echo "note:    whoever may use the socket of Docker is root in all but name"
            else lacks "docker; --docker installs it"
            fi
        fi
    fi
    if [ "$changes" = 0 ]; then echo "Nothing had to be changed."; else echo "$changes things were changed."; fi
    [ "$lacking" = 0 ] || exit 3
}
main </dev/null
EOF
}

if [ "$dry_run" = yes ]; then
    remote_script
    exit 0
fi

# on_server COMMAND [SSH OPTIONS]: as root there, with our standard input.
on_server() {
    command=$1
    shift
    "$ssh" "$@" -- "$target" "if [ \"\$(id -u)\" = 0 ]; then exec $command; else exec sudo -n $command; fi"
}

code=0
remote_script | on_server 'sh -s' "$@" || code=$?
case $code in
    0 | 3) ;;
    255) fail "ssh did not reach $target (exit status 255); its own message stands above" ;;
    *) fail "it did not come to its end on $target (exit status $code). Without root, sudo has to work there without a password." ;;
esac

# The agent is a program for the server's processor; it is compared before it is sent.
install_agent() {
    machine=$(on_server 'uname -m' "$@" </dev/null) || fail "$target did not say what processor it has"
    binary=''
    for name in "$agents/$machine" "$agents/roundsman-agent-$machine" "$agents/$machine/roundsman-agent"; do
        if [ -f "$name" ]; then binary=$name; break; fi
    done
    if [ -z "$binary" ]; then
        say "missing: an agent for $machine in $agents; scripts/build-agents.sh makes them. Readings go on without one."
        code=3
        return 0
    fi
    sum=$(cksum <"$binary")
    place=/usr/local/bin/roundsman-agent
    if [ "$(on_server "sh -c 'cksum <$place 2>/dev/null'" "$@" </dev/null || true)" = "$sum" ]; then
        echo "there:   $place"
        return 0
    fi
    on_server "sh -c 'umask 022; cat >$place.new && [ \"\$(cksum <$place.new)\" = \"$sum\" ] && chmod 755 $place.new && mv $place.new $place'" "$@" <"$binary" ||
        fail "the agent did not arrive whole on $target"
    echo "done:    $place"
}
if [ "$agent" = yes ] && [ "$remove" = no ]; then install_agent "$@"; fi
if [ "$remove" = no ]; then
    say "Next: roundsman add $user@${target##*@}"
fi
exit "$code"
