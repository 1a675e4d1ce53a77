"""A process may fit any number of designs: it keeps few compiled programs, and few memory maps."""

from __future__ import annotations

import functools
import threading

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


def test_programs_of_few_responses_are_others_with_the_same_results() -> None:
    made = []

    @functools.partial(programs.jit, batch=1)
    def roots(M: jax.Array, y: jax.Array) -> jax.Array:
        made.append(y.shape)
        return jnp.sqrt(M @ jnp.exp(y))

    M, y = np.linspace(0, 1, 12).reshape(3, 4), np.linspace(-1, 1, 80).reshape(4, 20)
    wide = np.asarray(roots(M, y))
    np.testing.assert_allclose(roots(M, y[:, :16]), wide[:, :16], rtol=1e-6)
    np.testing.assert_allclose(roots(M, {"y": y[:, 16:]}["y"]), wide[:, 16:], rtol=1e-6)
    assert [shape[1] for shape in made] == [20, 16, 4]
    assert not programs._small((M, y), y)
    assert programs._small((M, y[:, :16]), y[:, :16])
    assert not programs._small((np.zeros(programs.FEW_NUMBERS), y[:, :16]), y[:, :16])


def test_a_program_of_few_responses_that_is_called_again_and_again_is_compiled_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(programs, "FEW_CALLS", 2)
    monkeypatch.setattr(programs, "_compiler_option", lambda name, value: options.append((name, value)) or {})
    options = list[tuple[str, object]]()
    squares = programs.jit(lambda y: y * y, batch=0)
    compiled = []
    for n in (3, 3, 5, 3, 3, 5, 5):
        np.testing.assert_array_equal(squares(np.arange(float(n))), np.arange(float(n)) ** 2)
        compiled.append([name for name, _ in options].count("xla_cpu_use_fusion_emitters"))
    assert compiled == [1, 1, 1, 2, 2, 2, 2]
    assert dict(options)["xla_backend_optimization_level"] == 0


def test_a_program_may_have_its_responses_along_any_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    options = list[tuple[str, object]]()
    monkeypatch.setattr(programs, "_compiler_option", lambda name, value: options.append((name, value)) or {})
    sums = programs.jit(lambda y: y.sum(axis=1), responses=len)
    for n, plain in ((programs.FEW_IN_A_BLOCK + 1, False), (programs.FEW_IN_A_BLOCK, True)):
        options.clear()
        np.testing.assert_array_equal(sums(np.ones((n, 3))), np.full(n, 3.0))
        assert ("xla_backend_optimization_level" in dict(options)) == plain


def test_programs_that_come_next_are_compiled_beside_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "N_THREADS", 2)
    rng = np.random.default_rng(0)
    codes, x = np.arange(77) % 11, rng.normal(size=77)
    X, Y = np.column_stack([np.ones(77), x]), rng.normal(size=(77, 3))
    fit = jaxlmm.fit(X, Y, random=[jaxlmm.random_term(codes, X)])
    before = programs.n_programs()
    assert np.isfinite(fit.pvalue).all()
    assert programs.n_programs() == before


def test_what_is_compiled_ahead_is_run_once_and_its_errors_are_left_to_who_needs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(programs, "N_THREADS", 2)
    monkeypatch.setattr(programs, "_ahead", set())
    ran, devices = [], []

    def work() -> None:
        ran.append(threading.current_thread())
        devices.append(jax.config.jax_default_device)  # type: ignore[attr-defined]
        raise ValueError("of no matter here")

    device = jax.devices("cpu")[0]
    for n in (3, 3, 4):
        with jax.default_device(device), programs.ahead(work, np.zeros(n)):
            pass
    assert devices == [device, device]
    assert len(ran) == 2 and threading.main_thread() not in ran
    with pytest.raises(KeyboardInterrupt), programs.ahead(work, np.zeros(5)):
        raise KeyboardInterrupt
    assert not any(thread.is_alive() for thread in ran)
