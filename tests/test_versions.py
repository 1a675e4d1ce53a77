"""The least versions that pyproject.toml allows: what CI installs and runs once (``.ci/minimum_versions.py``)."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOT_TESTED = ("cuda12", "cuda13", "docs")


def floors(requirements: list[str]) -> dict[str, set[str]]:
    """Package to its least versions; every requirement but this package itself must have one."""
    found: dict[str, set[str]] = defaultdict(set)
    for requirement in requirements:
        name, _, version = requirement.partition(">=")
        if name.split("[")[0] != "jaxlmm":
            assert re.fullmatch(r"\d+(\.\d+)*", version), f"{requirement} has no floor, or more than one"
            found[name].add(version)
    return found


def test_every_package_has_one_floor() -> None:
    extras = PROJECT["optional-dependencies"]
    every = floors([*PROJECT["dependencies"], *(r for name in extras if "cuda" not in name for r in extras[name])])
    assert not {name: versions for name, versions in every.items() if len(versions) > 1}


def test_the_tests_install_what_the_extras_name() -> None:
    extras = PROJECT["optional-dependencies"]
    optional = floors([r for name in extras if name not in NOT_TESTED for r in extras[name]])
    assert set(optional) == set(floors(extras["test"])), "an extra has a package that the test extra lacks"


def test_ci_installs_the_floors() -> None:
    printed = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "minimum_versions.py")], capture_output=True, text=True, check=True
    ).stdout.split()
    wanted = floors([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]])
    assert sorted(printed) == sorted(
        f"{name}=={version}" for name, (version,) in wanted.items() if name not in ("mypy", "ruff")
    )
    run = (ROOT / ".ci" / "run").read_text()
    assert ".ci/minimum_versions.py" in run
    for name in re.findall(r"tests/test_\w+\.py", run):
        assert (ROOT / name).exists(), name
