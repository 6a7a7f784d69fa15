# SPDX-License-Identifier: GPL-2.0-or-later
"""The product on real Xen, in QEMU: what both topologies are made of here, the tests of each in a folder of its own."""
