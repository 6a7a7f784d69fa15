# SPDX-License-Identifier: GPL-2.0-or-later
"""From rounds to the report's figures: shares, medians, spreads. Pure: nothing here measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tests.xen.bench.jobs import JOBS, Job, Measured
from tests.xen.bench.ways import BLKBACK, INDIRECT_WAYS, NOT_BUILT, PLAIN, WAYS
from xen_shadowvq.bench.spread import Spread

Round = Mapping[str, Mapping[str, Measured]]
"""One round: for each job what each way did."""
COUNTS = ("hypercalls", "maps", "flushing_unmaps", "bytes_copied", "notifications")
# Of mediated ways: whose the hypercalls are, and how many of the mediator's are mappings of the guest's memory.
PARTS = ("mediator_hypercalls", "mediator_foreign_maps", "backend_hypercalls")
Counts = Mapping[str, float | None]
"""Per request; None is what cannot be counted."""
SCHEMA = 1


def shares(rounds: Sequence[Round], base: str) -> dict[str, dict[str, Spread]]:
    """
    For each way and job its rate as a share of that of `base` in the same round, over all rounds. A way that was not
    measured is not there, nor is anything if `base` was not.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for one in rounds:
        for job, by_way in one.items():
            if base not in by_way:
                continue
            for way, measured in by_way.items():
                share = measured.requests_per_s / by_way[base].requests_per_s
                found.setdefault(way, {}).setdefault(job, []).append(share)
    return {way: {job: Spread.of(values) for job, values in jobs.items()} for way, jobs in found.items()}


def absolute(rounds: Sequence[Round], value: Callable[[Measured], float]) -> dict[str, dict[str, Spread]]:
    """For each way and job the spread of what `value` takes from a measurement."""
    found: dict[str, dict[str, list[float]]] = {}
    for one in rounds:
        for job, by_way in one.items():
            for way, measured in by_way.items():
                found.setdefault(way, {}).setdefault(job, []).append(value(measured))
    return {way: {job: Spread.of(values) for job, values in jobs.items()} for way, jobs in found.items()}


def grown(before: Mapping[str, Any], after: Mapping[str, Any], keys: Iterable[str]) -> int:
    """By how much some counters have grown together."""
    return sum(int(after[key]) - int(before.get(key, 0)) for key in keys)


def per_request_of_mediated(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float | None]:
    """Counts per request from the services' own counters, as `shadowvq ctl status` shows them."""
    requests = grown(before, after, ["completions"])
    if requests <= 0:
        raise ValueError("no request was completed between the two looks")
    keys = {
        "hypercalls": ("mediator_hypercalls", "backend_hypercalls"),
        "maps": ("backend_grant_maps",),
        "flushing_unmaps": ("backend_grant_unmaps",),
        "bytes_copied": ("bytes_bounced",),
        "notifications": ("kicks_received", "kicks_sent", "answers_received", "interrupts_sent"),
    }
    keys |= {name: (name,) for name in PARTS}
    return {name: round(grown(before, after, keys[name]) / requests, 4) for name in (*COUNTS, *PARTS)}


def per_request(before: Mapping[str, Any], after: Mapping[str, Any], requests: int) -> dict[str, float | None]:
    """Counts per request of a way that says what it can under the report's own names; None for all else."""
    return {name: round(grown(before, after, [name]) / requests, 4) if name in after else None for name in COUNTS}


def _medians(spreads: Mapping[str, Mapping[str, Spread]]) -> dict[str, dict[str, float | None]]:
    """Every way and every job of the report; None where nothing was measured."""
    found: dict[str, dict[str, float | None]] = {}
    for way in WAYS:
        jobs = spreads.get(way.name, {})
        found[way.name] = {job: round(jobs[job].median, 4) if job in jobs else None for job in JOBS}
    return found


def _spreads(spreads: Mapping[str, Mapping[str, Spread]]) -> dict[str, dict[str, dict[str, float]]]:
    return {way: {job: spread.as_json() for job, spread in jobs.items()} for way, jobs in spreads.items()}


def state_of(way: str, rounds: Sequence[Round], why_not: Mapping[str, str]) -> str:
    """Measured, or why not."""
    if any(way in by_way for one in rounds for by_way in one.values()):
        return "measured"
    return next((one.state for one in WAYS if one.name == way and one.state), None) or why_not.get(way, "not measured")


def _job_as_json(job: Job) -> dict[str, Any]:
    return {"pattern": job.pattern, "block_kib": job.block_kib, "depth": job.depth, "requests": job.requests}


def as_json(
    rounds: Sequence[Round],
    counts: Mapping[str, Counts],
    machine: Mapping[str, Any],
    why_not: Mapping[str, str],
    *,
    quick: bool,
) -> dict[str, Any]:
    """All of data.json. Nothing is in it that was not measured: null stands for that, and `ways` says why."""
    of_plain, of_blkback = shares(rounds, PLAIN), shares(rounds, BLKBACK)
    return {
        "schema": SCHEMA,
        "quick": quick,
        "rounds": len(rounds),
        "machine": dict(machine),
        "jobs": {name: _job_as_json(job) for name, job in JOBS.items()},
        "ways": {way.name: {"what": way.what, "state": state_of(way.name, rounds, why_not)} for way in WAYS},
        "share_of_plain": _medians(of_plain),
        "share_of_blkback": _medians(of_blkback),
        "requests_per_s": _medians(absolute(rounds, lambda measured: measured.requests_per_s)),
        "latency_us": _medians(absolute(rounds, lambda measured: measured.latency_us)),
        "spread": {
            "share_of_plain": _spreads(of_plain),
            "share_of_blkback": _spreads(of_blkback),
            "requests_per_s": _spreads(absolute(rounds, lambda measured: measured.requests_per_s)),
        },
        "per_request": {way.name: dict(counts.get(way.name, dict.fromkeys(COUNTS))) for way in WAYS},
        "indirect": dict.fromkeys(INDIRECT_WAYS, NOT_BUILT),
        "raw_rounds": [
            {
                job: {
                    way: {"requests_per_s": measured.requests_per_s, "latency_us": measured.latency_us}
                    for way, measured in by_way.items()
                }
                for job, by_way in one.items()
            }
            for one in rounds
        ],
    }
