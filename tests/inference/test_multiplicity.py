"""Adjusted p-values: by hand, by definition, and what must hold whatever the p-values."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxlmm.inference.multiplicity import adjust_pvalues

xr = pytest.importorskip("xarray")

METHODS = ["bh", "by", "bonferroni", "holm", "none"]
SMALL = settings(max_examples=60, deadline=None)
# Ties, zeros and ones are common in it.
P = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1e-300, 0.01, 0.05, 1.0]))
FAMILY = hnp.arrays(np.float64, st.integers(1, 12), elements=P)
FAMILY_WITH_NAN = hnp.arrays(np.float64, st.integers(1, 12), elements=st.one_of(P, st.just(np.nan)))


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # By hand for p = 0.01, 0.02, 0.03, 0.5: p n / i from the largest down; 1 + 1/2 + 1/3 + 1/4 = 25/12.
        ("bh", [0.04, 0.04, 0.04, 0.5]),
        ("by", [0.04 * 25 / 12, 0.04 * 25 / 12, 0.04 * 25 / 12, 1.0]),
        ("bonferroni", [0.04, 0.08, 0.12, 1.0]),
        ("holm", [0.04, 0.06, 0.06, 0.5]),
        ("none", [0.01, 0.02, 0.03, 0.5]),
    ],
)
def test_by_hand(method: str, expected: list[float]) -> None:
    order = [2, 0, 3, 1]
    p = np.array([0.01, 0.02, 0.03, 0.5])[order]
    np.testing.assert_allclose(adjust_pvalues(p, method), np.array(expected)[order], rtol=1e-14)
    np.testing.assert_array_equal(adjust_pvalues(p, method.upper()), adjust_pvalues(p, method))


def test_benjamini_hochberg_1995_example() -> None:
    """Their section 3.2: 15 tests, of which 4 are rejected at 0.05; Bonferroni rejects 3."""
    small = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
    p = np.array([*small, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0])
    assert (adjust_pvalues(p) <= 0.05).sum() == 4
    assert (adjust_pvalues(p, "bonferroni") <= 0.05).sum() == 3


@SMALL
@given(FAMILY, st.sampled_from(["bh", "by"]))
def test_false_discovery_is_scipys(p: np.ndarray, method: str) -> None:
    np.testing.assert_array_equal(adjust_pvalues(p, method), scipy.stats.false_discovery_control(p, method=method))


@SMALL
@given(FAMILY, st.floats(0.001, 0.3))
def test_rejections_are_those_of_the_step_procedures(p: np.ndarray, alpha: float) -> None:
    n, order = len(p), np.argsort(p, kind="stable")
    ranked = p[order]
    # Step up (BH): the largest i with p_(i) <= alpha i / n. Step down (Holm): stop at the first failure.
    passed = np.flatnonzero(ranked <= alpha * np.arange(1, n + 1) / n)
    up = passed[-1] + 1 if len(passed) else 0
    failed = np.flatnonzero(ranked > alpha / np.arange(n, 0, -1))
    down = failed[0] if len(failed) else n
    near = 1e-12  # p and alpha on a threshold are decided by rounding
    for method, count in (("bh", up), ("holm", down)):
        adjusted = adjust_pvalues(p, method)[order]
        assert (adjusted[:count] <= alpha * (1 + near)).all()
        assert (adjusted[count:] >= alpha * (1 - near)).all()


@SMALL
@given(FAMILY)
def test_order_of_the_methods(p: np.ndarray) -> None:
    found = {method: adjust_pvalues(p, method) for method in METHODS}
    slack = 1 + 1e-12
    assert (found["holm"] <= found["bonferroni"]).all()
    assert (found["bh"] <= found["holm"] * slack).all()
    assert (found["bh"] <= found["by"] * slack).all()
    for method in METHODS:
        assert (p <= found[method] * slack).all() and (found[method] <= 1).all()
        assert (np.diff(found[method][np.argsort(p, kind="stable")]) >= 0).all()


@SMALL
@given(FAMILY_WITH_NAN, st.sampled_from(METHODS))
def test_nan_is_no_test(p: np.ndarray, method: str) -> None:
    before, made = p.copy(), ~np.isnan(p)
    found = adjust_pvalues(p, method)
    np.testing.assert_array_equal(np.isnan(found), ~made)
    if made.any():
        np.testing.assert_array_equal(found[made], adjust_pvalues(p[made], method))
    np.testing.assert_array_equal(p, before)
    assert found is not p


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_axis(method: str, axis: int) -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(size=(4, 5, 6)) ** 3
    p[rng.uniform(size=p.shape) < 0.3] = np.nan
    p[:, 1, 2] = p[1, :, 3] = p[2, 3, :] = np.nan  # whole families without a test
    found = adjust_pvalues(p, method, axis=axis)
    np.testing.assert_array_equal(found, np.apply_along_axis(adjust_pvalues, axis, p, method))
    everything = adjust_pvalues(p, method, axis=None)
    np.testing.assert_array_equal(everything.ravel(), adjust_pvalues(p.ravel(), method))
    assert found.shape == everything.shape == p.shape


def test_kinds_of_input() -> None:
    np.testing.assert_array_equal(adjust_pvalues([0.01, 0.5]), [0.02, 0.5])
    assert adjust_pvalues(np.float32([0.25, 0.5])).dtype == np.float64
    scalar = adjust_pvalues(0.3, "bonferroni")
    assert scalar.shape == () and scalar == 0.3
    assert adjust_pvalues(np.zeros((0, 3))).shape == (0, 3)
    assert adjust_pvalues(np.zeros((3, 0)), axis=1).shape == (3, 0)
    assert np.isnan(adjust_pvalues([np.nan, np.nan])).all()
    masked = np.ma.array([0.01, 0.02, 7.0], mask=[False, False, True])
    np.testing.assert_array_equal(adjust_pvalues(masked, "bonferroni"), [0.02, 0.04, np.nan])


def null_map() -> xr.DataArray:
    coords = {"term": ["a", "b"], "channel": list("wxyz"), "time": np.arange(25) / 10}
    p = np.random.default_rng(0).uniform(size=(2, 4, 25))
    return xr.DataArray(p, dims=("term", "channel", "time"), coords=coords, name="pvalue", attrs={"long_name": "p"})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dims", [("term", "channel", "time"), ("time", "term", "channel")])
def test_a_labelled_map_is_adjusted_over_all_but_the_terms(method: str, dims: tuple[str, ...]) -> None:
    p = null_map().transpose(*dims)
    found = adjust_pvalues(p, method)
    assert found.name == "pvalue" and found.dims == dims and found.attrs == p.attrs
    xr.testing.assert_identical(found.coords.to_dataset(), p.coords.to_dataset())
    for term in ("a", "b"):
        one = p.sel(term=term)
        np.testing.assert_array_equal(
            found.sel(term=term).to_numpy(), adjust_pvalues(one.to_numpy(), method, axis=None)
        )
        xr.testing.assert_identical(adjust_pvalues(one, method), found.sel(term=term))  # no dimension "term"
    alone = p.isel(channel=0, time=0)  # one response: nothing to adjust for
    xr.testing.assert_identical(adjust_pvalues(alone, method), alone)


def test_axes_of_maps_by_name_and_number() -> None:
    p = null_map()
    for axis in ("time", 2, -1, ["time"]):
        expected = adjust_pvalues(p.to_numpy(), "holm", axis=2)
        np.testing.assert_array_equal(adjust_pvalues(p, "holm", axis=axis).to_numpy(), expected)
    for labelled, plain in ((("channel", "time"), (1, 2)), (None, None), (("time", "channel"), (-1, 1))):
        expected = adjust_pvalues(p.to_numpy(), axis=plain)
        np.testing.assert_array_equal(adjust_pvalues(p, axis=labelled).to_numpy(), expected)
    np.testing.assert_array_equal(adjust_pvalues(p).to_numpy(), adjust_pvalues(p.to_numpy(), axis=(1, 2)))
    np.testing.assert_array_equal(adjust_pvalues(p, axis=None).to_numpy(), adjust_pvalues(p.to_numpy(), axis=None))


def test_an_array_of_many_dimensions_says_which_are_the_responses() -> None:
    p = null_map()
    with pytest.raises(ValueError, match=r"p has 3 dimensions, .* give axis=.*\(term, channel, time\)"):
        adjust_pvalues(p.to_numpy())
    with pytest.raises(ValueError, match=r"axis is 'freq', but the dimensions of p are 'term', 'channel', 'time'"):
        adjust_pvalues(p, axis="freq")
    with pytest.raises(ValueError, match="p is a Dataset, found variables pvalue; give one"):
        adjust_pvalues(p.to_dataset())


@pytest.mark.parametrize(("name", "same"), [("fdr", "bh"), ("FDR_BH", "bh"), ("BH", "bh"), ("fdr_by", "by")])
def test_names_that_other_software_uses(name: str, same: str) -> None:
    p = null_map().to_numpy()[0]
    np.testing.assert_array_equal(adjust_pvalues(p, name), adjust_pvalues(p, same))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"2 values outside \[0, 1\], the first at index \(1, 0\): -0.1"):
        adjust_pvalues([[0.1, 0.2], [-0.1, np.nan], [0.2, np.inf]])
    with pytest.raises(ValueError, match=r"1 value outside \[0, 1\], the first at index 2: 1.5"):
        adjust_pvalues([0.1, np.nan, 1.5])
    with pytest.raises(ValueError, match=r"outside \[0, 1\]: 2;"):
        adjust_pvalues(2.0)
    for wrong in ("fwer", None):
        with pytest.raises(
            ValueError,
            match=f"'bh', 'fdr', 'by', 'bonferroni', 'holm', 'hochberg', 'hommel', 'none', found {wrong!r}",
        ):
            adjust_pvalues([0.1], wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="axis must be at most 0, found 1; p has 1 dimensions"):
        adjust_pvalues([0.1], axis=1)
    for text in (["0.1"], np.array(["0.1"], dtype=object)):
        with pytest.raises(ValueError, match="p must be numeric, found dtype"):
            adjust_pvalues(text)
