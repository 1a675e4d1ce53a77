"""Bars of long work, and what Ctrl-C (a real SIGINT, to a process of its own) leaves of it."""

from __future__ import annotations

import contextvars
import io
import json
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner

import jaxlmm
from jaxlmm.cli.cli import main
from jaxlmm.runtime import progress as module
from jaxlmm.runtime.progress import advance, progress

N, M = 60, 300
GROUPS = np.arange(N) % 6
X = np.column_stack([np.ones(N), np.random.default_rng(0).normal(size=N)])
Y = np.random.default_rng(1).normal(size=(N, M)) + np.random.default_rng(2).normal(size=(6, M))[GROUPS]
HOLES = Y.copy()
HOLES[3, ::2] = np.nan
HOLES[np.arange(M) % N, np.arange(M)] = np.nan


# -- the bar -------------------------------------------------------------------------------------------


def work(show: bool | None, screen: io.StringIO | None = None) -> None:
    """Work that waits, in the middle, until it is seen on the screen."""
    with progress("Work", 10, "things", show):
        advance(4)
        end = time.monotonic() + 20
        while screen is not None and "40%" not in screen.getvalue() and time.monotonic() < end:
            time.sleep(0.01)
        advance(3)


def test_a_bar_appears_only_when_work_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    work(True)
    monkeypatch.setattr(module, "DELAY", 0.0)
    monkeypatch.setattr(module, "TICK", 0.01)
    work(False)
    work(None)  # no terminal
    assert screen.getvalue() == ""
    work(True, screen)
    found = screen.getvalue()
    assert "Work:  40%" in found and "Work: 100%" in found and "things/s" in found and found.endswith("\n")
    screen.truncate(0)
    monkeypatch.setattr(screen, "isatty", lambda: True)
    work(None, screen)
    assert "Work:  40%" in screen.getvalue()
    assert not [t for t in threading.enumerate() if t.name == "jaxlmm progress"]


def test_work_within_work_counts_for_it() -> None:
    advance(5)  # nobody counts
    with progress("Work", 10, "things") as outer:
        with progress("Part", 3, "things") as inner:
            assert inner is outer
            advance(3)
        thread = threading.Thread(target=contextvars.copy_context().run, args=(advance, 4))
        thread.start()
        thread.join()
        assert outer.done == 7
        advance(-2)
        outer.skip(3)
        assert outer.done == 8
        advance(100)
        assert outer.done == 10


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """How much was counted of every work, before what is left is set right at its end, and its total."""
    found: list[tuple[int, int]] = []
    end = module.Progress.reach

    def reach(self: module.Progress, done: int) -> None:
        if done == self.total:
            found.append((self.done, self.total))
        end(self, done)

    monkeypatch.setattr(module.Progress, "reach", reach)
    yield found


MODELS: dict[str, Callable[[], Any]] = {
    "intercept": lambda: jaxlmm.fit(X, Y, GROUPS),
    "missing observations": lambda: jaxlmm.fit(X, HOLES, GROUPS),
    "slopes": lambda: jaxlmm.fit(X, Y[:, :20], random=[jaxlmm.random_term(GROUPS, X)]),
    "weights of each": lambda: jaxlmm.fit(X, Y, GROUPS, weights=np.ones_like(Y)),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_response_is_counted_once(name: str, counts: list[tuple[int, int]]) -> None:
    m = MODELS[name]().n_responses
    assert counts == [(m, m)]


def test_profiles_and_resampled_fits_are_counted(counts: list[tuple[int, int]]) -> None:
    fit = jaxlmm.fit(X, Y[:, :8], GROUPS)
    counts.clear()
    fit.profile()
    assert counts.pop() == (8, 8)
    fit.bootstrap(20)
    assert counts[0] == (160, 160)
    counts.clear()
    jaxlmm.permutation_test(fit, "x1", 30)
    assert counts[0] == (8 * 32, 8 * 32)  # its own fit, the one without the effect, 30 draws


# -- Ctrl-C --------------------------------------------------------------------------------------------

# What is run: jaxlmm is interrupted in the middle, and a line of JSON says what is left.
START = """
import io, json, os, signal, sys, threading, numpy as np, jax, threadpoolctl, jaxlmm
from pathlib import Path
from jaxlmm.runtime import progress
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
add = progress.Progress.add
folder = Path(sys.argv[1])
N, M = {N}, {M}
def blas():
    return [lib["num_threads"] for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"]
GROUPS = np.arange(N) % 6
X = np.column_stack([np.ones(N), np.random.default_rng(0).normal(size=N)])
Y = np.random.default_rng(1).normal(size=(N, M)) + np.random.default_rng(2).normal(size=(6, M))[GROUPS]
before = blas()
def interrupt_after(n):
    '''A SIGINT of the system after n blocks of responses.'''
    left = [n]
    def counted(self, n):
        add(self, n)
        left[0] -= n > 0
        if left[0] == 0:
            progress.Progress.add = add
            os.kill(os.getpid(), signal.SIGINT)
    progress.Progress.add = counted
def after(stop):
    at_work = [t.name for t in threading.enumerate() if t is not threading.main_thread() and "Pool" in t.name]
    ends = (".part", ".new", ".old")
    litter = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.name.endswith(ends))
    print(json.dumps(dict(
        notes=getattr(stop, "__notes__", None), blas=blas() == before, x64=bool(jax.config.jax_enable_x64),
        threads=at_work, litter=litter,
    )))
""".replace("{N}", str(N)).replace("{M}", str(M))


def run(script: str, folder: Path, code: int = 0) -> tuple[list[dict[str, Any]], str]:
    """The lines that a script prints, and what it says on the terminal."""
    done = subprocess.run(
        [sys.executable, "-c", START + script, str(folder)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == code, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def assert_whole(found: dict[str, Any]) -> None:
    """Interrupted, and the process is as it was."""
    assert found["notes"], "it was not interrupted"
    assert found["blas"] and not found["x64"] and found["threads"] == []


def test_ctrl_c_leaves_nothing_broken_and_says_how_to_go_on(tmp_path: Path) -> None:
    (memory, holes, test, draws, nothing, store, results), _ = run(
        """
def stopped(blocks, call):
    interrupt_after(blocks)
    try:
        call()
        after(None)
    except KeyboardInterrupt as stop:
        after(stop)
Y[3, :40] = np.nan
Y[np.arange(M) % N, np.arange(M)] = np.nan
stopped(1, lambda: jaxlmm.fit(X, Y, GROUPS))
whole = jaxlmm.fit(X, Y, GROUPS)
stopped(1, whole.profile)
from jaxlmm.resampling import permutation
permutation.KEPT_AFTER = 30 * 100  # 100 responses
out = folder / "draws"
fit = jaxlmm.fit(X, np.nan_to_num(Y), GROUPS)
stopped(7, lambda: jaxlmm.permutation_test(fit, "x1", 30, out=out))
kept = sorted(p.name for p in out.iterdir())
found = jaxlmm.permutation_test(fit, "x1", 30, out=out)
whole_null = jaxlmm.permutation_test(fit, "x1", 30).null  # in other blocks, which processors round otherwise
same = np.allclose(found.null, whole_null, rtol=1e-10)
print(json.dumps(dict(kept=kept, same=bool(same), files=sorted(p.name for p in out.iterdir()))))
options = dict(out=folder / "r.zarr", block=100)
stopped(1, lambda: jaxlmm.fit(X, Y, GROUPS, **options))
stopped(2, lambda: jaxlmm.fit(X, Y, GROUPS, **options))
found = jaxlmm.fit(X, Y, GROUPS, **options, resume=True)
same = np.allclose(found.coef.to_numpy().T, whole.coef, rtol=1e-9, atol=1e-12, equal_nan=True)
print(json.dumps(dict(same=bool(same), files=sorted(p.name for p in folder.iterdir()))))
""",
        tmp_path,
    )
    for found in (memory, holes, test, nothing, store):
        assert_whole(found)
    assert re.match(r"Fit stopped after \d+ of 300 responses. Nothing is kept of it; with out=", memory["notes"][0])
    assert re.match(r"Permutation test stopped after [\d,]+ of 9,600 fits", test["notes"][0])
    assert f"'{tmp_path}/draws' keeps 1 of 3 pieces; the same call goes on" in test["notes"][0]
    assert f"permutation_test(fit, 'x1', 30, ..., out='{tmp_path}/draws')" in test["notes"][0]
    assert draws["kept"] == ["piece-000000.npz", "settings.json"] and draws["same"] and test["litter"] == []
    assert draws["files"] == [*(f"piece-00000{k}.npz" for k in range(3)), "settings.json"]
    assert "nothing is left at" in nothing["notes"][1] and nothing["litter"] == []
    assert "r.zarr.part' holds 1 of 3 blocks, finished. The same call with resume=True goes on" in store["notes"][1]
    assert f"jaxlmm.fit(..., out='{tmp_path}/r.zarr', resume=True)" in store["notes"][1]
    assert store["litter"] == ["r.zarr.part"]
    assert results == {"same": True, "files": ["draws", "r.zarr"]}


def test_ctrl_c_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame(Y, columns=[f"e{j}" for j in range(M)]).assign(x=X[:, 1], g=[f"s{k}" for k in GROUPS])
    frame.to_csv(tmp_path / "t.csv", index=False)
    np.save(tmp_path / "y.npy", Y)
    command = """
from jaxlmm.cli import run
from jaxlmm.cli.cli import main
from jaxlmm.sources import plan
run.CHUNK, plan.BLOCK_BYTES = 100, 8 * N * 100
interrupt_after(3)
sys.argv = ["jaxlmm", "fit", "t.csv", "--formula", "x + (1 | g)", *WORDS]
os.chdir(folder)
main()
"""
    _, said = run(command.replace("WORDS", '["--responses", "e*", "--out", "a.csv"]'), tmp_path, 130)
    assert re.search(
        r"Fit stopped after \d+ of 300 responses. Nothing was written; a run with --out .* goes on", said
    )
    assert "Traceback" not in said and not list(tmp_path.glob("*a.csv*"))
    _, said = run(command.replace("WORDS", '["--array", "y.npy", "--out", "a.zarr", "--overwrite"]'), tmp_path, 130)
    again = "jaxlmm fit t.csv --formula 'x + (1 | g)' --array y.npy --out a.zarr --resume"
    assert said.endswith(f"What is finished stays; go on with:\n{again}\n") and "Traceback" not in said
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, shlex.split(again)[1:])
    assert result.exit_code == 0, result.output
    found = xr.open_zarr(tmp_path / "a.zarr").coef.to_numpy().T
    np.testing.assert_allclose(found, jaxlmm.fit(X, Y, GROUPS).coef, rtol=1e-9, atol=1e-12)
