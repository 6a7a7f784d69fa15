# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowvq demo` as an operator runs it: what it reports, and that its attack can see a leak."""

from __future__ import annotations

import json
import subprocess
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from xen_shadowvq.demo.aftermath import KEPT
from xen_shadowvq.demo.image import make_image, sha256

from .command import REPOSITORY, TIMEOUT_S, Done, ask, command, run
from .demo_promises import GOOD

IMAGE_MIB = 24
GUEST_PAGES = 64 * 256


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ext4 image of the user's."""
    path = tmp_path_factory.mktemp("image") / "user.img"
    make_image(path, IMAGE_MIB)
    return path


def demo(output: Path, *options: str) -> tuple[Done, dict[str, Any]]:
    """Runs the demo to its end; returns how it ended, and report.json."""
    done = run("demo", f"--output={output}", *options)
    path = output / "report.json"
    return done, json.loads(path.read_text()) if path.exists() else {}


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, dict[str, Any]]:
    """The demo with nothing but defaults."""
    return demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def report(ordinary: tuple[Done, dict[str, Any]]) -> dict[str, Any]:
    """Its report."""
    return ordinary[1]


def test_demo_with_an_image_of_its_own(ordinary: tuple[Done, dict[str, Any]]) -> None:
    """With nothing but defaults the demo ends with status 0 and a report in which every promise is kept, and what it
    shows on the terminal names each of them."""
    done, report = ordinary
    assert (done.status, done.err) == (0, "")
    assert {key: report[key] for key in GOOD} == GOOD
    assert (report["placement"], report["window"]) == ("exact", "direct")
    assert report["pages_probed"] > 3 * GUEST_PAGES
    assert report["requests"] > 0 and report["bytes_zero_copy"] > 0 and report["bytes_bounced"] > 0
    assert "bytes reachable beyond the described buffers" in done.out and "NO" not in done.out


@pytest.mark.parametrize("attack", ["kept_mapping", "mediator_killed"])
def test_what_the_guest_sees_of_an_attack(attack: str, report: dict[str, Any]) -> None:
    """Of the requests that were alive none ends that has a page which the backend keeps: it waits while the device is
    Closing, and the guest is told how many pages are held; after the end of the mediator all of them wait, since nobody
    knows which."""
    found = report[attack]
    assert found["pages_kept"] == found["pages_held"] == KEPT
    assert found["completed"] + found["failed"] + found["waiting"] == found["requests"]
    assert found["waiting"] == found["requests"] if attack == "mediator_killed" else 0 < found["waiting"] <= KEPT
    assert f"{found['waiting']} waiting while Closing with {KEPT} pages held" in report[f"guest_saw_{attack}"]


def test_demo_in_a_dynamic_window_on_the_users_image(tmp_path: Path, image: Path) -> None:
    """With the user's image and a dynamic window everything holds too; the image is copied, and not a byte of it
    changes. With --json the report is all that stands on standard output."""
    before = sha256(image)
    done, report = demo(tmp_path, "--image", str(image), "--window", "dynamic", "--json")
    assert done.status == 0, done.err
    assert report["kept_mapping"]["pages_held"] == report["mediator_killed"]["pages_held"] == KEPT
    assert json.loads(done.out) == report
    assert {key: report[key] for key in GOOD} == GOOD
    assert report["window"] == "dynamic" and report["bytes_zero_copy"] > 0
    assert report["image_sha256"] == before == sha256(image)
    assert report["image_bytes"] == IMAGE_MIB << 20


def test_the_attack_sees_a_leak(tmp_path: Path, image: Path) -> None:
    """With whole pages granted, as without ShadowVQ's placement, the same attack does reach bytes outside the buffers:
    a report of 0 elsewhere is no blindness."""
    done, report = demo(tmp_path, "--image", str(image), "--placement", "page")
    assert done.status == 0, done.err
    assert report["bytes_reachable_outside_buffers"] > 0
    assert report["pages_writable_beyond_requests"] > 0
    assert report["pages_reachable_outside_requests"] == 0
    assert report["image_sha256_match"] and report["written_sha256_match"] and report["fsck_clean"]


def test_copying_everything_grants_nothing(tmp_path: Path, image: Path) -> None:
    """With placement copy no byte is granted, and none of the frontend's pages is reachable at any time."""
    done, report = demo(tmp_path, "--image", str(image), "--placement", "copy")
    assert done.status == 0, done.err
    assert {key: report[key] for key in GOOD} == GOOD
    assert (report["bytes_zero_copy"], report["grants"]) == (0, 0)
    assert report["kept_mapping"]["pages_kept"] == report["mediator_killed"]["pages_kept"] == 0
    assert report["bytes_bounced"] >= IMAGE_MIB << 20


@pytest.mark.parametrize(
    ("kind", "words"), [("missing", "regular file"), ("directory", "regular file"), ("small", "262144")]
)
def test_demo_names_an_image_that_it_cannot_use(tmp_path: Path, kind: str, words: str) -> None:
    """An image that is missing, no file, or too small: status 2 and one line that names it and what was expected."""
    path = tmp_path / "no.img"
    if kind == "directory":
        path.mkdir()
    elif kind == "small":
        path.write_bytes(bytes(4096))
    done, _ = demo(tmp_path / "out", "--image", str(path))
    assert done.status == 2
    lines = done.err.splitlines()
    assert len(lines) == 1 and str(path) in lines[0] and words in lines[0]


def test_demo_that_is_kept(tmp_path: Path) -> None:
    """With --keep the machine stays up, and the commands that it names work on it, until Enter is pressed; then the
    demo ends as it always does."""
    line = command("demo", f"--output={tmp_path}", "--keep", "--json")
    pipe = subprocess.PIPE
    with subprocess.Popen(line, text=True, cwd=REPOSITORY, stdin=pipe, stdout=pipe, stderr=pipe) as kept:
        assert kept.stderr
        named = [words[1:] for words in map(str.split, islice((text for text in kept.stderr if " ctl " in text), 3))]
        answers = [ask(*words) for words in named]
        out, _ = kept.communicate("\n", timeout=TIMEOUT_S)
    assert [words[1] for words in named] == ["list", "status", "trace"]
    assert [answer.status for answer in answers] == [0, 0, 0]
    assert "Connected" in answers[0].out and "grants_ended" in answers[1].out and "queue 0 of 1" in answers[2].out
    assert kept.returncode == 0 and json.loads(out)["restored_sha256_match"] is True
