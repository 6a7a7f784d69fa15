# SPDX-License-Identifier: GPL-2.0-or-later
"""
The embedded machine as a whole: hypervisor broker, XenStore, and the part of a toolstack that creates and destroys
domains.

It runs in a process of its own, or in threads of one. Whoever connects to a domain's socket in its directory is that
domain.
"""

from __future__ import annotations

import mmap
import os
import select
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from xen_shadowvq.embedded.xs_limits import Limits
from xen_shadowvq.embedded.xs_server import XenStoreServer
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.log import get_logger
from xen_shadowvq.native import load
from xen_shadowvq.xenstore import XenStore

PAGES_PER_MIB = 256
PRIVILEGE_NONE = -1
PRIVILEGE_ALL = -2


@dataclass(frozen=True)
class DomainSpec:
    """A domain to create. `privilege`: PRIVILEGE_NONE, PRIVILEGE_ALL, or the domid of the one domain it serves."""

    domid: int
    name: str
    memory_mib: int = 16
    max_grant_frames: int = 64
    privilege: int = PRIVILEGE_NONE


class Machine:
    """
    A context manager. `directory` gets the sockets; `limits` are XenStore's (None: those of xenstored). Domain 0 exists
    from the start.
    """

    def __init__(self, directory: Path, dom0_grant_frames: int = 512, limits: Limits | None = None) -> None:
        self.directory = directory
        self._library = load("mediator")
        self._xenstore = XenStoreServer(directory, limits)
        self._handle: Any = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._undertaker = threading.Thread(target=self._bury_the_dead, name="undertaker", daemon=True)
        self._dom0 = DomainSpec(0, "Domain-0", 16, dom0_grant_frames, PRIVILEGE_ALL)
        self._store: XenStore | None = None
        self._foothold: Hypervisor | None = None
        self._log = get_logger()

    def __enter__(self) -> Self:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._xenstore.start()
        out = self._library.ffi.new("struct svq_sim_machine **")
        rc = self._library.lib.svq_sim_machine_start(str(self.directory).encode(), out)
        self._library.check(rc, "sim_machine_start")
        self._handle = out[0]
        self._create(self._dom0)
        # A domain of this machine dies with its last handle, but dom0 goes on while no command runs in it.
        self._foothold = Hypervisor("mediator", self.directory / "hv-dom0.sock")
        self._store = XenStore.connect(str(self._xenstore.socket_path(0)))
        self._undertaker.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.eventfd_write(self._wake, 1)
        self._undertaker.join()
        if self._store:
            self._store.close()
        if self._foothold:
            self._foothold.close()
        self._library.lib.svq_sim_machine_stop(self._handle)
        self._xenstore.stop()
        os.close(self._wake)

    @property
    def store(self) -> XenStore:
        """dom0's connection to XenStore."""
        if self._store is None:
            raise RuntimeError("the machine is not running")
        return self._store

    def watches_of(self, domid: int) -> int:
        """How many watches a living domain has."""
        return self._xenstore.watches_of(domid)

    def create_domain(self, spec: DomainSpec) -> None:
        """Creates a domain in which nobody runs yet."""
        self._xenstore.add_domain(spec.domid, name=spec.name)
        self.store.write(f"/local/domain/{spec.domid}/memory/static-max", str(spec.memory_mib * 1024))
        self._create(spec)

    def set_privilege(self, domid: int, privilege: int) -> None:
        """Changes what a domain may do to others; see `DomainSpec`."""
        rc = self._library.lib.svq_sim_domain_set_privilege(self._handle, domid, privilege)
        self._library.check(rc, "domain_set_privilege", domid)

    def destroy_domain(self, domid: int) -> None:
        """Ends a domain, as `xl destroy` does."""
        self._library.check(self._library.lib.svq_sim_domain_destroy(self._handle, domid), "domain_destroy", domid)
        self._bury(domid)

    def zombies(self) -> list[int]:
        """Dead domains of which a living one still holds pages."""
        domids = self._library.ffi.new("uint16_t[64]")
        count = self._library.lib.svq_sim_zombies(self._handle, domids, 64)
        return list(domids[0 : min(count, 64)])

    def state(self, domid: int) -> str:
        """`created`, `running`, `dead`, `zombie`, or `none`."""
        state = self._library.lib.svq_sim_domain_state(self._handle, domid)
        return ("created", "running", "dead", "zombie")[state] if state >= 0 else "none"

    def look_into(self, domid: int) -> tuple[mmap.mmap, mmap.mmap]:
        """A living domain's memory and grant table, to read only. HypervisorError: there is no such domain."""
        fds = self._library.ffi.new("int[2]")
        rc = self._library.lib.svq_sim_domain_fds(self._handle, domid, fds, fds + 1)
        self._library.check(rc, "sim_domain_fds", domid)
        try:
            memory, table = (mmap.mmap(fd, 0, prot=mmap.PROT_READ) for fd in fds)
        finally:
            for fd in fds:
                os.close(fd)
        return memory, table

    def _create(self, spec: DomainSpec) -> None:
        pages = spec.memory_mib * PAGES_PER_MIB
        rc = self._library.lib.svq_sim_domain_create(
            self._handle, spec.domid, pages, spec.max_grant_frames, spec.privilege
        )
        self._library.check(rc, "sim_domain_create", spec.domid)

    def _bury(self, domid: int) -> None:
        if domid != 0:  # dom0's XenStore connections outlive its last hypervisor handle
            self._xenstore.remove_domain(domid)

    def _bury_the_dead(self) -> None:
        """Removes a domain whose process has ended from XenStore, as the toolstack does after a crash."""
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        poller.register(self._library.lib.svq_sim_event_fd(self._handle), select.POLLIN)
        kind, domid = self._library.ffi.new("int *"), self._library.ffi.new("uint16_t *")
        while not any(fd == self._wake for fd, _ in poller.poll()):
            while self._library.lib.svq_sim_next_event(self._handle, kind, domid) == 1:
                self._log.info("domain_died", domid=int(domid[0]))
                self._bury(int(domid[0]))
