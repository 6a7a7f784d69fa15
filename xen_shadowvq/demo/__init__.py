# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo: the whole product on the embedded machine, in three processes, with a real disk image behind it."""
