#!/bin/sh
# Puts what comes on standard input in the place of a file, checks it, and puts the old file back where that goes wrong.
# Roundsman sends this text and the content of the file over SSH (docs/files.md); by hand on a server:
#
#   sh put.sh --path PATH --bytes N --sha256 HEX [--mode 644] [--owner USER[:GROUP]] [--validate COMMAND]
#             [--reload COMMAND] [--compare] [--no-diff] <CONTENT
#
# --compare shows what would change and changes nothing. Ends with 0 where the file is as wanted now; 3 where it cannot be
# stored and 4 where the content did not arrive whole (in both nothing was changed); 5 where the validation failed and 6
# where the reload failed (in both the old file is back); 7 where the old file could not be put back.
LC_ALL=C
export LC_ALL
umask 077

path='' bytes='' sha256='' mode='' owner='' validate='' reload='' compare=no diff=yes
while [ $# -gt 0 ]; do
    case $1 in
        --compare) compare=yes ;;
        --no-diff) diff=no ;;
        *)
            case $1 in
                --path) path=$2 ;;
                --bytes) bytes=$2 ;;
                --sha256) sha256=$2 ;;
                --mode) mode=$2 ;;
                --owner) owner=$2 ;;
                --validate) validate=$2 ;;
                --reload) reload=$2 ;;
                *) echo "put.sh does not know $1" >&2 && exit 2 ;;
            esac
            shift
            ;;
    esac
    shift
done

new='' old='' state=untouched

say() { printf '%s\n' "$*"; }

# Ends with a status and the reason on standard error, which holds nothing else.
give_up() {
    code=$1
    shift
    printf '%s\n' "$*" >&2
    exit "$code"
}

# The reason in a program's complaint: what stands behind the last colon.
reason() { printf '%s' "${1##*: }"; }

put_back() {
    if [ -n "$old" ]; then
        mv -f -- "$old" "$path" || {
            state=lost
            return 1
        }
        old=
    else
        rm -f -- "$path" || return 1
    fi
    state=back
}

# However this ends: no temporary file stays, and no file that was not found good.
at_end() {
    if [ "$state" = replaced ] && ! put_back; then say "The old file stays as $old." >&2; fi
    if [ -n "$new" ]; then rm -f -- "$new"; fi
    if [ -n "$old" ] && [ "$state" != lost ]; then rm -f -- "$old"; fi
}
trap at_end 0
trap 'exit 143' HUP INT PIPE TERM

hash_of() { if command -v sha256sum >/dev/null 2>&1; then sha256sum <"$1" | cut -d ' ' -f 1; else echo none; fi; }
rights_of() { stat -c '%a %u:%g' -- "$1"; }
size_of() { echo $(($(wc -c <"$1"))); }

place() {
    directory=${path%/*}
    : "${directory:=/}"
    if [ -L "$path" ]; then
        give_up 3 "$path is a symbolic link to $(readlink -- "$path"); name the file itself. Nothing was changed."
    fi
    if [ -d "$path" ]; then give_up 3 "$path is a directory; name the file. Nothing was changed."; fi
    if [ -e "$path" ] && [ ! -f "$path" ]; then give_up 3 "$path is no regular file. Nothing was changed."; fi
    if [ ! -d "$directory" ]; then give_up 3 "there is no directory $directory; make it first. Nothing was changed."; fi
    if [ -d "$path.roundsman-old" ]; then
        give_up 3 "$path.roundsman-old is a directory, so the old file cannot be kept there. Nothing was changed."
    fi
}

receive() {
    new=$(mktemp "$directory/.roundsman-XXXXXX" 2>&1) || {
        why=$new new=
        give_up 3 "nothing can be stored in $directory: $(reason "$why"). Nothing was changed."
    }
    why=$({ cat >"$new"; } 2>&1)
    size=$(size_of "$new")
    if [ "$size" != "$bytes" ]; then
        if [ -n "$why" ]; then give_up 3 "$directory cannot hold the file: $(reason "$why"). Nothing was changed."; fi
        give_up 4 "only $size of $bytes bytes arrived; nothing was changed, try again."
    fi
    found=$(hash_of "$new")
    if [ "$found" != none ] && [ "$found" != "$sha256" ]; then
        give_up 4 "the content arrived changed (its SHA-256 differs); nothing was changed, try again."
    fi
}

# The rights that were asked for, else those of the file that is replaced.
give_rights() {
    now=
    if [ -e "$path" ]; then
        now=$(rights_of "$path") || give_up 3 "the rights of $path cannot be read. Nothing was changed."
        if [ -z "$mode" ]; then mode=${now% *}; fi
    fi
    made=$(rights_of "$new")
    if [ -z "$owner" ] && [ -n "$now" ] && [ "${made#* }" != "${now#* }" ]; then owner=${now#* }; fi
    if [ -n "$owner" ]; then
        why=$(chown -- "$owner" "$new" 2>&1) ||
            give_up 3 "$path cannot belong to $owner: $(reason "$why"); that needs root. Nothing was changed."
    fi
    why=$(chmod "${mode:-644}" "$new" 2>&1) || give_up 3 "$path cannot have the mode $mode: $(reason "$why"). Nothing was changed."
    wanted=$(rights_of "$new")
}

is_same() {
    [ "$now" = "$wanted" ] && [ "$(size_of "$path")" = "$size" ] || return 1
    if [ "$found" = none ]; then cmp -s "$path" "$new"; else [ "$(hash_of "$path")" = "$found" ]; fi
}

show_changes() {
    if [ -n "$now" ] && [ "$now" != "$wanted" ]; then say "rights: $now -> $wanted"; fi
    if [ "$diff" = no ]; then
        say "what differs is not shown"
        return
    fi
    from=$path
    if [ -z "$now" ]; then from=/dev/null; fi
    if command -v diff >/dev/null 2>&1; then
        diff -u -L "$path" -L "$path (new)" "$from" "$new" 2>&1 | head -n 1000
    else
        say "this server has no diff; the new file has $size bytes"
    fi
}

# Puts the new file in place, keeping the old one as it is: the same inode where the file system has links.
replace() {
    if [ -n "$now" ]; then
        old=$new.old
        ln -- "$path" "$old" 2>/dev/null || why=$(cp -p -- "$path" "$old" 2>&1) ||
            give_up 3 "the old file cannot be kept: $(reason "$why"). Nothing was changed."
    fi
    state=replaced
    why=$(mv -f -- "$new" "$path" 2>&1) || {
        state=untouched
        give_up 3 "$path cannot be replaced: $(reason "$why"). Nothing was changed."
    }
    new=
}

# Runs a command of the person who asked; what it prints is shown.
attempt() {
    say "\$ $1"
    (
        umask 022
        exec sh -c "$1"
    ) </dev/null 2>&1
}

undo() { # STATUS WORDS...: the old file again, and the reason.
    code=$1
    shift
    had=$old
    if ! put_back; then give_up 7 "$*, and the old file could not be put back${had:+; it is $had}."; fi
    again=
    if [ "$code" = 6 ]; then
        if attempt "$reload"; then again=" and was reloaded"; else again=", but the reload fails with it too"; fi
    fi
    if [ -n "$had" ]; then give_up "$code" "$*; the old file is back$again."; fi
    give_up "$code" "$*; the new file was taken away again$again."
}

place
receive
give_rights
if [ -n "$now" ] && is_same; then
    say "$path is as wanted already; nothing was changed."
    exit 0
fi
show_changes
if [ "$compare" = yes ]; then
    say "Only compared; nothing was changed."
    exit 0
fi
replace
if [ -n "$validate" ]; then
    attempt "$validate"
    status=$?
    if [ "$status" != 0 ]; then undo 5 "the validation failed with exit status $status"; fi
fi
if [ -n "$reload" ]; then
    attempt "$reload"
    status=$?
    if [ "$status" != 0 ]; then undo 6 "the reload failed with exit status $status"; fi
fi
state=finished
if [ -z "$old" ]; then
    say "Stored $path, $size bytes."
elif mv -f -- "$old" "$path.roundsman-old"; then
    old=
    say "Stored $path, $size bytes; the file before is $path.roundsman-old."
else
    state=lost
    say "Stored $path, $size bytes; the file before is $old."
fi
