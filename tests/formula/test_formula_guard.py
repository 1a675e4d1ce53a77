"""What a formula from a file may do, and what not."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

pd = pytest.importorskip("pandas")
pytest.importorskip("formulaic")

from jaxlmm.formula.formula import prepare_formula, restore_formula  # noqa: E402
from jaxlmm.formula.guard import BUILTINS, METHODS, NUMPY, refuse_unknown  # noqa: E402

KNOWN = ("x", "a", "day", "my x")

SAFE = [
    "log(x)", "np.log1p(x)", "np.where(x > 0, x, -x)", "bs(x, df=4, degree=3)", "C(a, contr.treatment('b'))",
    "C(a, contr.sum)", "C(a, levels=['b', 'a'])", "scale(x) ** 2", "I(x - x.mean())", "I((x > 0) & ~(x < 1))",
    "x.clip(0, 1)", "day.dt.day_of_year", "a.str.lower().str.len()", "poly(x, 3)", "hashed(a, levels=5)", "lag(x, 1)",
    "np.log(`my x`)", "I(1 if True else 0)", "x.isin([1, 2])", "np.add(x, 1)", "abs(x) + max(1, 2)", "a == 'open(1)'",
    "C(a.astype('category'), contr.poly(scores=[1, 2, 3]))", "np.percentile(x, 50)", "center(x)[0:3]",
]  # fmt: skip

UNSAFE = [
    "__import__('os').system('ls')", "open('f', 'w')", "eval('1')", "exec('1')", "compile('1', '', 'eval')",
    "getattr(x, 'to_pickle')('f')", "x.to_csv('f')", "x.to_pickle('f')", "x.apply('to_csv')", "x.pipe(print)",
    "x.agg('to_csv')", "x.__class__", "x.values.__class__.__base__.__subclasses__()", "np.load('f')",
    "np.save('f', x)", "np.fromfile('f')", "np.lib.format.open_memmap('f', mode='w+')", "np.testing.rundocs('f')",
    "np.f2py.compile('')", "np", "I(np)", "[v for v in x]", "(lambda: 1)()", "I(x := 1)", "f'{x.__class__}'",
    "'{0.__class__}'.format(x)", "x.eval('1')", "bs(x, _state={})", "bs(x, **{})", "print(*x)", "globals()",
    "vars(x)", "type(x)", "os.system('ls')", "log(x)(1)", "(abs if 1 else open)('f')", "[open][0]('f')",
    "x.str.to_csv('f')", "np.vectorize(abs)", "x(1)", "contr.__class__", "contr._x", "`my y`",
    "f('`', __import__('os'), '`')", "np.array(x).tofile('f')", "x.map(open)", "np.where.__globals__", "help()",
    "input()", "breakpoint()", "yield x", "x; y", "await x", "x.array._ndarray", "np.add.at(x, 0, 1)",
    "setattr(x, 'a', 1)", "__builtins__", "x.mean.__func__",
]  # fmt: skip


@pytest.mark.parametrize("expression", SAFE)
def test_what_computes_is_evaluated(expression: str) -> None:
    refuse_unknown(expression, "y ~ x", KNOWN, ())


@pytest.mark.parametrize("expression", UNSAFE)
def test_all_else_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="which is not among what is evaluated unasked") as error:
        refuse_unknown(expression, "y ~ x", KNOWN, ())
    assert "\n" not in str(error.value)


def test_columns_do_not_lend_their_names() -> None:
    for expression in ("open('f')", "eval('1')", "np.load('f')", "getattr(x, 'y')"):
        with pytest.raises(ValueError, match="not among"):
            refuse_unknown(expression, "f", ("x", "open", "eval", "np", "getattr"), ())
    refuse_unknown("log(open) + np.rank()", "f", ("open", "np"), ())


def test_backticks_in_quotes() -> None:
    """A column may have the name of what formulaic would take for code."""
    with pytest.raises(ValueError, match="not among"):
        refuse_unknown("hashed('`', __import__('os'), '`')", "f", ("', __import__('os'), '",), ())


def test_what_the_user_gives() -> None:
    refuse_unknown("f(x) + m.stats.zscore(x)", "f", (*KNOWN, "f", "m"), ("f", "m"))
    for expression in ("m._private(x)", "m.__class__", "f(x).to_csv('f')", "m.f.__globals__"):
        with pytest.raises(ValueError, match="not among"):
            refuse_unknown(expression, "f", (*KNOWN, "f", "m"), ("f", "m"))
    with pytest.raises(ValueError, match="not among"):
        refuse_unknown("f(x)", "f", (*KNOWN, "f"), ())  # of the file, so no function


def test_the_lists_hold_nothing_that_reaches_out() -> None:
    """Names that read, write, run code or take functions by name must never get onto the lists."""
    outside = {"apply", "agg", "aggregate", "transform", "pipe", "eval", "query", "attrs", "tofile", "dump", "dumps"}
    named = {name for name in METHODS if name.startswith(("to_", "from_", "read_", "_"))}
    assert named == {"to_numpy"} and not METHODS & outside
    assert not BUILTINS & {"eval", "exec", "open", "compile", "getattr", "vars", "type", "print", "input", "object"}
    assert all(hasattr(builtins, name) for name in BUILTINS)
    assert not {
        name for name in NUMPY if any(k in name for k in ("load", "save", "file", "vectorize", "apply", "memmap"))
    }
    for name in METHODS:
        found = [
            getattr(kind, name, None)
            for kind in (pd.Series, pd.Series.dt, pd.Series.str, pd.Series.cat, pd.Timedelta)
        ]
        assert any(f is not None for f in found) or name in {"year", "days"}, name


def test_the_whole_formula_is_looked_at() -> None:
    frame = pd.DataFrame({"x": np.arange(6.0), "a": list("ababab")})
    made: Any = restore_formula(
        "open(y) ~ bs(x, df=4):a + {x + 1} + (1 | g)", frame
    )  # the left side is not evaluated
    np.testing.assert_array_equal(made.X, prepare_formula("bs(x, df=4):a + {x + 1}", frame).X)
    assert made.group_columns == ("g",) and made.response is None and made.labels is None
    for formula in (
        "x + a:eval('x')",
        "{eval('x')}",
        "x * (a + I(eval('x')))",
        "x ** 2 + log(eval('x')) - 1",
        "C(eval('a'))",
    ):
        with pytest.raises(ValueError, match="not among"):
            restore_formula(formula, frame)
