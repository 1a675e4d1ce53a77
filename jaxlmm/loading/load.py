"""A fit from what ``Fit.save`` or a run with ``out=`` wrote."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from jaxlmm.loading.parts import check_manifest, from_parts, reading
from jaxlmm.results.results import Fit
from jaxlmm.storage.places import check_name
from jaxlmm.storage.zip import read_archive

__all__ = ["load"]


def load(
    path: Any,
    *,
    Y: Any = None,
    weights: Any = None,
    data: Any = None,
    context: Mapping[str, Any] | None = None,
    trust_formula: bool = False,
) -> Fit:
    """Read a fit that :meth:`jaxlmm.Fit.save` wrote, or :func:`jaxlmm.fit` with ``out``.

    Parameters
    ----------
    path : str or path-like
    Y : array-like, (n_obs, m), optional
        The responses that were fitted, where they are not in the file.
    weights : array-like, (n_obs, m), optional
        Their weights, if each has its own, where they are not in the file: ``Fit.save`` stores them, a run with
        ``out`` does not.
    data : DataFrame, optional
        What :func:`jaxlmm.lmm` was given, where the file does not hold it (files of format 1.0,
        columns of unusual types).
    context : mapping, optional
        The functions that :func:`jaxlmm.lmm` was given for the formula: no file can hold them.
    trust_formula : bool
        Whether a formula is evaluated whatever it says. Formulas are Python code. Unless this is
        True, one from a file may only compute: arithmetic, the functions of formulaic, those of
        numpy that work element by element or sum up, the like methods of columns, and what
        ``context`` gives; otherwise it is not evaluated at all.

    Returns
    -------
    Fit
        All stored arrays are the same bit by bit. What needs Y that is neither stored nor given, or
        a formula that could not be applied to its data again, raises a ValueError that says why.

    Raises
    ------
    ValueError
        Not such a file, a damaged one, or one of another version; ``Y``, ``weights``, ``data`` or
        ``context`` are not what was fitted.

    Warns
    -----
    UserWarning
        The formula makes another X of its data than at the fit, by no more than roundings, as with
        another version of formulaic or numpy.
    """
    path = os.fspath(path)
    check_name(path)
    if os.path.isdir(path) or (not os.path.exists(path) and path.rstrip("/").endswith(".zarr")):
        from jaxlmm.loading.store import read_result_store  # needs zarr

        manifest, arrays = read_result_store(path)
    else:
        with reading(path), open(path, "rb") as file:
            manifest, arrays = read_archive(file, check_manifest)
    return from_parts(
        manifest, arrays, path, Y=Y, weights=weights, data=data, context=context, trust_formula=trust_formula
    )
