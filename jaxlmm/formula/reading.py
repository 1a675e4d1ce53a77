"""The fixed part of a formula as R reads it, put into words that formulaic reads in the same way.

What R and formulaic read differently is translated, or refused with what to write. Only what stands in quotes or
backticks is left as it is.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NoReturn

from jaxlmm.formula.text import brackets_and_bars, outside_quotes, parse_expression, unparse_expression

__all__ = ["Sides", "check_operators", "read_sides"]

# R's and other packages' functions that are not known here, and what to write.
ELSEWHERE = {
    "as.numeric": "write the column itself, I((x == 'a') * 1), or x.cat.codes + 1 for the numbers of levels",
    "as.double": "write the column itself",
    "as.vector": "write what it is applied to, which is a column already",
    "as.integer": "write the column itself, or x.astype(int)",
    "as.character": "write the column itself, or x.astype(str)",
    "as.logical": "write x == 1",
    "interaction": "write a:b",
    "cut": "make the column in the data first, with pandas.cut",
    "is.na": "write x.isna()",
    "dummy": "write I((x == 'a') * 1) for the level 'a', or 0 + x for all levels",
    "ave": "make the column in the data first, with data.groupby('g')['x'].transform('mean')",
    "cumsum": "write np.cumsum(x)",
    "cbind": "write its columns as terms, x + z",
    "mean": "write np.mean(x), or center(x) to subtract the mean",
    "sd": "write np.std(x, ddof=1), or scale(x) to divide by it",
    "var": "write np.var(x, ddof=1)",
    "median": "write np.median(x)",
    "rank": "write x.rank()",
    "asin": "write np.arcsin(x)",
    "acos": "write np.arccos(x)",
    "paste": "write a:b for the combinations of two factors",
    "ns": "write cr(x, df=3, constraints='center') for a natural cubic spline",
    "rcs": "write cr(x, df=3, constraints='center') for a natural cubic spline",
    "s": "write bs(x, df=5) for a spline of fixed degrees of freedom",
    "te": "write bs(x, df=5) for a spline of fixed degrees of freedom",
    "random": "write (1 | g) for a random intercept of the groups g",
    "re": "write (1 | g) for a random intercept of the groups g",
    "Error": "write (1 | g) for a random intercept of the groups g",
    "log1": "write log1p(x)",
    "ln": "write log(x)",
    "contrasts": "write C(x, contr.sum)",
}
# What C(x, ...) takes from R that is called otherwise here: contrasts by their short names.
SHORT_CONTRASTS = re.compile(r"(?<![\w.])(C\s*\(\s*[^(),]+,\s*)(sum|helmert|treatment|poly|SAS)(?=\s*[,)])")
# A coding by the number of levels, by the number of its base, or with fewer columns.
NUMBERED_CONTRASTS = re.compile(r"contr\.\w+\s*\(\s*\d[^)]*\)|(?<![\w.])C\s*\([^()]*,\s*contr\.\w+\s*,[^()]*\)")
# The intercept taken away within parentheses: first, or further on.
NO_INTERCEPT = (re.compile(r"^\s*(?:0|-\s*1)\s*\+"), re.compile(r"(?:\+\s*0|-\s*1)(?!\s*[\w.:*/^(])"))
# R's operators that neither Python nor formulaic has.
OPERATORS = {"%%": "x % 2", "%/%": "x // 2", "%in%": "x.isin([...])"}
AS = {"as.factor": "factor", "as.ordered": "ordered"}
CALL = re.compile(r"(?<![\w.])((?:\w+\.)*[A-Za-z_]\w*)\s*\(")


@dataclass(frozen=True)
class Sides:
    """The two sides of the fixed part of a formula.

    Attributes
    ----------
    responses : tuple of (str, str), or None
        Names and expressions of the responses; None if the formula names none.
    fixed : str
        The right side, for formulaic.
    offset : str or None
        What is subtracted from the responses: the sum of R's offset(...) on the right side.
    """

    responses: tuple[tuple[str, str], ...] | None
    fixed: str
    offset: str | None = None


def read_sides(formula: str, fixed: str, columns: Collection[str] = (), given: Collection[str] = ()) -> Sides:
    """Both sides of a formula whose random terms were taken off.

    Parameters
    ----------
    formula : str
        As the user wrote it, for messages.
    fixed : str
        Without random terms.
    columns : collection of str
        Names of the columns of the data.
    given : collection of str
        Names of the user's own functions and values, which are called in the place of R's.

    Raises
    ------
    ValueError
        What R reads otherwise than formulaic and cannot be translated, and what neither reads; with what to write.
    """
    bare = outside_quotes(fixed)
    at = [i for i, c in enumerate(bare) if c == "~"]
    brackets = brackets_and_bars(fixed)[0]
    at = [i for i in at if not any(b.start < i < b.end and b.call for b in brackets)]  # Python's ~ is "not"
    if len(at) > 1:
        _refuse(formula, f"has {len(at)} '~'; write one, between the response and the terms")
    equals = re.search(r"(?<![=<>!])=(?!=)", _outside_brackets(bare, brackets))
    if equals and not at:
        _refuse(formula, "has '=' where '~' is meant; write 'y ~ x'")
    left, right = (fixed[: at[0]], fixed[at[0] + 1 :]) if at else ("", fixed)
    if at and not right.strip():
        _refuse(formula, "has nothing right of '~'; write 1 for an intercept alone")
    right = _without_inner_intercept(_translated(right, formula, columns, given), formula)
    right, offset = _without_offsets(right, formula) if "offset" not in given else (right, None)
    _check_right(right, formula, columns)
    return Sides(_responses(left, formula, columns, given) if left.strip() else None, right, offset)


def check_operators(root: Any, formula: str) -> None:
    """ValueError for what adds nothing, ``x**2`` or ``x*x``, and for numbers, in formulaic's tree of a right side."""
    stack: list[Any] = [root]
    while stack:
        node = stack.pop()
        arguments = getattr(node, "args", None)
        if arguments is None:
            continue
        symbol = node.operator.symbol
        texts = [str(argument) for argument in arguments]
        leaves = [getattr(argument, "args", None) is None for argument in arguments]
        numbers = [leaf and argument.kind.value == "value" for leaf, argument in zip(leaves, arguments, strict=True)]
        if symbol == "**" and leaves[0] and not numbers[0]:
            _refuse(
                formula,
                f"has '{texts[0]}^{texts[1]}', which between terms is {texts[0]} alone, as in R, so it adds nothing; "
                f"write I({texts[0]}**{texts[1]}) for the power",
            )
        if symbol in ("*", ":", "/") and all(leaves) and texts[0] == texts[1]:
            _refuse(
                formula,
                f"has '{texts[0]}{symbol}{texts[1]}', which between terms is {texts[0]} alone, as in R, so it adds "
                f"nothing; write I({texts[0]}**2) for the square",
            )
        if symbol == "in":
            _refuse(formula, "has '%in%'; write a:b for a within b, or b/a for b and a within b")
        kept = arguments[:1] if symbol == "**" else arguments
        for text, literal in zip(texts[: len(kept)], numbers, strict=False):
            if literal and _is_number(text) and (text not in ("0", "1") or symbol in ("*", "/", ":", "**")):
                _refuse(
                    formula,
                    f"has the number {text} between terms, where R takes only 0 and 1; write arithmetic within "
                    "I(...), such as I(x / 2)",
                )
        stack += arguments


def _check_right(right: str, formula: str, columns: Collection[str]) -> None:
    bare = outside_quotes(right)
    if re.search(r"(?<![\w.\0)\]])\.(?![\w.])", bare):
        others = [name for name in columns if not re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", formula)]
        names = " + ".join(name if name.isidentifier() else f"`{name}`" for name in others[:8]) or "x + z"
        _refuse(formula, f"has '.', R's all other columns; write the terms, such as {names}")


def _without_inner_intercept(right: str, formula: str) -> str:
    """``(x - 1) + z`` as ``(x) - 1 + z``: R has one intercept, taken away wherever that is said."""
    while True:
        bare, brackets = outside_quotes(right), brackets_and_bars(right)[0]
        for own in brackets:
            if any(b.call and b.start <= own.start <= b.end for b in brackets):
                continue
            inner = _outside_brackets(bare, [b for b in brackets if own.start < b.start < own.end], "x")
            inner = inner[own.start + 1 : own.end]
            match = NO_INTERCEPT[0].search(inner) or NO_INTERCEPT[1].search(inner)
            if match:
                break
        else:
            return right
        if bare[: own.start].rstrip().endswith("-"):
            _refuse(formula, f"subtracts '{right[own.start : own.end + 1]}'; write its terms one by one")
        start, stop = own.start + 1 + match.start(), own.start + 1 + match.end()
        # The end of the term that the parentheses are a part of.
        level = [b for b in brackets if b.start != own.start and not b.start < own.start < b.end]
        after = _outside_brackets(bare, level)[own.end + 1 :]
        end = own.end + 1 + next((i for i, c in enumerate(after) if c in "+-)"), len(after))
        right = f"{right[:start]}{right[stop:end].rstrip()} - 1 {right[end:]}".rstrip()


def _without_offsets(right: str, formula: str) -> tuple[str, str | None]:
    """A right side without its terms offset(...), and their sum."""
    found, kept, last = [], [], 0
    bare, brackets = outside_quotes(right), brackets_and_bars(right)[0]
    for match in re.finditer(r"(?<![\w.])offset\s*\(", bare):
        own = next(b for b in brackets if b.start == match.end() - 1)
        before, after = bare[: match.start()].rstrip(), bare[own.end + 1 :].lstrip()
        inside = any(b.start < match.start() and own.end < b.end for b in brackets)
        if inside or before[-1:] not in ("", "+") or after[:1] not in ("", "+", "-"):
            term = right[match.start() : own.end + 1]
            _refuse(formula, f"has '{term}' within a term; write '+ {term}', or subtract it from the response")
        kept.append(right[last : match.start()].rstrip().removesuffix("+"))
        found.append(f"({right[own.start + 1 : own.end].strip()})")
        last = own.end + 1
    if not found:
        return right, None
    rest = " ".join([*kept, right[last:]]).strip().removeprefix("+").strip()
    return rest or "1", " + ".join(found)


def _translated(text: str, formula: str, columns: Collection[str], given: Collection[str]) -> str:
    """One side of the formula, with R's spellings as Python's."""
    text = _unquoted_names(text)
    bare = outside_quotes(text)
    for operator, instead in {
        "%%": "x % 2",
        "%/%": "x // 2",
        "%in%": "x.isin([...]) within I(...), b/a or b:a",
    }.items():
        at = bare.find(operator)
        if at >= 0 and (operator != "%in%" or _within_call(text, at)):
            _refuse(formula, f"has '{operator}'; write {instead}")
    if "::" in bare:
        piece = re.search(r"[\w.]*::+[\w.]*", bare)
        name = piece[0].split(":")[-1] if piece else ""
        _refuse(formula, f"has '{piece[0] if piece else '::'}'; write the name of the function alone, {name or 'f'}")
    if re.search(r"\)\s*\[\s*,", bare):
        _refuse(formula, "takes columns of a matrix by [, ]; write scale(x) alone, which is a column, or x + I(x^2)")
    if re.search(r"[<>]|[=!]=", _outside_brackets(bare, [b for b in brackets_and_bars(text)[0] if b.call])):
        _refuse(formula, "compares outside of a call; write I(x > 0), and I(a == 'b')")
    coding = NUMBERED_CONTRASTS.search(bare)
    if coding:
        _refuse(
            formula,
            f"has '{text[coding.start() : coding.end()]}', a coding by numbers; write C(x, contr.sum), or for the "
            "reference level 'a' C(x, contr.treatment(base='a'))",
        )
    if "$" in bare:
        piece = re.search(r"[\w.]*\$[\w.]*", bare)
        name = piece[0].split("$")[1] if piece else ""
        _refuse(formula, f"has '{piece[0] if piece else '$'}'; write the name of the column alone, {name or 'x'}")
    for called in CALL.finditer(bare):
        name = called[1]
        if name in ELSEWHERE and name not in given:
            _refuse(formula, f"calls '{name}', which is not known here; {ELSEWHERE[name]}")
    _check_logic(text, bare, formula)
    text = SHORT_CONTRASTS.sub(r"\1contr.\2", text) if SHORT_CONTRASTS.search(bare) else text
    bare = outside_quotes(text)
    dotted = sorted((c for c in columns if re.fullmatch(r"[^\W\d]\w*(\.\w+)+", c)), key=len, reverse=True)

    def spelled(match: re.Match[str]) -> str:
        piece = match[0]
        if piece == "^":
            return "**"
        if piece in dotted:
            return f"`{piece}`" if piece.split(".")[0] not in (*columns, *given) else piece
        return AS[piece] if piece in AS and piece not in given else piece

    made, last = [], 0
    for match in re.finditer(r"\^|(?<![\w.])[^\W\d][\w]*(?:\.\w+)+", bare):
        made += [text[last : match.start()], spelled(match)]
        last = match.end()
    return "".join([*made, text[last:]])


def _check_logic(text: str, bare: str, formula: str) -> None:
    """Python's & and | bind before comparisons, R's after them: refuse the two side by side within a call."""
    brackets = brackets_and_bars(text)[0]
    for outer in brackets:
        if not any(b.call and b.start <= outer.start < b.end for b in brackets):
            continue
        inside = [b for b in brackets if outer.start < b.start < outer.end]
        own = "".join(
            " " if any(b.start <= i <= b.end for b in inside) else bare[i] for i in range(outer.start + 1, outer.end)
        )
        for piece in own.split(","):
            if re.search(r"[&|]", piece) and re.search(r"[<>]|==|!=", piece):
                _refuse(
                    formula,
                    f"has '{text[outer.start + 1 : outer.end].strip()}', where & and | come before comparisons in "
                    "Python and after them in R; put the comparisons in parentheses, as (x > 1) & (z > 2)",
                )


def _unquoted_names(text: str) -> str:
    """Q("a name") as `a name`."""
    bare = outside_quotes(text)
    made, last = [], 0
    for match in re.finditer(r"(?<![\w.])Q\s*\(\s*(\0+)\s*\)", bare):
        name = text[match.start(1) + 1 : match.end(1) - 1]
        if "`" in name or text[match.start(1)] == "`":
            continue
        made += [text[last : match.start()], f"`{name}`"]
        last = match.end()
    return "".join([*made, text[last:]])


def _responses(
    left: str, formula: str, columns: Collection[str], given: Collection[str]
) -> tuple[tuple[str, str], ...]:
    """Names and expressions: one response, computed, or those of cbind(...)."""
    written = left.strip()
    if re.search(r"(?<![\w.])offset\s*\(", outside_quotes(written)):
        _refuse(formula, "has an offset left of '~'; subtract it, as in 'y - x ~ ...'")
    if re.fullmatch(r"cbind\s*\(.*\)", outside_quotes(written), re.S) and "cbind" not in given:
        start = written.index("(")
        pieces = _arguments(written[start + 1 : -1])
    else:
        pieces = [written]
    found = []
    for piece in pieces:
        name, expression = piece, piece
        renamed = re.match(r"([^\W\d]\w*)\s*=(?!=)", piece) if len(pieces) > 1 else None
        if renamed:
            name, expression = renamed[1], piece[renamed.end() :].strip()
        if not expression:
            _refuse(formula, "has an empty response; write cbind(y1, y2)")
        if expression in columns:
            found.append((name, f"`{expression}`"))
            continue
        made = _translated(expression, formula, columns, given)
        if re.fullmatch(r"`[^`]+`", made) and not renamed:
            name = made[1:-1]
        try:
            made = unparse_expression(parse_expression(made)[0].body, parse_expression(made)[1])
        except SyntaxError as error:
            _refuse(formula, f"has '{expression}' left of '~', which is no arithmetic of columns ({error.msg})")
        found.append((name, made))
    names = [name for name, _ in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        _refuse(formula, f"names the response '{twice}' twice; leave one out")
    return tuple(found)


def _arguments(text: str) -> list[str]:
    """The arguments of a call, split at its own commas."""
    bare, depth, pieces, start = outside_quotes(text), 0, [], 0
    for i, c in enumerate(bare):
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            pieces.append(text[start:i].strip())
            start = i + 1
    return [*pieces, text[start:].strip()]


def _outside_brackets(bare: str, brackets: Any, instead: str = " ") -> str:
    return "".join(instead if any(b.start <= i <= b.end for b in brackets) else c for i, c in enumerate(bare))


def _within_call(text: str, at: int) -> bool:
    return any(b.call and b.start < at < b.end for b in brackets_and_bars(text)[0])


def _is_number(text: str) -> bool:
    try:
        return isinstance(ast.literal_eval(text), (int, float))
    except (SyntaxError, ValueError):
        return False


def _refuse(formula: str, why: str) -> NoReturn:
    raise ValueError(f"formula '{formula}' {why}.")
