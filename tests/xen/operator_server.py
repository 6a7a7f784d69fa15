# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs `shadowvq` command lines in one process (dom0): in emulation a Python start costs more than most commands.

usage: operator_server.py FOLDER

Reads one command line after another, as a JSON list of words, from the FIFO `requests`, and writes its exit status
and what it printed, as a JSON list, to the FIFO `answers`. Who asks takes turns with others by a lock of its own.
"""

import json
import os
import sys
from pathlib import Path

from click.testing import CliRunner

from xen_shadowvq.cli import main


def serve(folder: Path) -> None:
    """Serves until it is killed."""
    requests, answers = folder / "requests", folder / "answers"
    for fifo in (requests, answers):
        os.mkfifo(fifo)
    (folder / "ready").touch()
    runner = CliRunner()
    while True:
        words = json.loads(requests.read_text())
        result = runner.invoke(main, words)
        answers.write_text(json.dumps([result.exit_code, result.output]))


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
