"""Satterthwaite and Kenward-Roger against lmerTest and pbkrtest, and against their textbook formulas."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Reference, load_reference, simulate, unbalanced

import jaxlmm
from jaxlmm.inference.hypotheses import _expected_inverse


def test_satterthwaite(reference: Reference) -> None:
    found = jaxlmm.fit(reference.X, reference.y, reference.groups)
    expected = reference.expected["reml"]
    np.testing.assert_allclose(found.df[0], expected["df_satterthwaite"], rtol=1e-4)
    np.testing.assert_allclose(found.pvalue[0], expected["p_satterthwaite"], rtol=1e-4)


def test_kenward_roger(reference: Reference) -> None:
    if "kenward_roger" not in reference.expected:
        pytest.skip("no Kenward-Roger reference for this set")
    found = jaxlmm.fit(reference.X, reference.y, reference.groups, df="kenward-roger")
    expected = reference.expected["kenward_roger"]
    np.testing.assert_allclose(found.se[0], expected["se"], rtol=1e-6)
    np.testing.assert_allclose(found.df[0], expected["df"], rtol=1e-4)
    np.testing.assert_allclose(found.statistic[0], expected["t"], rtol=1e-6)
    np.testing.assert_allclose(found.pvalue[0], expected["p"], rtol=1e-4)
    np.testing.assert_allclose(np.sqrt(np.diag(found.vcov[0])), found.se[0], rtol=1e-12)


# Sets whose terms are single factors or covariates, so that a term's columns are its hypothesis.
@pytest.mark.parametrize(("name", "columns"), [("machines", [1, 2]), ("ergostool", [1, 2, 3]), ("sleepstudy", [1])])
@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger"])
def test_f_tests(name: str, columns: list[int], df: str) -> None:
    data = load_reference(name)
    expected = data.expected["anova_" + df.replace("-", "_")]
    found = jaxlmm.fit(data.X, data.y, data.groups, df=df)
    test = found.ftest(np.eye(data.X.shape[1])[columns])
    assert test.df_num == expected["numdf"]
    np.testing.assert_allclose(test.df_den[0], expected["dendf"], rtol=1e-4)
    np.testing.assert_allclose(test.statistic[0], expected["F"], rtol=1e-6)
    np.testing.assert_allclose(test.pvalue[0], expected["p"], rtol=1e-4)


def case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = unbalanced(rng, int(rng.integers(5, 9)), 9)
    X, Y = simulate(rng, codes, p=4, m=6, ratio=float(rng.choice([0.0, 0.3, 2.0])))
    return X, Y, codes


def textbook_kenward_roger(
    X: np.ndarray, codes: np.ndarray, coef: np.ndarray, group_var: float, sigma2: float, L: np.ndarray
) -> tuple[np.ndarray, float, float]:
    """Adjusted covariance, scaled F and its df, from n x n matrices (Kenward & Roger 1997)."""
    n, q = len(X), len(L)
    G = [(codes[:, None] == codes).astype(float), np.eye(n)]
    Si = np.linalg.inv(group_var * G[0] + sigma2 * G[1])
    Phi = np.linalg.inv(X.T @ Si @ X)
    P = [-X.T @ Si @ g @ Si @ X for g in G]
    Q = [[X.T @ Si @ a @ Si @ b @ Si @ X for b in G] for a in G]
    info = np.array(
        [[np.trace(Si @ a @ Si @ b) - 2 * np.trace(Phi @ Q[i][j]) + np.trace(Phi @ P[i] @ Phi @ P[j])
          for j, b in enumerate(G)] for i, a in enumerate(G)]
    )  # fmt: skip
    W = 2 * np.linalg.inv(info)
    middle = sum(W[i, j] * (Q[i][j] - P[i] @ Phi @ P[j]) for i in range(2) for j in range(2))
    adjusted = Phi + 2 * Phi @ middle @ Phi
    Theta = L.T @ np.linalg.inv(L @ Phi @ L.T) @ L
    D = [Theta @ Phi @ p @ Phi for p in P]
    A1 = sum(W[i, j] * np.trace(D[i]) * np.trace(D[j]) for i in range(2) for j in range(2))
    A2 = sum(W[i, j] * np.trace(D[i] @ D[j]) for i in range(2) for j in range(2))
    B = (A1 + 6 * A2) / (2 * q)
    g = ((q + 1) * A1 - (q + 4) * A2) / ((q + 2) * A2)
    c = np.array([g, q - g, q + 2 - g]) / (3 * q + 2 * (1 - g))
    E = 1 / (1 - A2 / q)
    V = 2 / q * (1 + c[0] * B) / ((1 - c[1] * B) ** 2 * (1 - c[2] * B))
    rho = V / (2 * E**2)
    df = 4 + (q + 2) / (q * rho - 1)
    scale = df / (E * (df - 2))
    delta = L @ coef
    return adjusted, scale * delta @ np.linalg.solve(L @ adjusted @ L.T, delta) / q, df


@pytest.mark.parametrize("seed", range(8))
def test_kenward_roger_by_the_textbook(seed: int) -> None:
    X, Y, codes = case(seed)
    found = jaxlmm.fit(X, Y, codes, df="kenward-roger")
    for L in (np.eye(4)[[3]], np.eye(4)[1:], np.array([[0.0, 1, -1, 0.5], [0.0, 0, 2, 1]])):
        test = found.ftest(L)
        for i in range(len(Y.T)):
            adjusted, F, df = textbook_kenward_roger(X, codes, found.coef[i], found.group_var[i], found.sigma2[i], L)
            np.testing.assert_allclose(found.vcov[i], adjusted, rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(test.statistic[i], F, rtol=1e-6)
            np.testing.assert_allclose(test.df_den[i], df, rtol=1e-5)


def reml(parameters: np.ndarray, X: np.ndarray, y: np.ndarray, codes: np.ndarray) -> float:
    """-2 restricted log-likelihood in (group_var, sigma2), less its constant."""
    V = parameters[0] * (codes[:, None] == codes) + parameters[1] * np.eye(len(y))
    Vi = np.linalg.inv(V)
    XtVi = X.T @ Vi
    r = y - X @ np.linalg.solve(XtVi @ X, XtVi @ y)
    return np.linalg.slogdet(V)[1] + np.linalg.slogdet(XtVi @ X)[1] + r @ Vi @ r


@pytest.mark.parametrize("seed", range(6))
def test_satterthwaite_by_numerical_derivatives(seed: int) -> None:
    """2 v^2 / var(v), the Hessian and the gradient by central differences in (group_var, sigma2)."""
    X, Y, codes = case(seed)
    found = jaxlmm.fit(X, Y, codes)
    interior = np.flatnonzero(found.lam > 0.02)
    L = np.array([[0, 0, 0, 1.0], [1, 0.5, 0, -1]])
    test = found.test(L)
    for i in interior:
        at = np.array([found.group_var[i], found.sigma2[i]])
        h = 2e-4 * at

        def vcov(x: np.ndarray) -> np.ndarray:
            V = x[0] * (codes[:, None] == codes) + x[1] * np.eye(len(X))
            return np.linalg.inv(X.T @ np.linalg.solve(V, X))

        steps = np.diag(h)
        hessian = np.empty((2, 2))
        for a in range(2):
            for b in range(2):
                f = [reml(at + s * steps[a] + r * steps[b], X, Y[:, i], codes) for s in (1, -1) for r in (1, -1)]
                hessian[a, b] = (f[0] - f[1] - f[2] + f[3]) / (4 * h[a] * h[b])
        covariance = 2 * np.linalg.inv(hessian)
        for k, row in enumerate(L):
            gradient = np.array([(row @ (vcov(at + s) - vcov(at - s)) @ row) / (2 * s.sum()) for s in steps])
            v = row @ vcov(at) @ row
            np.testing.assert_allclose(test.df[i, k], 2 * v**2 / (gradient @ covariance @ gradient), rtol=2e-3)
        # The same Hessian gives the standard errors of the variances and of the ICC.
        se = {name: value[i] for name, value in found.variance_se().items()}
        np.testing.assert_allclose(se["group_var"], np.sqrt(covariance[0, 0]), rtol=2e-3)
        np.testing.assert_allclose(se["sigma2"], np.sqrt(covariance[1, 1]), rtol=2e-3)
        total = at.sum()
        to_icc = np.array([at[1], -at[0]]) / total**2
        np.testing.assert_allclose(se["icc"], np.sqrt(to_icc @ covariance @ to_icc), rtol=2e-3)


@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger", "residual", "normal"])
def test_one_contrast_is_its_t_test_squared(df: str) -> None:
    X, Y, codes = case(1)
    found = jaxlmm.fit(X, Y, codes, df=df)
    L = np.array([0.0, 1.0, -1.0, 0.3])
    t, F = found.test(L, rhs=0.2), found.ftest(L, rhs=0.2)
    np.testing.assert_allclose(F.statistic, t.statistic[:, 0] ** 2, rtol=1e-9)
    np.testing.assert_allclose(F.df_den, t.df[:, 0], rtol=1e-8)
    np.testing.assert_allclose(F.pvalue, t.pvalue[:, 0], rtol=1e-7)
    each = found.test(np.eye(4))
    np.testing.assert_allclose(each.se, found.se, rtol=1e-10)
    np.testing.assert_allclose(each.pvalue, found.pvalue, rtol=1e-8)
    np.testing.assert_allclose(each.conf_int(0.9), found.conf_int(0.9), rtol=1e-8)
    np.testing.assert_allclose(t.conf_int()[:, 0].mean(axis=1), found.coef @ L, rtol=1e-9)


@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger"])
def test_f_is_invariant_to_how_its_contrasts_are_written(df: str) -> None:
    X, Y, codes = case(2)
    found = jaxlmm.fit(X, Y, codes, df=df)
    L = np.eye(4)[1:3]
    a, b = found.ftest(L), found.ftest(np.array([[2.0, 1.0], [-1.0, 3.0]]) @ L)
    np.testing.assert_allclose(a.statistic, b.statistic, rtol=1e-9)
    if df == "kenward-roger":
        np.testing.assert_allclose(a.df_den, b.df_den, rtol=1e-8)


def test_boundary_gives_what_lmertest_and_pbkrtest_give() -> None:
    data = load_reference("dyestuff2")
    found = jaxlmm.fit(data.X, data.y, data.groups)
    assert found.singular[0]
    assert found.df[0, 0] == len(data.y) - 1
    np.testing.assert_allclose(found.with_df("kenward-roger").df[0, 0], 5, rtol=1e-9)
    se = found.variance_se()
    assert np.isnan(se["group_var"][0]) and np.isnan(se["icc"][0]) and np.isfinite(se["sigma2"][0])


def test_without_groups_every_method_is_least_squares() -> None:
    X, Y, _ = case(3)
    residual = jaxlmm.fit(X, Y, df="residual")
    for df in ("satterthwaite", "kenward-roger"):
        found = jaxlmm.fit(X, Y, df=df)
        np.testing.assert_array_equal(found.df, residual.df)
        np.testing.assert_allclose(found.se, residual.se, rtol=1e-12)
        F = found.ftest(np.eye(4)[1:])
        np.testing.assert_allclose(F.df_den, len(X) - 4)
        np.testing.assert_allclose(F.pvalue, residual.ftest(np.eye(4)[1:]).pvalue, rtol=1e-10)


def test_balanced_between_group_effect_has_the_classical_df() -> None:
    """8 groups of 5, a covariate of the group: t with G - 2 df, whatever the variances."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(8), 5)
    z = rng.normal(size=8)
    X = np.column_stack([np.ones(40), z[codes]])
    Y = rng.normal(size=(40, 50)) + 2 * rng.normal(size=(8, 50))[codes]
    found = jaxlmm.fit(X, Y, codes, df="kenward-roger")
    np.testing.assert_allclose(found.df[~found.singular], 6, rtol=1e-6)
    sat = found.with_df("satterthwaite")
    np.testing.assert_allclose(sat.df[~found.singular], 6, rtol=1e-6)
    means = np.stack([Y[codes == g].mean(axis=0) for g in range(8)])
    ols = jaxlmm.fit(np.column_stack([np.ones(8), z]), means)
    np.testing.assert_allclose(sat.pvalue[~found.singular], ols.pvalue[~found.singular], rtol=1e-6)


def test_ml_satterthwaite_counts_n_like_lmertest() -> None:
    X, Y, codes = case(4)
    found = jaxlmm.fit(X, Y, codes, method="ML")
    assert (found.df <= len(X) * (1 + 1e-12)).all()
    assert (found.df[found.singular] == len(X)).all()


def test_bad_responses_are_nan_in_tests() -> None:
    X, Y, codes = case(5)
    Y[:, 2] = np.nan
    for df in ("satterthwaite", "kenward-roger", "residual", "normal"):
        found = jaxlmm.fit(X, Y, codes, df=df)
        F, t = found.ftest(np.eye(4)[1:]), found.test(np.eye(4)[1:])
        for values in (F.statistic, F.df_den, F.pvalue, t.statistic, t.pvalue, t.df, found.pvalue, found.df):
            if df in ("satterthwaite", "kenward-roger") or values is not found.df:
                assert np.isnan(values[2]).all()
            assert np.isfinite(np.delete(values, 2, axis=0)).all() or df == "normal"


def test_contrasts_by_name() -> None:
    X, Y, codes = case(6)
    found = jaxlmm.fit(X, Y, codes, names=["one", "a", "b", "c"])
    by_name = found.test([{"a": 1, "b": -1}, {"c": 2}])
    by_number = found.test([[0, 1, -1, 0], [0, 0, 0, 2]])
    np.testing.assert_array_equal(by_name.pvalue, by_number.pvalue)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.test([1.0, 2.0]), "one weight for each of one, a, b, c; found (2,)"),
        (lambda f: f.test({"d": 1}), "L names 'd', but the fixed effects are one, a, b, c"),
        (lambda f: f.test("a"), "L is the text 'a'; write the weights as a dict, {'a': 1}"),
        (lambda f: f.test([0.0, 0, 0, 0]), "row 0 of L is all zero"),
        (lambda f: f.test([0.0, np.nan, 0, 0]), "NaN or infinity in row 0"),
        (lambda f: f.test(np.eye(4), rhs=[1, 2]), "one for each of the 4 rows of L"),
        (lambda f: f.ftest([[0, 1, -1, 0], [0, -2, 2, 0]]), "linearly dependent (rank 1)"),
        (lambda f: f.with_df("satterwaite"), "df must be one of 'satterthwaite', 'kenward-roger'"),
    ],
)
def test_bad_contrasts(call: object, message: str) -> None:
    X, Y, codes = case(6)
    found = jaxlmm.fit(X, Y, codes, names=["one", "a", "b", "c"])
    with pytest.raises(ValueError) as caught:
        call(found)  # type: ignore[operator]
    assert message in str(caught.value)


def test_kenward_roger_needs_reml() -> None:
    X, Y, codes = case(6)
    with pytest.raises(ValueError, match="needs a REML fit, found method='ML'; fit with method='REML'"):
        jaxlmm.fit(X, Y, codes, method="ML", df="kenward-roger")


def test_the_information_of_slopes_far_from_zero_is_not_taken_for_singular() -> None:
    """Of one intercept and slope: a covariate shifted by 600 standard deviations changes the inverse as it must."""
    E0 = np.array([[5.0, 0.4, 0.3], [0.4, 8.0, 0.2], [0.3, 0.2, 3.0]])
    shift = 600.0
    J = np.array([[1.0, -2 * shift, shift**2], [0.0, 1.0, -shift], [0.0, 0.0, 1.0]])  # of variances and covariance
    back = np.array([[1.0, 2 * shift, shift**2], [0.0, 1.0, shift], [0.0, 0.0, 1.0]])
    found = _expected_inverse(-(back.T @ E0 @ back)[None], np.zeros((1, 3)), np.ones(1))[0]
    np.testing.assert_allclose(found, J @ np.linalg.inv(E0) @ J.T, rtol=1e-3)
