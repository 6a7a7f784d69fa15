# SPDX-License-Identifier: GPL-2.0-or-later
"""A driver that does its worst: rings written by hand, and the malformed chains that it offers."""
