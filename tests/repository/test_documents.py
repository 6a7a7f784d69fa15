# SPDX-License-Identifier: GPL-2.0-or-later
"""What `make lint` says of documents and of line lengths."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.repository import lines, links

PAGE = """# A page
## Step 1: do `this` (now)
## Again
## Again
```sh
[no](link.md) # nor a heading
```
"""


@pytest.mark.parametrize(
    "target", ["#step-1-do-this-now", "#again-1", "page.md#a-page", "../page.md", "https://x.org/#y"]
)
def test_a_link_that_leads_somewhere(tmp_path: Path, target: str) -> None:
    """Files, headings as sites name them, and what is not ours to check."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "page.md").write_text("")
    (tmp_path / "docs" / "page.md").write_text(f"{PAGE}[a]({target})\n")
    assert links.all_broken(tmp_path) == []


@pytest.mark.parametrize("target", ["#step-1", "gone.md", "page.md#nor-a-heading", "#again-2", "file.c#line"])
def test_a_link_that_leads_nowhere(tmp_path: Path, target: str) -> None:
    """A file or a heading that is not there is named with the page."""
    (tmp_path / "file.c").write_text("")
    (tmp_path / "page.md").write_text(f"{PAGE}[a]({target})\n")
    (sentence,) = links.all_broken(tmp_path)
    assert sentence.startswith(f"page.md: {target}: there is no such ")


def test_a_line_that_is_too_long(tmp_path: Path) -> None:
    """Prose and code are held to 120 characters; rows of tables, examples and a pragma at the end are not."""
    long = "x " * 60
    (tmp_path / "page.md").write_text(f"{long}y\n| {long} |\n```\n{long}y\n```\n")
    (tmp_path / "code.py").write_text(f"{long[:-2]}  # type: ignore[misc]\n{long}y\n")
    assert lines.too_long(tmp_path) == ["code.py:2: 121 characters", "page.md:1: 121 characters"]
