# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowvq demo` in folders of any name, with images of any name and size, and with an end that comes from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xen_shadowvq.demo.image import sha256, tool

from .command import REPOSITORY, Done, command, run
from .demo_promises import GOOD

DEADLINE_S = 60.0


def good(done: Done, output: Path) -> dict[str, Any]:
    """The report of a demo in which every promise was kept."""
    assert done.status == 0, done.err
    report: dict[str, Any] = json.loads((output / "report.json").read_text())
    assert {key: report[key] for key in GOOD if key != "fsck_clean"} == {
        key: value for key, value in GOOD.items() if key != "fsck_clean"
    }
    return report


def line_of(done: Done) -> str:
    """The one line of a command that cannot do what was asked."""
    lines = [line for line in done.err.splitlines() if line]
    assert done.status == 2 and len(lines) == 1 and lines[0].startswith("shadowvq: "), done.err
    return lines[0]


@pytest.mark.parametrize("image_bytes", [5 << 20, (256 << 10) + 700], ids=["rescue image", "smallest"])
def test_a_small_image_of_an_odd_name_in_an_odd_folder(tmp_path: Path, image_bytes: int) -> None:
    """An image of a few MiB, whose name begins with a dash, in a folder whose name is not ASCII and too long for
    sockets, which is also where temporary files go: the whole job is done in proportion, the image is untouched, and
    the copy is as it was."""
    home = tmp_path / "Käthe's disks [1]" / ("x" * 100)
    home.mkdir(parents=True)
    (home / "-x.img").write_bytes(os.urandom(image_bytes))
    before = sha256(home / "-x.img")
    done = run("demo", "--image", "-x.img", "--output=-out", cwd=home, TMPDIR=str(home))
    report = good(done, home / "-out")
    assert report["image_sha256"] == before or image_bytes % 512
    assert sha256(home / "-x.img") == sha256(home / "-out" / "disk.img") == before
    assert report["kept_mapping"]["pages_kept"] > 0 and report["pages_reachable_inside_requests"] > 0


def test_a_small_file_system_stays_whole(tmp_path: Path) -> None:
    """Also where all of the disk is about as large as the requests of the attack, the file system comes out clean."""
    image = tmp_path / "small.img"
    subprocess.run([tool("mke2fs") or "mke2fs", "-q", "-F", "-t", "ext2", str(image), "1M"], check=True)
    done = run("demo", "--image", str(image), f"--output={tmp_path / 'out'}")
    assert good(done, tmp_path / "out")["fsck_clean"] is True


@pytest.mark.parametrize("where", ["below a file", "on a full disk"])
def test_an_output_that_cannot_be_written(tmp_path: Path, where: str) -> None:
    """Status 2 and one line that names the place."""
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "out"
    if where == "on a full disk":
        output = tmp_path
        (tmp_path / "report.json").symlink_to("/dev/full")
    image = tmp_path / "disk"
    image.write_bytes(os.urandom(1 << 20))
    line = line_of(run("demo", "--image", str(image), f"--output={output}"))
    assert str(tmp_path) in line and ("Not a directory" in line or "No space left" in line)


def processes(*words: str) -> dict[int, list[str]]:
    """Those whose command line has one of these words in it."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it has just ended
        if any(word in argument for word in words for argument in arguments):
            found[int(path.parent.name)] = arguments
    return found


def until(condition: Callable[[], object], what: str) -> None:
    """Waits for it."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda number: number.name)
def test_nothing_outlives_a_demo_that_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    """However the demo is ended in the middle of its job, all its processes end; where it can, it takes its folder away
    and says so."""
    demo = subprocess.Popen(
        command("demo", f"--output={tmp_path}"),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
    )  # fmt: skip
    try:
        until((tmp_path / "logs" / "frontend.log").exists, "frontend")
        mediator = next(iter(processes(str(tmp_path / "mediator.yaml")).values()))
        folder = mediator[mediator.index("--sim") + 1]
        until(lambda: len(processes(folder)) == 3, "three processes")
        demo.send_signal(number)
        _, err = demo.communicate(timeout=DEADLINE_S)
        until(lambda: not processes(folder), "end of all processes")
    finally:
        demo.kill()
        demo.wait()
    if number != signal.SIGKILL:
        assert demo.returncode == 1 and err.splitlines()[-1] == "shadowvq: interrupted"
        assert not Path(folder).exists()
