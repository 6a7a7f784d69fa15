# SPDX-License-Identifier: GPL-2.0-or-later
"""The report's pages from data.json: README.md with its tables, and the plots. Every figure comes from the data."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.xen.bench import plots
from tests.xen.bench.figures import COUNTS, PARTS
from tests.xen.bench.jobs import COUNTED_JOB
from tests.xen.bench.ways import BLKBACK, PLACEMENTS, PLAIN, SWIOTLB
from xen_shadowvq.bench.spread import Spread

TEMPLATE = Path(__file__).parent / "report.md.in"
NOTHING = "-"
LINE = 118
NS_PER_S = 1e9
MAIL = {"page-strict": 0.60, "swiotlb": 0.40}  # what the mail's authors measured, of plain virtio
NOTED_SPREAD = 0.02  # an interquartile range wider than this share of its median is shown
OURS_AND_THE_MAILS = (*PLACEMENTS, SWIOTLB)
DEEP = ("randread-4k-qd32", "randwrite-4k-qd32", "read-128k-qd32", "write-128k-qd32")
COUNT_TITLES = {
    "hypercalls": "hypercalls",
    "maps": "map calls",
    "flushing_unmaps": "flushing unmaps",
    "bytes_copied": "bytes copied",
    "notifications": "notifications",
}
Data = Mapping[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of the page: names to the left, figures to the right."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def share(data: Data, base: str, way: str, job: str) -> str:
    """One share in percent, and half its quartiles' distance where that is worth a word."""
    median = data[base].get(way, {}).get(job)
    if median is None:
        return NOTHING
    spread = data["spread"][base][way][job]
    half = (spread["upper_quartile"] - spread["lower_quartile"]) / 2
    return f"{median:.0%}" + (f" ±{half:.1%}" if half * 2 > NOTED_SPREAD * median else "")


def measured(data: Data) -> list[str]:
    """The ways that there are figures of."""
    return [name for name, way in data["ways"].items() if way["state"] == "measured"]


def absent(data: Data) -> dict[str, str]:
    """The others, and why there are none."""
    return {name: way["state"] for name, way in data["ways"].items() if way["state"] != "measured"}


def shares_table(data: Data, base: str, *, without: str) -> str:
    """Every way's share of a base in every job; what is not built says so."""
    jobs = list(data["jobs"])
    rows = [[f"`{way}`", *(share(data, base, way, job) for job in jobs)] for way in measured(data) if way != without]
    rows += [[f"`{way}`", why, *("" for _ in jobs[1:])] for way, why in absent(data).items() if way != without]
    return table(["way", *jobs], rows)


def instructions_table(data: Data) -> str:
    """What a request takes of the whole machine, in thousands of instructions: the counted time that it takes."""
    jobs = list(data["jobs"])
    rows = (
        [f"`{way}`", *(_number(rate and NS_PER_S / rate / 1000) for rate in map(data["requests_per_s"][way].get, jobs))]
        for way in measured(data)
    )
    return table(["way", *jobs], rows)


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}"


def counts_table(data: Data) -> str:
    """Costs of a request that do not depend on the machine."""
    rows = (
        [
            f"`{way}`",
            *(
                NOTHING if data["per_request"][way][name] is None else f"{data['per_request'][way][name]:g}"
                for name in COUNTS
            ),
        ]
        for way in measured(data)
    )
    return table(["way", *(COUNT_TITLES[name] for name in COUNTS)], rows)


def parts(data: Data) -> str:
    """Whose the hypercalls of the mediated ways are."""
    lines = []
    for way in measured(data):
        counts = data["per_request"][way]
        if PARTS[0] in counts:
            mediator, mappings, backend = (counts[name] for name in PARTS)
            why = f", to map what it copies {mappings:.2f} times a request and unmap it again" if mappings else ""
            lines.append(f"- `{way}`: the backend makes {backend:.2f} of them, the mediator {mediator:.2f}{why}.")
    return "\n".join(map(_wrapped, lines))


def latency_table(data: Data) -> str:
    """Mean latency, one request at a time."""
    jobs = [name for name, job in data["jobs"].items() if job["depth"] == 1]
    latency = data["latency_us"]
    return table(
        ["way", *jobs], ([f"`{way}`", *(_number(latency[way][job]) for job in jobs)] for way in measured(data))
    )


def ways_table(data: Data) -> str:
    """What each way is."""
    return table(["way", "what it is", "state"], ([f"`{n}`", w["what"], w["state"]] for n, w in data["ways"].items()))


def answer(data: Data) -> str:
    """The main figures: what each way keeps of plain virtio's throughput, and what the mail said."""
    if PLAIN not in measured(data):
        return "Plain virtio was not measured, so nothing can be said of it."
    rows = []
    for way in (*OURS_AND_THE_MAILS, BLKBACK):
        if way in measured(data):
            shares = [share(data, "share_of_plain", way, job) for job in DEEP]
            rows.append([f"`{way}`", *shares, f"{MAIL[way]:.0%}" if way in MAIL else ""])
    return table(["of plain virtio's throughput", *DEEP, "the mail"], rows)


def _wrapped(line: str) -> str:
    return textwrap.fill(
        line, LINE, subsequent_indent="  " * line.startswith("- "), break_long_words=False, break_on_hyphens=False
    )


def noise(data: Data) -> str:
    """How far the rounds lie apart."""
    widest = 0.0
    for jobs in data["spread"]["requests_per_s"].values():
        for spread in (Spread(**one) for one in jobs.values()):
            widest = max(widest, (spread.upper_quartile - spread.lower_quartile) / spread.median)
    return f"{widest:.1%}"


def samples(data: Data) -> str:
    """How many rounds the medians are of; not every job may have got as far as the others."""
    counts = {int(spread["samples"]) for jobs in data["spread"]["requests_per_s"].values() for spread in jobs.values()}
    return str(max(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def page(data: Data) -> str:
    """The text of README.md."""
    texts = {
        "answer": answer(data),
        "of_plain": shares_table(data, "share_of_plain", without=PLAIN),
        "of_blkback": shares_table(data, "share_of_blkback", without=BLKBACK),
        "counts": counts_table(data),
        "parts": parts(data),
        "counted_job": COUNTED_JOB,
        "latency": latency_table(data),
        "instructions": instructions_table(data),
        "ways": ways_table(data),
        "rounds": samples(data),
        "noise": noise(data),
        "indirect": ", ".join(f"`{way}`: {state}" for way, state in data["indirect"].items()),
        "machine": "\n".join(_wrapped(f"- {key}: {text}") for key, text in data["machine"].items()),
        "note": _wrapped(data.get("note", "")),
        "command": "make report-quick" if data["quick"] else "make report",
    }
    text = TEMPLATE.read_text()
    for name, part in texts.items():
        text = text.replace(f"@{name}@", part.rstrip("\n"))
    return text


def write(data: Data, folder: Path) -> None:
    """README.md and its plots."""
    folder.mkdir(parents=True, exist_ok=True)
    plots.draw_shares(data, folder / "shares.png")
    plots.draw_counts(data, folder / "per-request.png")
    (folder / "README.md").write_text(page(data))
