"""Every bad input, and every unusual but valid one. docs/bad-input.md describes each by its id here."""

from __future__ import annotations

import datetime
import decimal
import functools
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from conftest import blups, value_of

import jaxlmm
from jaxlmm import Status, fit
from jaxlmm.design.arrays import response_matrix
from jaxlmm.design.design import make_design
from jaxlmm.design.groups import group_codes

pd = pytest.importorskip("pandas")

TABLE = Path(__file__).parents[2] / "docs" / "bad-input.md"
RNG = np.random.default_rng(5)
N, P, M, N_GROUPS = 20, 2, 3, 5
CODES = RNG.permutation(np.repeat(np.arange(N_GROUPS), N // N_GROUPS))
X = np.column_stack([np.ones(N), RNG.normal(size=N)])
# Integers below 100 are exact in every numeric type; the last group has the largest values.
Y = np.round(40 + 8 * RNG.normal(size=(N, M)) + 6 * CODES[:, None])
LABELS = np.array(["anna", "ben", "cleo", "dora", "emil"])[CODES]


def table() -> dict[str, list[str]]:
    """Rows of the document's table: id -> the other cells; formulas, long tables and so on are tested elsewhere."""
    rows = [
        line.strip().strip("|").split("|")
        for line in TABLE.read_text().splitlines()
        if re.match(r"\| `(?!formula-|term-|long-|na-|means-|trends-|contrast-|joint-|anova-|slip-|suspect-)", line)
    ]
    ids = [cells[0].strip().strip("`") for cells in rows]
    assert len(ids) == len(set(ids)), "an id stands twice in the table"
    return {key: [c.strip() for c in cells[1:]] for key, cells in zip(ids, rows, strict=True)}


def frame(values: np.ndarray = X, **columns: Any) -> Any:
    """A data frame with columns one, dose, and more."""
    return pd.DataFrame(values, columns=["one", "dose"]).assign(**columns)


def put(array: np.ndarray, index: Any, value: Any, dtype: Any = None) -> np.ndarray:
    """A copy with one element replaced."""
    copy = array.astype(array.dtype if dtype is None else dtype)
    copy[index] = value
    return copy


def masked(array: np.ndarray, index: Any) -> np.ma.MaskedArray:
    mask = np.zeros(array.shape, dtype=bool)
    mask[index] = True
    return np.ma.MaskedArray(array, mask=mask)


@functools.cache
def reference_fit() -> jaxlmm.Fit:
    return fit(X, Y, CODES)


def named_fit() -> jaxlmm.Fit:
    return fit(X, Y, CODES, response_names=["a", "b", "y0"])


@functools.cache
def labelled_fit() -> jaxlmm.Fit:
    """Of three channels at two times."""
    pytest.importorskip("xarray")
    coords = {"channel": ["Fz", "Cz", "Pz"], "time": [0.2, 0.3]}
    return fit(X, np.stack([Y, Y + 1.0], axis=2), CODES, dims=("channel", "time"), coords=coords)


# -- errors ------------------------------------------------------------------------------------------

DUMMIES = np.column_stack([np.ones(N), np.eye(3)[np.arange(N) % 3]])
# Each of the 4 groups' 2 rows differ in a column of their own: nothing is left within groups.
PAIRS = np.repeat(np.arange(4), 2)
SATURATED = np.column_stack([np.ones(8), np.kron(np.eye(4), [[1.0], [-1.0]])])
REVERSED = np.arange(N)[::-1]
NANOSECONDS = np.datetime64("2020-01-01", "ns") + CODES.astype("m8[ns]")

# id -> (what is called, parts of the message: what was found, where, what to do)
ERRORS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "X-1d": (lambda: fit(X[:, 0], Y, CODES), ("X must have 2 dimensions", "(20,)", "X[:, None]")),
    "X-3d": (lambda: fit(X[..., None], Y, CODES), ("X must have 2 dimensions", "(20, 2, 1)")),
    "X-no-rows": (lambda: fit(X[:0], Y[:0], CODES[:0]), ("X has 0 rows for 2 columns", "more rows")),
    "X-no-columns": (lambda: fit(X[:, :0], Y, CODES), ("X has no columns", "(20, 0)", "np.ones((n, 1))")),
    "X-frame-no-columns": (lambda: fit(frame()[[]], Y, CODES), ("X has no columns", "(20, 0)")),
    "X-few-rows": (lambda: fit(X[:2], Y[:2], CODES[:2]), ("X has 2 rows for 2 columns", "more rows")),
    "X-text": (lambda: fit(X.astype(str), Y, CODES), ("X must be numeric", "<U", "convert it to floats")),
    "X-object": (
        lambda: fit(put(X, (3, 1), "m", object), Y, CODES),
        ("X must be numeric", "'m' (str) in row 3, column 1", "dummy columns"),
    ),
    "X-object-text-of-number": (
        lambda: fit(put(X, (3, 1), "1.5", object), Y, CODES),
        ("X must be numeric", "'1.5' (str) in row 3, column 1", "convert it to floats"),
    ),
    "X-frame-text": (
        lambda: fit(frame(sex=list("mf" * 10)), Y, CODES),
        ("X column 'sex' must be numeric", "'m' (str) in row 0", "dummy columns"),
    ),
    "X-frame-categorical": (
        lambda: fit(frame(site=pd.Categorical(CODES)), Y, CODES),
        ("X column 'site' is categorical", "pandas.get_dummies"),
    ),
    "X-complex": (lambda: fit(X * 1j, Y, CODES), ("X must be numeric", "complex128", "real part")),
    "X-datetime": (
        lambda: fit(put(X, (0, 0), 1.0).astype("M8[D]"), Y, CODES),
        ("X must be numeric", "datetime64[D]", "days since the first"),
    ),
    "X-frame-datetime": (
        lambda: fit(frame(day=pd.date_range("2020-01-01", periods=N)), Y, CODES),
        ("X column 'day' must be numeric", "datetime64", "days since the first"),
    ),
    "X-timedelta": (lambda: fit(X.astype("m8[s]"), Y, CODES), ("timedelta64[s]", "numpy.timedelta64(1, 's')")),
    "X-object-timedelta": (
        lambda: fit(put(X, (2, 1), np.timedelta64(3, "s"), object), Y, CODES),
        ("X must be numeric", "timedelta64", "in row 2, column 1"),
    ),
    "X-sparse": (lambda: fit(scipy.sparse.csr_array(X), Y, CODES), ("X is a scipy sparse matrix", "X.toarray()")),
    "X-ragged": (lambda: fit([[1.0, 2.0], [1.0]], Y, CODES), ("X cannot be made into an array", "inhomogeneous")),
    "X-dict": (lambda: fit({"a": X}, Y, CODES), ("X is one dict", "give an array or a data frame")),
    "X-huge-integer": (
        lambda: fit(put(X, (3, 1), 10**400, object), Y, CODES),
        ("X holds integers too large for float64", "rescale"),
    ),
    "X-nan": (
        lambda: fit(put(X, (4, 1), np.nan), Y, CODES, names=["one", "dose"]),
        ("X holds 1 NaN or infinite", "row 4", "column 'dose'", "drop these rows from X, Y and groups"),
    ),
    "X-inf": (
        lambda: fit(put(X, ([2, 5], 1), -np.inf), Y, CODES),
        ("X holds 2 NaN or infinite", "row 2", "column 'x1'", "drop these rows"),
    ),
    "X-none": (
        lambda: fit(put(X, (6, 1), None, object), Y, CODES),
        ("X holds 1 NaN or infinite", "row 6", "column 'x1'"),
    ),
    "X-frame-NA": (
        lambda: fit(frame(age=pd.array([None, *range(N - 1)], dtype="Int64")), Y, CODES),
        ("X holds 1 NaN or infinite", "row 0", "column 'age'"),
    ),
    "X-masked": (lambda: fit(masked(X, (7, 1)), Y, CODES), ("X holds 1 NaN or infinite", "row 7", "column 'x1'")),
    "X-duplicate-column": (
        lambda: fit(frame(again=2 * X[:, 1]), Y, CODES),
        ("X is rank deficient (2 independent columns of 3)", "'again' is a combination of 'dose'", "drop a column"),
    ),
    "X-dummy-trap": (
        lambda: fit(DUMMIES, Y, CODES, names=["one", "red", "green", "blue"]),
        ("X is rank deficient (3 independent columns of 4)", "'one'", "'red'", "'green'", "'blue'", "drop a column"),
    ),
    "X-zero-column": (
        lambda: fit(frame(sham=0.0), Y, CODES),
        ("X is rank deficient", "all zero: 'sham'", "drop them"),
    ),
    "X-large-offset": (
        lambda: fit(frame(clock=1e9 + 1e-6 * X[:, 1]), Y, CODES),
        ("'clock' is constant but for roundings", "7 digits", "centre a column"),
    ),
    "X-out-of-range-large": (
        lambda: fit(frame(big=1e200 * X[:, 1] ** 2), Y, CODES),
        ("X column 'big' has values up to", "e+200", "outside 1e-100 to 1e+100", "rescale"),
    ),
    "X-out-of-range-small": (
        lambda: fit(frame(small=1e-200 * X[:, 1] ** 2), Y, CODES),
        ("X column 'small' has values up to", "e-200", "outside 1e-100 to 1e+100", "rescale"),
    ),
    "X-codes-the-groups": (
        lambda: fit(np.eye(N_GROUPS)[CODES], Y, CODES),
        ("X fits the means of all 5 groups", "drop the columns that code the groups", "groups=None"),
    ),
    "X-saturates-the-groups": (
        lambda: fit(SATURATED, Y[:8], PAIRS),
        ("8 rows less 4 groups less 4 columns", "no degrees of freedom within groups", "groups=None"),
    ),
    "names-length": (lambda: fit(X, Y, CODES, names=["a"]), ("names has 1 entries", "X has 2 columns")),
    "names-duplicate": (lambda: fit(X, Y, CODES, names=["a", "a"]), ("names must be distinct", "'a'", "rename")),
    "names-frame-duplicate": (
        lambda: fit(pd.DataFrame(X, columns=["a", "a"]), Y, CODES),
        ("names must be distinct", "'a'", "rename"),
    ),
    "names-text": (lambda: fit(X, Y, CODES, names="ab"), ("names must be a sequence of 2 names", "'ab'", "['ab']")),
    "names-number": (lambda: fit(X, Y, CODES, names=2), ("names must be a sequence of 2 names", "found 2")),
    "groups-length": (lambda: fit(X, Y, CODES[:4]), ("groups has 4 labels", "X has 20 rows", "one label per row")),
    "groups-2d": (
        lambda: fit(X, Y, np.column_stack([CODES, CODES])),
        ("groups must have shape (n_obs,)", "(20, 2)", "one label per row"),
    ),
    "groups-column-name": (lambda: fit(X, Y, "subject"), ("groups is the text 'subject'", "data['subject']")),
    "groups-not-a-sequence": (lambda: fit(X, Y, (c for c in CODES)), ("groups is one generator", "one per row")),
    "groups-nan": (
        lambda: fit(X, Y, put(CODES, [3, 9], np.nan, float)),
        ("groups holds 2 missing labels", "(nan) in row 3", "drop these rows from X, Y and groups"),
    ),
    "groups-list-nan": (
        lambda: fit(X, Y, [*LABELS[:19], float("nan")]),
        ("groups holds 1 missing labels", "(nan) in row 19"),
    ),
    "groups-none": (lambda: fit(X, Y, [None, *LABELS[1:]]), ("groups holds 1 missing labels", "(None) in row 0")),
    "groups-NA": (
        lambda: fit(X, Y, pd.Series([*CODES[:19], None], dtype="Int64")),
        ("groups holds 1 missing labels", "in row 19", "drop these rows"),
    ),
    "groups-string-NA": (
        lambda: fit(X, Y, pd.Series([*LABELS[:19], None], dtype="string")),
        ("groups holds 1 missing labels", "in row 19"),
    ),
    "groups-NaT": (
        lambda: fit(X, Y, put(CODES.astype("M8[D]"), 5, np.datetime64("NaT"))),
        ("groups holds 1 missing labels", "in row 5", "drop these rows"),
    ),
    "groups-list-NaT": (
        lambda: fit(X, Y, [pd.NaT, *pd.to_datetime(CODES[1:], unit="D")]),
        ("groups holds 1 missing labels", "(NaT) in row 0"),
    ),
    "groups-masked": (lambda: fit(X, Y, masked(CODES, 8)), ("groups holds 1 missing labels", "in row 8")),
    "groups-categorical-missing": (
        lambda: fit(X, Y, pd.Categorical([*LABELS[:19], None])),
        ("groups holds 1 missing labels", "in row 19"),
    ),
    "groups-tuple-nan": (
        lambda: fit(X, Y, [("s", np.nan), *(("s", int(c)) for c in CODES[1:])]),
        ("groups holds 1 missing labels", "('s', nan)", "in row 0"),
    ),
    "groups-text-nan": (
        lambda: fit(X, Y, np.array([np.nan, *LABELS[1:]])),
        ("groups holds 1 missing labels", "(nan) in row 0"),
    ),
    "groups-one": (lambda: fit(X, Y, ["a"] * N), ("groups has 1 distinct label ('a')", "at least 2", "groups=None")),
    "groups-all-distinct": (
        lambda: fit(X, Y, np.arange(N)),
        ("groups has a label of its own for each of the 20 rows", "cannot be told apart", "groups=None"),
    ),
    "groups-unhashable": (
        lambda: fit(X, Y, [["a", int(c)] for c in CODES]),
        ("groups must hold hashable labels", "list", "tuples and text"),
    ),
    "groups-nanoseconds": (lambda: fit(X, Y, NANOSECONDS), ("groups holds times finer than microseconds", "text")),
    "Y-rows": (lambda: fit(X, Y[:7], CODES), ("Y has 7 rows, X has 20", "same rows")),
    "Y-transposed": (lambda: fit(X, Y.T, CODES), ("Y has 3 rows, X has 20", "transposed", "Y.T")),
    "Y-scalar": (lambda: fit(X, 1.0, CODES), ("Y must have shape (n_obs,) or (n_obs, m)", "()")),
    "Y-no-columns": (lambda: fit(X, Y[:, :0], CODES), ("Y has no columns", "nothing to fit")),
    "Y-text": (lambda: fit(X, Y.astype(str), CODES), ("Y must be numeric", "<U", "convert it to floats")),
    "Y-object-text": (
        lambda: fit(X, put(Y, (2, 1), "7", object), CODES),
        ("Y must be numeric", "'7' (str) in row 2, column 1", "convert it to floats"),
    ),
    "Y-frame-text": (
        lambda: fit(X, pd.DataFrame(Y).assign(rating="good"), CODES),
        ("Y column 'rating' must be numeric", "'good' (str) in row 0", "convert it to floats"),
    ),
    "Y-frame-categorical": (
        lambda: fit(X, pd.DataFrame(Y).assign(score=pd.Categorical(CODES)), CODES),
        ("Y column 'score' is categorical",),
    ),
    "Y-series-categorical": (lambda: fit(X, pd.Series(CODES, dtype="category"), CODES), ("Y is categorical",)),
    "Y-complex": (lambda: fit(X, Y + 1j, CODES), ("Y must be numeric", "complex128", "real part, modulus or phase")),
    "Y-frame-complex": (
        lambda: fit(X, pd.DataFrame(Y).assign(fft=Y[:, 0] * 1j), CODES),
        ("Y column 'fft' must be numeric", "complex128", "modulus"),
    ),
    "Y-datetime": (lambda: fit(X, Y.astype("M8[D]"), CODES), ("Y must be numeric", "datetime64", "days since")),
    "Y-sparse": (lambda: fit(X, scipy.sparse.csr_array(Y), CODES), ("Y is a scipy sparse matrix", "Y.toarray()")),
    "Y-structured": (lambda: fit(X, np.zeros(N, dtype=[("a", "f8")]), CODES), ("Y must be numeric", "('a', '<f8')")),
    "response-names-length": (
        lambda: fit(X, Y, CODES, response_names=["a"]),
        ("response_names has 1 entries", "Y has 3 columns"),
    ),
    "response-names-duplicate": (
        lambda: fit(X, Y, CODES, response_names=["a", "b", "a"]),
        ("response_names must be distinct", "'a'", "rename"),
    ),
    "response-names-frame-duplicate": (
        lambda: fit(X, pd.DataFrame(Y, columns=["a", "b", "b"]), CODES),
        ("response_names must be distinct", "'b'", "rename"),
    ),
    "response-names-same-text": (
        lambda: fit(X, pd.DataFrame(Y, columns=[1, "1", 2]), CODES),
        ("response_names must be distinct", "'1'", "rename"),
    ),
    "response-names-text": (
        lambda: fit(X, Y, CODES, response_names="abc"),
        ("response_names must be a sequence of 3 names", "'abc'"),
    ),
    "weights-0": (
        lambda: fit(X, Y, CODES, weights=put(np.ones(N), 3, 0.0)),
        ("weights must be positive and finite", "0.0 in row 3", "drop the rows"),
    ),
    "weights-nan": (
        lambda: fit(X, Y, CODES, weights=put(np.ones(N), 3, np.nan)),
        ("weights must be positive and finite", "nan in row 3"),
    ),
    "weights-length": (
        lambda: fit(X, Y, CODES, weights=np.ones(N - 1)),
        ("weights has shape (19,)", "one weight per row"),
    ),
    "weights-own-shape": (
        lambda: fit(X, Y, CODES, weights=np.ones((N, M + 1))),
        ("weights has shape (20, 4), Y has (20, 3)", "each response"),
    ),
    "weights-own-negative": (
        lambda: fit(X, Y, CODES, weights=put(np.ones((N, M)), (4, 2), -1.0)),
        ("weights must be finite and not negative", "-1.0 in row 4, column 2", "a weight of 0 drops"),
    ),
    "weights-own-inf": (
        lambda: fit(X, Y, CODES, weights=put(np.ones((N, M)), (4, 2), np.inf)),
        ("weights must be finite and not negative", "inf in row 4, column 2"),
    ),
    "weights-own-text": (
        lambda: fit(X, Y, CODES, weights=np.ones((N, M)).astype(str)),
        ("weights must be numeric",),
    ),
    "weights-own-columns": (
        lambda: fit(X, pd.DataFrame(Y, columns=list("abc")), CODES, weights=pd.DataFrame(Y + 1, columns=list("acb"))),
        ("weights and Y have different columns in another order", "weights[Y.columns]"),
    ),
    "weights-own-index": (
        lambda: fit(X, pd.DataFrame(Y), CODES, weights=pd.DataFrame(Y + 1, index=REVERSED)),
        ("weights and Y have different indexes", "reset_index(drop=True)"),
    ),
    "weights-own-prepare": (
        lambda: jaxlmm.prepare(X, CODES, weights=np.ones((N, M))),
        ("weights has shape (20, 3)", "given with Y"),
    ),
    "weights-shared-model-fit": (
        lambda: jaxlmm.prepare(X, CODES).fit(Y, weights=np.ones(N)),
        ("weights of model.fit are of each response's own", "prepare(..., weights=...)"),
    ),
    "weights-both": (
        lambda: jaxlmm.prepare(X, CODES, weights=np.ones(N)).fit(Y, weights=np.ones((N, M))),
        ("the model has weights that all responses share",),
    ),
    "index-X-Y": (
        lambda: fit(frame(), pd.DataFrame(Y, index=REVERSED), CODES),
        ("X and Y have different indexes", "align them", "reset_index(drop=True)"),
    ),
    "index-X-groups": (
        lambda: fit(frame(), Y, pd.Series(LABELS, index=REVERSED)),
        ("X and groups have different indexes", "align them"),
    ),
    "index-Y-groups": (
        lambda: fit(X, pd.DataFrame(Y), pd.Series(LABELS, index=REVERSED)),
        ("Y and groups have different indexes", "align them"),
    ),
    "method-unknown": (lambda: fit(X, Y, CODES, method="rml"), ("method must be one of 'REML', 'ML'", "'rml'")),
    "df-unknown": (lambda: fit(X, Y, CODES, df="exact"), ("df must be one of", "'residual', 'normal'", "'exact'")),
    "df-kenward-roger-ML": (
        lambda: fit(X, Y, CODES, method="ML", df="kenward-roger"),
        ("df='kenward-roger' needs a REML fit", "method='REML'"),
    ),
    "predict-X-width": (
        lambda: reference_fit().predict(X[:, :1]),
        ("X_new must have shape (n_new, 2)", "x0, x1", "(20, 1)"),
    ),
    "predict-X-1d": (lambda: reference_fit().predict(X[0]), ("X_new must have shape (n_new, 2)", "(2,)")),
    "predict-X-text": (lambda: reference_fit().predict(X.astype(str)), ("X_new must be numeric", "<U")),
    "predict-groups-length": (
        lambda: reference_fit().predict(X, CODES[:4]),
        ("groups_new has 4 labels", "X_new has 20 rows", "one per row"),
    ),
    "predict-groups-column-name": (
        lambda: reference_fit().predict(X, "subject"),
        ("groups_new is the text 'subject'", "data['subject']"),
    ),
    "predict-groups-unhashable": (
        lambda: reference_fit().predict(X, [[1]] * N),
        ("groups_new must hold hashable labels", "list"),
    ),
    "predict-groups-type": (
        lambda: reference_fit().predict(X, CODES.astype(str)),
        (f"groups_new has the label '{CODES[0]}' (str) in row 0", f"{CODES[0]} (int)", "same type"),
    ),
    "predict-groups-without-random-effect": (
        lambda: fit(X, Y).predict(X, CODES),
        ("groups_new was given", "no random effect", "leave it out"),
    ),
    "conf-int-percent": (
        lambda: reference_fit().conf_int(95),
        ("level must lie between 0 and 1", "found 95", "0.95"),
    ),
    "conf-int-zero": (lambda: reference_fit().conf_int(0.0), ("level must lie between 0 and 1", "found 0.0")),
    "conf-int-one": (lambda: reference_fit().conf_int(1.0), ("level must lie between 0 and 1", "found 1.0")),
    "conf-int-nan": (lambda: reference_fit().conf_int(np.nan), ("level must lie between 0 and 1", "found nan")),
    "summary-name": (lambda: reference_fit().summary("z"), ("no response is named 'z'", "'y0'")),
    "summary-position": (lambda: reference_fit().summary(3), ("response 3 is out of range", "there are 3")),
    "summary-fraction": (lambda: reference_fit().summary(1.5), ("1.5",)),
    "select-name": (lambda: reference_fit().select(["y0", "z"]), ("no response is named 'z'", "'y0'")),
    "select-position": (lambda: reference_fit().select([0, 3]), ("3", "out of range")),
    "select-mask-length": (lambda: reference_fit().select(np.array([True, False])), ("mask", "2", "3")),
    "sel-label": (lambda: labelled_fit().sel(channel="Oz"), ("sel(channel='Oz')", "'channel': 3, 'time': 2")),
    "sel-dimension": (lambda: labelled_fit().sel(freq=3), ("sel(freq=3)", "'channel': 3, 'time': 2")),
    "sel-not-quite": (lambda: labelled_fit().sel(time=0.21), ("sel(time=0.21)",)),
    "isel-position": (lambda: labelled_fit().isel(time=2), ("isel(time=2)", "out of bounds")),
    "label-as-name": (lambda: labelled_fit()["Cz"], ("no response is named 'Cz'",)),
    "concat-nothing": (lambda: jaxlmm.concat([]), ("found none",)),
    "concat-no-fit": (lambda: jaxlmm.concat([reference_fit(), "fit"]), ("argument 1 is a str",)),
    "concat-method": (lambda: jaxlmm.concat([reference_fit(), fit(X, Y, CODES, method="ML")]), ("'REML'", "'ML'")),
    "concat-design": (lambda: jaxlmm.concat([reference_fit(), fit(X, Y, CODES % 4)]), ("(random)",)),
    "concat-label-twice": (lambda: jaxlmm.concat([named_fit(), named_fit()]), ("label 'a'",)),
    "predict-X-frame-order": (
        lambda: fit(frame(), Y, CODES).predict(frame()[["dose", "one"]]),
        ("X_new", "dose, one", "one, dose"),
    ),
    "index-prepared": (
        lambda: jaxlmm.prepare(frame(), CODES).fit(pd.DataFrame(Y, index=REVERSED)),
        ("X and Y have different indexes", "align them"),
    ),
}


@pytest.mark.parametrize("case", list(ERRORS))
def test_error(case: str) -> None:
    call, parts = ERRORS[case]
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    documented = re.findall(r"`([^`]+)`", table()[case][1])
    assert documented, "the table quotes no part of the message"
    for part in [*parts, *documented]:
        assert part in message, f"{part!r} is not in {message!r}"


# -- unusual but valid: X ----------------------------------------------------------------------------


def strided(array: np.ndarray) -> np.ndarray:
    """The same values as a view that is contiguous in no order."""
    wide = np.zeros((3 * len(array), 2 * array.shape[1]))
    wide[-1::-3, ::2] = array
    return wide[-1::-3, ::2]


def read_only(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.setflags(write=False)
    return copy


def memory_mapped(array: np.ndarray) -> np.memmap:
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, dtype=np.float32, mode="w+", shape=array.shape)
    mapped[:] = array
    return mapped


def data_array(array: np.ndarray, **options: Any) -> Any:
    return pytest.importorskip("xarray").DataArray(array, **options)


WHOLE = np.column_stack([np.ones(N), np.arange(N) % 7])  # exact in every numeric type

VALID_X: dict[str, Callable[[], Any]] = {
    "X-int": lambda: WHOLE.astype(np.int64),
    "X-uint8": lambda: WHOLE.astype(np.uint8),
    "X-float16": lambda: WHOLE.astype(np.float16),
    "X-float32": lambda: WHOLE.astype(np.float32),
    "X-long-double": lambda: WHOLE.astype(np.longdouble),
    "X-big-endian": lambda: WHOLE.astype(">f8"),
    "X-object-numbers": lambda: put(WHOLE, (3, 1), decimal.Decimal(int(WHOLE[3, 1])), object),
    "X-list": lambda: WHOLE.tolist(),
    "X-frame": lambda: pd.DataFrame(WHOLE, columns=["x0", "x1"]),
    "X-frame-mixed": lambda: pd.DataFrame({"x0": [True] * N, "x1": WHOLE[:, 1].astype(int)}),
    "X-frame-Int64": lambda: pd.DataFrame(WHOLE, columns=["x0", "x1"]).astype({"x1": "Int64"}),
    "X-jax": lambda: jnp.asarray(WHOLE),
    "X-jax-bfloat16": lambda: jnp.asarray(WHOLE, dtype=jnp.bfloat16),
    "X-fortran": lambda: np.asfortranarray(WHOLE),
    "X-strided": lambda: strided(WHOLE),
    "X-read-only": lambda: read_only(WHOLE),
    "X-unmasked": lambda: np.ma.MaskedArray(WHOLE),
    "X-xarray": lambda: data_array(WHOLE, dims=["trial", "feature"], name="design"),
}


@pytest.mark.parametrize("case", VALID_X)
def test_valid_x(case: str) -> None:
    design, expected = make_design(VALID_X[case](), CODES), make_design(WHOLE, CODES)
    assert design.X.dtype == np.float64 and design.names == expected.names
    np.testing.assert_array_equal(design.X, expected.X)
    assert np.isfinite(fit(VALID_X[case](), Y, CODES).pvalue).all()


SCALES = {"X-scale-1e-12": 1e-12, "X-scale-1e12": 1e12, "X-scale-1e-99": 1e-99, "X-scale-1e99": 1e99}


@pytest.mark.parametrize("case", SCALES)
def test_scaled_column_is_not_deficient(case: str) -> None:
    scale = SCALES[case]
    found, expected = fit(X * [1.0, scale], Y, CODES), reference_fit()
    np.testing.assert_allclose(found.pvalue, expected.pvalue, rtol=1e-9)
    np.testing.assert_allclose(found.coef * [1.0, scale], expected.coef, rtol=1e-9)
    np.testing.assert_allclose(found.vcov[:, 1, 1], found.se[:, 1] ** 2, rtol=1e-9)


# One degree of freedom less would be an error; id -> X, groups
BARELY: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "X-one-degree-within": (SATURATED[:, :-1], PAIRS),
    "X-one-degree-between": (np.eye(N_GROUPS)[CODES][:, 1:], CODES),
}


@pytest.mark.parametrize("case", BARELY)
def test_barely_identifiable_design(case: str) -> None:
    design, groups = BARELY[case]
    found = fit(design, np.random.default_rng(1).normal(size=(len(groups), 3)), groups)
    assert found.converged.all() and np.isfinite(found.pvalue).all()


VALID_NAMES: dict[str, Any] = {
    "names-list": ["a", "b"],
    "names-array": np.array(["a", "b"]),
    "names-index": pd.Index(["a", "b"]),
    "names-iterator": iter(["a", "b"]),
}


@pytest.mark.parametrize("case", VALID_NAMES)
def test_valid_names(case: str) -> None:
    assert make_design(X, None, VALID_NAMES[case]).names == ("a", "b")


# -- unusual but valid: groups -----------------------------------------------------------------------

INSTANTS = np.datetime64("2020-01-01") + CODES.astype("m8[D]")
DATETIMES = [datetime.datetime(2020, 1, 1 + g) for g in range(N_GROUPS)]
CHARACTERS = tuple("abcde")
NAMES = ("anna", "ben", "cleo", "dora", "emil")


def series(values: Any, dtype: str) -> Any:
    return pd.Series(values, dtype=dtype, name="subject")


# id -> (labels, expected levels); every one stands for CODES
VALID_GROUPS: dict[str, tuple[Callable[[], Any], tuple[Any, ...]]] = {
    "groups-int": (lambda: CODES - 2, (-2, -1, 0, 1, 2)),
    "groups-uint8": (lambda: CODES.astype(np.uint8), (0, 1, 2, 3, 4)),
    "groups-float": (lambda: CODES / 4, (0.0, 0.25, 0.5, 0.75, 1.0)),
    "groups-str": (lambda: LABELS, NAMES),
    "groups-bytes": (lambda: LABELS.astype(bytes), tuple(v.encode() for v in NAMES)),
    "groups-object": (lambda: LABELS.astype(object), NAMES),
    "groups-list": (lambda: LABELS.tolist(), NAMES),
    "groups-list-int": (lambda: [2**70 + int(c) for c in CODES], tuple(2**70 + g for g in range(N_GROUPS))),
    "groups-tuple": (lambda: tuple(LABELS), NAMES),
    "groups-column": (lambda: CODES[:, None], (0, 1, 2, 3, 4)),
    "groups-tuples": (
        lambda: [("s", int(c)) for c in CODES],
        tuple(("s", g) for g in range(N_GROUPS)),
    ),
    "groups-tuples-array": (
        lambda: series([("s", int(c)) for c in CODES], "object").to_numpy(),
        tuple(("s", g) for g in range(N_GROUPS)),
    ),
    "groups-datetime64": (lambda: INSTANTS, tuple(DATETIMES)),
    "groups-datetime64-ns": (lambda: INSTANTS.astype("M8[ns]"), tuple(DATETIMES)),
    "groups-datetime-list": (lambda: [DATETIMES[c] for c in CODES], tuple(DATETIMES)),
    "groups-datetime64-list": (lambda: list(INSTANTS.astype("M8[ns]")), tuple(DATETIMES)),
    "groups-timedelta64": (
        lambda: CODES.astype("m8[s]"),
        tuple(datetime.timedelta(seconds=g) for g in range(N_GROUPS)),
    ),
    "groups-series-datetime": (lambda: pd.Series(INSTANTS), tuple(DATETIMES)),
    "groups-series-datetime-zone": (
        lambda: pd.Series(INSTANTS).dt.tz_localize("UTC"),
        tuple(pd.Timestamp(d, tz="UTC") for d in DATETIMES),
    ),
    "groups-series-str": (lambda: series(LABELS, "str"), NAMES),
    "groups-series-string": (lambda: series(LABELS, "string"), NAMES),
    "groups-series-object": (lambda: series(LABELS, "object"), NAMES),
    "groups-series-int64": (lambda: series(CODES, "int64"), (0, 1, 2, 3, 4)),
    "groups-series-Int64": (lambda: series(CODES, "Int64"), (0, 1, 2, 3, 4)),
    "groups-series-Float64": (lambda: series(CODES, "Float64"), (0.0, 1.0, 2.0, 3.0, 4.0)),
    "groups-series-category": (lambda: series(LABELS, "category"), NAMES),
    "groups-index": (lambda: pd.Index(LABELS), NAMES),
    "groups-frame-column": (lambda: pd.DataFrame({"subject": LABELS}), NAMES),
    "groups-categorical-unused": (lambda: pd.Categorical(LABELS, categories=["zoe", *NAMES, "fred"]), NAMES),
    "groups-categorical-int": (lambda: pd.Categorical(CODES + 10), (10, 11, 12, 13, 14)),
    "groups-categorical-datetime": (lambda: pd.Categorical(pd.Series(INSTANTS)), tuple(DATETIMES)),
    "groups-categorical-interval": (
        lambda: pd.cut(CODES, np.arange(-0.5, N_GROUPS)),
        tuple(pd.Interval(g - 0.5, g + 0.5) for g in range(N_GROUPS)),
    ),
    "groups-unmasked": (lambda: np.ma.MaskedArray(CODES), (0, 1, 2, 3, 4)),
    "groups-jax": (lambda: jnp.asarray(CODES), (0, 1, 2, 3, 4)),
    "groups-jax-bfloat16": (lambda: jnp.asarray(CODES, dtype=jnp.bfloat16), (0.0, 1.0, 2.0, 3.0, 4.0)),
    "groups-xarray": (lambda: data_array(LABELS, dims=["trial"], name="subject"), NAMES),
    "groups-read-only": (lambda: read_only(CODES), (0, 1, 2, 3, 4)),
}


@pytest.mark.parametrize("case", VALID_GROUPS)
def test_valid_groups(case: str) -> None:
    labels, levels = VALID_GROUPS[case][0](), VALID_GROUPS[case][1]
    found = fit(X, Y, labels)
    grouping = found.design.random[0]
    assert grouping.levels == levels and {type(v) for v in grouping.levels} == {type(v) for v in levels}
    np.testing.assert_array_equal(grouping.codes, CODES)
    np.testing.assert_array_equal(found.pvalue, reference_fit().pvalue)
    # The same labels are known again, whatever container they come in.
    np.testing.assert_array_equal(group_codes(grouping, labels), CODES)
    np.testing.assert_allclose(found.predict(X, labels), found.fitted(), rtol=1e-12)


ORDERED: dict[str, tuple[Callable[[], Any], tuple[Any, ...]]] = {
    "groups-bool": (lambda: CODES > 2, (False, True)),
    "groups-series-boolean": (lambda: series(CODES > 2, "boolean"), (False, True)),
    "groups-mixed": (lambda: [7, "a", *[7, "a"] * 9], (7, "a")),
    "groups-unsorted-categorical": (
        lambda: pd.Categorical(["a", "b"] * 10, categories=["c", "b", "a"]),
        ("b", "a"),
    ),
    "groups-int-and-float": (lambda: [1, 2.0] * 5 + [1.0, 2] * 5, (1, 2.0)),
}


@pytest.mark.parametrize("case", ORDERED)
def test_levels_and_codes_match(case: str) -> None:
    labels, levels = ORDERED[case][0](), ORDERED[case][1]
    grouping = make_design(X, labels).random[0]
    assert grouping.levels == levels
    assert [grouping.levels[c] for c in grouping.codes] == list(labels)
    np.testing.assert_array_equal(group_codes(grouping, labels), grouping.codes)


# id -> (labels of the fit, new labels, expected codes)
NEW_GROUPS: dict[str, tuple[Any, Any, list[int]]] = {
    "predict-unknown-groups": (LABELS, ["ben", "zoe", "anna"], [1, -1, 0]),
    "predict-missing-groups": (LABELS, ["ben", None, float("nan"), pd.NA], [1, -1, -1, -1]),
    "predict-other-container": (LABELS, pd.Series(["emil", "anna"], dtype="category"), [4, 0]),
    "predict-other-time-unit": (INSTANTS, INSTANTS.astype("M8[ns]")[:4], list(CODES[:4])),
    "predict-timestamps": (INSTANTS, list(pd.Series(INSTANTS))[:4], list(CODES[:4])),
    "predict-int-for-float": (CODES.astype(float), CODES[:4], list(CODES[:4])),
}


@pytest.mark.parametrize("case", NEW_GROUPS)
def test_new_groups(case: str) -> None:
    labels, new, codes = NEW_GROUPS[case]
    found = fit(X, Y, labels)
    assert group_codes(found.design.random[0], new).tolist() == codes
    modes = np.vstack([blups(found).T, np.zeros((1, M))])  # code -1: the population
    rows = X[: len(codes)]
    np.testing.assert_allclose(found.predict(rows, new), rows @ found.coef.T + modes[codes], rtol=1e-12)


# -- unusual but valid: Y ----------------------------------------------------------------------------

# id -> (Y as given, the float64 array it stands for, names)
VALID_Y: dict[str, tuple[Callable[[], Any], np.ndarray, tuple[str, ...]]] = {
    "Y-1d": (lambda: Y[:, 0], Y[:, :1], ()),
    "Y-int": (lambda: Y.astype(np.int16), Y, ()),
    "Y-uint8": (lambda: Y.astype(np.uint8), Y, ()),
    "Y-bool": (lambda: Y > 50, (Y > 50).astype(float), ()),
    "Y-float16": (lambda: Y.astype(np.float16), Y, ()),
    "Y-float32": (lambda: Y.astype(np.float32), Y, ()),
    "Y-long-double": (lambda: Y.astype(np.longdouble), Y, ()),
    "Y-big-endian": (lambda: Y.astype(">f4"), Y, ()),
    "Y-object-numbers": (lambda: put(Y, (3, 1), decimal.Decimal(int(Y[3, 1])), object), Y, ()),
    "Y-object-none": (lambda: put(Y, (3, 1), None, object), put(Y, (3, 1), np.nan), ()),
    "Y-list": (lambda: Y.tolist(), Y, ()),
    "Y-masked": (lambda: masked(Y, (3, 1)), put(Y, (3, 1), np.nan), ()),
    "Y-masked-int": (lambda: masked(Y.astype(int), (3, 1)), put(Y, (3, 1), np.nan), ()),
    "Y-masked-object": (lambda: masked(Y.astype(object), (3, 1)), put(Y, (3, 1), np.nan), ()),
    "Y-frame": (lambda: pd.DataFrame(Y, columns=["v1", "v2", "v3"]), Y, ("v1", "v2", "v3")),
    "Y-frame-mixed": (
        lambda: pd.DataFrame({"i": Y[:, 0].astype(int), "f": Y[:, 1], "b": Y[:, 2] > 50}),
        np.column_stack([Y[:, :2], Y[:, 2] > 50]),
        ("i", "f", "b"),
    ),
    "Y-frame-NA": (
        lambda: pd.DataFrame(Y).astype({1: "Int64"}).mask(np.arange(N * M).reshape(N, M) == 10),
        put(Y, (3, 1), np.nan),
        ("0", "1", "2"),
    ),
    "Y-frame-multiindex": (
        lambda: pd.DataFrame(Y, columns=pd.MultiIndex.from_tuples([("v1", 0), ("v1", 1), ("v2", 0)])),
        Y,
        ("('v1', 0)", "('v1', 1)", "('v2', 0)"),
    ),
    "Y-series": (lambda: pd.Series(Y[:, 0], name="spikes"), Y[:, :1], ("spikes",)),
    "Y-series-unnamed": (lambda: pd.Series(Y[:, 0]), Y[:, :1], ()),
    "Y-jax": (lambda: jnp.asarray(Y), Y, ()),
    "Y-jax-bfloat16": (lambda: jnp.asarray(Y, dtype=jnp.bfloat16), Y, ()),
    "Y-fortran": (lambda: np.asfortranarray(Y), Y, ()),
    "Y-strided": (lambda: strided(Y), Y, ()),
    "Y-read-only": (lambda: read_only(Y), Y, ()),
    "Y-memmap": (lambda: memory_mapped(Y), Y, ()),
    "Y-3d": (lambda: Y[..., None], Y, ("dim_1=0, dim_2=0", "dim_1=1, dim_2=0", "dim_1=2, dim_2=0")),
    "Y-xarray": (lambda: data_array(Y, dims=["trial", "voxel"], name="bold"), Y, ("voxel0", "voxel1", "voxel2")),
    "Y-xarray-1d": (lambda: data_array(Y[:, 0], dims=["trial"], name="bold"), Y[:, :1], ("bold",)),
}


@pytest.mark.parametrize("case", VALID_Y)
def test_valid_y(case: str) -> None:
    given, values, names = VALID_Y[case][0](), VALID_Y[case][1], VALID_Y[case][2]
    found, expected = fit(X, given, CODES), fit(X, values, CODES)
    assert found.response_names == (names or expected.response_names)
    for name in ("coef", "se", "lam", "sigma2", "loglik", "pvalue", "ranef"):
        np.testing.assert_allclose(value_of(found, name), value_of(expected, name), rtol=1e-12, err_msg=name)
    np.testing.assert_array_equal(found.status, expected.status)
    np.testing.assert_allclose(found.resid(), expected.resid(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16, np.bool_])
def test_real_y_is_not_copied(dtype: type) -> None:
    given = Y.astype(dtype)
    assert np.shares_memory(response_matrix(given, N)[0], given)


# -- responses that cannot be fitted -----------------------------------------------------------------

PARTS = ("coef", "se", "lam", "sigma2", "loglik", "hessian")
DERIVED = ("theta", "group_var", "icc", "aic", "bic", "statistic", "pvalue", "vcov", "ranef", "ranef_sd")
DERIVED += ("rsquared_marginal", "rsquared_conditional")


@functools.cache
def design_of(kind: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """X, groups and good responses, all multiples of 1/64: sums of them are exact, in float32 too."""
    rng = np.random.default_rng(8)
    sizes = {"few": [6, 6, 6, 6, 6, 5, 2, 1], "many": [3] * 60 + [2] * 60, "none": [40]}[kind]
    codes = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    exact = lambda *shape: np.round(64 * rng.normal(size=shape)) / 64  # noqa: E731
    X = np.column_stack([np.ones(len(codes)), exact(len(codes)), exact(len(sizes))[codes]])
    if kind == "none":
        return X[:, :2], None, exact(len(codes), 6)
    return X, codes, exact(len(codes), 6) + exact(len(sizes), 6)[codes]


@functools.cache
def good_fit(design: str, method: str, dtype: type) -> jaxlmm.Fit:
    X, groups, good = design_of(design)
    return fit(X, good.astype(dtype), groups, method=method)


def within(groups: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.arange(groups.max() + 1) % 5)[groups].astype(float)


# id -> (a bad response made from a design and a good response, its status)
BAD: dict[str, tuple[Callable[[np.ndarray, Any, np.ndarray], np.ndarray], Status]] = {
    "response-inf-first-row": (lambda X, g, y: put(y, 0, -np.inf), Status.NONFINITE),
    "response-nan-and-inf": (lambda X, g, y: put(put(y, 3, np.nan), 9, np.inf), Status.NONFINITE),
    "response-nan-but-two": (lambda X, g, y: np.where(np.arange(len(y)) < 2, y, np.nan), Status.TOO_FEW),
    "response-all-nan": (lambda X, g, y: np.full_like(y, np.nan), Status.NONFINITE),
    "response-inf": (lambda X, g, y: put(y, 5, np.inf), Status.NONFINITE),
    "response-minus-inf": (lambda X, g, y: put(y, 5, -np.inf), Status.NONFINITE),
    "response-both-inf": (lambda X, g, y: put(put(y, 0, np.inf), 1, -np.inf), Status.NONFINITE),
    "response-constant": (lambda X, g, y: np.full_like(y, 3.3), Status.CONSTANT),
    "response-constant-1e300": (lambda X, g, y: np.full_like(y, 1e300), Status.CONSTANT),
    "response-zero": (lambda X, g, y: np.zeros_like(y), Status.CONSTANT),
    "response-combination-of-X": (lambda X, g, y: X @ np.arange(2.0, 2 + X.shape[1]), Status.CONSTANT),
    "response-constant-in-groups": (lambda X, g, y: within(g, y), Status.NO_RESIDUAL),
    "response-groups-and-X": (lambda X, g, y: within(g, y) + X @ [5.0, -1.0, 3.0], Status.NO_RESIDUAL),
    "response-1e308": (lambda X, g, y: np.where(y > 0, 1e308, -1e308), Status.NONFINITE),
    "response-1e200": (lambda X, g, y: 1e200 * y, Status.NONFINITE),
    "response-1e-160": (lambda X, g, y: 1e-160 * y, Status.NONFINITE),
    "response-1e-200": (lambda X, g, y: 1e-200 * y, Status.NONFINITE),
    "response-1e-310": (lambda X, g, y: 1e-310 * y, Status.CONSTANT),
}
# In float32 these become infinite or zero.
IN_FLOAT32 = {
    "response-constant-1e300": Status.NONFINITE,
    "response-1e-160": Status.CONSTANT,
    "response-1e-200": Status.CONSTANT,
}
DESIGNS = ("few", "many", "none")


def bad_cases() -> list[Any]:
    cases = []
    for case in BAD:
        for design in DESIGNS:
            if design == "none" and BAD[case][1] == Status.NO_RESIDUAL:
                continue  # without groups there is a residual
            for method in ("REML", "ML"):
                for dtype in ("float64", "float32"):
                    values = (case, design, method, dtype)
                    cases.append(pytest.param(*values, id="-".join(values)))
    return cases


def with_bad(case: str, design: str, dtype: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, Status]:
    """X, groups, and Y: the good responses with a bad one in their middle (column 3); its status."""
    X, groups, good = design_of(design)
    make, status = BAD[case]
    with np.errstate(over="ignore", under="ignore"):
        Y = np.column_stack([good[:, :3], make(X, groups, good[:, 0]), good[:, 3:]]).astype(dtype)
    return X, groups, Y, IN_FLOAT32.get(case, status) if dtype == "float32" else status


@pytest.mark.parametrize(
    ("case", "design", "method", "dtype"),
    bad_cases(),
)
def test_bad_response(case: str, design: str, method: str, dtype: str) -> None:
    X, groups, Y, status = with_bad(case, design, dtype)
    assert f"`{BAD[case][1].name}`" in table()[case][1]
    found, expected = fit(X, Y, groups, method=method), good_fit(design, method, dtype)
    assert found.status[3] == status, f"{Status(found.status[3]).name} with sigma2 {found.sigma2[3]}"
    assert not found.converged[3] and not found.singular[3]
    rest = np.arange(7) != 3
    assert found.converged[rest].all()
    for name in PARTS:
        value = value_of(found, name)
        assert np.isnan(value[3]).all(), name
        np.testing.assert_allclose(value[rest], getattr(expected, name), rtol=1e-12, atol=1e-13, err_msg=name)
    np.testing.assert_array_equal(found.status[rest], expected.status)


@pytest.mark.parametrize(
    ("case", "design", "method", "dtype"),
    bad_cases(),
)
def test_bad_response_in_derived_results(case: str, design: str, method: str, dtype: str) -> None:
    """NaN there and nowhere else, without a warning (which pytest turns into an error)."""
    X, groups, Y, _ = with_bad(case, design, dtype)
    found, expected = fit(X, Y, groups, method=method), good_fit(design, method, dtype)
    rest = np.arange(7) != 3
    for name in DERIVED:
        value = value_of(found, name)
        assert np.isnan(value[3]).all(), name
        np.testing.assert_allclose(value[rest], value_of(expected, name), rtol=1e-11, atol=1e-12, err_msg=name)
    for a, b in (
        (found.conf_int().T, expected.conf_int().T), (found.fitted(), expected.fitted()),
        (found.resid(), expected.resid()), (found.predict(X, groups), expected.predict(X, groups)),
    ):  # fmt: skip
        assert np.isnan(a[..., 3]).all()
        np.testing.assert_allclose(a[..., rest], b, rtol=1e-11, atol=1e-12)
    text = found.summary(3)
    assert Status(found.status[3]).message in text and re.search(r"Converged: +No", text)


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("design", DESIGNS)
def test_all_kinds_of_bad_responses_at_once(design: str, method: str) -> None:
    X, groups, good = design_of(design)
    kinds = [k for k in BAD if (groups is not None or BAD[k][1] != Status.NO_RESIDUAL)]
    bad = np.column_stack([BAD[k][0](X, groups, good[:, 0]) for k in kinds])
    found = fit(X, np.column_stack([good[:, :3], np.tile(bad, 5), good[:, 3:]]), groups, method=method)
    assert found.status[3:-3].tolist() == [BAD[k][1] for k in kinds] * 5
    expected = good_fit(design, method, "float64")
    for name in PARTS:
        value = np.concatenate([getattr(found, name)[:3], getattr(found, name)[-3:]])
        np.testing.assert_allclose(value, getattr(expected, name), rtol=1e-12, atol=1e-12, err_msg=name)
    only_bad = fit(X, bad, groups, method=method)
    assert not only_bad.converged.any() and np.isnan(only_bad.coef).all()


@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger", "residual", "normal"])
@pytest.mark.parametrize("design", DESIGNS)
def test_tests_of_bad_responses(design: str, df: str) -> None:
    """NaN in every test of every bad response, without a warning, and the others' tests unmoved."""
    X, groups, good = design_of(design)
    kinds = [k for k in BAD if (groups is not None or BAD[k][1] != Status.NO_RESIDUAL)]
    bad = np.column_stack([BAD[k][0](X, groups, good[:, 0]) for k in kinds])
    found, expected = fit(X, np.column_stack([good, bad]), groups, df=df), fit(X, good, groups, df=df)
    L = np.eye(X.shape[1])[:2]
    for of in (
        lambda f: f.df, lambda f: f.pvalue, lambda f: f.vcov, lambda f: f.conf_int(), lambda f: f.test(L).pvalue,
        lambda f: f.ftest(L).pvalue,
    ):  # fmt: skip
        assert np.isnan(of(found)[6:]).all()
        np.testing.assert_allclose(of(found)[:6], of(expected), rtol=1e-11, atol=1e-12)


def test_signalling_nan() -> None:
    """What uninitialised or corrupt float32 memory may hold; converting it to float64 must not warn."""
    given = Y.astype(np.float32)
    given.view(np.uint32)[4, 1] = 0x7FA00000
    found = fit(X, given, CODES)
    assert found.converged[1] and found.n_used[1] == len(X) - 1


def test_constant_response_without_intercept() -> None:
    """It is no combination of X then: least squares fits it, and within groups it does not vary."""
    constant = np.full(N, 3.3)
    assert fit(X[:, 1:], constant).status[0] == Status.OK
    assert fit(X[:, 1:], constant, CODES).status[0] == Status.NO_RESIDUAL


# -- the table ---------------------------------------------------------------------------------------


def test_table_has_every_case_and_no_other() -> None:
    tested = [ERRORS, VALID_X, SCALES, BARELY, VALID_NAMES, VALID_GROUPS, ORDERED, NEW_GROUPS, VALID_Y, BAD]
    ids = [i for cases in tested for i in cases]
    assert len(ids) == len(set(ids))
    rows = table()
    assert set(rows) == set(ids), f"differ: {sorted(set(rows) ^ set(ids))}"
    for key, cells in rows.items():
        assert len(cells) == 3 and all(cells), f"row {key} needs an input, what happens, and what to do"
