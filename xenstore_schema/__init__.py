# SPDX-License-Identifier: GPL-2.0-or-later
"""
Every XenStore node of ShadowVQ, from one source.

    from xenstore_schema import State, nodes, read_directory
    front = nodes.virtio_front_path(frontend=3, device=0)
    state = nodes.VirtioFront.STATE.read(reader, front) or State.Unknown
    values = read_directory(reader, nodes.VIRTIO_FRONT, front, state)
    values[nodes.VirtioFront.FEATURES_ACCEPTED]        # int
    values.at(nodes.VirtioFront.QUEUE_SIZE, n=0)       # int
    write(nodes.VirtioBack.CONFIG.path(back), nodes.VirtioBack.CONFIG.format(config))
"""

# Not `nodes`: that is generated, and the generator must run without it.
from xenstore_schema.spec import Directory, Node, Reader, State, Values, read_directory

__all__ = ["Directory", "Node", "Reader", "State", "Values", "read_directory"]
