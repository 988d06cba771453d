#!/usr/bin/env bash
# Dumps the databases of a data directory as text, for tests/fixtures/upgrade: what an upgrade test begins with.
#
#   scripts/dump-fixture.sh DATA_DIRECTORY FOLDER
#
# Run it before a release that brings a migration, on a directory that the program of the release before has filled
# (start it, add a server, make a key and a token, change a setting, stop it). Nobody may use the directory meanwhile.
# FOLDER gets roundsman.sql, history.sql and master.key: the key opens nothing but this fixture, so never dump a
# directory that is in use for real servers.
set -euo pipefail

if [ $# != 2 ]; then
    sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
command -v python3 >/dev/null || {
    echo "dump-fixture.sh: python3 is missing: apt-get install python3" >&2
    exit 1
}
mkdir -p "$2"
for name in roundsman history; do
    [ ! -e "$1/$name.db" ] || python3 - "$1/$name.db" >"$2/$name.sql" <<'EOF'
import sqlite3
import sys

database = sqlite3.connect(sys.argv[1])
for line in database.iterdump():
    print(line)
# iterdump leaves out how many migrations the file has seen.
print("PRAGMA user_version = %d;" % database.execute("PRAGMA user_version").fetchone()[0])
EOF
done
[ ! -e "$1/master.key" ] || install -m 0644 "$1/master.key" "$2/master.key"
