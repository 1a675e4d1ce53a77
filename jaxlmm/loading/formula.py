"""The formula of a fit from a file, applied again to what it was applied to."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlmm.design.design import Design
from jaxlmm.storage.absent import AbsentFormula
from jaxlmm.storage.codec import decode
from jaxlmm.storage.formula import MAKERS

__all__ = ["restore_source"]

# Largest difference between X and X made again that is a rounding, relative to the column's largest value.
ROUNDING = 1e-10


def restore_source(
    manifest: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    design: Design,
    data: Any = None,
    context: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> Any:
    """``Fit.source`` again: the formula applied to the stored columns, or to ``data``.

    Parameters
    ----------
    manifest, arrays
        Of :func:`jaxlmm.storage.formula.formula_parts`.
    design : Design
        Whose X the formula must make again.
    data, context, trust
        What the user gives; see :func:`jaxlmm.load`.

    Returns
    -------
    FormulaDesign, AbsentFormula or None
        Where nothing was given, what stands in the way is told when the formula is first needed:
        the numbers of the fit are in the file all the same.

    Raises
    ------
    ValueError
        ``data`` is not what was fitted; what is given does not do.
    LookupError, TypeError, ValueError
        Damaged parts.
    """
    stated = manifest["formula"]
    if stated is None:
        if data is not None or context is not None:
            what = "data" if data is not None else "context"
            raise ValueError(f"{what} was given, but the fit is not by formula; leave it out.")
        return None
    kept, arrays = manifest.get("frame"), {k: v for k, v in arrays.items() if k.startswith("frame.")}
    formula, *group_columns = stated
    absent = AbsentFormula(formula, tuple(group_columns), "", None if kept is None else (kept, arrays))
    if data is None and (kept is None or "lost" in kept):
        if context is not None:
            raise ValueError("context was given, but the file does not hold the data; give data= too.")
        return absent if kept is None else absent.because(f"the file does not hold its data: {kept['lost']}")
    try:
        return _restore(formula, kept, arrays, design, data, context, trust)
    except (ValueError, ImportError) as error:
        if data is not None or context is not None or trust:
            raise
        return absent.because(str(error))


def _restore(
    formula: str,
    kept: Any,
    arrays: dict[str, np.ndarray],
    design: Design,
    data: Any,
    context: Mapping[str, Any] | None,
    trust: bool,
) -> Any:
    from jaxlmm.formula.formula import restore_formula  # needs formulaic, which few fits do
    from jaxlmm.sources.table import as_frame
    from jaxlmm.storage.frame import decode_frame

    given = dict(context or {})
    values, frame = {}, data
    missing: list[str] = []
    if kept is not None and "lost" not in kept:
        try:
            missing = [name for name in kept["needs"] if name not in given]
            values = {name: decode(value, arrays) for name, value in kept["context"].items()}
            if kept["rows"] != design.n_obs:
                raise ValueError(f"{kept['rows']} rows for {design.n_obs} observations")
            frame = decode_frame(kept, arrays) if data is None else data
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
            raise ValueError(f"the data in the file are damaged: {error!r}.") from error
    if missing:
        names, them = " and ".join(map(repr, missing)), "it" if len(missing) == 1 else "them"
        raise ValueError(
            f"formula '{formula}' uses {names}, which no file can hold; give {them} again, as load(path, "
            f"context={{{missing[0]!r}: ...}})."
        )
    if data is not None and design.dropped is not None:
        table = as_frame(data)
        frame = table.iloc[design.dropped.kept] if len(table) == design.n_given else table
    made = restore_formula(formula, frame, values | given, given=tuple(given), trust=trust)
    same = made.names == design.names and made.X.shape == design.X.shape
    if data is not None:
        if not same or not np.allclose(made.X, design.X, rtol=1e-8, atol=0):
            raise ValueError(f"data is not what was fitted: formula '{formula}' makes another X of it.")
    elif not same or made.X.tobytes() != design.X.tobytes():
        _tell_difference(formula, made if same else None, design, kept.get("versions", {}))
    return made


def _tell_difference(formula: str, made: Any, design: Design, versions: Mapping[str, str]) -> None:
    """Warn of roundings; ValueError for another X."""
    now = {name: importlib.metadata.version(name) for name in MAKERS}
    then, here = (", ".join(f"{name} {found.get(name, '?')}" for name in MAKERS) for found in (versions, now))
    if made is None:
        what = "columns other than those of the fit"
    else:
        scale = np.abs(design.X).max(axis=0)
        difference = np.abs(made.X - design.X).max(axis=0) / scale
        worst = int(difference.argmax())
        what = f"another X, by up to {difference[worst]:.1g} of the largest value in column '{design.names[worst]}'"
        if difference[worst] <= ROUNDING:
            warnings.warn(
                f"formula '{formula}' makes {what}, of the stored data with {here} than when it was saved with "
                f"{then}; predictions and marginal means differ by roundings.",
                stacklevel=7,
            )
            return
    raise ValueError(
        f"formula '{formula}' makes {what}, of the stored data with {here}, than when it was saved with {then}; load "
        "it with those versions, and with functions in context= that are as they were."
    )
