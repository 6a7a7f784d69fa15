#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The command agent of a guest that has busybox only; it speaks on the guest's console what agent.py describes.
# One command at a time.
#   usage: agent.sh [DEVICE [FOLDER]]
export HOME=/
device=${1:-/dev/hvc0}
exec <"$device" >"$device" 2>/dev/null
stty raw -echo
dmesg -n 1 # from now on the kernel speaks here only if it dies: `dmesg` has the rest
cd "${2:-/tmp}" || exit
# dd takes the text in a few reads; the shell would take it byte by byte.
take() { if [ "$1" -gt 0 ]; then dd bs="$1" count=1 iflag=fullblock | base64 -d; fi; }
encode() { if [ -s "$1" ]; then base64 "$1" | tr -d '\n'; else printf -; fi; }
seconds() { cut -d. -f1 /proc/uptime; }

printf '\n\036SVQ . 0 hello - -\n'
while read -r mark target id deadline script_length stdin_length; do
    case $mark in *SVQ) ;; *) continue ;; esac
    if [ "$deadline" = 0 ]; then # after the last request, or one that never came
        if [ "$id" = "$last" ]; then
            sed "s/^\(.SVQ $target $id \)/\1again:/" answer
        else
            printf '\036SVQ %s %s unknown - -\n' "$target" "$id"
        fi
        continue
    fi
    take "$script_length" >script
    take "$stdin_length" >stdin
    start=$(seconds)
    timeout -s KILL "$deadline" sh script <stdin >stdout 2>stderr
    status=$?
    # 137 is also what a command that killed itself leaves: the clock tells them apart.
    [ $status -ne 137 ] || [ $(($(seconds) - start)) -lt "$deadline" ] || status=timeout
    printf '\036SVQ %s %s %s %s %s\n' "$target" "$id" "$status" "$(encode stdout)" "$(encode stderr)" >answer
    last=$id
    cat answer
done
