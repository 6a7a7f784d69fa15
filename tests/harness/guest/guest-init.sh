#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# First program of a guest with a full userland, after init.sh gave it its root: no service manager, only the agent.
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
[ ! -d /sys/module/xenfs ] || mount -t xenfs xenfs /proc/xen
dmesg -n 1 # from now on the kernel speaks on the console only if it dies: `dmesg` has the rest
python3 /opt/shadowvq/harness/agent.py /dev/hvc0
/bin/busybox reboot -f
