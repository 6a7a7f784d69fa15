# SPDX-License-Identifier: GPL-2.0-or-later
"""The command agent of dom0 and of guests with a full userland: runs what the harness sends over a character device.

usage: agent.py DEVICE

What it is asked, in one line and what follows it, and what it answers, in one line:
    to the agent    RS SVQ target id deadline_s script_length stdin_length LF script stdin LF
    from the agent  RS SVQ target id status stdout stderr LF
Texts are base64, those of an answer `-` if empty; lengths are of the base64, so that a shell can take them whole.
`target` is `.` for the agent itself, or the terminal of a guest's console (dom0 only), to whose agent the message is
passed on. id 0 asks for nothing: it opens the way to the target. `status` is a shell's exit status, or `timeout`.
A console may lose what is on it. With deadline 0, and no texts, the harness asks after a request that it has had no
answer to: while that runs there still is none, after it the same answer comes, with `again:` before the status; the
status `unknown` says that the request never came.
Answers with id 0 are news: `hello` (the agent is there), `closed` (the guest's console is gone), `died` (its kernel
said so, in the words of stderr). Of what else is on a console only that counts; all of it is in xenconsoled's log.
"""

import base64
import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import tty
from typing import BinaryIO

MARK = b"\x1eSVQ"
SELF = b"."
LAST_WORDS = (b"Kernel panic", b"harness: ")
CHUNK = 65536
ANSWERS_KEPT = 64
REQUEST_FIELDS = 5


def _encode(data: bytes) -> bytes:
    return base64.b64encode(data) or b"-"


class Line:
    """One character device that carries messages; any thread may send."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        self._lock = threading.Lock()
        self._rest = b""
        if os.isatty(self.fd):
            tty.setraw(self.fd, termios.TCSANOW)

    def send(self, *fields: bytes, body: bytes = b"") -> None:
        """Sends one message."""
        data = b" ".join((MARK, *fields)) + b"\n" + body
        with self._lock:
            while data:
                data = data[os.write(self.fd, data) :]

    def _fill(self) -> None:
        chunk = os.read(self.fd, CHUNK)
        if not chunk:
            raise EOFError
        self._rest += chunk

    def receive(self) -> list[bytes]:
        """Returns the fields of the next message's line; OSError or EOFError at the end."""
        while True:
            while b"\n" in self._rest:
                text, _, self._rest = self._rest.partition(b"\n")
                _, mark, message = text.partition(MARK)
                if mark:
                    return message.split()
                if any(words in text for words in LAST_WORDS):
                    return [SELF, b"0", b"died", b"-", _encode(text.strip())]
            self._fill()

    def take(self, length: int) -> bytes:
        """Returns the next bytes."""
        while len(self._rest) < length:
            self._fill()
        taken, self._rest = self._rest[:length], self._rest[length:]
        return taken


class Request:
    """A message to an agent, as it comes off a line."""

    def __init__(self, line: Line) -> None:
        message = line.receive()
        while len(message) != REQUEST_FIELDS:
            message = line.receive()
        self.target, self.number, self._deadline, script, stdin = message
        self._lengths = script, stdin
        self._script = line.take(int(script))
        self._stdin = line.take(int(stdin))

    @property
    def asks_again(self) -> bool:
        """Whether it only asks what has become of an earlier one of its number."""
        return float(self._deadline) == 0

    def run(self) -> tuple[bytes, bytes, bytes]:
        """Does what it asks for; returns status, stdout and stderr."""
        return run_script(base64.b64decode(self._script), base64.b64decode(self._stdin), float(self._deadline))

    def send_to(self, line: Line) -> None:
        """Passes it on to the agent it is for."""
        line.send(SELF, self.number, self._deadline, *self._lengths, body=self._script + self._stdin + b"\n")


def run_script(script: bytes, stdin: bytes, deadline_s: float) -> tuple[bytes, bytes, bytes]:
    """Runs a shell script; returns its status, stdout and stderr. Programs that it leaves behind do not hold it up."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        process = subprocess.Popen(
            ["/bin/sh", "-c", script],
            stdin=given,
            stdout=out,
            stderr=err,
            start_new_session=True,
            cwd="/root",
        )
        try:
            status = str(process.wait(timeout=deadline_s)).encode()
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = b"timeout"

        def whole(file: BinaryIO) -> bytes:
            file.seek(0)
            return file.read()

        return status, whole(out), whole(err)


class Guest:
    """The console of a guest, with threads of its own: a guest that does not read holds up nobody else."""

    def __init__(self, terminal: bytes, answer_line: Line) -> None:
        self._terminal = terminal
        self._answer_line = answer_line
        self._line = Line(terminal.decode())
        self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self.open = True
        for work in (self._send, self._receive):
            threading.Thread(target=work, daemon=True).start()

    def pass_on(self, request: Request) -> None:
        """Sends a request to the guest's agent, after those before it."""
        self._requests.put(request)

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._requests.get().send_to(self._line)

    def _receive(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                _, *rest = self._line.receive()
                self._answer_line.send(self._terminal, *rest)
        self.open = False
        self._answer_line.send(self._terminal, b"0", b"closed", b"-", b"-")


class Agent:
    """Answers the harness on one line, and passes on what is for guests."""

    def __init__(self, device: str) -> None:
        self._line = Line(device)
        self._guests: dict[bytes, Guest] = {}
        self._answers: dict[bytes, tuple[bytes, ...]] = {}  # of the last requests; () while one runs

    def _answer(self, request: Request) -> None:
        try:
            status, out, err = request.run()
        except Exception as error:
            status, out, err = b"126", b"", repr(error).encode()
        self._answers[request.number] = answer = (status, _encode(out), _encode(err))
        self._line.send(SELF, request.number, *answer)

    def _forget_old_answers(self) -> None:
        for number in [number for number, answer in self._answers.items() if answer][:-ANSWERS_KEPT]:
            del self._answers[number]

    def _answer_again(self, number: bytes) -> None:
        answer = self._answers.get(number)
        if answer is None:
            self._line.send(SELF, number, b"unknown", b"-", b"-")
        elif answer:
            self._line.send(SELF, number, b"again:" + answer[0], *answer[1:])

    def _pass_on(self, request: Request) -> None:
        guest = self._guests.get(request.target)
        if guest is None or not guest.open:
            try:
                guest = self._guests[request.target] = Guest(request.target, self._line)
            except OSError:
                self._line.send(request.target, b"0", b"closed", b"-", b"-")
                return
        if request.number != b"0":
            guest.pass_on(request)

    def serve(self) -> None:
        """Serves until the line ends."""
        self._line.send(SELF, b"0", b"hello", b"-", b"-")
        while True:
            request = Request(self._line)
            if request.target != SELF:
                self._pass_on(request)
            elif request.asks_again:
                self._answer_again(request.number)
            elif request.number != b"0":
                self._forget_old_answers()
                self._answers[request.number] = ()
                threading.Thread(target=self._answer, args=(request,), daemon=True).start()


if __name__ == "__main__":
    Agent(sys.argv[1]).serve()
