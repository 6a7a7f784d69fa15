# SPDX-License-Identifier: GPL-2.0-or-later
"""CBMC, unpacked into the cache, and copies of the C that it looks at, with a loop shortened, or a line changed."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.harness.cache import build_once, content_key
from tests.harness.packages import DOWNLOADER, REPOSITORY
from tests.harness.tools import find_tool, run_tool, words

SUITE = "trixie"  # Debian 12 has no CBMC that knows C11 well enough
PACKAGES = words("cbmc minisat libc6 libgcc-s1 libstdc++6 zlib1g")
HARNESSES = Path(__file__).parent / "c"
DEADLINE_S = 280
_VIOLATED = re.compile(r"Violated property:\n\s+file (\S+) function (\S+) line (\d+) thread \d+\n\s+(.+)")


@dataclass(frozen=True)
class Edit:
    """A text in a file of c_helpers that is there once, and what takes its place."""

    file: str
    old: str
    new: str


class Sources:
    """A copy of the data plane's sources, with `edits` made."""

    def __init__(self, folder: Path, edits: tuple[Edit, ...]) -> None:
        for name in ("src", "include"):
            shutil.copytree(REPOSITORY / "c_helpers" / name, folder / name)
        self.folders = [folder / "include", *(folder / "src" / room for room in ("ring", "engine"))]
        for edit in edits:
            file = folder / edit.file
            text = file.read_text()
            if text.count(edit.old) != 1:
                raise ValueError(f"{edit.file} has {text.count(edit.old)} times, and not once:\n{edit.old}")
            file.write_text(text.replace(edit.old, edit.new))


@dataclass(frozen=True)
class Cbmc:
    """The unpacked packages. They are of a newer Debian, so the program is started by its own loader."""

    root: Path

    def prove(self, sources: Sources, harness: str, function: str, unwind: int, *options: str) -> str | None:
        """Looks at every execution of a harness's function. Returns None, or the assertion that one of them violates.

        No loop may go round `unwind` times: that is asserted as well. RuntimeError: CBMC could not say.
        """
        libraries = f"{self.root}/usr/lib/x86_64-linux-gnu:{self.root}/usr/lib"
        command = [
            *(f"{self.root}/usr/lib64/ld-linux-x86-64.so.2", "--library-path", libraries, f"{self.root}/usr/bin/cbmc"),
            *(str(HARNESSES / f"{harness}.c"), "--function", function),
            *(f"-I{folder}" for folder in (HARNESSES, *sources.folders)),
            *("--unwind", str(unwind), "--unwinding-assertions", "--drop-unused-functions", "--slice-formula"),
            *("--stop-on-fail", "--verbosity", "4", *options),
        ]
        find_tool("gcc")  # it has that preprocess what it reads
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        if done.returncode == 0 and "VERIFICATION SUCCESSFUL" in done.stdout:
            return None
        violated = _VIOLATED.search(done.stdout)
        if violated is None:
            raise RuntimeError(
                f"{' '.join(command)}: status {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
            )
        file, where, line, what = violated.groups()
        return f"{what} ({Path(file).name}:{line}, {where})"


def fetch_cbmc(cache: Path) -> Cbmc:
    """Returns CBMC, downloaded on first use (30 MB)."""

    def download(folder: Path) -> None:
        run_tool([DOWNLOADER, "--suite", SUITE, folder, *PACKAGES])

    return Cbmc(build_once(cache, "cbmc", content_key(DOWNLOADER, SUITE, *PACKAGES), download))
