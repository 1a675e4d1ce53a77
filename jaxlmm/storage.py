"""A fit in one file, without loss: ``save`` and ``load``.

The file is a zip archive that ``numpy.load`` opens too: every array as ``.npy``, bit by bit, and
all else as JSON in ``manifest.json``; nothing in it is executed. What follows from X, groups and
weights alone (``Fit.reducer``) is computed anew. For exchange, write tables or datasets instead:
these formats would lose labels that are neither numbers nor text.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlmm.arrays import response_matrix
from jaxlmm.design import Design
from jaxlmm.fit import prepare
from jaxlmm.reduce import Reducer
from jaxlmm.results import Fit
from jaxlmm.storage_absent import AbsentFormula, AbsentY, FitWithoutY, checksums, missing_cells
from jaxlmm.storage_codec import decode, encode

__all__ = ["load", "save"]

FORMAT, MAJOR, MINOR = "jaxlmm fit", 1, 0
MANIFEST = "manifest.json"
# Fields of Fit that are stored in a way of their own.
SPECIAL = ("Y", "reducer", "source")
# What reading a damaged or foreign file may raise.
DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, LookupError, TypeError, ValueError, AttributeError,
    RuntimeError, ArithmeticError,
)  # fmt: skip


def save(fit: Fit, path: Any, *, include_Y: bool = False, overwrite: bool = False) -> None:
    """Write a fit to a file, from which :func:`load` makes the same fit.

    Parameters
    ----------
    fit : Fit
    path : str or path-like
        Of any suffix; ".npz" says what it is.
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
    """
    if not isinstance(fit, Fit):
        hint = "; save its attribute 'fit'" if isinstance(getattr(fit, "fit", None), Fit) else ""
        raise ValueError(f"save takes what jaxlmm.fit returns, found {type(fit).__name__}{hint}.")
    target = os.path.realpath(os.fspath(path))
    _check_free(target, overwrite)
    arrays: dict[str, np.ndarray] = {}
    names = [field.name for field in dataclasses.fields(fit) if field.name not in SPECIAL]
    fields = {name: encode(getattr(fit, name), arrays, name) for name in names}
    arrays |= {"Y": np.asarray(fit.Y)} if include_Y else {"missing": missing_cells(fit)}
    arrays["checksums"] = checksums(fit.Y)
    manifest = {
        "format": FORMAT,
        "version": [MAJOR, MINOR],
        "jaxlmm": importlib.metadata.version("jaxlmm"),
        "fields": fields,
        "design": _digest(fit.design),
        "formula": None if fit.source is None else [fit.source.formula, *fit.source.group_columns],
    }
    part = f"{target}.{os.getpid()}.part"
    file = open(part, "xb")
    try:
        with file:
            _write(file, manifest, arrays)
            file.flush()
            os.fsync(file.fileno())
        _check_free(target, overwrite)
        os.replace(part, target)
    except BaseException:
        os.remove(part)
        raise


def load(path: Any, *, Y: Any = None, data: Any = None, context: Mapping[str, Any] | None = None) -> Fit:
    """Read a fit that :func:`save` wrote.

    Parameters
    ----------
    path : str or path-like
    Y : array-like, (n_obs, m), optional
        The responses that were fitted, where they are not in the file.
    data, context : DataFrame and mapping, optional
        What :func:`jaxlmm.lmm` was given, to apply the formula again: for ``emmeans``, and for
        ``predict`` from data frames.

    Returns
    -------
    Fit
        All stored arrays are the same bit by bit. What needs Y or data that are neither stored nor
        given raises a ValueError.

    Raises
    ------
    ValueError
        Not such a file, a damaged one, or one of another version; ``Y`` or ``data`` are not what
        was fitted.
    """
    path = os.fspath(path)
    try:
        manifest, arrays = _read(path)
        fields = {name: decode(value, arrays) for name, value in manifest["fields"].items()}
        design, formula = fields["design"], manifest["formula"]
        fields["reducer"] = _rebuild(design, manifest["design"])
        fields["source"] = AbsentFormula(formula[0], tuple(formula[1:])) if formula else None
        found = Fit(**fields, Y=arrays.get("Y"))  # type: ignore[arg-type]
        if "Y" not in arrays:
            found = FitWithoutY(**fields, Y=AbsentY.make(found, arrays["missing"], arrays["checksums"]))  # type: ignore[arg-type]
    except _Refused as refused:
        raise ValueError(f"{path} {refused}") from None
    except DAMAGE as error:
        raise ValueError(f"{path} is no file that jaxlmm.save wrote, or it is damaged: {error}.") from error
    if Y is not None:
        found = Fit(**fields, Y=_check_responses(Y, found, arrays["checksums"]))
    return found if data is None else dataclasses.replace(found, source=_apply_formula(found, data, context))


class _Refused(ValueError):
    """A file that is whole, but not for this version; says the rest of "<path> ..."."""


def _check_free(target: str, overwrite: bool) -> None:
    if os.path.lexists(target) and not overwrite:
        raise FileExistsError(f"{target} exists; give another path, or overwrite=True.")


def _write(file: Any, manifest: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(MANIFEST, json.dumps(manifest))
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _read(path: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    arrays = {}
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        manifest = json.loads(archive.read(MANIFEST))
        if manifest["format"] != FORMAT:
            raise ValueError(f"its format is {manifest['format']!r}")
        if manifest["version"][0] != MAJOR:
            raise _Refused(
                f"was written by jaxlmm {manifest['jaxlmm']} in format {manifest['version'][0]}, and this version "
                f"reads format {MAJOR}; load it with that version."
            )
        unknown = set(manifest["fields"]) - {field.name for field in dataclasses.fields(Fit)}
        if unknown:
            raise _Refused(
                f"was written by jaxlmm {manifest['jaxlmm']} and holds {min(unknown)!r}, which this version does not "
                "know; update jaxlmm."
            )
        for name in archive.namelist():
            if name != MANIFEST:
                with archive.open(name) as member:
                    arrays[name.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
    return manifest, arrays


def _rebuild(design: Design, digest: str) -> Reducer:
    """The reducer of a design, if it is the one that was saved."""
    codes = design.random[0].codes if design.random else None
    model = prepare(design.X, codes, names=design.names, weights=design.weights)
    if not _digest(model.design) == _digest(design) == digest:
        raise ValueError("the design does not match its checksum")
    return model.reducer


def _check_responses(Y: Any, fit: Fit, expected: np.ndarray) -> np.ndarray:
    """Y as an array; ValueError if it is not what was fitted."""
    matrix = response_matrix(Y, fit.n_obs)[0]
    if matrix.shape[1] != fit.n_responses:
        raise ValueError(
            f"Y has {matrix.shape[1]} columns, the fit has {fit.n_responses} responses; give the same array."
        )
    different = np.flatnonzero(checksums(matrix) != expected)
    if len(different):
        raise ValueError(
            f"Y is not what was fitted: {len(different)} responses, the first '{fit.response_names[different[0]]}', "
            f"differ in their values or type (now {matrix.dtype}); give the same array."
        )
    return matrix


def _apply_formula(fit: Fit, data: Any, context: Mapping[str, Any] | None) -> Any:
    """The fit's ``source`` from the data that were fitted."""
    from jaxlmm.formula import prepare_formula  # needs formulaic, which few fits do

    if fit.source is None:
        raise ValueError("data was given, but the fit is not by formula; leave it out.")
    made = prepare_formula(fit.source.formula, data, context=context)
    same = made.names == fit.names and made.X.shape == fit.design.X.shape
    if not same or not np.allclose(made.X, fit.design.X, rtol=1e-8, atol=0):
        raise ValueError(f"data is not what was fitted: formula '{fit.source.formula}' makes another X of it.")
    return made


def _digest(design: Design) -> str:
    """Checksum of X, groups, weights and names."""
    parts = [design.X, *(g.codes.astype(np.int64) for g in design.random), design.weights]
    found = hashlib.sha256(json.dumps(design.names).encode())
    for part in parts:
        found.update(b"none" if part is None else repr(part.shape).encode() + part.tobytes())
    return found.hexdigest()
