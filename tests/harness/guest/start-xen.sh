#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# dom0: the daemons that xl needs. There is no QEMU here: PV and PVH guests, consoles and disks do without.
set -e
mount -t xenfs xenfs /proc/xen
mkdir -p /run/xen /run/xenstored /var/lib/xen /var/log/xen/console
xenstored --pid-file /run/xenstored.pid
xen-init-dom0
xenconsoled --log=guest --timestamp=none --log-dir=/var/log/xen/console --pid-file=/run/xenconsoled.pid
