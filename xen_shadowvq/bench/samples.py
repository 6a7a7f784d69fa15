# SPDX-License-Identifier: GPL-2.0-or-later
"""Running svq_bench, the C program that measures the data plane, and collecting what it prints."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from xen_shadowvq.bench.errors import BenchmarkFailed

CASES = ("engine", "curves", "throughput", "sleeping")
"""What svq_bench can measure; each prints a sample `round_done` after every round."""

Samples = dict[str, list[tuple[float, float]]]
"""For each figure or curve its (x, value) pairs; x is the round, or the position on the curve."""

_ROUND_DONE = "round_done"


def run_case(program: Path, case: str, rounds: int, on_round: Callable[[], None]) -> Samples:
    """
    Runs one case of svq_bench. `on_round` is called after each round.

    BenchmarkFailed: the program is missing, ended with an error, or printed something other than samples.
    """
    found: Samples = defaultdict(list)
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen([program, case, str(rounds)], stdout=subprocess.PIPE, stderr=errors, text=True)
        except OSError as error:
            raise BenchmarkFailed(case, f"svq_bench could not be started: {error.strerror}", b"") from error
        with process:
            try:
                for line in process.stdout or ():
                    name, x, value = _parse(case, line)
                    if name == _ROUND_DONE:
                        on_round()
                    else:
                        found[name].append((x, value))
            except BaseException:
                process.kill()
                raise
        errors.seek(0)
        if process.returncode != 0:
            raise BenchmarkFailed(case, f"svq_bench ended with status {process.returncode}", errors.read())
    if not found:
        raise BenchmarkFailed(case, "svq_bench printed no samples", b"")
    return dict(found)


def _parse(case: str, line: str) -> tuple[str, float, float]:
    try:
        sample = json.loads(line)
        return str(sample["case"]), float(sample["x"]), float(sample["value"])
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkFailed(case, "svq_bench printed a line that is not a sample", line.encode()) from error
