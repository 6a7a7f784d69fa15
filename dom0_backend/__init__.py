# SPDX-License-Identifier: GPL-2.0-or-later
"""The backend: virtio devices in a driver domain, served on shadow rings. Data plane in `src/`, control plane here."""
