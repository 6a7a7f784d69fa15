# SPDX-License-Identifier: GPL-2.0-or-later
"""Topology `dom0` again, in a folder of its own so that it may run on a machine of its own: it takes as long."""
