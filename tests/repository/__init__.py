# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of the repository itself: line lengths, links between documents, the commands of CONTRIBUTING.md, coverage."""
