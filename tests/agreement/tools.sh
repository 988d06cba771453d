# What the tools of a machine say of it, a line for each figure: KEY VALUE... Debian's tools, or those of BusyBox; neither
# probe runs any of this but df and stat.
LC_ALL=C
export LC_ALL
say() { printf '%s\n' "$*"; }
have() { command -v "$1" >/dev/null 2>&1; }
say uptime_cs "$(awk '{ printf "%d", $1 * 100 + 0.5 }' /proc/uptime)"
say clock_s "$(date +%s)"
if have vmstat; then
    vmstat -s | awk '
        / non-nice user cpu ticks/ { print "user", $1 } / nice user cpu ticks/ && !/non-nice/ { print "nice", $1 }
        / system cpu ticks/ { print "system", $1 } / idle cpu ticks/ { print "idle", $1 }
        / IO-wait cpu ticks/ { print "iowait", $1 } / IRQ cpu ticks/ { print "irq", $1 }
        / softirq cpu ticks/ { print "softirq", $1 } / stolen cpu ticks/ { print "steal", $1 }
        / CPU context switches/ { print "context_switches", $1 } / forks/ { print "forks", $1 }'
else
    awk '$1 == "cpu" { print "user", $2; print "nice", $3; print "system", $4; print "idle", $5; print "iowait", $6
            print "irq", $7; print "softirq", $8; print "steal", $9 }
        $1 == "ctxt" { print "context_switches", $2 } $1 == "processes" { print "forks", $2 }' /proc/stat
fi
awk '/^cpu[0-9]/ { sub("cpu", "", $1); print "core", $1, $2, $4, $5 }
    $1 == "procs_running" { print "running", $2 } $1 == "procs_blocked" { print "blocked", $2 }' /proc/stat
# Without a terminal uptime(1) of BusyBox and of procps end alike.
uptime | sed -n 's/.*load average: //p' | tr -d , | awk '{ printf "load %d %d %d\n", $1 * 100 + 0.5, $2 * 100 + 0.5, $3 * 100 + 0.5 }'
free -b | awk '$1 == "Mem:" { print "memory", $2, $4, $7 } $1 == "Swap:" { print "swap", $2, $4 }'
# print of mawk makes 3.3e+09 of what it has reckoned.
awk '$1 == "Buffers:" { printf "buffers %.0f\n", $2 * 1024 } $1 == "Cached:" { printf "cached %.0f\n", $2 * 1024 }' /proc/meminfo
for kind in cpu memory io; do
    awk -v kind=$kind '{ sub("total=", "", $5); print "pressure", kind "-" $1, $5 }' /proc/pressure/$kind 2>/dev/null
done
df -kP 2>/dev/null | awk 'NR > 1 { printf "filesystem %s %.0f %.0f %.0f\n", $6, $2 * 1024, $3 * 1024, $4 * 1024 }'
df -iP 2>/dev/null | awk 'NR > 1 { print "inodes", $6, $2, $3 }'
for disk in /sys/block/*; do
    awk -v name="${disk##*/}" '{ printf "disk %s %.0f %.0f %.0f %.0f %.0f\n", name, $1, $3 * 512, $5, $7 * 512, $10 }' "$disk/stat"
done
for card in /sys/class/net/*; do
    say interface "${card##*/}" $(for what in rx_bytes rx_packets tx_bytes tx_packets rx_errors tx_errors; do cat "$card/statistics/$what"; done)
done
{ if have ss; then ss -tanH; else netstat -tan | awk '$1 ~ /^tcp/ { print $6 }'; fi; } | awk '
    $1 ~ /^ESTAB/ || $1 ~ /^CLOSE.WAIT/ { established++ } $1 ~ /^TIME.WAIT/ { waiting++ }
    { state = tolower($1); gsub("-", "_", state); sub("wait_", "wait", state); sub("^estab$", "established", state)
        sub("^unconn$", "close", state); states[state]++ }
    END { print "tcp", established + 0, waiting + 0; for (state in states) print "sockets", state, states[state] }'
say processes "$(ps -e 2>/dev/null | wc -l)"
say threads "$(awk '{ sub(".*/", "", $4); print $4 }' /proc/loadavg)"
say files $(sysctl -n fs.file-nr)
say limit "$(cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes)"
say usage "$(cat /sys/fs/cgroup/memory.current 2>/dev/null || cat /sys/fs/cgroup/memory/memory.usage_in_bytes)"
say users $( { who; have loginctl && loginctl list-sessions --no-legend --no-pager | awk '{ print $3 }'; } 2>/dev/null | awk '{ print $1 }' | sort -u)
say boot_id "$(sysctl -n kernel.random.boot_id)"
say hostname "$(hostname)"
say kernel "$(uname -r)"
say machine "$(uname -m)"
say os $(. /etc/os-release && echo "$ID" "$VERSION_ID")
say reboot "$([ -e /run/reboot-required ] && echo true || echo false)"
say addresses $(ip -o addr show scope global | awk '{ sub("/.*", "", $4); print $4 }' | sort)
say accounts $(awk -F: '$7 !~ /(nologin|false|sync|shutdown|halt)$/ { print $1 }' /etc/passwd | sort)
