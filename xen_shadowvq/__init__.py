# SPDX-License-Identifier: GPL-2.0-or-later
"""ShadowVQ's control plane: it negotiates, configures and supervises, and never touches a ring byte."""
