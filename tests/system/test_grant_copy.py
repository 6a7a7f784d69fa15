# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests that are copied by the hypervisor in place of being mapped: chosen by size, and otherwise not to be seen."""

from __future__ import annotations

import random

import pytest

from .conftest import Connect
from .disk_io import read_digest, write_and_compare
from .world import BACKEND, World

ROUNDS = 3


def test_a_size_copies_what_never_maps(empty_world: World, connect: Connect) -> None:
    """The same job on the same image: with `never` all of it is mapped, with the largest size none of it, with `auto`
    each part one or the other; what the disk holds in the end is the same."""
    world, digests = empty_world, set()
    world.keep_alive(BACKEND)
    world.start_mediator()
    for grant_copy in ("never", "65536", "auto"):
        world.start_backend(config=f"grant_copy: {grant_copy}\n")
        device = world.attach(world.image("disk.img"))
        frontend, generator = connect(device), random.Random(7)
        for _ in range(ROUNDS):
            write_and_compare(frontend, generator, generator.randrange(1024))
        digests.add(read_digest(frontend, 1 << 20))
        found = world.status(device)
        (chosen,) = world.backend.events("grant_copy_chosen")
        assert (
            chosen["pages"] == found["backend_copy_pages"] == {"never": 0, "65536": 16}.get(grant_copy, chosen["pages"])
        )
        assert found["bytes_zero_copy"] > 0 == found["backend_map_failures"]
        mapped, copied = found["backend_map_calls"], found["backend_copied_sides"]
        if grant_copy == "never":
            assert mapped > 0 == copied == found["backend_grant_copies"]
        elif grant_copy == "65536":
            assert copied > 0 == mapped
            assert found["backend_grant_bytes_copied"] > found["bytes_zero_copy"] // 2
        else:
            assert mapped + copied > 0
            assert min(chosen[name] for name in ("map_ns", "copy_ns", "copy_16_ns")) > 0
        frontend.disconnect()
        world.detach(device)
        assert world.backend.terminate() == 0
    assert len(digests) == 1


@pytest.mark.parametrize("what", ["always", "4095"])
def test_a_backend_does_not_start_with_a_bad_file(empty_world: World, what: str) -> None:
    """The service names the file, the key and what would be right, and ends with status 2."""
    with pytest.raises(pytest.fail.Exception, match="ended with status 2"):
        empty_world.start_backend(config=f"grant_copy: {what}\n")
    log = empty_world.services[-1].log_path.read_text()
    assert "grant_copy: got" in log and "a multiple of 4096" in log and "Traceback" not in log
