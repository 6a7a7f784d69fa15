# SPDX-License-Identifier: GPL-2.0-or-later
"""Topology `dom0`: mediator and backend in dom0, two PVH guests at once."""
