# SPDX-License-Identifier: GPL-2.0-or-later
"""The loop of a service that serves devices found in XenStore: the mediator's on leg 1, the backend's on leg 2."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeVar

from xen_shadowvq.errors import (
    XENSTORE_TROUBLE,
    PeerProtocolError,
    ShadowVQError,
    XenStoreError,
    XenStoreGone,
    XenStoreTimeout,
)
from xen_shadowvq.log import RateLimited, get_logger
from xen_shadowvq.pace import Backoff, earliest
from xen_shadowvq.quotas import reason_of
from xen_shadowvq.service_manager import notify_systemd
from xen_shadowvq.xenstore import XenStore

T = TypeVar("T")

_EVENTS_A_TURN = 256
_ROOT_TOKEN = "devices"  # noqa: S105 - a watch token
_KEY_PARTS = 2  # a device is <peer domid>/<id>
_RECONNECT_DELAYS_S = (0.05, 0.2, 1.0, 5.0)
_WIND_DOWN_POLL_S = 0.005
_LONGEST_WAIT_S = 3600.0

troubles = RateLimited(interval_s=10.0)


class ServedDevice(Protocol):
    """
    What the loop needs of a device.

    `watched_roots` are directories that the devices of one peer domain share, so that the number of watches (a domain
    may have 128) grows with the domains and not with the devices. `concerns` says whether a change below one of them,
    or below the device's own directory, is worth a look; our own writes are not. `due` is when to call `tick` without
    any news, on the monotonic clock. `wind_down` is called until it returns True, or the service's patience is over,
    and `release` at the very end.
    """

    @property
    def watched_roots(self) -> tuple[str, ...]: ...
    @property
    def due(self) -> float | None: ...
    @property
    def gone(self) -> bool: ...
    def concerns(self, path: str) -> bool: ...
    def begin(self) -> None: ...
    def look(self, *, domain_died: bool = False) -> None: ...
    def tick(self) -> None: ...
    def check_fault(self) -> None: ...
    def wind_down(self) -> bool: ...
    def release(self) -> None: ...


Key = tuple[int, int]
Make = Callable[[int, int], ServedDevice]
MakeRefused = Callable[[int, int, str], ServedDevice]


class Service:
    """
    Serves the devices below `root`, at `root`/<peer domid>/<id>.

    A peer's mistake ends in that device's own error state, and what XenStore refuses is tried again: the loop goes on.
    When xenstored is lost, the loop reconnects and looks at everything again, while requests keep flowing in the data
    plane. A device that cannot be served is replaced by one from `make_refused`, which says why.
    """

    def __init__(
        self,
        store: XenStore,
        root: str,
        make: Make,
        make_refused: MakeRefused,
        devices_max: int,
        patience_s: float = 0.0,
        limit: str = "limits.devices",
    ) -> None:
        """`limit`: what sets `devices_max`. `patience_s`: how long devices may wind down at the end."""
        self._store = store
        self._root = root
        self._make = make
        self._make_refused = make_refused
        self._devices_max, self._limit = devices_max, limit
        self._patience_s = patience_s
        self._devices: dict[Key, ServedDevice] = {}
        self._refused: set[Key] = set()
        self._watched: dict[str, str] = {}  # path -> token
        self._again = Backoff()  # for what XenStore refuses beside the devices' own work
        self._alert_fds: set[int] = set()
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False
        self._log = get_logger()

    def on_readable(self, fd: int) -> None:
        """Has the loop check all devices for faults when the eventfd `fd` becomes readable; the loop empties it."""
        self._alert_fds.add(fd)

    def forget_fd(self, fd: int) -> None:
        """Undoes `on_readable`."""
        self._alert_fds.discard(fd)

    def stop(self) -> None:
        """Ends `run`. May be called from a signal handler or another thread."""
        self._stopping = True
        os.eventfd_write(self._stop_fd, 1)

    def run(self) -> None:
        """Serves until `stop`. At the end every device is released."""
        if not self._keep_watches():
            self._again.fail()
        notify_systemd("READY=1")
        self._log.info("service_ready", root=self._root)
        try:
            while not self._stopping:
                try:
                    self._turn()
                except (XenStoreGone, XenStoreTimeout) as error:
                    self._reconnect(error)
        finally:
            notify_systemd("STOPPING=1")
            self._let_go()
            self._log.info("service_stopped", devices=len(self._devices))
            os.close(self._stop_fd)

    # ---- one turn --------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._wait(earliest([self._again.due, *(device.due for device in self._devices.values())]))
        now = time.monotonic()
        for key, device in list(self._devices.items()):
            if device.due is not None and device.due <= now:
                self._serve(key, lambda device: device.tick())
        scan = self._hear()
        if scan or (self._again.due is not None and self._again.is_due):
            self._scan()
        if self._store.silent:
            raise XenStoreTimeout("XenStore does not answer")

    def _wait(self, until: float | None) -> None:
        poller = select.poll()
        poller.register(self._store.fileno(), select.POLLIN)
        poller.register(self._stop_fd, select.POLLIN)
        for fd in self._alert_fds:
            poller.register(fd, select.POLLIN)
        wait_s = _LONGEST_WAIT_S if until is None else min(_LONGEST_WAIT_S, max(0.0, until - time.monotonic()))
        for fd, _ in poller.poll(wait_s * 1000):
            if fd in self._alert_fds:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(fd)
                for key in list(self._devices):
                    self._serve(key, lambda device: device.check_fault())

    def _hear(self) -> bool:
        """Has devices look at what changed; returns whether there may be new ones."""
        looked: dict[Key, bool] = {}  # and whether a domain died
        scan = False
        for _ in range(_EVENTS_A_TURN):  # a peer can cause them faster than they are looked at
            if (event := self._store.next_event(timeout_ms=0)) is None:
                break
            if event.token == _ROOT_TOKEN:
                scan = scan or event.rescan or self._may_be_new(event.path)
            died = event.path.startswith("@")
            for key, device in self._devices.items():
                meant = event.token == _ROOT_TOKEN or event.token in device.watched_roots
                if meant and (died or event.rescan or device.concerns(event.path)):
                    looked[key] = looked.get(key, False) or died
        for key, died in looked.items():
            self._serve(key, lambda device, died=died: device.look(domain_died=died))  # type: ignore[misc]
        return scan

    def _may_be_new(self, path: str) -> bool:
        """Whether an event below the root concerns a device that is not served, or none in particular."""
        parts = path.removeprefix(self._root).strip("/").split("/")
        if len(parts) < _KEY_PARTS or not all(part.isdecimal() for part in parts[:_KEY_PARTS]):
            return True
        return (int(parts[0]), int(parts[1])) not in self._devices

    def _serve(self, key: Key, call: Callable[[ServedDevice], None]) -> None:
        device = self._devices.get(key)
        if device is not None:
            self._carefully(key, lambda: call(device))
            if device.gone:
                self._forget(key)

    def _carefully(self, key: Key, call: Callable[[], T]) -> T | None:
        """Confines whatever goes wrong with one device to that device. None: something did go wrong."""
        try:
            return call()
        except XenStoreGone:
            raise
        except ShadowVQError as error:
            troubles.warning(self._log, "device_trouble", key=key, peer=key[0], device=key[1], reason=str(error))
        except Exception:  # a defect of ours must not take all others' disks away
            left_out = troubles.admit(("device_defect", key))
            if left_out is not None:
                self._log.exception("device_defect", peer=key[0], device=key[1], left_out=left_out)
        return None

    # ---- which devices there are -----------------------------------------------------------------------------------

    def _scan(self) -> None:
        """Finds new devices, and has all of them watched; tries again after a pause if XenStore refuses a part."""
        refused = False
        for key in self._find():
            try:
                if key is None or not self._take_up(key):
                    refused = True
            except XENSTORE_TROUBLE as error:
                refused = True
                troubles.warning(self._log, "device_not_taken_up", key=key, reason=str(error))
        if self._keep_watches() and not refused:
            self._again.reset()
        else:
            self._again.fail()

    def _find(self) -> Iterable[Key | None]:
        """Yields the devices that exist, and None for a directory that could not be read."""
        for peer in self._ls(self._root):
            if peer is None:
                yield None
            elif peer.isdecimal():
                for number in sorted(self._ls(f"{self._root}/{peer}"), key=lambda name: (len(name or ""), name or "")):
                    if number is None:
                        yield None
                    elif number.isdecimal():
                        yield int(peer), int(number)

    def _ls(self, path: str) -> list[str | None]:
        try:
            return list(self._store.ls(path))
        except XENSTORE_TROUBLE as error:
            troubles.warning(self._log, "directory_not_read", key=path, reason=str(error))
            return [None]

    def _take_up(self, key: Key) -> bool:
        path = f"{self._root}/{key[0]}/{key[1]}"
        if key in self._devices or self._store.read(f"{path}/state") is None:
            return True  # or not all of its nodes exist yet: another event comes
        try:
            served = len(self._devices) - len(self._refused)
            if served >= self._devices_max:
                raise ShadowVQError(f"{path}: {self._devices_max} devices are served already ({self._limit})")
            device = self._make(*key)
            self._watch_for(device)
        except (*XENSTORE_TROUBLE, XenStoreGone):
            raise
        except ShadowVQError as error:
            reason = str(error)
            if isinstance(error, PeerProtocolError):
                reason += f"; if a guest that is gone has left these nodes, remove them: xenstore-rm {path}"
            self._log.warning("device_refused", peer=key[0], device=key[1], reason=reason)
            device = self._make_refused(*key, reason)
            self._refused.add(key)
        self._devices[key] = device
        self._serve(key, lambda device: device.begin())
        return True

    def _watch_for(self, device: ServedDevice) -> None:
        """
        Called before it is taken up, else it would not hear of its peers. ShadowVQError: XenStore allows no more
        watches.
        """
        for root in device.watched_roots:
            if root in self._watched:
                continue
            try:
                self._store.watch(root, root)
            except XenStoreError as error:
                if error.errno != errno.E2BIG:
                    raise
                raise ShadowVQError(reason_of(error, self._root)) from error
            self._watched[root] = root

    def _keep_watches(self) -> bool:
        """Sets and ends watches until they are those that the devices want. False: XenStore refused one."""
        roots = {root: root for device in self._devices.values() for root in device.watched_roots}
        wanted = {self._root: _ROOT_TOKEN, "@releaseDomain": _ROOT_TOKEN, **roots}
        complete = True
        for path in [path for path in self._watched if path not in wanted]:
            with contextlib.suppress(*XENSTORE_TROUBLE):
                self._store.unwatch(path, self._watched[path])
            del self._watched[path]
        for path, token in wanted.items():
            if path not in self._watched:
                try:
                    self._store.watch(path, token)
                    self._watched[path] = token
                except XENSTORE_TROUBLE as error:
                    complete = False
                    troubles.warning(self._log, "not_watched", key=path, reason=reason_of(error, self._root))
        return complete

    def _forget(self, key: Key) -> None:
        device = self._devices.pop(key)
        self._refused.discard(key)
        self._carefully(key, device.release)
        if not self._keep_watches():
            self._again.fail()

    # ---- the end, and the end of xenstored -------------------------------------------------------------------------

    def _let_go(self) -> None:
        deadline = time.monotonic() + self._patience_s
        busy = dict(self._devices)
        with contextlib.suppress(XenStoreGone):
            while busy and time.monotonic() < deadline:
                busy = {key: one for key, one in busy.items() if self._carefully(key, one.wind_down) is False}
                time.sleep(_WIND_DOWN_POLL_S if busy else 0.0)
        for key, device in self._devices.items():
            with contextlib.suppress(XenStoreGone):
                self._carefully(key, device.release)

    def _reconnect(self, error: ShadowVQError) -> None:
        self._log.warning("xenstore_lost", reason=str(error))
        for attempt in range(1 << 30):
            if self._stopping:
                return
            time.sleep(_RECONNECT_DELAYS_S[min(attempt, len(_RECONNECT_DELAYS_S) - 1)])
            try:
                self._store.reconnect()
            except (XenStoreGone, XenStoreTimeout, XenStoreError):
                continue
            self._log.info("xenstore_back")
            return


def touches(path: str, interests: Mapping[str, tuple[str, ...]]) -> bool:
    """
    Whether a change at `path` matters. `interests` has, for each directory, how the names below it begin that matter.
    The directory itself, and those above it, always matter: it was made or removed.
    """
    for directory, names in interests.items():
        if directory == path or directory.startswith(f"{path}/"):
            return True
        if path.startswith(f"{directory}/"):
            return path[len(directory) + 1 :].startswith(names)
    return False
