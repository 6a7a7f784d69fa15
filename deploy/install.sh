#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later Installs ShadowVQ's service files for one role from the image mounted at
# /opt/shadowvq. It may be run again. usage: install.sh mediator|backend|tools|guests|guests-xl
#   mediator, backend   the service's unit, its configuration, and the kernel modules that it needs
#   tools               `shadowvq` and nothing else: for dom0, where `shadowvq ctl` runs
#   guests              the service that attaches declared disks: for dom0
#   guests-xl           the same, allowed to run xl: for declarations with `mediator_config`
# DESTDIR=folder installs everything below that folder, and does not tell the running systemd.
set -eu
role=${1:-} xl=
case $role in
mediator | backend | tools | guests) ;;
guests-xl) role=guests xl=yes ;;
*) echo "usage: install.sh mediator|backend|tools|guests|guests-xl" >&2; exit 2 ;;
esac
image=$(cd "$(dirname "$0")/.." && pwd)
root=${DESTDIR:-}
say() { echo "install.sh: $*"; }

mkdir -p "$root/usr/local/bin"
ln -sf "$image/bin/shadowvq" "$root/usr/local/bin/shadowvq"
say "/usr/local/bin/shadowvq is in place"
[ "$role" != tools ] || exit 0

modules=xen-evtchn
if [ "$role" = guests ]; then
    modules=xen-privcmd
    mkdir -p "$root/etc/shadowvq/guests.d"
    say "put declarations into /etc/shadowvq/guests.d; $image/deploy/guests.d/web1.yaml explains each key"
elif [ "$role" = mediator ]; then
    modules="$modules xen-gntalloc xen-privcmd"
    # Each queue shares some 560 pages with the backend; the kernel's own limit is 1024 pages in all.
    mkdir -p "$root/etc/modprobe.d"
    echo "options xen_gntalloc limit=65536" >"$root/etc/modprobe.d/shadowvq.conf"
    if [ ! -e "$root/etc/shadowvq/shadowvq.yaml" ]; then
        mkdir -p "$root/etc/shadowvq"
        cp "$image/deploy/shadowvq.yaml" "$root/etc/shadowvq/shadowvq.yaml"
        say "/etc/shadowvq/shadowvq.yaml is new, with the defaults"
    fi
else
    modules="$modules xen-gntdev"
    mkdir -p "$root/var/lib/shadowvq"
    if [ ! -e "$root/etc/shadowvq/backend.yaml" ]; then
        mkdir -p "$root/etc/shadowvq"
        cp "$image/deploy/backend.yaml" "$root/etc/shadowvq/backend.yaml"
        say "/etc/shadowvq/backend.yaml is new, with the defaults"
    fi
    say "put images into /var/lib/shadowvq"
fi
mkdir -p "$root/etc/modules-load.d" "$root/etc/systemd/system"
for module in $modules; do echo "$module"; done >"$root/etc/modules-load.d/shadowvq-$role.conf"
cp "$image/deploy/systemd/shadowvq-$role.service" "$root/etc/systemd/system/"
say "/etc/systemd/system/shadowvq-$role.service is in place"
if [ "$role" = guests ]; then
    more=shadowvq-guests.service.d/xl.conf
    rm -f "$root/etc/systemd/system/$more"
    if [ "$xl" = yes ]; then
        mkdir -p "$root/etc/systemd/system/shadowvq-guests.service.d"
        cp "$image/deploy/systemd/$more" "$root/etc/systemd/system/$more"
        say "the service may run xl: /etc/systemd/system/$more"
    fi
fi
[ -z "$root" ] || exit 0

for module in $modules; do modprobe "$module"; done
limit=/sys/module/xen_gntalloc/parameters/limit
if [ "$role" = mediator ] && [ "$(cat $limit)" -lt 65536 ]; then echo 65536 >$limit; fi
systemctl daemon-reload
say "start it with: systemctl enable --now shadowvq-$role"
