# SPDX-License-Identifier: GPL-2.0-or-later
"""The frontend domain's side: the user-space virtio-blk driver (C, `src/`) and rings written by hand."""
