"""Random terms: what is refused, and that the message names the term."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlmm.design.random import RandomTerm, check_random_terms, make_random_term, term_keys

CODES = np.repeat(np.arange(5), 4)
X = np.random.default_rng(0).normal(size=20)
ONE = np.ones(20)


def test_an_intercept_is_the_default() -> None:
    term = make_random_term("g", "abcde", CODES)
    assert term.is_intercept and term.columns == ("(Intercept)",) and term.label == "(1 | g)"
    check_random_terms([term], 20)


@pytest.mark.parametrize(
    ("Z", "columns", "message"),
    [
        (np.column_stack([ONE, 0 * X]), ("(Intercept)", "x"), "'x' is all zero"),
        (np.column_stack([ONE, X, 2 * X - 1]), ("(Intercept)", "x", "z"), "'z' is a combination"),
        (np.column_stack([ONE, X[CODES]]), ("(Intercept)", "x"), "'x' is constant within all levels of 'g'"),
        (np.column_stack([ONE, np.where(X > 0, np.nan, X)]), ("(Intercept)", "x"), "'x' is nan in row"),
    ],
)
def test_columns_that_say_nothing_are_named(Z: np.ndarray, columns: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make_random_term("g", "abcde", CODES, Z, columns)
    assert "| g)" in str(error.value)


def test_one_level() -> None:
    with pytest.raises(ValueError, match=r"\(1 \| g\): 'g' has 1 level"):
        make_random_term("g", "a", 0 * CODES)


def test_as_many_effects_as_observations() -> None:
    Z = np.column_stack([ONE, X, X**2, X**3])
    term = make_random_term("g", "abcde", CODES, Z, ("(Intercept)", "x", "x2", "x3"))
    with pytest.raises(ValueError, match="5 levels times 4 columns are 20 random effects"):
        check_random_terms([term], 20)


def test_a_column_twice_on_one_factor() -> None:
    terms = [make_random_term("g", "abcde", CODES), make_random_term("h", "abcde", 4 - CODES)]
    with pytest.raises(ValueError, match="share a column on the same levels"):
        check_random_terms(terms, 20)
    check_random_terms([terms[0], make_random_term("g", "abcde", CODES, X, ("x",))], 20)


def test_columns_that_never_meet_in_a_level() -> None:
    old = (CODES < 2).astype(float)
    with pytest.raises(ValueError, match=r"\(old \+ young \| g\): no level of 'g' has both 'old' and 'young'"):
        make_random_term("g", "abcde", CODES, np.column_stack([old, 1 - old]), ("old", "young"))


@pytest.mark.parametrize(
    ("terms", "keys"),
    [
        ("item 1, subj 1, subj x", "item subj.1 subj"),
        ("subj 1, subj x, item 1", "subj subj.1 item"),
        ("item 1, item x, subj 1, subj x", "item.1 item subj.1 subj"),
        ("item 1, item x", "item item.1"),
    ],
)
def test_terms_are_numbered_as_lme4_numbers_them(terms: str, keys: str) -> None:
    """make.unique(names(lFormula(y ~ x + (1 | item) + (x || subj), d)$reTrms$cnms)) with 5 items and 8 subjects."""
    codes = {"item": np.tile(np.arange(5), 8), "subj": np.repeat(np.arange(8), 5)}
    made: list[RandomTerm] = []
    for name, column in (term.split() for term in terms.split(", ")):
        Z = None if column == "1" else np.arange(40.0)
        made.append(make_random_term(name, range(len(np.unique(codes[name]))), codes[name], Z))
    assert " ".join(term_keys(made)) == keys
