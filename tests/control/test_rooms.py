# SPDX-License-Identifier: GPL-2.0-or-later
"""Who imports whom: each role stands alone, and the schema below them all."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("xenstore_schema", "xen_shadowvq", "dom0_backend", "domU_frontend")
MEDIATORS_OWN = {
    f"xen_shadowvq.{name}"
    for name in ("config", "connection", "connection_slot", "engine", "guests", "held", "legs", "mediator",
                 "refused_shadow", "ring_resets", "shadow_device", "teardown", "tracing", "trouble")
}  # fmt: skip
DOM0S_OWN = {f"xen_shadowvq.{name}" for name in ("cli", "devices", "dom0", "new_device", "sweeping", "toolstack")}
FOR_DEMONSTRATION = "xen_shadowvq.demo", "xen_shadowvq.bench"


def loaded_by(module: str) -> set[str]:
    """Every module of ours that a fresh interpreter has once it has imported one."""
    code = f"import {module}, sys; print(*(name for name in sys.modules if name.split('.')[0] in {PACKAGES}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def imports_of(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


@pytest.mark.parametrize("module", ["dom0_backend.backend", "dom0_backend.process"])
def test_a_driver_domain_loads_no_mediator(module: str) -> None:
    """Nothing of the mediator's, of dom0's tools or of the frontend is loaded where a backend runs."""
    loaded = loaded_by(module)
    assert not loaded & (MEDIATORS_OWN | DOM0S_OWN)
    assert not any(name.startswith("domU_frontend") for name in loaded)


@pytest.mark.parametrize("module", ["domU_frontend.frontend", "domU_frontend.process"])
def test_a_frontend_loads_no_other_role(module: str) -> None:
    """Nothing of the mediator's, of dom0's tools or of the backend is loaded where a driver runs."""
    loaded = loaded_by(module)
    assert not loaded & (MEDIATORS_OWN | DOM0S_OWN)
    assert not any(name.startswith("dom0_backend") for name in loaded)


def test_a_mediator_loads_no_other_role() -> None:
    """Neither a backend, nor a driver, nor dom0's tools are loaded where a mediator runs."""
    loaded = loaded_by("xen_shadowvq.mediator")
    assert not loaded & DOM0S_OWN
    assert not any(name.startswith(("dom0_backend", "domU_frontend", *FOR_DEMONSTRATION)) for name in loaded)


def test_the_schema_stands_alone() -> None:
    """The schema imports nothing of the packages that use it."""
    for path in (ROOT / "xenstore_schema").glob("*.py"):
        assert not any(name.startswith(PACKAGES[1:]) for name in imports_of(path)), path


def test_packages_do_not_import_each_other_in_a_circle() -> None:
    """Between the packages, and the demonstrations as one of their own, imports go one way."""

    def package_of(module: str) -> str | None:
        if module == "xen_shadowvq.__main__" or module.startswith("xen_shadowvq.cli_"):
            return "xen_shadowvq.cli"
        for name in (*FOR_DEMONSTRATION, "xen_shadowvq.embedded", "xen_shadowvq.cli", *PACKAGES):
            if module == name or module.startswith(f"{name}."):
                return name
        return None

    graph: dict[str, set[str]] = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            own = package_of(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
            assert own is not None
            graph.setdefault(own, set()).update(
                other for name in imports_of(path) if (other := package_of(name)) not in (None, own)
            )
    # demo and bench use each other's helpers: one room, as far as that goes
    joined = {("shows" if one in FOR_DEMONSTRATION else one): set[str]() for one in graph}
    for one, others in graph.items():
        name = "shows" if one in FOR_DEMONSTRATION else one
        joined[name] |= {"shows" if other in FOR_DEMONSTRATION else other for other in others} - {name}
    TopologicalSorter(joined).prepare()  # CycleError names the circle
