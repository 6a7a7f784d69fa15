# SPDX-License-Identifier: GPL-2.0-or-later
"""The backend's configuration file: what it takes, and what it says to what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from dom0_backend.config import LARGEST_COPY, PAGE, BackendConfig, load
from xen_shadowvq.errors import ConfigError
from xen_shadowvq.native import constants

EXAMPLE = Path(__file__).parents[2] / "deploy" / "backend.yaml"


def load_text(directory: Path, text: str) -> BackendConfig:
    path = directory / "backend.yaml"
    path.write_text(text)
    return load(path)


def test_the_example_shows_the_defaults(tmp_path: Path) -> None:
    """The example that is shipped names every key, and stands for the same as an empty file."""
    assert load(EXAMPLE) == load_text(tmp_path, "# nothing\n") == BackendConfig()
    assert all(f"{key}:" in EXAMPLE.read_text(encoding="utf-8") for key in BackendConfig.model_fields)


def test_what_grant_copy_means_to_the_data_plane(tmp_path: Path) -> None:
    """A size becomes pages, and the two words what the C takes for them; the bounds are those of the C."""
    lib = constants("backend")
    assert LARGEST_COPY // PAGE == lib.SVQ_BE_COPY_PAGES_MAX
    found = {word: load_text(tmp_path, f"grant_copy: {word}").copy_pages for word in ("auto", "never", 4096, 65536)}
    assert found == {"auto": lib.SVQ_BE_COPY_AUTO, "never": 0, 4096: 1, 65536: 16}


@pytest.mark.parametrize("value", ["always", "0", "4095", "5000", "69632", "-4096", "true", "[4096]", "4096.0"])
def test_another_value_is_refused_in_one_sentence(tmp_path: Path, value: str) -> None:
    """What is neither word nor size ends in one sentence that says what would be."""
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, f"grant_copy: {value}\n")
    (problem,) = caught.value.problems
    assert "backend.yaml:1: grant_copy: got" in problem
    assert problem.endswith("expected auto, never, or a multiple of 4096 from 4096 to 65536")
