# SPDX-License-Identifier: GPL-2.0-or-later
"""The rule of docs/protocol.md, checked: an exhaustive model of a page's life, and CBMC on the C that lives it."""
