"""The family of any random terms against n x n matrices, differentiated by JAX."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fitting import fit_general
from oracle import make_case, random_phi, structures

import jaxlmm
from jaxlmm._types import float64_scope
from jaxlmm.families.base import Moments
from jaxlmm.families.general import few_strata, moments, one_factor, strata_moments
from jaxlmm.families.general.family import General, make_general
from jaxlmm.families.general.layout import Core
from jaxlmm.families.general.strata import StrataCore
from jaxlmm.families.parameters import lower_triangle, phi_from_theta

NAMES = list(structures(np.random.default_rng(0))[2])


@functools.cache
def setting(name):
    """A case with weights where the name's number is odd, four responses, and phi: two of them singular."""
    rng = np.random.default_rng(NAMES.index(name))
    X, w, terms = structures(rng)
    case = make_case(X, terms[name], w if NAMES.index(name) % 2 else None)
    first = terms[name][0]
    Y = rng.normal(size=(len(X), 4)) + X @ rng.normal(size=(3, 4)) + rng.normal(size=(first.n_levels, 4))[first.codes]
    theta = random_phi(rng, case.family.sizes, 4)
    theta[:, 1], theta[-1, 2], theta[0, 2] = 0, 0, 0
    stats, scaling = case.family.reduce(Y)
    phi = np.asarray(phi_from_theta(theta, case.family.sizes))
    return case, Y, phi, stats, case.root_w[:, None] * Y / scaling.scale, scaling


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_moments(name: str, reml: bool) -> None:
    case, _, phi, stats, y, _ = setting(name)
    with float64_scope():
        at = jax.jit(General.moments, static_argnames="reml")(case.family, jnp.asarray(phi), stats, reml=reml)
        parts = jax.jit(General.node_parts, static_argnames="reml")(case.family, jnp.asarray(phi), stats, reml=reml)
        (s, s1, s2), (l, l1, l2) = case.deviance_parts(phi, y, reml)  # noqa: E741
    for found in ((at.s, at.l), (np.diagonal(parts[0]), parts[1])):
        np.testing.assert_allclose(found[0], s, rtol=1e-12)
        np.testing.assert_allclose(found[1], l, rtol=1e-12, atol=1e-11)
    for c in range(y.shape[1]):
        for ours, theirs in ((at.s1, s1), (at.l1, l1), (at.s2, s2), (at.l2, l2)):
            size = np.abs(theirs[..., c]).max()
            np.testing.assert_allclose(ours[..., c], theirs[..., c], rtol=1e-9, atol=1e-10 * size)


@pytest.mark.parametrize("name", NAMES)
def test_nodes_for_all_responses(name: str) -> None:
    case, _, phi, stats, _, _ = setting(name)
    with float64_scope():
        parts, each = (jax.jit(f, static_argnames="reml") for f in (General.node_parts, General.moments))
        for n in (4, 3):  # so many at once, or one by one
            s, l = parts(case.family, jnp.asarray(phi[:, :n]), stats, reml=True)  # noqa: E741
            for j in range(n):
                one = each(case.family, jnp.asarray(np.repeat(phi[:, j : j + 1], 4, axis=1)), stats, reml=True)
                np.testing.assert_allclose(s[j], one.s, rtol=1e-11)
                # At phi = 0 both are 0 but for the rounding of their sums, which is not the same.
                np.testing.assert_allclose(l[j], one.l[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_coefficients_their_covariance_and_modes(name: str) -> None:
    case, Y, phi, stats, y, scaling = setting(name)
    L = np.random.default_rng(1).normal(size=(2, 3))
    with float64_scope():
        at = jax.jit(General.covariance)(case.family, jnp.asarray(phi), stats, jnp.asarray(L))
        b = np.asarray(jax.jit(General.fixef)(case.family, jnp.asarray(phi), stats))
        expected = [np.asarray(part) for part in case.covariance(phi, L)]
        modes = case.family.modes(case.family.phi_to_user_matrix @ phi, b * scaling.scale, Y)
        for c in range(y.shape[1]):
            for ours, theirs in zip((at.value, at.first, at.second), expected, strict=True):
                size = np.abs(theirs[..., c]).max()
                np.testing.assert_allclose(ours[..., c], theirs[..., c], rtol=1e-8, atol=1e-10 * size)
            Vinv = np.linalg.inv(case.V(phi[:, c]))
            beta = np.linalg.solve(case.Q.T @ Vinv @ case.Q, case.Q.T @ Vinv @ y[:, c])
            np.testing.assert_allclose(b[:, c], beta, rtol=1e-10, atol=1e-12 * np.abs(beta).max())
            check_modes(case, phi[:, c], Vinv, Vinv @ (y[:, c] - case.Q @ beta), modes, c, scaling.scale[c])


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", ["slope", "mixed", "outer slope", "three"])
def test_two_ways_to_the_derivatives_of_log_determinants(name: str, reml: bool) -> None:
    case, _, phi, *_ = setting(name)

    @jax.jit
    def both(core, phi):
        at = moments.factor(core, phi)
        return moments._by_schur(core, at, reml), moments._by_blocks(core, at, reml)

    with float64_scope():
        first, second = both(case.family.core, jnp.asarray(phi))
    for ours, theirs in zip(first, second, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in NAMES if one_factor.fits(setting(name)[0].family.core)])
def test_one_factor_as_any_others(name: str) -> None:
    """What its few columns of X make fast is what the general arithmetic gives, which more columns would need."""
    case, _, phi, stats, _, _ = setting(name)
    L = np.random.default_rng(2).normal(size=(2, 3))

    @jax.jit
    def both(core, phi, stats):
        return (
            [
                (
                    *(known.moments(core, phi, stats, reml=reml) for known in (one_factor, moments)),
                    one_factor.information(core, phi, reml=reml),
                )
                for reml in (True, False)
            ],
            moments.covariance(core, phi, L),
            one_factor.own_covariance(core, phi, L),
            one_factor.solutions(core, phi, stats, L),
            moments.estimates(core, phi, stats),
        )

    with float64_scope():
        each, covariance, (value, first), solutions, estimates = both(case.family.core, jnp.asarray(phi), stats)
    for fast, slow, information in each:
        for ours, theirs in zip(information, (slow.l1, slow.l2), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-12 * np.abs(theirs).max())
        for ours, theirs in zip(jax.tree.leaves(vars(fast)), jax.tree.leaves(vars(slow)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-12 * np.abs(theirs).max())
    np.testing.assert_allclose(value, np.einsum("iic->ic", covariance.value), rtol=1e-12)
    np.testing.assert_allclose(first, np.einsum("kiic->kic", covariance.first), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(solutions[2], value, rtol=1e-12)
    for ours, theirs in zip(solutions[:2], estimates, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["slope", "mixed", "nested", "factor"])
def test_curves_and_information_in_the_users_units(name: str) -> None:
    """At phi alone, of the columns of Z as given."""
    case, *_ = setting(name)
    family = case.family
    rng = np.random.default_rng(4)
    theta = random_phi(rng, family.sizes, 4)
    theta[:, 1] = 0
    phi = np.asarray(phi_from_theta(theta, family.sizes))
    L = rng.normal(size=(2, 3))
    G = np.tensordot(np.linalg.inv(family.phi_to_user_matrix).T, case.G, 1)
    for term, start in zip(case.terms, family.core.offsets, strict=True):  # the first parameter, by hand
        column = case.root_w * term.Z[:, 0]
        np.testing.assert_allclose(
            G[start], np.equal.outer(term.codes, term.codes) * np.outer(column, column), atol=1e-10
        )
    given = dataclasses.replace(case, G=G)
    curves = family.curves(phi, L)
    information = {reml: family.information(phi, reml=reml) for reml in (True, False)}
    with float64_scope():
        covariance = [np.moveaxis(part, -1, 0) for part in given.covariance(phi, L)]
        logdets = {reml: given.deviance_parts(phi, np.zeros((len(G[0]), 4)), reml)[1] for reml in (True, False)}
    for m in range(4):
        for ours, theirs in zip(curves, covariance, strict=True):
            np.testing.assert_allclose(ours[m], theirs[m], rtol=1e-7, atol=1e-9 * np.abs(theirs[m]).max())
        for reml, (l1, l2) in information.items():
            for ours, theirs in ((l1[m], logdets[reml][1][..., m]), (l2[m], logdets[reml][2][..., m])):
                np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9 * np.abs(theirs).max())


@pytest.mark.parametrize("name", ["slope", "mixed"])
def test_theta_and_hessian_go_to_the_users_units_together(name: str) -> None:
    family = setting(name)[0].family
    rng = np.random.default_rng(5)
    theta, hessian = rng.normal(size=(family.n_phi, 3)), rng.normal(size=(family.n_phi, family.n_phi, 3))
    user = family.to_user(theta)
    np.testing.assert_allclose(family.theta_to_user_matrix @ theta, user, rtol=1e-12)
    np.testing.assert_allclose(family.from_user(user), theta, rtol=1e-10)
    phi = family.phi_from_user(phi_from_theta(user, family.sizes))
    np.testing.assert_allclose(phi, phi_from_theta(theta, family.sizes), rtol=1e-10)
    form = np.einsum("ac,abc,bc->c", theta, hessian, theta)
    np.testing.assert_allclose(
        np.einsum("ac,abc,bc->c", user, family.hessian_to_user(hessian), user), form, rtol=1e-9
    )


def check_modes(case, phi, Vinv, pulled, modes, c, scale) -> None:
    start = 0
    for term, A, Z, (effects, spread) in zip(case.terms, case.family.whiteners, case.Z, modes, strict=True):
        i, j = lower_triangle(term.size)
        Phi = np.zeros((term.size, term.size))
        Phi[i, j] = Phi[j, i] = phi[start : start + len(i)]
        start += len(i)
        whole = np.kron(np.eye(term.n_levels), Phi)
        expected = (whole @ Z.T @ pulled).reshape(-1, term.size) @ A.T * scale
        np.testing.assert_allclose(effects[:, :, c], expected, atol=1e-10 * (np.abs(expected).max() + scale))
        left = (whole - whole @ Z.T @ Vinv @ Z @ whole).reshape(term.n_levels, term.size, term.n_levels, term.size)
        expected = np.einsum("ij,ljlk,mk->lim", A, left, A)
        np.testing.assert_allclose(spread[..., c], expected, atol=1e-11 * (np.abs(expected).max() + 1))


@pytest.mark.parametrize("name", ["intercept", "weighted", "balanced", "even"])
def test_terms_that_commute(name: str) -> None:
    """Fits by strata, which have no matrices of levels, against those by elimination; far from zero too."""
    case, Y, *_ = setting(name)
    whole = make_general(case.Q, case.root_w, case.terms, strata=False)
    assert isinstance(case.family.core, StrataCore) and isinstance(whole.core, Core)
    assert case.family.core.n_rest == whole.core.n_rest
    for y in (Y, 1e6 + 1e3 * Y):
        one, other = fit_general(case.family, y), fit_general(whole, y)
        assert one.converged.all() and np.array_equal(one.singular, other.singular)
        for name in ("theta", "sigma2", "fixef", "loglik", "hessian"):
            ours, theirs = getattr(one, name), getattr(other, name)
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max())


@pytest.mark.parametrize("name", ["intercept", "weighted", "balanced", "even"])
def test_few_strata_as_any_others(name: str) -> None:
    """What is written out for few columns of X is what the general arithmetic gives."""
    case, _, phi, stats, _, _ = setting(name)
    core = case.family.core
    assert few_strata.fits(core) and not few_strata.fits(dataclasses.replace(core, p=12))

    @jax.jit
    def both(core, phi, stats):
        return [[known.moments(core, phi, stats, reml=reml) for known in (few_strata, strata_moments)]
                for reml in (True, False)]  # fmt: skip

    with float64_scope():
        found = both(core, jnp.asarray(phi), stats)
    for ours, theirs in found:
        for field in dataclasses.fields(Moments):
            expected = np.asarray(getattr(theirs, field.name))
            size = np.abs(expected).max()
            np.testing.assert_allclose(getattr(ours, field.name), expected, rtol=1e-11, atol=1e-12 * size)


def test_sums_over_levels_give_the_coordinates_on_strata() -> None:
    """They are those on the orthonormal basis, with fewer products; many levels are left to the basis."""
    rng = np.random.default_rng(4)
    row, column = np.indices((12, 16)).reshape(2, -1)
    terms = [jaxlmm.random_term(row), jaxlmm.random_term(column)]
    X = np.column_stack([np.ones(192), rng.normal(size=192), row % 2])
    for weights in (None, np.full(192, 0.3)):
        reducer = jaxlmm.prepare(X, random=terms, weights=weights).prepared.family.kernel.reducer
        assert reducer.sums is not None
        y = rng.normal(size=(192, 4)) + 5
        np.testing.assert_allclose(reducer.onto_basis(y), reducer.basis.T @ y, atol=1e-11)
        made = reducer.onto_basis(np.eye(192))
        np.testing.assert_allclose(made @ made.T, np.eye(len(made)), atol=1e-14)
    few = [jaxlmm.random_term(np.repeat(np.arange(48), 4)), jaxlmm.random_term(np.repeat(np.arange(8), 24))]
    assert jaxlmm.prepare(X, random=few).prepared.family.kernel.reducer.sums is None


def test_responses_given_by_their_coordinates_on_strata() -> None:
    """A fit of coordinates is that of the responses that have them, also where there is nothing to fit."""
    rng = np.random.default_rng(8)
    row, column = np.indices((6, 8)).reshape(2, -1)
    X = np.column_stack([np.ones(48), rng.normal(size=48)])
    weights = np.full(48, 0.25)
    family = jaxlmm.prepare(
        X, random=[jaxlmm.random_term(row), jaxlmm.random_term(column)], weights=weights
    ).prepared.family
    assert isinstance(family.kernel.core, StrataCore)
    Y = rng.normal(size=(48, 5)) + rng.normal(size=(6, 5))[row] + 1e3
    Y[:, 3], Y[3, 4] = X @ [1.0, 2.0], np.nan
    coordinates = family.coordinates(Y)
    np.testing.assert_allclose(family.coordinates(np.eye(48)) @ Y[:, :4], coordinates[:, :4], atol=1e-10)
    rest = np.sum((0.5 * Y - family.kernel.reducer.basis @ coordinates) ** 2, axis=0)
    assert np.allclose(family.explained(coordinates) + rest, np.sum(0.25 * Y**2, axis=0), equal_nan=True)
    found, direct = family.fit_coordinates(coordinates, rest, "REML"), family.fit(Y, "REML")
    np.testing.assert_array_equal(found["status"], direct["status"])
    for name in ("theta", "coef", "se_gls", "sigma2", "loglik"):
        np.testing.assert_allclose(found[name], direct[name], rtol=1e-8, atol=1e-8)


def test_terms_that_do_not_commute_are_eliminated() -> None:
    for name in ("nested", "crossed", "double", "slope", "three"):
        assert isinstance(setting(name)[0].family.core, Core)


@pytest.mark.parametrize("name", ["slope", "nested", "maximal", "even"])
def test_simulated_statistics_have_the_moments_of_simulated_responses(name: str) -> None:
    case, _, phi, *_ = setting(name)
    m = 20_000
    many = np.repeat(phi[:, :1], m, axis=1)
    with float64_scope():
        stats = jax.jit(General.simulate)(case.family, jnp.asarray(many), jax.random.key(0))
        at = jax.jit(General.moments, static_argnames="reml")(case.family, jnp.asarray(many), stats, reml=True)
    s, s1, l1 = (np.asarray(a) for a in (at.s, at.s1, at.l1))
    # s is chi-square with n - p degrees of freedom, and its derivatives have the expectation -tr(P G_s).
    n_left = len(case.Q) - 3
    np.testing.assert_allclose(s.mean(), n_left, rtol=5 * np.sqrt(2 / (n_left * m)))
    np.testing.assert_allclose(s.var(), 2 * n_left, rtol=0.1)
    error = 5 * s1.std(axis=1) / np.sqrt(m)
    np.testing.assert_array_less(np.abs(s1.mean(axis=1) + l1[:, 0]), error)


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 2e-19, reason="needs a long double to compare with")
@pytest.mark.parametrize("name", ["slope", "nested", "maximal", "balanced", "even"])
def test_large_variances_lose_nothing(name: str) -> None:
    """pwrss beside random effects 1e6 times the residual sd; the n x n computation loses that in double precision."""
    case, Y, phi, *_ = setting(name)
    effects = np.random.default_rng(2).normal(size=case.Z[-1].shape[1])
    y = (Y[:, 0] + 1e6 * (case.Z[-1] @ effects) / case.root_w)[:, None]
    phi = 1e12 * phi[:, :1]
    stats, scaling = case.family.reduce(y)
    with float64_scope():
        s = np.asarray(jax.jit(General.moments, static_argnames="reml")(case.family, phi, stats, reml=True).s)
    V = np.eye(len(y), dtype=np.longdouble) + np.tensordot(phi[:, 0].astype(np.longdouble), case.G, 1)
    L = np.zeros_like(V)
    for j in range(len(V)):
        column = V[j:, j] - L[j:, :j] @ L[j, :j]
        L[j:, j] = column / np.sqrt(column[0])
    both = np.column_stack([case.Q, case.root_w * y[:, 0]]).astype(np.longdouble)
    for j in range(len(V)):  # L^-1 [Q, y]
        both[j] = (both[j] - L[j, :j] @ both[:j]) / L[j, j]
    for j in range(3):  # y off Q
        unit = both[:, j] / np.sqrt(both[:, j] @ both[:, j])
        both[:, j + 1 :] -= np.outer(unit, unit @ both[:, j + 1 :])
    expected = float(both[:, 3] @ both[:, 3])
    np.testing.assert_allclose(s[0] * scaling.scale[0] ** 2, expected, rtol=1e-5)


def test_bad_responses_are_told_apart() -> None:
    case, Y, *_ = setting("slope")
    constant = case.X @ np.array([1.0, 2.0, 3.0])
    exact = case.Z[0] @ np.random.default_rng(3).normal(size=case.Z[0].shape[1])
    many = np.column_stack(
        [Y[:, 0], np.where(np.arange(len(Y)) == 3, np.nan, Y[:, 0]), constant, exact / case.root_w]
    )
    _, scaling = case.family.reduce(many)
    assert scaling.finite.tolist() == [True, False, True, True]
    assert scaling.constant.tolist() == [False, False, True, False]
    assert scaling.exact.tolist() == [False, False, False, True]
