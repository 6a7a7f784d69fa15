# SPDX-License-Identifier: GPL-2.0-or-later
"""Topology `separate`: a PV mediator domain with privilege over one PVH guest, and a PV backend domain."""
