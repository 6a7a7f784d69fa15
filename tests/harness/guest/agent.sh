#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The command agent of a guest that has busybox only; it speaks on the guest's console what agent.py describes.
# One command at a time.
export HOME=/
exec </dev/hvc0 >/dev/hvc0 2>/dev/null
stty raw -echo
dmesg -n 1 # from now on the kernel speaks here only if it dies: `dmesg` has the rest
cd /tmp
# dd takes the text in a few reads; the shell would take it byte by byte.
take() { if [ "$1" -gt 0 ]; then dd bs="$1" count=1 iflag=fullblock | base64 -d; fi; }
encode() { if [ -s "$1" ]; then base64 "$1" | tr -d '\n'; else printf -; fi; }
seconds() { cut -d. -f1 /proc/uptime; }

printf '\n\036SVQ . 0 hello - -\n'
while read -r mark target id deadline script_length stdin_length; do
    case $mark in *SVQ) ;; *) continue ;; esac
    take "$script_length" >script
    take "$stdin_length" >stdin
    start=$(seconds)
    timeout -s KILL "$deadline" sh script <stdin >stdout 2>stderr
    status=$?
    # 137 is also what a command that killed itself leaves: the clock tells them apart.
    [ $status -ne 137 ] || [ $(($(seconds) - start)) -lt "$deadline" ] || status=timeout
    printf '\036SVQ %s %s %s %s %s\n' "$target" "$id" "$status" "$(encode stdout)" "$(encode stderr)"
done
