"""A fit in one file, without loss: ``save`` and ``load``.

The file is a zip archive that ``numpy.load`` opens too: every array as ``.npy``, bit by bit, and
all else as JSON in ``manifest.json``. There is no pickle in it, and of a formula only what
:mod:`jaxlmm.formula.guard` knows is evaluated. What follows from X, groups and weights alone
(``Fit.model``), and from a formula and its data, is computed anew. For exchange, write tables or
datasets instead: these formats would lose labels that are neither numbers nor text.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxlmm.results.results import Fit
from jaxlmm.storage.parts import check_manifest, from_parts, reading, to_parts
from jaxlmm.storage.places import check_name, scratch_file, sweep
from jaxlmm.storage.zip import read_archive, write_archive

__all__ = ["load", "save"]


def save(fit: Fit, path: Any, *, include_Y: bool = False, overwrite: bool = False) -> None:
    """Write a fit to a file, from which :func:`load` makes the same fit.

    A fit by formula is stored with the columns of the data that its fixed part uses, and with the
    numbers, texts and arrays of its ``context``; not with functions, which :func:`load` must be
    given again.

    Parameters
    ----------
    fit : Fit
    path : str or path-like
        ".npz", or any other suffix, is one file; ".zarr" a Zarr store that ``xarray.open_zarr`` opens,
        with the variables of ``Fit.to_dataset`` (needs zarr).
    include_Y : bool
        Whether to store the responses. Without them the file is small, and the loaded fit can do
        all but random effects, residuals, profiles and refits.
    overwrite : bool
        Whether a file at ``path`` is replaced. The new one takes its place when it is complete.

    Raises
    ------
    FileExistsError
    ValueError
        Not a fit; a fit loaded without Y, with ``include_Y``; labels of a type that cannot be stored.

    Warns
    -----
    UserWarning
        A column of the formula's data is of a type that cannot be stored, so the data is not.
    """
    if not isinstance(fit, Fit):
        raise ValueError(f"save takes what jaxlmm.fit returns, found {type(fit).__name__}.")
    text = os.fspath(path)
    check_name(text)
    if text.rstrip("/").endswith(".zarr"):
        from jaxlmm.storage.store import write_fit  # needs zarr

        write_fit(fit, text, include_Y, overwrite)
        return
    target = Path(os.path.realpath(text))
    _check_free(target, overwrite)
    manifest, arrays = to_parts(fit, include_Y)
    sweep(target)
    with scratch_file(target) as (made, file):
        write_archive(file, manifest, arrays)
        file.flush()
        os.fsync(file.fileno())
        _check_free(target, overwrite)
        os.replace(made, target)


def load(
    path: Any,
    *,
    Y: Any = None,
    data: Any = None,
    context: Mapping[str, Any] | None = None,
    trust_formula: bool = False,
) -> Fit:
    """Read a fit that :func:`save` wrote, or :func:`jaxlmm.fit` with ``out``.

    Parameters
    ----------
    path : str or path-like
    Y : array-like, (n_obs, m), optional
        The responses that were fitted, where they are not in the file.
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
        Not such a file, a damaged one, or one of another version; ``Y``, ``data`` or ``context``
        are not what was fitted.

    Warns
    -----
    UserWarning
        The formula makes another X of its data than at the fit, by no more than roundings, as with
        another version of formulaic or numpy.
    """
    path = os.fspath(path)
    check_name(path)
    if os.path.isdir(path) or (not os.path.exists(path) and path.rstrip("/").endswith(".zarr")):
        from jaxlmm.storage.store import read_result_store  # needs zarr

        manifest, arrays = read_result_store(path)
    else:
        with reading(path), open(path, "rb") as file:
            manifest, arrays = read_archive(file, check_manifest)
    return from_parts(manifest, arrays, path, Y=Y, data=data, context=context, trust_formula=trust_formula)


def _check_free(target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise ValueError(f"{target} is a folder; give another path, or one that ends with .zarr.")
    if os.path.lexists(target) and not overwrite:
        raise FileExistsError(f"{target} exists; give another path, or overwrite=True.")
