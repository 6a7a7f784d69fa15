# SPDX-License-Identifier: GPL-2.0-or-later
"""The report on isolation's cost (`make report`): its arithmetic, the shape of its data, and its pages."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness.errors import CommandFailed, MissingTool
from tests.harness.qemu import COUNT_INSTRUCTIONS
from tests.xen.bench import __main__ as command
from tests.xen.bench import figures, render
from tests.xen.bench.jobs import JOBS, Measured, job_file, parse
from tests.xen.bench.ways import NOT_BUILT, WAYS

BASE = {"plain": 1000.0, "xen-blkback-persistent": 500.0, "exact-strict": 400.0}


def _round(factor: float, **changed: float) -> figures.Round:
    rates = BASE | changed
    return {job: {way: Measured(rate * factor, 100.0, 64) for way, rate in rates.items()} for job in JOBS}


def _rounds() -> list[figures.Round]:
    return [_round(1.0), _round(2.0, **{"exact-strict": 500.0}), _round(0.5, **{"exact-strict": 300.0})]


def _data() -> dict[str, Any]:
    counts: dict[str, figures.Counts] = {"plain": dict.fromkeys(figures.COUNTS, 0.5)}
    return figures.as_json(_rounds(), counts, {"hypervisor": "Xen 0"}, {"swiotlb": "not reached"}, quick=True)


def _fio(**jobs: dict[str, Any]) -> str:
    return "fio: a warning\n" + json.dumps({"jobs": [{"jobname": name, **job} for name, job in jobs.items()]})


def _side(requests: int, runtime: int, latency_ns: float = 0.0) -> dict[str, Any]:
    return {"total_ios": requests, "runtime": runtime, "lat_ns": {"mean": latency_ns}}


def test_a_share_is_taken_within_its_round() -> None:
    """A round in which everything is twice as fast changes no share; the median is that of the rounds' shares."""
    of_plain = figures.shares(_rounds(), "plain")["exact-strict"]["randread-4k-qd32"]
    assert (of_plain.min, of_plain.median, of_plain.max) == pytest.approx((0.3, 0.4, 0.5))


def test_without_its_base_there_is_no_share() -> None:
    """Where plain virtio was not measured nothing is a share of it."""
    rounds = [{job: {"copy": Measured(1.0, 1.0, 1)} for job in JOBS}]
    assert figures.shares(rounds, "plain") == {}


def test_data_has_every_way_and_job() -> None:
    """Shares and counts name all ways and all jobs; what was not measured is null, and its state says why."""
    data = json.loads(json.dumps(_data()))
    for base in ("share_of_plain", "share_of_blkback"):
        assert list(data[base]) == [way.name for way in WAYS]
        assert all(list(jobs) == list(JOBS) for jobs in data[base].values())
    assert data["share_of_blkback"]["exact-strict"]["write-128k-qd1"] == pytest.approx(0.8)
    assert set(data["per_request"]["copy"]) == set(figures.COUNTS)
    for way in ("exact-lazy", "exact-persistent"):
        assert set(data["share_of_plain"][way].values()) == {None}
        assert data["ways"][way]["state"] == NOT_BUILT
    assert data["ways"]["swiotlb"]["state"] == "not reached"
    assert set(data["indirect"].values()) == {NOT_BUILT}
    assert data["raw_rounds"][1]["read-128k-qd1"]["plain"]["requests_per_s"] == 2000.0


def test_counts_are_per_completed_request() -> None:
    """Counters that grew while requests completed, divided by these; a counter that was not there before was 0."""
    before = {"completions": 10, "mediator_hypercalls": 5, "backend_hypercalls": 7, "bytes_bounced": 0}
    before |= {"kicks_received": 1, "kicks_sent": 1, "answers_received": 1, "interrupts_sent": 1}
    after = {key: value + 20 for key, value in before.items()}
    before["mediator_foreign_maps"] = after["mediator_foreign_maps"] = 3
    after |= {"completions": 30, "backend_grant_maps": 10, "backend_grant_unmaps": 5}
    assert figures.per_request_of_mediated(before, after) == {
        "hypercalls": 2.0,
        "maps": 0.5,
        "flushing_unmaps": 0.25,
        "bytes_copied": 1.0,
        "notifications": 4.0,
        "mediator_hypercalls": 1.0,
        "mediator_foreign_maps": 0.0,
        "backend_hypercalls": 1.0,
    }
    with pytest.raises(ValueError, match="no request"):
        figures.per_request_of_mediated(after, after)


def test_what_cannot_be_counted_is_null() -> None:
    """A way that counts only its notifications has no other count."""
    found = figures.per_request({"notifications": 4}, {"notifications": 8}, 8)
    assert found == dict.fromkeys(figures.COUNTS) | {"notifications": 0.5}


def test_fio_report_is_read() -> None:
    """Rates count reads and writes over the longer of both times; latency is the mean of all requests."""
    text = _fio(a={"error": 0, "read": _side(300, 500, 2000.0), "write": _side(100, 400, 6000.0)})
    assert parse(text, ["a"]) == {"a": Measured(800.0, 3.0, 400)}


@pytest.mark.parametrize(
    "text",
    [
        "fio died",
        _fio(b={"error": 0, "read": _side(1, 1), "write": _side(0, 0)}),
        _fio(a={"error": 5, "read": _side(1, 1), "write": _side(0, 0)}),
        _fio(a={"error": 0, "read": _side(0, 0), "write": _side(0, 0)}),
    ],
    ids=["no report", "another job", "an error", "no request"],
)
def test_bad_fio_report_is_refused(text: str) -> None:
    """No figure comes from a report that lacks a way, has an error, or counts no request."""
    with pytest.raises(CommandFailed):
        parse(text, ["a"])


def test_every_disk_has_a_section_of_its_own() -> None:
    """One job file does the job on one disk after the other, never two at once."""
    text = job_file(JOBS["randread-4k-qd1"], {"plain": "/dev/vda", "copy": "/dev/vdb"})
    assert text.count("stonewall") == 2
    assert text.index("[plain]") < text.index("/dev/vda") < text.index("[copy]") < text.index("/dev/vdb")


def test_report_says_what_is_not_built(tmp_path: Path) -> None:
    """The page shows shares that were measured, and words in place of figures that were not; no placeholder is left."""
    render.write(_data(), tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "| `exact-lazy` | not built |" in text
    assert "| `swiotlb` | not reached |" in text
    assert "40%" in text
    assert "@" not in text
    assert {file.name for file in tmp_path.iterdir()} == {"README.md", "shares.png", "per-request.png"}


def test_only_the_qemu_that_works_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version whose PVH guests die is refused before anything is built, with the one that works."""
    for said, works in (("QEMU emulator version 7.2.22 (Debian)", True), ("QEMU emulator version 10.0.3", False)):
        monkeypatch.setattr(command, "run_tool", lambda _arguments, said=said: said + "\nmore")
        monkeypatch.setattr(command, "find_tool", lambda name: name)
        if works:
            assert command.check_qemu() == said
        else:
            with pytest.raises(MissingTool, match=r"7\.2"):
                command.check_qemu()


@pytest.mark.parametrize(
    ("words", "says"), [(["--ways", "exact-lazy"], "exact-lazy"), (["--rounds", "0"], "at least one")]
)
def test_bad_options_get_one_error(
    words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A way that does not exist, or no rounds at all, is refused before anything is built."""
    monkeypatch.setattr(sys, "argv", ["report", *words])
    with pytest.raises(SystemExit):
        command.main()
    assert says in capsys.readouterr().err


def test_the_clock_counts_instructions() -> None:
    """One instruction is one nanosecond, and a machine that waits does not wait for the user's clock."""
    assert COUNT_INSTRUCTIONS == ("-icount", "shift=0,align=off,sleep=off")
