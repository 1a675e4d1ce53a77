"""From files to files: what the command line's ``fit`` does."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

try:
    import pandas as pd
except ImportError as error:
    raise ImportError('this command needs pandas and formulaic: pip install "jaxlmm[formula]"') from error

from jaxlmm._types import Status
from jaxlmm.design.dropped import DroppedRows
from jaxlmm.doors.fit import lmm, prepare
from jaxlmm.doors.long import long_model, refuse_beside_by
from jaxlmm.doors.model import Model, fit_responses
from jaxlmm.doors.responses import Responses
from jaxlmm.formula.design import refuse_untrusted
from jaxlmm.formula.guard import UntrustedFormula
from jaxlmm.inference.multiplicity import adjust_pvalues
from jaxlmm.outofcore.place import Place
from jaxlmm.results.options import FitOptions
from jaxlmm.results.tables import glance, tidy
from jaxlmm.runtime.progress import progress
from jaxlmm.sources.lazy import LazyMatrix
from jaxlmm.sources.opening import open_path
from jaxlmm.sources.sources import open_source
from jaxlmm.sources.table import as_frame

__all__ = ["fit_file"]

# Responses fitted and tabled at once.
CHUNK = 8192
WRITERS = {".csv": "to_csv", ".parquet": "to_parquet"}
STORE = ".zarr"
TEXT = (".csv", ".tsv", ".txt", ".dat")
# Separators by their names, as a shell passes them on more easily; and those that a file may turn out to have.
SEPARATORS = {
    "tab": "\t",
    "\\t": "\t",
    "space": r"\s+",
    "whitespace": r"\s+",
    "comma": ",",
    "semicolon": ";",
    "pipe": "|",
}
LIKELY = {"\t": "tab", ";": ";", ",": ",", "|": "|"}
COMPRESSED = (".gz", ".bz2", ".xz", ".zip", ".zst")
# What other software writes for a missing number; in a column of text it may be a level.
MISSING_CODES = {"NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None", "<NA>", ".", "-", "?"}


def fit_file(
    *,
    table: Path,
    formula: str,
    responses: str | None,
    array: str | None,
    weights: str | None,
    na: Sequence[str],
    sep: str | None,
    decimal: str,
    out: Path,
    method: str,
    df: str,
    adjust: str | None,
    what: str,
    overwrite: bool,
    resume: bool | str,
    show: bool | None,
    save: Path | None,
    by: Sequence[str] = (),
    obs: Sequence[str] = (),
    trust_formula: bool = False,
    incomplete: str = "drop",
) -> str:
    """Read, fit, write; returns one line that says what was done.

    With ``save`` the fit goes into a file too, with its data, for ``jaxlmm plot``. An ``out``
    that ends in ``.zarr`` is written block by block, see :func:`jaxlmm.fit`. With ``by`` the table is long, and
    the results have a column for each of these names. A formula
    that does more than compute with the columns is refused unless ``trust_formula``.

    Raises
    ------
    ValueError, OSError
        With a message that says what to do; nothing is written then.
    """
    if out.suffix not in (*WRITERS, STORE):
        raise ValueError(f"--out '{out}' must end in {', '.join(WRITERS)} or {STORE}.")
    if array is not None and by:
        raise ValueError("--by and --array are both given; responses come from one of them.")
    long: dict[str, Any] = {"by": list(by) or None, "obs": list(obs) or None}
    quoted = [f"`{name}`" for name in (*by, *obs, weights or "", responses or "")]
    plain = functools.partial(_read, table, [formula, *quoted], responses, na, sep, decimal)
    read = functools.partial(_trusted, plain, formula, trust_formula)
    if out.suffix == STORE:
        unused = {"--adjust": adjust, "--what glance": what == "glance", "--save": save}
        return _fit_blocks(
            read, formula, responses, array, out, weights=weights, method=method, df=df, overwrite=overwrite,
            resume=resume, progress=show, unused=unused, na=incomplete, **long,
        )  # fmt: skip
    if resume:
        raise ValueError(f"--resume and --verify go with results that end in {STORE}; '{out}' is written at the end.")
    for path in (out, save):
        if path is not None and path.exists() and not overwrite:
            raise ValueError(f"'{path}' exists; add --overwrite, or choose another name.")
    if not out.resolve().parent.is_dir():
        raise ValueError(f"the folder '{out.resolve().parent}' does not exist; make it first.")
    if responses is not None and array is not None:
        raise ValueError("--responses and --array are both given; responses come from one of them.")
    data = read()
    if by or obs:
        refuse_beside_by(long["by"], obs=long["obs"])
        model, opened = long_model(formula, data, responses=responses, weights=weights, na=incomplete, **long)
        if save is not None:
            whole = fit_responses(model, opened, FitOptions(method, df), Place(progress=show))
            whole.save(save, include_Y=True, overwrite=overwrite)
        result, counts = _fit_long(model, opened, method, df, what, show)
    else:
        model = prepare(formula, data, weights=weights, na=incomplete)
        assert model.formula is not None
        if model.formula.response is None and responses is None and array is None:
            raise ValueError("the formula names no response; write 'y ~ ...', or give --responses or --array.")
        columns = model.columns(responses, given=array is not None)
        values = columns if array is None else _array(array)
        if save is not None:
            given = None if array is None else values
            whole = model.fit(given, responses=responses, method=method, df=df, progress=show)
            whole.save(save, include_Y=True, overwrite=overwrite)
        result, counts = _fit_chunks(model, values, method, df, what, show)
    if adjust is not None and what == "tidy":
        fixed = result["effect"] == "fixed"
        for term in result.loc[fixed, "term"].unique():
            rows = fixed & (result["term"] == term)
            result.loc[rows, "p.adjusted"] = adjust_pvalues(result.loc[rows, "p.value"].to_numpy(), adjust)
    # Whole or not at all: a half-written table must not be taken for a result.
    partial = out.with_name(f".{out.name}.partial")
    try:
        write = getattr(result, WRITERS[out.suffix])
        write(partial, index=False)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return _outcome(sum(counts.values()), counts, out, model.design.dropped)


def _fit_long(
    model: Model, opened: Responses, method: str, df: str, what: str, show: bool | None
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The results of a long table, in whose place of ``response`` stand the columns ``by``."""
    labels, own = opened.labels, opened.weights
    assert labels is not None  # of the combinations
    values = opened.values.reshape(len(opened.values), -1)
    W = None if own is None else own.values.reshape(values.shape)
    result, counts = _fit_chunks(model, values, method, df, what, show, weights=W)
    rows = pd.Index([f"y{j}" for j in range(labels.size)]).get_indexer(pd.Index(result.pop("response")))
    for at, (name, of_each) in enumerate(labels.keys.items()):
        if name in result:
            raise ValueError(f"--by names {name!r}, which is a column of the results too; rename it.")
        result.insert(at, name, of_each[rows])
    return result, counts


def _fit_chunks(
    model: Model, response: Any, method: str, df: str, what: str, show: bool | None, weights: Any = None
) -> tuple[pd.DataFrame, dict[str, int]]:
    names = [str(c) for c in response.columns] if hasattr(response, "columns") else None
    values = response.to_numpy() if names is not None else response
    values = values[:, None] if values.ndim == 1 else values
    model = dataclasses.replace(model, formula=None, data=None, rows=())  # parts of what was looked at already
    names = names or [f"y{j}" for j in range(values.shape[1])]
    frames, counts = [], {}  # type: ignore[var-annotated]
    with progress("Fit", len(names), "responses", show) as work:
        for start in range(0, len(names), CHUNK):
            part = slice(start, start + CHUNK)
            own = None if weights is None else weights[:, part]
            fit = model.fit(values[:, part], method=method, df=df, response_names=names[part], weights=own)
            frames.append(tidy(fit) if what == "tidy" else glance(fit))
            for name, n in fit.status_counts().items():
                counts[name] = counts.get(name, 0) + n
            work.reach(start + len(names[part]))
    return pd.concat(frames, ignore_index=True), counts


def _trusted(read: Callable[[], pd.DataFrame], formula: str, trust: bool) -> pd.DataFrame:
    """The table, for a formula that may be evaluated."""
    data = read()
    if not trust:
        try:
            refuse_untrusted(formula, data, {})
        except UntrustedFormula as error:
            raise ValueError(
                f"the formula {error.why}; a formula is Python code, so read it, and then add --trust-formula."
            ) from None
    return data


def _read(
    path: Path, used: Sequence[str], responses: str | None, na: Sequence[str], sep: str | None, decimal: str
) -> pd.DataFrame:
    """The table; columns that the texts ``used`` or ``responses`` name must not hold numbers that read as text."""
    suffix = Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix
    words = {word for text in used for word in re.findall(r"[^\W\d][\w.]*|(?<=`)[^`]+(?=`)", text)}
    if path.suffix == ".parquet":
        return _read_parquet(path, words)
    if suffix not in TEXT:
        raise ValueError(
            f"'{path}' must end in {', '.join(TEXT)} (or these and {', '.join(COMPRESSED)}), or .parquet."
        )
    given = {".tsv": "\t", ".csv": ","}.get(suffix, r"\s+") if sep is None else SEPARATORS.get(sep, sep)
    if not given or "\n" in given:
        raise ValueError(f"--sep is {sep!r}; give what stands between the columns, or tab, space, semicolon, pipe.")
    # More than one character is a pattern, which the engine in Python reads; the one in C reads any white space.
    plain = len(given) == 1 or given == r"\s+"
    options: dict[str, Any] = {"low_memory": False} if plain else {"engine": "python"}
    pattern = given if plain else re.escape(given)
    data = pd.read_csv(path, sep=pattern, decimal=decimal, keep_default_na=False, na_values=["", *na], **options)
    _refuse_other_separator(path, data, given)
    if given == r"\s+":
        _refuse_short_rows(path, data)
    for name in data.columns:
        if name in words or (responses is not None and fnmatch.fnmatchcase(name, responses)):
            _refuse_hidden_numbers(data[name], name)
    return data


def _refuse_short_rows(path: Path, data: pd.DataFrame) -> None:
    """ValueError for rows with fewer values than columns: of white space an empty cell leaves no trace."""
    last = pd.read_csv(path, sep=r"\s+", usecols=[data.shape[1] - 1], dtype=str, na_filter=False).iloc[:, 0]
    short = np.flatnonzero((last.isna() | (last == "")).to_numpy())
    if len(short):
        raise ValueError(
            f"'{path}' has rows with fewer values than columns, the first in line {short[0] + 2}: between white "
            "space an empty cell cannot be seen; write NA there and add --na NA, or give --sep if one character "
            "separates columns."
        )


def _refuse_other_separator(path: Path, data: pd.DataFrame, given: str) -> None:
    """ValueError for a file whose first line another separator would take apart into more columns."""
    first = " ".join(map(str, data.columns)) if given == r"\s+" else str(data.columns[0])
    if data.shape[1] > 1 and given != r"\s+":
        return
    for other, name in LIKELY.items():
        if other != given and first.count(other) >= data.shape[1]:
            columns = "one column" if data.shape[1] == 1 else f"{data.shape[1]} columns"
            raise ValueError(f"'{path}' has {columns}, {first!r}; add --sep '{name}' if that separates columns.")


def _read_parquet(path: Path, words: Collection[str]) -> pd.DataFrame:
    """A table, unless ``words`` name categories whose order the file has not kept."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(f"'{path}' needs pyarrow: pip install pyarrow") from error
    data = parquet.read_table(path)
    notes = (data.schema.pandas_metadata or {}).get("columns", [])
    for name in [note["name"] for note in notes if note["pandas_type"] == "categorical"]:
        if name in words and not str(data.schema.field(name).type).startswith("dictionary"):
            raise ValueError(
                f"column {name!r} of '{path}' was categories of {data.schema.field(name).type}, whose order Parquet "
                "does not keep; save them as categories of text."
            )
    return as_frame(data)


def _refuse_hidden_numbers(column: pd.Series, name: str) -> None:
    """ValueError for a column of text that would be numbers, but for its missing codes or decimal commas."""
    if not pd.api.types.is_string_dtype(column.dtype) and column.dtype != object:
        return
    counts = column.value_counts()
    texts = pd.Series(counts.index.astype(str))
    numbers = pd.to_numeric(texts.where(~texts.isin(MISSING_CODES)), errors="coerce").notna()
    codes = texts[~numbers]
    if numbers.any() and codes.isin(MISSING_CODES).all():
        raise ValueError(
            f"column {name!r} holds numbers and the text {codes.iloc[0]!r} in {counts.iloc[codes.index[0]]} rows; "
            f"add --na {codes.iloc[0]!r} if it marks missing values, rename it if it is a level."
        )
    if not numbers.any() and len(texts) and texts.str.fullmatch(r"[-+]?\d+,\d+").all():
        raise ValueError(f"column {name!r} holds text such as {texts[0]!r}; add --decimal , if these are numbers.")


def _array(path: str) -> LazyMatrix:
    source = open_source(open_path(path))
    if len(source.shape) > 2:
        raise ValueError(
            f"--array '{path}' has the shape {source.shape}; tables take (rows, responses). With --out ending in "
            f"{STORE} every axis but the first holds responses."
        )
    if 0 in source.shape:
        raise ValueError(f"--array '{path}' has the shape {source.shape}: it holds no responses.")
    return LazyMatrix.make(source)


def _fit_blocks(
    read: Callable[[], pd.DataFrame],
    formula: str,
    responses: str | None,
    array: str | None,
    out: Path,
    *,
    unused: dict[str, Any],
    by: Any,
    **options: Any,
) -> str:
    for name, given in unused.items():
        if given:
            raise ValueError(f"{name} does not go with --out '{out}'; use it with a table, or xarray on the results.")
    if array is None and by is None:
        raise ValueError(
            f"--out '{out}' takes its responses from --array or --by; columns of a table go to .csv or .parquet."
        )
    if responses is not None and array is not None:
        raise ValueError("--responses and --array are both given; responses come from one of them.")
    found = lmm(formula, read(), array, responses=responses, by=by, out=out, **options)
    if found is None:
        return f"this share is done, others are not -> {out}.part"
    status = found["status"].to_numpy()
    counts = {s.name: int((status == s).sum()) for s in Status}
    n = int(found.attrs.get("n_dropped", 0))
    dropped = f"{n} row{'s' * (n > 1)} dropped, in which values are missing" if n else None
    return _outcome(status.size, counts, out, dropped)


def _outcome(total: int, counts: dict[str, int], out: Path, dropped: DroppedRows | str | None = None) -> str:
    note = dropped if isinstance(dropped, str) else "" if dropped is None else dropped.note
    outcome = ", ".join(f"{n} {name.lower()}" for name, n in counts.items() if n)
    return f"{total} responses ({outcome}){note and '; ' + note} -> {out}"
