# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole product on the embedded machine: services as processes of their own, killed, deceived and starved."""
