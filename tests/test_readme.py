"""The README's commands and code, as a user would run them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from jaxlmm.cli.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return [text for name, text in re.findall(r"^```(\w*)\n(.*?)^```", README, re.S | re.M) if name == language]


def shell_commands() -> list[str]:
    return [line for block in blocks("") for line in block.splitlines() if line]


def test_the_first_command_runs(tmp_path: Path) -> None:
    """``pip install . && python -m jaxlmm demo``: what stands behind the &&, with fewer electrodes."""
    install, command = shell_commands()[0].split(" && ")
    assert install == "pip install ." and command == "python -m jaxlmm demo"
    picture = tmp_path / "demo.png"
    run = subprocess.run(
        [sys.executable, *command.split()[1:], "--responses", "400", "--plot", str(picture)],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Days" in run.stdout and "10.4673" in run.stdout  # lme4's estimate
    assert "400 simulated electrodes" in run.stdout and "microseconds per response" in run.stdout
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_the_second_command_is_what_ci_runs() -> None:
    command = shell_commands()[1]
    assert command == 'pip install ".[test]" && python -m pytest'
    ci = (ROOT / ".ci" / "run").read_text()
    assert re.search(r"pip install [^\n]*\"\.\[test\]\" && python -m pytest$", ci, re.M)


def test_the_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([f"s{j}" for j in range(10)], 12)
    X = np.column_stack([np.ones(120), rng.normal(size=120)])
    Y = rng.normal(size=(120, 5000)) + rng.normal(size=(10, 5000)).repeat(12, axis=0)
    assert blocks("python")
    for block in blocks("python"):
        exec(block, {"X": X, "Y": Y, "groups": groups})
    assert "y4812" in capsys.readouterr().out


def test_bad_arguments_of_the_command_line(tmp_path: Path) -> None:
    for arguments, message in (
        (["demo", "--plot", str(tmp_path / "a.xyz")], "must end in .png, .pdf, .svg or .jpg"),
        (["demo", "--plot", str(tmp_path / "none" / "a.png")], "does not exist"),
        (["demo", "--responses", "1"], "is not in the range x>=4"),
    ):
        run = CliRunner().invoke(main, arguments)
        assert run.exit_code == 2 and message in " ".join(run.stderr.split()), run.stderr
