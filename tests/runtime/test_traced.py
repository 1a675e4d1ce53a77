"""Programs are kept as they were traced, in a folder: another process does not trace them again."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlmm._types import float64_scope
from jaxlmm.runtime import programs, traced

pytest.importorskip("flatbuffers")

SCRIPT = """
import json, sys
import numpy as np
import jaxlmm
from jaxlmm.families.general import one_factor

calls = []
moments = one_factor.moments
one_factor.moments = lambda *a, **k: (calls.append(0), moments(*a, **k))[1]
if sys.argv[1]:
    jaxlmm.enable_compile_cache(sys.argv[1])
rng = np.random.default_rng(0)
g, x = np.repeat(np.arange(9), 8), rng.normal(size=72)
Y = rng.normal(size=(72, 3)) + rng.normal(size=(9, 3))[g] + x[:, None] * rng.normal(size=(9, 3))[g]
X = np.column_stack([np.ones(72), x])
fit = jaxlmm.fit(X, Y, random=[jaxlmm.random_term(g, X)])
print(json.dumps([fit.coef.tolist(), fit.theta.tolist(), fit.pvalue.tolist(), len(calls)]))
"""


def run(folder: str) -> list[Any]:
    done = subprocess.run([sys.executable, "-c", SCRIPT, folder], capture_output=True, text=True, check=True)
    found: list[Any] = json.loads(done.stdout)
    return found


def test_a_second_process_neither_traces_nor_differs(tmp_path: Path) -> None:
    plain, first, second = run(""), run(str(tmp_path / "cache")), run(str(tmp_path / "cache"))
    assert first[-1] > 0 == second[-1]
    for a, b, c in zip(plain[:3], first[:3], second[:3], strict=True):
        np.testing.assert_array_equal(c, b)
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(traced, "_folder", tmp_path)
    return tmp_path


traces: list[str] = []


def powers(x: Any, n: int, *, scale: float, minus: bool) -> Any:
    traces.append(f"{n} {minus}")
    return {"power": scale * x["x"] ** n * (-1 if minus else 1), "half": 0.5 * x["x"]}


def made() -> Any:
    return functools.partial(programs.jit, keep=True, static_argnums=1, static_argnames="minus")(powers)


def test_what_is_kept_is_found_again_and_nothing_else(folder: Path) -> None:
    traces.clear()
    x = np.arange(4.0)
    with float64_scope():
        for _ in range(2):  # the second time from the folder
            one = made()
            for n, minus, sign in ((2, False, 1), (3, False, 1), (3, True, -1)):
                found = one({"x": x}, n, scale=0.5, minus=minus)
                np.testing.assert_array_equal(found["power"], sign * 0.5 * x**n)
                np.testing.assert_array_equal(found["half"], 0.5 * x)
            np.testing.assert_array_equal(one({"x": x[:3]}, 2, scale=2.0, minus=False)["power"], 2 * x[:3] ** 2)
            assert one({"x": x}, 2, scale=0.25, minus=False)["power"].dtype == np.float64
    assert traces == ["2 False", "3 False", "3 True", "2 False"]
    assert len(list(folder.iterdir())) == 4


def test_a_damaged_file_is_made_again_and_a_locked_folder_is_no_error(folder: Path) -> None:
    x = {"x": np.ones(2)}
    with float64_scope():
        made()(x, 2, scale=1.0, minus=False)
        (path,) = folder.iterdir()
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        np.testing.assert_array_equal(made()(x, 2, scale=1.0, minus=False)["power"], 1.0)
        assert path.read_bytes()[:64] == whole[:64]
        traced.keep_in(path / "no folder")  # a file is in the way
        np.testing.assert_array_equal(made()(x, 2, scale=3.0, minus=False)["power"], 3.0)


def test_what_cannot_be_written_down_runs_all_the_same(folder: Path) -> None:
    @functools.partial(programs.jit, keep=True)
    def through_python(x: jax.Array) -> jax.Array:
        return jax.pure_callback(lambda a: np.asarray(a) + 1, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    @functools.partial(programs.jit, keep=True)
    def wrong(x: jax.Array) -> jax.Array:
        return x @ jnp.ones((x.shape[0] + 1, 1))

    np.testing.assert_array_equal(through_python(np.zeros(3, np.float32)), 1.0)
    with pytest.raises(TypeError, match="dot_general"):
        wrong(np.zeros(3, np.float32))
    assert not list(folder.iterdir())


def test_nothing_is_kept_without_flatbuffers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(traced, "_folder", None)
    monkeypatch.setattr(traced.importlib.util, "find_spec", lambda name: None)
    traced.keep_in(tmp_path)
    assert traced.folder() is None
