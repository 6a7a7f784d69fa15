# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m xen_shadowvq` is the program `shadowvq`."""

from xen_shadowvq.cli import main

main()
