# SPDX-License-Identifier: GPL-2.0-or-later
"""The loop of a service that serves devices found in XenStore: the mediator's on leg 1, the backend's on leg 2."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from xen_shadowvq.errors import PeerProtocolError, ShadowVQError, XenStoreError, XenStoreGone, XenStoreTimeout
from xen_shadowvq.log import get_logger
from xen_shadowvq.xenstore import XenStore

BUSY_INTERVAL_MS = 5
"""How often devices are asked that wait for something which no watch tells."""

_ROOT_TOKEN = "devices"  # noqa: S105 - a watch token
_KEY_PARTS = 2  # a device is <peer domid>/<id>
_ERROR_CHARS_MAX = 1024
_RECONNECT_DELAYS_S = (0.05, 0.2, 1.0, 5.0)


class ServedDevice(Protocol):
    """
    What the loop needs of a device.

    `watched_roots` are directories that devices of one peer domain share, so that the number of watches grows with the
    domains and not with the devices (a domain may have 128). `concerns` says whether a change below one of them, or
    below the device's own directory, is worth a look; our own writes are not.
    """

    @property
    def watched_roots(self) -> tuple[str, ...]: ...
    @property
    def busy(self) -> bool: ...
    @property
    def gone(self) -> bool: ...
    def concerns(self, path: str) -> bool: ...
    def begin(self) -> None: ...
    def look(self) -> None: ...
    def tick(self) -> None: ...
    def check_fault(self) -> None: ...
    def release(self) -> None: ...


Key = tuple[int, int]
Make = Callable[[int, int], ServedDevice]


class Service:
    """
    Serves the devices below `root`, at `root`/<peer domid>/<id>.

    A mistake of one peer ends in that device's own error state; the loop goes on. When xenstored is lost the loop
    connects again and looks at everything anew, while requests go on flowing in the data plane.
    """

    def __init__(self, store: XenStore, root: str, make: Make, devices_max: int) -> None:
        self._store = store
        self._root = root
        self._make = make
        self._devices_max = devices_max
        self._devices: dict[Key, ServedDevice] = {}
        self._users: dict[str, set[Key]] = {}  # of each watched root
        self._refused: set[Key] = set()
        self._alert_fds: set[int] = set()
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False
        self._log = get_logger()

    def on_readable(self, fd: int) -> None:
        """Has the loop check all devices for faults when the eventfd `fd` becomes readable; the loop empties it."""
        self._alert_fds.add(fd)

    def forget_fd(self, fd: int) -> None:
        """Ends that."""
        self._alert_fds.discard(fd)

    def stop(self) -> None:
        """Ends `run`. May be called from a signal handler or another thread."""
        self._stopping = True
        os.eventfd_write(self._stop_fd, 1)

    def run(self) -> None:
        """Serves until `stop`. At the end every device is released."""
        self._store.watch(self._root, _ROOT_TOKEN)
        self._store.watch("@releaseDomain", _ROOT_TOKEN)
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
            for device in self._devices.values():
                device.release()
            self._log.info("service_stopped", devices=len(self._devices))
            os.close(self._stop_fd)

    # ---- one turn --------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        busy = [key for key, device in self._devices.items() if device.busy]
        self._wait(BUSY_INTERVAL_MS if busy else None)
        for key in busy:
            self._serve(key, lambda device: device.tick())
        looked: set[Key] = set()
        scan = False
        while (event := self._store.next_event(timeout_ms=0)) is not None:
            if event.token == _ROOT_TOKEN:
                scan = scan or event.rescan or self._may_be_new(event.path)
            users = set(self._devices) if event.token == _ROOT_TOKEN else self._users.get(event.token, set())
            everyone = event.rescan or event.path.startswith("@")  # a domain died
            looked |= {key for key in users if everyone or self._devices[key].concerns(event.path)}
        if scan:
            self._scan()
        for key in looked:
            self._serve(key, lambda device: device.look())

    def _may_be_new(self, path: str) -> bool:
        """Does an event below the root speak of a device that is not served, or of none in particular?"""
        parts = path.removeprefix(self._root).strip("/").split("/")
        if len(parts) < _KEY_PARTS or not all(part.isdecimal() for part in parts[:_KEY_PARTS]):
            return True
        return (int(parts[0]), int(parts[1])) not in self._devices

    def _wait(self, timeout_ms: int | None) -> None:
        poller = select.poll()
        poller.register(self._store.fileno(), select.POLLIN)
        poller.register(self._stop_fd, select.POLLIN)
        for fd in self._alert_fds:
            poller.register(fd, select.POLLIN)
        for fd, _ in poller.poll(timeout_ms):
            if fd in self._alert_fds:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(fd)
                for key in list(self._devices):
                    self._serve(key, lambda device: device.check_fault())

    def _serve(self, key: Key, call: Callable[[ServedDevice], None]) -> None:
        device = self._devices.get(key)
        if device is None:
            return
        try:
            call(device)
        except (XenStoreGone, XenStoreTimeout):
            raise
        except ShadowVQError as error:
            self._log.warning("device_trouble", peer=key[0], device=key[1], reason=str(error))
        if device.gone:
            self._forget(key)

    def _scan(self) -> None:
        """Finds new devices. One that cannot even be begun is refused until its directory is gone."""
        found = {
            (int(peer), int(number))
            for peer in self._store.ls(self._root)
            if peer.isdecimal()
            for number in self._store.ls(f"{self._root}/{peer}")
            if number.isdecimal()
        }
        self._refused &= found
        for key in sorted(found - set(self._devices) - self._refused):
            path = f"{self._root}/{key[0]}/{key[1]}"
            if self._store.read(f"{path}/state") is None:
                continue  # its nodes are not all there yet: another event comes
            try:
                if len(self._devices) >= self._devices_max:
                    raise ShadowVQError(f"{path}: {self._devices_max} devices are served already (limits.devices)")
                self._devices[key] = self._make(*key)
                self._watch(key, self._devices[key])
                self._devices[key].begin()
            except (XenStoreGone, XenStoreTimeout):
                raise
            except ShadowVQError as error:
                reason = str(error)
                if isinstance(error, PeerProtocolError):
                    reason += f"; if these nodes are left over from a guest that is gone: xenstore-rm {path}"
                self._log.warning("device_refused", peer=key[0], device=key[1], reason=reason)
                self._refused.add(key)
                self._say_refused(path, reason)
                if key in self._devices:
                    self._forget(key)

    def _say_refused(self, path: str, reason: str) -> None:
        """So that the peer does not wait for a device that never comes, and the operator can read why."""
        try:
            self._store.write(f"{path}/error", reason[:_ERROR_CHARS_MAX])
            self._store.write(f"{path}/state", "6")
        except XenStoreError as error:
            self._log.warning("refusal_not_written", path=path, reason=str(error))

    def _watch(self, key: Key, device: ServedDevice) -> None:
        for root in device.watched_roots:
            users = self._users.setdefault(root, set())
            users.add(key)
            if len(users) == 1:
                self._store.watch(root, root)

    def _forget(self, key: Key) -> None:
        device = self._devices.pop(key)
        for root in device.watched_roots:
            users = self._users.get(root, set())
            users.discard(key)
            if not users and self._users.pop(root, None) is not None:
                self._store.unwatch(root, root)
        device.release()

    def _reconnect(self, error: ShadowVQError) -> None:
        self._log.warning("xenstore_lost", reason=str(error))
        for attempt in range(1 << 30):
            if self._stopping:
                return
            time.sleep(_RECONNECT_DELAYS_S[min(attempt, len(_RECONNECT_DELAYS_S) - 1)])
            try:
                self._store.reconnect()
            except (XenStoreGone, XenStoreTimeout):
                continue
            self._log.info("xenstore_back")
            return


def touches(path: str, interests: Mapping[str, tuple[str, ...]]) -> bool:
    """
    Is a change at `path` one of those that matter? `interests`: for each directory, how the names below it
    begin that do. The directory itself, and those above it, always do: it was made or taken away.
    """
    for directory, names in interests.items():
        if directory == path or directory.startswith(f"{path}/"):
            return True
        if path.startswith(f"{directory}/"):
            return path[len(directory) + 1 :].startswith(names)
    return False


def notify_systemd(state: str) -> None:
    """Tells the service manager (sd_notify), if there is one."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.send(state.encode())
