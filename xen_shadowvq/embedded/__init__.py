# SPDX-License-Identifier: GPL-2.0-or-later
"""Stand-ins for Xen's services, for running ShadowVQ where there is no Xen."""
