# SPDX-License-Identifier: GPL-2.0-or-later
"""The harness's end of the command channel: guest/agent.py says what goes over it."""

import base64
import binascii
import contextlib
import itertools
import socket
import threading
import time
from dataclasses import dataclass

from tests.harness.errors import AgentMisbehaved, CommandFailed, DomainGone, WaitTimedOut
from tests.harness.monitor import Monitor

MARK = b"\x1eSVQ"
DOM0 = "."
CHUNK = 1 << 16
ANSWER_FIELDS = 5
# The agent enforces a command's deadline, in the machine's own time; this is for an agent that has died.
AGENT_GRACE_S = 60.0
AGAIN_S = 15.0  # without an answer for so long, the agent is asked what has become of the request


@dataclass(frozen=True)
class Result:
    """How a command ended. `status` is a shell's exit status; None if its deadline ended it."""

    status: int | None
    stdout: str
    stderr: str


def _decode(field: bytes) -> str:
    return "" if field == b"-" else base64.b64decode(field, validate=True).decode(errors="replace")


class Job:
    """A command that was started in dom0 or in a guest."""

    def __init__(self, channel: "Channel", target: str, number: int, script: str, deadline_s: float) -> None:
        self._channel = channel
        self._target = target
        self._number = number
        self._script = script
        self._deadline_s = deadline_s

    def wait(self) -> Result:
        """Waits for its end, however it ends. DomainGone if the guest dies first, MachineFailed if the machine does."""
        what = f"the end of `{self._script}`"
        return self._channel.wait_result(self._target, self._number, what, self._deadline_s + AGENT_GRACE_S)

    def check(self, *statuses: int) -> Result:
        """Waits for its end; CommandFailed unless it ended with one of `statuses` (default: 0)."""
        result = self.wait()
        if result.status not in (statuses or (0,)):
            end = "its deadline passed" if result.status is None else f"status {result.status}"
            raise CommandFailed(f"`{self._script}`: {end}\n{result.stdout}{result.stderr}")
        return result


class Channel:
    """Runs commands in dom0 and, through dom0's agent, in guests. Any thread may use it.

    `losses` are the messages that had to be sent twice, in words.
    """

    def __init__(self, connection: socket.socket, monitor: Monitor) -> None:
        self._connection = connection
        self._monitor = monitor
        self._send_lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._requests: dict[int, tuple[str, float, bytes, bytes]] = {}  # those without an answer
        self._lost: set[int] = set()  # requests that never came to their agents
        self._results: dict[int, Result] = {}
        self.losses: list[str] = []
        self._ready: set[str] = set()
        self._gone: dict[str, str] = {}  # target -> why
        self._thread = threading.Thread(target=self._receive, name="xen-agent-channel", daemon=True)
        self._thread.start()

    def _send(self, number: int, target: str, deadline_s: float, script: bytes, stdin: bytes) -> None:
        deadline = str(round(deadline_s)).encode()
        texts = base64.b64encode(script), base64.b64encode(stdin)
        lengths = (str(len(text)).encode() for text in texts)
        line = b" ".join((MARK, target.encode(), str(number).encode(), deadline, *lengths))
        with self._send_lock:
            self._connection.sendall(line + b"\n" + b"".join(texts) + b"\n")

    def _receive(self) -> None:
        rest = b""
        try:
            while chunk := self._connection.recv(CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._take(line)
            self._monitor.fail("the command channel has closed")
        except (OSError, AgentMisbehaved) as error:
            self._monitor.fail(f"the command channel failed: {error}")

    def _take(self, line: bytes) -> None:
        mark, *fields = line.split(b" ")
        if mark != MARK:
            return
        if len(fields) != ANSWER_FIELDS:
            raise AgentMisbehaved(f"an answer of {len(fields)} fields: {line[:200]!r}")
        target, number, status = (field.decode(errors="replace") for field in fields[:3])
        with self._monitor.changed:
            if number == "0":
                self._take_news(target, status, fields[4])
            else:
                try:
                    self._take_answer(int(number), status, fields[3], fields[4])
                except (ValueError, binascii.Error) as error:
                    raise AgentMisbehaved(f"{line[:200]!r}: {error}") from error
            self._monitor.changed.notify_all()

    def _take_answer(self, number: int, status: str, stdout: bytes, stderr: bytes) -> None:
        request = self._requests.get(number)
        if request is None:  # it was answered before
            return
        if status == "unknown":
            self.losses.append(f"request {number} on the way to {request[0]}")
            self._lost.add(number)
            return
        if status.startswith("again:"):
            self.losses.append(f"the answer to request {number}, on the way from {request[0]}")
            status = status.removeprefix("again:")
        code = None if status == "timeout" else int(status)
        self._results[number] = Result(code, _decode(stdout), _decode(stderr))
        del self._requests[number]

    def _take_news(self, target: str, news: str, text: bytes) -> None:
        if news == "hello":
            self._ready.add(target)
        elif news == "died":
            self._gone.setdefault(target, f"it died: {_decode(text)}")
        else:
            self._gone.setdefault(target, "its console has closed")

    def _check_there(self, target: str, what: str) -> None:
        if target in self._gone:
            raise DomainGone(f"{what}: the guest is gone: {self._gone[target]}")

    def start(self, target: str, script: str, deadline_s: float, stdin: bytes = b"") -> Job:
        """Starts a shell script. `deadline_s` counts in the machine's time; a guest with busybox does one at a time."""
        number = next(self._numbers)
        self._monitor.check()
        self._requests[number] = request = (target, max(1.0, deadline_s), script.encode(), stdin)
        self._send(number, *request)
        return Job(self, target, number, script, deadline_s)

    def wait_result(self, target: str, number: int, what: str, deadline_s: float) -> Result:
        """Waits for the answer to the request `number`; asks for it when it is long in coming."""

        def answered() -> Result | None:
            result = self._results.pop(number, None)
            if result is None:
                self._check_there(target, what)
            return result

        end = time.monotonic() + deadline_s
        while (left := end - time.monotonic()) > AGAIN_S:
            with contextlib.suppress(WaitTimedOut):
                return self._monitor.wait(answered, what, AGAIN_S)
            if number in self._lost:
                self._lost.remove(number)
                self._send(number, *self._requests[number])
            else:
                self._send(number, target, 0, b"", b"")
        return self._monitor.wait(answered, f"{what} within {deadline_s:.0f} s", left)

    def open(self, target: str, what: str, deadline_s: float) -> None:
        """Waits until the agent of `target` has said that it is there."""
        if target != DOM0:
            self._send(0, target, 1, b"", b"")

        def ready() -> bool | None:
            self._check_there(target, what)
            return True if target in self._ready else None

        self._monitor.wait(ready, f"the agent of {what}", deadline_s)

    def forget(self, target: str) -> None:
        """Forgets a guest's console, whose name may come back for another guest."""
        with self._monitor.changed:
            self._ready.discard(target)
            self._gone.pop(target, None)

    def join(self, deadline_s: float) -> None:
        """Waits for the receiving thread, whose connection was shut down."""
        self._thread.join(deadline_s)
