# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration file: defaults, overrides, and an operator who gets everything wrong."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from xen_shadowvq.config import Config, Policy, load
from xen_shadowvq.errors import ConfigError

EXAMPLE = Path(__file__).parents[2] / "deploy" / "shadowvq.yaml"


def write(directory: Path, text: str | bytes) -> Path:
    path = directory / "conf.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def problems(directory: Path, text: str | bytes) -> list[str]:
    """What is wrong with a file of that text, without the directory's name."""
    with pytest.raises(ConfigError) as caught:
        load(write(directory, text))
    return [problem.removeprefix(f"{directory}/") for problem in caught.value.problems]


def test_example_loads_and_shows_the_defaults() -> None:
    """The example that is shipped loads, names every key, and stands for the same as an empty file."""
    assert load(EXAMPLE) == Config()
    text = EXAMPLE.read_text(encoding="utf-8")
    for section in (
        Config,
        *(type(part) for part in (Config().log, Config().workers, Policy(), Config().limits)),
    ):
        for key in section.model_fields:
            assert f"{key}:" in text


def test_empty_file_is_the_defaults(tmp_path: Path) -> None:
    """A file without content is valid: every key has a default."""
    assert load(write(tmp_path, "")) == load(write(tmp_path, "# nothing\n")) == Config()
    config = Config()
    assert (config.log.level, config.log.format) == ("info", "auto")
    assert (config.workers.count, config.workers.poll_us, config.workers.cpus) == (1, 50, ())
    policy = config.defaults
    assert (policy.placement, policy.copy_threshold, policy.window) == ("exact", 0, "auto")
    assert (policy.bounce_pages, policy.large_chains) == (512, 16)
    limits = config.limits
    assert (limits.devices, limits.queues_per_device, limits.queue_size_max) == (64, 16, 256)
    assert (limits.drain_timeout_ms, limits.memory_gib_max) == (5000, 64)


def test_values_are_taken(tmp_path: Path) -> None:
    """Keys that are given replace their defaults and no others."""
    config = load(write(tmp_path, "workers: {count: 4, cpus: [2, 3]}\nlog: {level: debug}\n"))
    assert config.workers.count == 4
    assert config.workers.cpus == (2, 3)
    assert config.workers.poll_us == 50
    assert config.log.level == "debug"


def test_policy_overrides(tmp_path: Path) -> None:
    """Overrides apply to the devices that they name, leave alone what they do not, and the last one wins."""
    config = load(
        write(
            tmp_path,
            """
defaults: {bounce_pages: 64}
overrides:
  - {placement: copy}
  - {frontend: 7, placement: page, copy_threshold: 0}
  - {frontend: 7, device: 3, large_chains: 2}
  - {device: 9, window: direct, placement: null}
""",
        )
    )
    assert config.policy_for(1, 1) == Policy(placement="copy", bounce_pages=64)
    assert config.policy_for(7, 1) == Policy(placement="page", bounce_pages=64)
    assert config.policy_for(7, 3) == Policy(placement="page", bounce_pages=64, large_chains=2)
    assert config.policy_for(8, 3) == Policy(placement="copy", bounce_pages=64)
    assert config.policy_for(7, 9) == Policy(placement="page", bounce_pages=64, window="direct")
    assert config.policy_for(0, 9) == Policy(placement="copy", bounce_pages=64, window="direct")


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    """Each mistake gets a sentence with file, line, key path, the value and what was expected."""
    text = """\
defaults:
  placement: kvm
log: loud
workers:
  poll_us: 99999
  count: "4"
  cpus: [0, x]
limits:
  queue_size_max: 100
  devices: true
  drain_timeout_ms:
overrides:
  - frontend: -1
  - 7
"""
    assert set(problems(tmp_path, text)) == {
        "conf.yaml:2: defaults.placement: got 'kvm', expected one of exact, page, copy",
        "conf.yaml:3: log: got 'loud', expected a mapping of keys to values",
        "conf.yaml:5: workers.poll_us: got 99999, expected a whole number from 0 to 10000",
        "conf.yaml:6: workers.count: got '4', expected a whole number from 1 to 64",
        "conf.yaml:7: workers.cpus[1]: got 'x', expected a processor's number, 0 to 4095",
        "conf.yaml:9: limits.queue_size_max: got 100, expected a power of two from 4 to 1024",
        "conf.yaml:10: limits.devices: got true, expected a whole number from 1 to 1024",
        "conf.yaml:11: limits.drain_timeout_ms: got null, expected a whole number from 10 to 60000",
        "conf.yaml:13: overrides[0].frontend: got -1, expected a whole number from 0 to 32751 or null",
        "conf.yaml:14: overrides[1]: got 7, expected a mapping of keys to values",
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("worker: {}", "conf.yaml:1: worker: no such key; did you mean workers?"),
        (
            "defaults:\n  placment: exact",
            "conf.yaml:2: defaults.placment: no such key; did you mean placement?",
        ),
        (
            "overrides: [{copy-threshold: 1}]",
            "conf.yaml:1: overrides[0].copy-threshold: no such key; did you mean copy_threshold?",
        ),
        ("log: {zzz: 1}", "conf.yaml:1: log.zzz: no such key; the keys are level, format"),
    ],
)
def test_unknown_keys(tmp_path: Path, text: str, problem: str) -> None:
    """A key that does not exist is refused, with the key that was probably meant or all that there are."""
    assert problems(tmp_path, text) == [problem]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("log:\n  level: [", "conf.yaml:2: not YAML: expected the node content, but found '<stream end>'"),
        ("a: 1\n\tb: 2", "conf.yaml:2: not YAML: found character '\\t' that cannot start any token"),
        ("log: {}\n---\nlog: {}", "conf.yaml:2: not YAML: but found another document"),
        ("log: !!python/object:os.system {}", "conf.yaml:1: not YAML: could not determine a constructor"),
        (
            "log: {level: info}\nworkers: {}\nlog: {}",
            "conf.yaml:3: key 'log' is given twice, first on line 1",
        ),
        ("workers:\n  count: 1\n  count: 2", "conf.yaml:3: key 'count' is given twice, first on line 2"),
        ("a: &x [*x]", "conf.yaml:1: anchors and aliases are not supported"),
        ("log: &x {}\nworkers: *x", "conf.yaml:1: anchors and aliases are not supported"),
        ("1: 2", "conf.yaml:1: expected a key that is text"),
        ("? [a]\n: 2", "conf.yaml:1: expected a key that is text"),
        ("- 1", "conf.yaml:1: the file: got a list, expected a mapping of keys to values"),
        (b"log: {}\n# \xff", "conf.yaml:2: not UTF-8 text"),
        ("[" * 100000, "conf.yaml: nested too deeply"),
        ("a: " + "b" * 2**20, "conf.yaml: more than 1048576 bytes, expected a configuration file"),
    ],
)
def test_what_is_no_configuration_at_all(tmp_path: Path, text: str | bytes, problem: str) -> None:
    """Broken YAML, keys given twice and files of another kind are refused, with the line where it is known."""
    (only,) = problems(tmp_path, text)
    assert only.startswith(problem)


@pytest.mark.parametrize(
    ("scalar", "problem"),
    [
        ("2001-13-45", "not YAML: '2001-13-45' looks like a value of type timestamp, but is not one"),
        ("0x_", "not YAML: '0x_' looks like a value of type int, but is not one"),
        ("!!int abc", "not YAML: 'abc' looks like a value of type int, but is not one"),
        ("!!bool perhaps", "not YAML: 'perhaps' looks like a value of type bool, but is not one"),
        ("!!timestamp ''", "not YAML: '' looks like a value of type timestamp, but is not one"),
        ("!!float [1]", "not YAML: expected a scalar node, but found sequence"),
        ("9" * 5000, f"not YAML: '{'9' * 64}'... (5000 long) looks like a value of type int, but is not one"),
        ("0x" + "f" * 5000, "workers.count: got a number of 20000 bits, expected a whole number from 1 to 64"),
        ("1" + ":59" * 3000, "workers.count: got a number of"),
        ("!!set {a}", "workers.count: got a set, expected a whole number from 1 to 64"),
        ('"\\U00110000"', "not YAML: chr() arg not in range(0x110000)"),
        ('"\\UFFFFFFFF"', "not YAML: Python int too large to convert to C int"),
        ('"\\ud800"', "workers.count: got '\\ud800', expected a whole number from 1 to 64"),
        (".nan", "workers.count: got nan, expected a whole number from 1 to 64"),
    ],
)
def test_scalars_that_the_parser_chokes_on(tmp_path: Path, scalar: str, problem: str) -> None:
    """A scalar that YAML takes for a date or a number and that is none, or one beyond all measure, is refused with its
    line, in one line of moderate length."""
    (only,) = problems(tmp_path, f"log: {{}}\nworkers:\n  count: {scalar}\n")
    assert only.startswith(f"conf.yaml:3: {problem}") and len(only) < 200 and only.isprintable()


@given(
    st.text(st.characters(codec="utf-8"), max_size=40), st.sampled_from(["int", "float", "bool", "timestamp", "null"])
)
def test_any_scalar_of_any_type_ends_in_a_problem(
    tmp_path_factory: pytest.TempPathFactory, text: str, kind: str
) -> None:
    """Whatever text is declared to be of whatever type, it is loaded or refused with a problem for the operator."""
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(f"workers:\n  count: !!{kind} {json.dumps(text)}\n")
    with contextlib.suppress(ConfigError):
        assert load(path).workers.count == int(text, 0)


def test_control_characters_are_no_yaml(tmp_path: Path) -> None:
    """A file with bytes that YAML forbids is refused as such."""
    (only,) = problems(tmp_path, "a: \x01")
    assert only.startswith("conf.yaml: not YAML: ")


def test_unreadable_file(tmp_path: Path) -> None:
    """A file that cannot be read is the operator's mistake, named by its path."""
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file or directory"):
        load(tmp_path / "none.yaml")


def test_configuration_is_frozen() -> None:
    """Nobody changes the configuration after it was loaded."""
    with pytest.raises(ValidationError, match="frozen"):
        Config().workers.count = 2
