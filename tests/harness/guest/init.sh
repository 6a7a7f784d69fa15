#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# First program of dom0 and of every guest. The kernel's command line says what becomes of it:
#   harness.modules=A,B      modules to load
#   harness.root=/dev/X      a squashfs to make the root of (writes go to memory); without it busybox is all there is
#   harness.project=/dev/Y   a squashfs to mount at /opt/shadowvq
#   harness.init=/PROGRAM    what to start there
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
die() { echo "harness: $*"; sync; reboot -f; }

for word in $(cat /proc/cmdline); do
    case $word in
    harness.modules=*) modules=$(echo "${word#*=}" | tr , ' ') ;;
    harness.root=*) root=${word#*=} ;;
    harness.project=*) project=${word#*=} ;;
    harness.init=*) init=${word#*=} ;;
    esac
done
for module in $modules; do modprobe "$module" || die "no module $module"; done

wait_for_disk() {
    turns=0
    while [ ! -b "$1" ]; do
        turns=$((turns + 1))
        [ $turns -lt 300 ] || die "no disk $1"
        sleep 0.1
    done
}

if [ -z "$root" ]; then
    mkdir -p /dev/pts /proc/xen
    mount -t devpts devpts /dev/pts
    [ ! -d /sys/module/xenfs ] || mount -t xenfs xenfs /proc/xen
    exec /agent.sh
fi
wait_for_disk "$root"
mount -t squashfs -o ro "$root" /lower || die "cannot mount $root"
mount -t tmpfs -o mode=755 rw /rw
mkdir /rw/upper /rw/work
mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work overlay /sysroot || die "cannot mount the root"
if [ -n "$project" ]; then
    wait_for_disk "$project"
    mount -t squashfs -o ro "$project" /sysroot/opt/shadowvq || die "cannot mount $project"
fi
cp -r /lib/modules /sysroot/lib/
for folder in proc sys dev; do mount -o move /$folder /sysroot/$folder; done
exec switch_root /sysroot "$init"
