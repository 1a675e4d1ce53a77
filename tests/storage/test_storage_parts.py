"""Fits as parts, as a run that writes responses piece by piece puts them together; Y without checksums."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from conftest import blups
from test_storage import CODES, DERIVED, FROM_Y, assert_same, assert_same_bits, data, fitted

import jaxlmm
from jaxlmm.loading.check import check_responses
from jaxlmm.loading.parts import from_design_parts, from_parts
from jaxlmm.results.results import Fit
from jaxlmm.storage.absent import missing_cells
from jaxlmm.storage.parts import design_parts, to_parts
from jaxlmm.tabular.dataset import ROWS


def pieces(fit: Fit, size: int = 3) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """As a run does: the design once, the responses' arrays piece by piece."""
    manifest, arrays = design_parts(fit.design, fit.method, fit.df_method, fit.source)
    parts = [fit.select(slice(k, k + size)) for k in range(0, fit.n_responses, size)]
    arrays |= {name: np.concatenate([getattr(part, name) for part in parts]) for name in ROWS}
    arrays["missing"] = np.concatenate([missing_cells(part) for part in parts], axis=1)
    return json.loads(json.dumps(manifest)), arrays


@pytest.mark.parametrize("include_Y", [False, True])
def test_parts_are_json_and_arrays(include_Y: bool) -> None:
    fit = fitted(df="kenward-roger")
    manifest, arrays = to_parts(fit, include_Y)
    assert all(type(value) is np.ndarray for value in arrays.values())
    assert ("Y" in arrays, "missing" in arrays) == (include_Y, not include_Y)
    found = from_parts(json.loads(json.dumps(manifest)), arrays, "p")
    assert_same(found, fit, DERIVED + FROM_Y if include_Y else DERIVED)


def test_the_design_alone() -> None:
    fit = fitted(df="kenward-roger", weights=np.linspace(0.5, 2, len(CODES)))
    manifest, arrays = design_parts(fit.design, fit.method, fit.df_method)
    assert not set(arrays) & {*ROWS, "missing", "checksums", "Y"} and not set(manifest["fields"]) & {*ROWS}
    fields = from_design_parts(json.loads(json.dumps(manifest)), arrays, "p")
    assert (fields["method"], fields["df_method"], fields["source"]) == ("REML", "kenward-roger", None)
    assert_same_bits(fields["design"].X, fit.design.X)
    assert_same_bits(fields["design"].weights, fit.design.weights)
    assert_same_bits(fields["model"].family.reducer.spectrum.d, fit.model.family.reducer.spectrum.d)


@pytest.mark.parametrize("options", [{}, {"method": "ML"}, {"groups": None}, {"missing": "refuse"}], ids=str)
def test_responses_piece_by_piece(options: dict[str, Any]) -> None:
    fit = fitted(**options)
    manifest, arrays = pieces(fit)
    found = from_parts(manifest, arrays, "p")
    assert_same(found, fit)
    assert found.response_names == tuple(f"y{j}" for j in range(8))
    with pytest.raises(ValueError, match="saved without its responses"):
        found.resid()
    whole = from_parts(manifest, arrays, "p", Y=data()[1])
    assert_same(whole, fit, DERIVED + FROM_Y)


def test_no_response_is_incomplete() -> None:
    fit = fitted(missing=False)
    manifest, arrays = pieces(fit)
    del arrays["missing"]
    assert_same(from_parts(manifest, arrays, "p"), fit)


def test_parts_without_checksums_are_saved_again() -> None:
    manifest, arrays = pieces(fitted())
    found = from_parts(manifest, arrays, "p").select([5, 2, 1])
    again, more = to_parts(found)
    assert "checksums" not in more
    loaded = from_parts(again, more, "p")
    assert_same(loaded, fitted().select([5, 2, 1]))
    assert_same(from_parts(again, more, "p", Y=data()[1][:, [5, 2, 1]]), fitted().select([5, 2, 1]), FROM_Y)


def test_a_formula(tmp_path: Any) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("formulaic")
    frame = pd.DataFrame({"x": data()[0][:, 1], "a": list("ab" * 13), "g": CODES})
    fit = jaxlmm.lmm("x * a + (1 | g)", frame, data(missing=False)[1])
    manifest, arrays = pieces(fit)
    assert_same_bits(from_parts(manifest, arrays, "p").predict(frame[["x", "a"]]), fit.predict(frame[["x", "a"]]))


# -- damage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ROWS, "missing"])
@pytest.mark.parametrize("change", ["gone", "short", "long"])
def test_pieces_that_do_not_match(name: str, change: str) -> None:
    """A run that was cut short may have written more of one array than of another."""
    manifest, arrays = pieces(fitted())
    array, axis = arrays.pop(name), int(name == "missing")
    if change != "gone":
        end = np.take(array, [-1], axis=axis)
        cut = np.take(array, range(array.shape[axis] - 1), axis=axis)
        arrays[name] = cut if change == "short" else np.concatenate([array, end], axis=axis)
        match = r"p is no .* damaged: \w+ has shape"
    elif name == "missing":
        match = r"p is no .* damaged: missing has shape \(4, 0\), and \(4, 3\) is needed"
    else:
        match = f"p is no .* damaged: '{name}'"
    with pytest.raises(ValueError, match=match):
        from_parts(manifest, arrays, "p")


def test_labels_and_checksums_of_other_lengths() -> None:
    manifest, arrays = pieces(fitted())
    with pytest.raises(ValueError, match="damaged: checksums has shape"):
        from_parts(manifest, arrays | {"checksums": np.zeros(3, dtype=np.uint32)}, "p")
    whole, more = to_parts(fitted(response_names=list("stuvwxyz")))
    with pytest.raises(
        ValueError, match=r"damaged: coordinate 'response' has the shape \(1,\), and \(8,\) is needed"
    ):
        from_parts(whole, more | {"labels.0": np.array(["a"])}, "p")
    whole["fields"]["labels"] = to_parts(fitted().select([0, 1]))[0]["fields"]["labels"]
    with pytest.raises(ValueError, match="damaged: labels are of 2 responses, the fit has 8"):
        from_parts(whole, more | {"labels.0": np.array(["a", "b"])}, "p")
    with pytest.raises(ValueError, match=r"damaged: Y has shape \(26, 7\), and \(26, 8\) is needed"):
        from_parts(manifest, arrays | {"Y": data()[1][:, 1:]}, "p")


def test_another_version() -> None:
    manifest, arrays = pieces(fitted())
    for call in (from_parts, from_design_parts):
        with pytest.raises(
            ValueError, match=r"^p was written by jaxlmm .* in format 2, and this version reads format 1"
        ):
            call(manifest | {"version": [2, 0]}, arrays, "p")
        with pytest.raises(ValueError, match="its format is 'x'"):
            call(manifest | {"format": "x"}, arrays, "p")
        with pytest.raises(ValueError, match="the design does not match its checksum"):
            call(manifest, arrays | {"design.X": arrays["design.X"] + 1}, "p")
        with pytest.raises(ValueError, match="its formula is no text"):
            call(manifest | {"formula": [3]}, arrays, "p")


# -- Y without checksums ---------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {}, "ML": {"method": "ML"}, "no groups": {"groups": None},
    "weights": {"weights": np.linspace(0.5, 4, len(CODES))},
    "weights, ML, no groups": {"weights": np.linspace(0.5, 4, len(CODES)), "method": "ML", "groups": None},
}  # fmt: skip


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-8, 0.0), (1e9, 0.0), (1.0, 1e4)])
def test_the_Y_that_was_fitted_is_known(kind: str, dtype: Any, scale: float, shift: float) -> None:
    X, Y = data()
    Y = (Y * scale + shift).astype(dtype)
    fit = jaxlmm.fit(X, Y, **{"groups": CODES} | OPTIONS[kind])
    manifest, arrays = pieces(fit)
    assert from_parts(manifest, arrays, "p", Y=Y).Y is not None
    wrong = Y.copy()
    wrong[5, 6] += scale * 1e-2  # one value of one response
    with pytest.raises(
        ValueError, match="Y is not what was fitted: 1 responses, the first 'y6', differ in their values;"
    ):
        from_parts(manifest, arrays, "p", Y=wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda Y: Y[:, ::-1], "the first 'y0'"),
        (lambda Y: Y[::-1], "the first 'y0'"),
        (lambda Y: -Y, "the first 'y0'"),
        (lambda Y: 1.0001 * Y, "the first 'y0'"),
        (lambda Y: np.where(np.arange(8) == 7, Y + 1e-4, Y), "1 responses, the first 'y7'"),
        (lambda Y: np.where(np.isnan(Y) & (np.arange(8) < 4), 0.0, Y), "3 responses, the first 'y1'"),
        (lambda Y: np.where((np.arange(8) == 2), np.roll(Y, 1, axis=0), Y), "1 responses, the first 'y2'"),
        (lambda Y: np.where((np.arange(8) == 6) & (np.arange(26) == 3)[:, None], np.nan, Y), "the first 'y6'"),
        (lambda Y: Y[:, :5], "Y has 5 columns, the fit has 8 responses"),
        (lambda Y: Y[:7], "Y has 7 rows, X has 26"),
    ],
    ids=["columns", "rows", "sign", "scale", "shift", "missing filled", "incomplete", "missing", "narrow", "short"],
)
def test_another_Y_is_refused_without_checksums(change: Any, message: str) -> None:
    manifest, arrays = pieces(fitted())
    with pytest.raises(ValueError) as error:
        from_parts(manifest, arrays, "p", Y=change(data()[1]))
    assert message in str(error.value)


def test_the_missing_cells_are_compared() -> None:
    """A row of the same covariates, group and value is missing instead: only the stored bits tell."""
    X, Y, groups = np.ones((12, 1)), np.random.default_rng(0).normal(size=(12, 2)), np.repeat([0, 1, 2], 4)
    Y[1, 1] = Y[0, 1]
    Y[0, 1] = np.nan
    manifest, arrays = pieces(jaxlmm.fit(X, Y, groups))
    other = Y.copy()
    other[[0, 1], 1] = Y[[1, 0], 1]
    assert from_parts(manifest, arrays, "p", Y=Y).n_responses == 2
    with pytest.raises(ValueError, match="1 responses, the first 'y1'"):
        from_parts(manifest, arrays, "p", Y=other)


def test_what_the_check_cannot_see() -> None:
    """As documented: rows of the same covariates and group may be exchanged."""
    X, Y, groups = np.ones((12, 1)), np.random.default_rng(0).normal(size=(12, 2)), np.repeat([0, 1, 2], 4)
    fit = jaxlmm.fit(X, Y, groups)
    manifest, arrays = pieces(fit)
    exchanged = Y[[1, 0, *range(2, 12)]]
    np.testing.assert_allclose(blups(from_parts(manifest, arrays, "p", Y=exchanged)), blups(fit), rtol=1e-10)
    with pytest.raises(ValueError, match="Y is not what was fitted"):
        from_parts(*to_parts(fit), "p", Y=exchanged)  # the checksums tell


def test_many_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxlmm.loading.check.CHUNK", 3)
    fit, Y = fitted(), data()[1]
    assert check_responses(Y, fit, None).Y.shape == Y.shape
    for j in (0, 2, 3, 6, 7):
        wrong = Y.copy()
        wrong[8, j] += 0.01
        with pytest.raises(ValueError, match=f"1 responses, the first 'y{j}'"):
            check_responses(wrong, fit, None)


def test_the_residual_variance_is_compared() -> None:
    """Larger deviations from the same group means: the coefficients solve their equations still."""
    X, Y, groups = np.ones((12, 1)), np.random.default_rng(0).normal(size=(12, 2)), np.repeat([0, 1, 2], 4)
    manifest, arrays = pieces(jaxlmm.fit(X, Y, groups))
    means = Y.reshape(3, 4, 2).mean(axis=1)[groups]
    with pytest.raises(ValueError, match="2 responses, the first 'y0'"):
        from_parts(manifest, arrays, "p", Y=means + 1.001 * (Y - means))
