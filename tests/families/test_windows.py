"""Windows, off which a design with two variances is read, against what is computed at each phi."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest
from fitting import fit_general
from oracle import make_case, structures

from jaxlmm._types import float64_scope
from jaxlmm.families.deviance import Deviance
from jaxlmm.families.general import family as general
from jaxlmm.families.general import windows
from jaxlmm.optimize.several import minimise_several

M = 1024
NU = {True: 45.0, False: 48.0}


@functools.cache
def setting(name: str, other_way: bool = False):
    """A case, responses with effects of all sizes (150 lies beyond the windows), their statistics, the largest."""
    rng = np.random.default_rng(7)
    X, w, terms = structures(np.random.default_rng(3))
    chosen = terms[name][::-1] if other_way else terms[name]
    case = make_case(X, chosen, w)
    Y, largest = rng.normal(size=(len(X), M)), np.zeros(M)
    for term in case.terms:
        sd = rng.choice([0.0, 0.0, 0.3, 2.0, 150.0], size=M)
        Y += (rng.normal(size=(term.n_levels, M)) * sd)[term.codes]
        largest = np.maximum(largest, sd)
    return case, Y, case.family.reduce(Y)[0], largest


CASES = [("nested", False), ("crossed", False), ("crossed", True)]


at_nodes = jax.jit(lambda problem, nodes, stats: problem.at_nodes(nodes, stats))
evaluate = jax.jit(lambda problem, theta, stats: problem.evaluate(theta, stats))


def found(f, *args):
    with float64_scope():
        return jax.tree.map(np.asarray, f(*args))


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize(("name", "other_way"), CASES)
def test_the_deviance_in_its_windows(name: str, other_way: bool, reml: bool) -> None:
    case, _, stats, largest = setting(name, other_way)
    family, nu = case.family, NU[reml]
    few = jax.tree.map(lambda v: np.asarray(v)[..., largest < 100][..., :60], stats)
    problem, read = Deviance(family, nu, reml), family.windows(nu, reml, M)
    nodes, value, neighbours = read.starts(few)
    np.testing.assert_allclose(value, found(at_nodes, problem, nodes, few), rtol=1e-11, atol=1e-8)
    assert neighbours.shape == (nodes.shape[1], 8)

    near = np.sqrt(nodes[:, value.argmin(axis=0)] ** 2 * np.random.default_rng(1).uniform(0.5, 2.0, size=(2, 60)))
    near[:, 0] = 0.0
    windowed, own = read.around(near, few)
    exact, inside = found(evaluate, problem, near, few), found(evaluate, windowed, near, own)
    for name_, atol in (("value", 1e-8), ("gradient", 1e-7 * nu), ("slope", 1e-7 * nu), ("hessian", 1e-6 * nu)):
        np.testing.assert_allclose(getattr(inside, name_), getattr(exact, name_), rtol=1e-6, atol=atol)
    outside = found(evaluate, windowed, near * 30 + 20, own)
    assert np.isinf(outside.value).all()


@pytest.mark.parametrize(("name", "other_way"), CASES)
def test_what_does_not_depend_on_the_responses(name: str, other_way: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variances of contrasts and the derivatives of log-determinants; 1e5 and more are not in windows."""
    family = setting(name, other_way)[0].family
    phi = 10 ** np.random.default_rng(2).uniform(-3, 6, size=(2, M))
    phi[0, :100] = phi[1, 50:200] = 0
    L = np.random.default_rng(3).normal(size=(2, 3))
    assert 0.05 < family._grids.known(family.phi_from_user(phi)).mean() < 0.95
    phi[:, 300] = np.nan  # a response without a fit
    read = [*family.own_curves(phi, L), *family.information(phi, reml=True), *family.information(phi, reml=False)]
    monkeypatch.setattr(general, "WORTH_WINDOWS", M + 1)
    exact = [*family.own_curves(phi, L), *family.information(phi, reml=True), *family.information(phi, reml=False)]
    for one, other in zip(read, exact, strict=True):
        size = np.abs(other).max(axis=tuple(range(1, other.ndim)), keepdims=True)
        np.testing.assert_allclose(one / size, other / size, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("name", "other_way"), CASES)
def test_windows_do_not_show_in_a_fit(name: str, other_way: bool) -> None:
    case, Y, _, largest = setting(name, other_way)
    many, few = fit_general(case.family, Y), fit_general(case.family, Y[:, :200])
    assert many.converged[largest < 100].all()
    same = many.converged[:200] & few.converged
    assert same.mean() > 0.7
    np.testing.assert_array_equal(many.singular[:, :200][:, same], few.singular[:, same])
    np.testing.assert_allclose(many.loglik[:200][same], few.loglik[same], rtol=1e-11)
    np.testing.assert_allclose(many.theta[:, :200][:, same], few.theta[:, same], rtol=1e-5, atol=1e-6)


def test_windows_that_are_wrong_are_noticed() -> None:
    case, _, stats, largest = setting("crossed")
    few = jax.tree.map(lambda v: np.asarray(v)[..., largest < 100][..., :60], stats)
    problem, read = Deviance(case.family, NU[True], True), case.family.windows(NU[True], True, M)
    right = minimise_several(problem, few)
    wrong = minimise_several(problem, few, windows=dataclasses.replace(read, nu=0.9 * NU[True]))
    np.testing.assert_allclose(wrong.value, right.value, rtol=1e-12)
    assert wrong.converged.all()


def test_which_designs_have_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    family = setting("crossed")[0].family
    assert family.windows(NU[True], True, M) is not None and family.windows(NU[True], True, 16) is None
    X, w, terms = structures(np.random.default_rng(3))
    for name in ("slope", "maximal", "balanced"):
        assert make_case(X, terms[name], w if name != "balanced" else None).family.windows(1.0, True, M) is None
    monkeypatch.setattr(windows, "MOST_BYTES", 1000)
    assert windows.make_grids(family.core) is None


def test_lagrange_polynomials_and_their_derivatives() -> None:
    z = np.linspace(-0.98, 0.97, 7)
    at = (windows._lagrange() @ windows._chebyshev(z)).reshape(3, windows.NODES, -1)
    x = windows.HALF * np.cos(np.pi * (np.arange(windows.NODES) + 0.5) / windows.NODES)
    for derivative in at:
        np.testing.assert_allclose(np.exp(x) @ derivative, np.exp(windows.HALF * z), rtol=1e-10)
