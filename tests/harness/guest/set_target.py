# SPDX-License-Identifier: GPL-2.0-or-later
"""Gives one domain device-model privilege over another, as libxl does for a stub domain (dom0).

usage: set_target.py MEDIATOR_DOMID FRONTEND_DOMID
"""

import ctypes
import os
import sys


def set_target(domid: int, target_domid: int) -> None:
    """Asks the hypervisor; OSError says what it answered."""
    xenctrl = ctypes.CDLL("libxenctrl.so.4.17", use_errno=True)
    xenctrl.xc_interface_open.restype = ctypes.c_void_p
    xenctrl.xc_interface_open.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint]
    xenctrl.xc_domain_set_target.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32]
    handle = xenctrl.xc_interface_open(None, None, 0)
    if not handle or xenctrl.xc_domain_set_target(handle, domid, target_domid):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    set_target(int(sys.argv[1]), int(sys.argv[2]))
