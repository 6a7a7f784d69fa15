# SPDX-License-Identifier: GPL-2.0-or-later
"""The C of a page's life, with peers that do anything between any two accesses; each proof falls with a mistake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.cache import cache_folder
from tests.model.cbmc import Cbmc, Edit, Sources, fetch_cbmc

pytestmark = pytest.mark.model

Record = Callable[[str, object], None]

ENTRY, PART, COMPLETE = "src/engine/grant_entry.h", "src/engine/part.c", "src/engine/complete.c"
SHORTER = (
    # The peers may do anything before each try, so a later one can do nothing that an earlier one cannot.
    Edit(ENTRY, "SVQ_ENTRY_TRIES = 64", "SVQ_ENTRY_TRIES = 3"),
    Edit("include/svq.h", "SVQ_QUEUE_SIZE_MAX = 1024", "SVQ_QUEUE_SIZE_MAX = 3"),
)


@dataclass(frozen=True)
class Proof:
    """A function of a harness in tests/model/c, and how often its loops can go round."""

    harness: str
    function: str
    unwind: int = 5
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """How it is called here."""
        return f"{self.harness}.{self.function}"


TAKE = Proof("entry", "prove_take")
TAKE_ALONE = Proof("entry", "prove_take_alone")
END = Proof("entry", "prove_end")
END_OF_A_LIAR = Proof("entry", "prove_end_of_a_liar")
END_HELD = Proof("entry", "prove_end_held")
SWEEP = Proof("entry", "prove_sweep")
SWEEP_OF_A_LIAR = Proof("entry", "prove_sweep_of_a_liar")
RUN = Proof("run", "prove_run")
USED = Proof("run", "prove_used")
RING = Proof("walk", "prove_ring", 6, ("--paths", "lifo"))
TABLE = Proof("walk", "prove_table", 6)
PROOFS = [TAKE, TAKE_ALONE, END, END_OF_A_LIAR, END_HELD, SWEEP, SWEEP_OF_A_LIAR, RUN, USED, RING, TABLE]

_CAS = "return next == *seen || svq_cas_u64(entry, seen, next);"
_END = "\n}\n\n/* Ends what `granted` granted. */"
_LOOK = "    if (svq_unlikely(svq_load_u64(entry) != 0))\n        return false;\n"
MISTAKES = {
    "two_take_the_same": (TAKE, Edit(ENTRY, "if (svq_unlikely(!alone))", "if (0)")),
    "takes_what_is_not_free": (TAKE_ALONE, Edit(ENTRY, _LOOK, "")),
    "ends_what_is_mapped": (END, Edit(ENTRY, "next = mapped ? svq_entry_held(*seen) : 0", "next = 0")),
    "held_keeps_its_type": (
        END,
        Edit(ENTRY, "(entry & ~(uint64_t)GTF_TYPE_MASK) | GTF_READONLY", "entry | GTF_READONLY"),
    ),
    "held_can_be_written": (END, Edit(ENTRY, " | GTF_READONLY; }", "; }")),
    "ends_in_two_steps": (END, Edit(ENTRY, _CAS, "svq_release_u64(entry, next); return true;")),
    "takes_held_for_ended": (SWEEP, Edit(ENTRY, "mapped ? SVQ_HELD : SVQ_ENDED", "SVQ_ENDED")),
    "ends_what_others_wrote": (END_OF_A_LIAR, Edit(ENTRY, "ours != one && ours != other", "0")),
    "ends_a_later_grant": (
        END_HELD,
        Edit(ENTRY, "svq_load_u64(entry), held, held)", "svq_load_u64(entry), held, granted)"),
    ),
    "sweeps_without_marks": (
        SWEEP_OF_A_LIAR,
        Edit(ENTRY, "!svq_entry_mark(seen) || !svq_marks_have", "0 && svq_marks_have"),
    ),
    "sweeps_mark_0": (SWEEP, Edit(ENTRY, "!svq_entry_mark(seen) || ", "")),
    "gives_up_and_says_ended": (END, Edit(ENTRY, f"return SVQ_FOUGHT;{_END}", f"return SVQ_ENDED;{_END}")),
    "takes_a_later_grant_for_its_own": (RUN, Edit(PART, "if (!part->held || part->fought)", "if (1)")),
    "overwritten_not_counted": (RUN, Edit(PART, "return held + part->lost;", "return held;")),
    "middle_of_a_run_kept": (
        RUN,
        Edit(PART, "held += outcome == SVQ_HELD;", "held += outcome == SVQ_HELD; if (held) break;"),
    ),
    "held_not_counted": (RUN, Edit(PART, "return held + part->lost;", "return part->lost;")),
    "first_failure_ends_it": (USED, Edit(COMPLETE, "failed = failed ? failed : rc;", "return rc;")),
    "used_although_held": (
        USED,
        Edit(
            COMPLETE,
            "svq_likely(svq_end_page(q, &parts[i], 0) == SVQ_ENDED)",
            "svq_end_page(q, &parts[i], 0) != SVQ_TAMPERED",
        ),
    ),
}
# The walk's other checks are rules of virtio on which nothing else here depends.
CHECKS = {
    "SVQ_E_CHAIN_LOOP": RING,
    "SVQ_E_ZERO_LENGTH": RING,
    "SVQ_E_WRITABLE_BEFORE_READABLE": RING,
    "SVQ_E_ADDRESS_WRAP": RING,
    "SVQ_E_CHAIN_LIMIT": RING,
    "SVQ_E_NEXT_RANGE": RING,
    "SVQ_E_INDIRECT_NOT_NEGOTIATED": TABLE,
    "SVQ_E_INDIRECT_LENGTH": TABLE,
    "SVQ_E_INDIRECT_NOT_RAM": TABLE,
}


@pytest.fixture(scope="session")
def cbmc() -> Cbmc:
    """CBMC."""
    return fetch_cbmc(cache_folder())


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.name)
def test_the_code_keeps_to_it(cbmc: Cbmc, tmp_path: Path, proof: Proof, record_property: Record) -> None:
    """Each assertion of the harness holds in every execution, and every loop ends."""
    sources = Sources(tmp_path, SHORTER)

    violated = cbmc.prove(sources, proof.harness, proof.function, proof.unwind, *proof.options)

    assert violated is None
    record_property("proved", proof.name)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_code_is_found(cbmc: Cbmc, tmp_path: Path, mistake: str, record_property: Record) -> None:
    """With one line changed, an assertion is violated."""
    proof, edit = MISTAKES[mistake]
    sources = Sources(tmp_path, (*SHORTER, edit))

    violated = cbmc.prove(sources, proof.harness, proof.function, proof.unwind, *proof.options)

    assert violated is not None
    record_property("found", f"{mistake}: {violated}")


@pytest.mark.parametrize("code", CHECKS)
def test_each_check_is_needed(cbmc: Cbmc, tmp_path: Path, code: str, record_property: Record) -> None:
    """Without one check the walk accepts a chain that breaks a rule, or reads what is no descriptor of the driver's."""
    proof = CHECKS[code]
    sources = Sources(tmp_path, SHORTER)
    without = f"-DSVQ_MUTATION={code}"

    violated = cbmc.prove(sources, proof.harness, proof.function, proof.unwind, *proof.options, without)

    assert violated is not None
    record_property("found", f"a walk without {code}: {violated}")


def test_no_proof_is_empty() -> None:
    """Each of them falls with a mistake."""
    assert {proof.name for proof in PROOFS} == {proof.name for proof, _ in MISTAKES.values()} | {
        p.name for p in CHECKS.values()
    }
