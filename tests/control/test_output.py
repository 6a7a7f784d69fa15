# SPDX-License-Identifier: GPL-2.0-or-later
"""Text of peers on its way to a person: nothing of it acts on a terminal, or begins a line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xen_shadowvq import log, output
from xen_shadowvq.output import NODE_TEXT_BYTES, as_json, node_text, printable, printable_block, say
from xenstore_schema import nodes

from .conftest import Terminal

FORGED = "\x1b[2J\r\n12:00:00 [info] all is well\u2028\u202e\x9b\x7f\ud800"


def test_what_acts_on_a_terminal_becomes_escapes() -> None:
    """Control characters, line ends of every kind, bidirectional controls and lone surrogates become Python's escapes;
    letters of any script stay."""
    assert printable(FORGED) == r"\x1b[2J\r\n12:00:00 [info] all is well\u2028\u202e\x9b\x7f\ud800"
    assert printable("Prüfung 試験 ok") == "Prüfung 試験 ok"


@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_becomes_one_line(text: str) -> None:
    """Whatever it is, it ends as one line that every encoding takes, and JSON of it is read back as that line."""
    line = printable(text)
    assert line.isprintable() and len(line.splitlines()) <= 1
    line.encode()
    assert json.loads(as_json({text: [text]})) == {line: [line]}


@given(st.text(st.characters(exclude_categories=[])), st.integers(0, 40))
def test_any_text_becomes_a_node(text: str, bytes_max: int) -> None:
    """Whatever it is, it ends as printable ASCII of so many bytes at most, no character cut in two."""
    ours = node_text(text, bytes_max)
    assert len(ours.encode("ascii")) <= bytes_max and (ours.isprintable() or not ours)
    assert node_text(text, 10 * len(text) + 1).startswith(ours)
    assert node_text(ours, bytes_max) == ours


def test_a_sentence_fits_into_its_node() -> None:
    """Bytes count, as XenStore counts them, and the schema allows what comes of it."""
    assert node_text("\u4e2d" * 3, 13) == r"\u4e2d\u4e2d"
    for node in (nodes.VirtioBack.ERROR, nodes.SvqBack.ERROR):
        assert node.bytes_max == NODE_TEXT_BYTES
        assert node.format(node_text("\u4e2d" * 5000))


def test_lines_of_a_block_are_no_lines_of_ours() -> None:
    """Text that has lines of its own is indented, so that it cannot pass for the program's own lines."""
    assert all(line.startswith("  ") and line.isprintable() for line in printable_block(FORGED).split("\n"))


def test_said_as_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What is said is one line, on standard output or standard error."""
    say(FORGED)
    say(FORGED, err=True, color="red")
    captured = capsys.readouterr()
    assert captured.out == captured.err == f"{printable(FORGED)}\n"


def test_there_is_one_way_out() -> None:
    """No module prints by itself, beside the one that escapes. (Tables go by rich.)"""
    package = Path(output.__file__).parent
    printers = {
        path.name for path in package.rglob("*.py") if re.search(r"click\.s?echo\(|(?<![\w.])print\(", path.read_text())
    }
    assert printers == {"output.py"}


def test_lines_of_the_log() -> None:
    """On a terminal a fact of a peer stays within its line, and an exception within lines that are indented."""
    out = Terminal()
    log.configure(stream=out)
    log.get_logger().warning("device_broken", reason=FORGED)
    try:
        raise RuntimeError(FORGED)
    except RuntimeError:
        log.get_logger().exception("device_defect")
    text = out.getvalue()
    assert not any(character in text for character in "\r\u2028\u202e\x9b\x7f\ud800") and "\x1b[2J" not in text
    lines = text.splitlines()
    assert "device_broken" in lines[0] and "device_defect" in lines[1]
    assert all(line.startswith("  ") for line in lines[2:]) and "RuntimeError" in text
