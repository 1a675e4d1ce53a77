"""A process may fit any number of designs: it keeps few compiled programs, and few memory maps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlmm
from jaxlmm.runtime import programs


@pytest.mark.skipif(not programs.MAPS.exists(), reason="no /proc")
def test_programs_of_many_shapes_take_few_memory_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    @programs.jit
    def wave(a: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 9, lambda _, b: jnp.sin(b) @ jnp.cos(b), a)

    start = programs.n_maps()
    monkeypatch.setattr(programs, "MOST_MAPS", start + 100)
    kept, maps = [], []
    for n in range(1, 80):
        wave(np.ones((n, n), dtype=np.float32))
        kept.append(programs.n_programs())
        maps.append(programs.n_maps())
    assert start + 100 < max(maps) < start + 300  # what one program takes, beyond the limit
    forgotten = np.flatnonzero(np.diff(kept) < 0)
    assert len(forgotten)  # how many programs fit is the system's matter


@pytest.mark.parametrize("counts_maps", [True, False])
def test_a_forgotten_program_is_compiled_again_with_the_same_results(
    counts_maps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    codes = np.arange(60) % 7
    X, Y = np.column_stack([np.ones(60), rng.normal(size=60)]), rng.normal(size=(60, 5))
    before = jaxlmm.fit(X, Y, codes)
    if counts_maps:
        monkeypatch.setattr(programs, "MOST_MAPS", 0)
    else:
        monkeypatch.setattr(programs, "MAPS", programs.MAPS / "none")
        monkeypatch.setattr(programs, "MOST_PROGRAMS", 0)
    monkeypatch.setattr(programs, "_counted", 0)
    again = jaxlmm.fit(X, Y, codes)
    assert programs.n_programs() == 1
    for name in ("coef", "se", "loglik", "pvalue"):
        np.testing.assert_array_equal(getattr(again, name), getattr(before, name))
