# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of the XenStore client and of the embedded server."""
