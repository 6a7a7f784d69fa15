# SPDX-License-Identifier: GPL-2.0-or-later
"""What isolation costs on real Xen, counted in instructions: `make report`, whose outcome is docs/report."""
