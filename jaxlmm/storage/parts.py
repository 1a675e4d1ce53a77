"""A fit as JSON and arrays, and back; what holds them, a zip file or a folder, is no matter here.

All but the responses' own part (:func:`design_parts`) is written once, however many responses
follow; theirs are the arrays of :data:`ROWS`, with ``missing``, ``checksums`` and ``Y``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxlmm._types import Status
from jaxlmm.design.design import Design, checked_design
from jaxlmm.design.random import RandomTerm
from jaxlmm.design.terms import TermStructure
from jaxlmm.families.registry import Model, make_family
from jaxlmm.results.options import FitOptions
from jaxlmm.results.results import Fit
from jaxlmm.storage.absent import AbsentY, FitWithoutY, checksums, missing_cells
from jaxlmm.storage.check import check_responses
from jaxlmm.storage.codec import decode, encode
from jaxlmm.storage.formula import formula_parts, restore_source
from jaxlmm.storage.labels import decode_labels, encode_labels
from jaxlmm.tabular.labels import Labels

__all__ = ["ROWS", "check_manifest", "design_parts", "from_design_parts", "from_parts", "reading", "to_parts"]

FORMAT, MAJOR, MINOR = "jaxlmm fit", 1, 1
SHARED = ("design", "method", "df_method")
# Fields of Fit that are made anew, or stored in a way of their own.
SPECIAL = ("Y", "model", "source", "labels")
# Dimensions of a field beside that of the responses, and its kind of numbers, where these are not () and floats.
DIMS: dict[str, tuple[str, ...]] = {
    "coef": ("term",), "se_gls": ("term",), "theta": ("theta",), "hessian": ("theta", "theta"),
}  # fmt: skip
KIND = {"status": "i", "n_used": "iu"}
# Fields with one row per response: their other dimensions. All that reads and writes them goes by this table.
ROWS = {f.name: DIMS.get(f.name, ()) for f in dataclasses.fields(Fit) if f.name not in (*SHARED, *SPECIAL)}
# What reading a damaged or foreign file may raise.
DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, LookupError, TypeError, ValueError, AttributeError,
    RuntimeError, ArithmeticError, AssertionError,
)  # fmt: skip


class _Refused(ValueError):
    """A file that is whole, but not for this version; says the rest of "<path> ..."."""


def to_parts(fit: Fit, include_Y: bool = False) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All of a fit: what goes into JSON, and arrays by name.

    Raises
    ------
    ValueError
        Labels of a type that cannot be stored; ``include_Y`` for a fit loaded without Y.
    """
    manifest, arrays = design_parts(fit.design, fit.method, fit.df_method, fit.source, fit.labels)
    for name in ROWS:
        manifest["fields"][name] = encode(getattr(fit, name), arrays, name)
    arrays |= {"Y": np.asarray(fit.Y)} if include_Y else {"missing": missing_cells(fit)}
    known = checksums(fit.Y)
    return manifest, arrays if known is None else arrays | {"checksums": known}


def design_parts(
    design: Design, method: str, df_method: str, source: Any = None, labels: Labels | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The part of a fit that does not depend on the values of its responses, as :func:`to_parts` gives the whole.

    Parameters
    ----------
    design : Design
    method, df_method : str
    source : FormulaDesign, optional
        With its data, if the fit is by formula.
    labels : Labels, optional
        Of all responses, where these are known. Default: those of the columns of a matrix.

    Raises
    ------
    ValueError
        Labels of a type that cannot be stored.
    """
    arrays: dict[str, np.ndarray] = {}
    values = (design, method, df_method)
    fields = {name: encode(value, arrays, name) for name, value in zip(SHARED, values, strict=True)}
    if labels is not None:
        fields["labels"] = encode_labels(labels, arrays)
    formula, more = formula_parts(source)
    manifest = {
        "format": FORMAT,
        "version": [MAJOR, MINOR],
        "jaxlmm": importlib.metadata.version("jaxlmm"),
        "fields": fields,
        "design": _digest(design),
        **formula,
    }
    return manifest, arrays | more


def from_parts(
    manifest: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    path: str,
    *,
    Y: Any = None,
    data: Any = None,
    context: Mapping[str, Any] | None = None,
    trust_formula: bool = False,
) -> Fit:
    """The fit of :func:`to_parts`, or of :func:`design_parts` and arrays of the responses.

    Parameters
    ----------
    manifest, arrays
        Where ``manifest["fields"]`` does not have one of :data:`ROWS`, the array of that name is
        taken. Without "missing", no response is incomplete. Without "checksums", a
        ``Y`` is what was fitted if it gives the same fit; see
        :func:`jaxlmm.storage.check.check_responses`.
    path : str
        For messages.
    Y, data, context, trust_formula
        As in :func:`jaxlmm.load`.

    Raises
    ------
    ValueError
        Damaged parts, or of another version; ``Y``, ``data`` or ``context`` are not what was fitted.
    """
    fields = from_design_parts(manifest, arrays, path, data=data, context=context, trust_formula=trust_formula)
    with reading(path):
        stated = manifest["fields"]
        fields |= {name: decode(stated[name], arrays) if name in stated else arrays[name] for name in ROWS}
        if "labels" in stated:
            fields["labels"] = decode_labels(stated["labels"], arrays)
        found = Fit(**fields, Y=arrays.get("Y"))  # type: ignore[arg-type]
        bits = arrays.get("missing", np.zeros((-(-found.n_obs // 8), 0), dtype=np.uint8))
        known = arrays.get("checksums")
        _check_rows(found, bits, known)
        if "Y" not in arrays:
            found = FitWithoutY(**fields, Y=AbsentY.make(found, bits, known))  # type: ignore[arg-type]
    return found if Y is None else check_responses(Y, found, known)


def from_design_parts(
    manifest: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    path: str,
    *,
    data: Any = None,
    context: Mapping[str, Any] | None = None,
    trust_formula: bool = False,
) -> dict[str, Any]:
    """The inverse of :func:`design_parts`: fields of ``Fit``, with its model; parameters and errors as there."""
    with reading(path):
        check_manifest(manifest)
        fields = {name: decode(manifest["fields"][name], arrays) for name in SHARED}
        _check_design(*fields.values())
        fields["model"] = _rebuild(fields["design"], manifest["design"])
        formula = manifest["formula"]
        texts = isinstance(formula, list) and formula and all(isinstance(text, str) for text in formula)
        if not (formula is None or texts):
            raise ValueError("its formula is no text")
        if not isinstance(manifest.get("frame", {}), dict):
            raise ValueError("its data are not those of a formula")
    fields["source"] = restore_source(manifest, arrays, fields["design"], data, context, trust_formula)
    return fields


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Refuse what another version wrote, before its arrays are read; to be called in :func:`reading`."""
    if not (isinstance(manifest["version"], list) and isinstance(manifest["fields"], dict)):
        raise ValueError("its manifest has no version or no fields")
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


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Whatever a damaged or foreign file raises is a ValueError that says so."""
    try:
        yield
    except _Refused as refused:
        raise ValueError(f"{path} {refused}") from None
    except DAMAGE as error:
        raise ValueError(f"{path} is no file that jaxlmm.save wrote, or it is damaged: {error}.") from error


def _check_rows(fit: Fit, bits: np.ndarray, known: np.ndarray | None) -> None:
    """All arrays must speak of the same responses: a file that was cut short may hold more of one than of another."""
    m, lengths = fit.n_responses, {"term": fit.design.n_fixef, "theta": fit.model.family.n_theta}
    for name, dims in ROWS.items():
        array = getattr(fit, name)
        _check_shape(name, array, (m, *(lengths[dim] for dim in dims)))
        if array.dtype.kind not in KIND.get(name, "f"):
            raise ValueError(f"{name} holds {array.dtype}")
    if known is not None:
        _check_shape("checksums", known, (m,))
    unknown = set(np.unique(fit.status).tolist()) - set(Status)
    if unknown:
        raise ValueError(f"status holds {min(unknown)}, which stands for nothing")
    if fit.n_used.min() < 0 or fit.n_used.max() > fit.n_obs:
        raise ValueError(f"n_used is not between 0 and {fit.n_obs}")
    if fit.Y is None:
        _check_shape("missing", bits, (-(-fit.n_obs // 8), int(fit.incomplete.sum())))
        if bits.dtype != np.uint8:
            raise ValueError(f"missing holds {bits.dtype}")
        return
    _check_shape("Y", fit.Y, (fit.n_obs, m))
    if fit.Y.dtype.kind not in "biuf":
        raise ValueError(f"Y holds {fit.Y.dtype}")
    if known is not None and not np.array_equal(np.asarray(checksums(fit.Y)), known):
        raise ValueError("the responses in it do not match their checksums")


def _check_shape(name: str, array: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} is one {type(array).__name__}")
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, and {shape} is needed")


def _check_design(design: Any, method: Any, df: Any) -> None:
    """That these are what a fit is made of."""
    if not (isinstance(method, str) and isinstance(df, str)):
        raise ValueError("method or df is no text")
    FitOptions(method, df)
    if not isinstance(design, Design):
        raise ValueError(f"its design is one {type(design).__name__}")
    whole = isinstance(design.X, np.ndarray) and design.X.ndim == 2 and design.X.dtype == np.float64
    names = isinstance(design.names, tuple) and all(isinstance(name, str) for name in design.names)
    random = isinstance(design.random, tuple)
    terms = design.terms is None or isinstance(design.terms, TermStructure)
    if not (whole and names and random and terms):
        raise ValueError("its design is not one")
    for term in design.random:
        codes = term.codes if isinstance(term, RandomTerm) else None
        if not (isinstance(codes, np.ndarray) and codes.dtype.kind in "iu" and isinstance(term.levels, tuple)):
            raise ValueError("its groups are not groups")
        if not isinstance(term.name, str) or len(set(term.levels)) != len(np.unique(codes)):
            raise ValueError("its groups have other levels than labels")
        Z, columns = term.Z, term.columns
        if not (isinstance(Z, np.ndarray) and Z.ndim == 2 and Z.dtype == np.float64 and isinstance(columns, tuple)):
            raise ValueError("its random effects have no columns")
        if len(Z) != len(codes) or len(columns) != Z.shape[1] or codes.min() < 0 or codes.max() >= len(term.levels):
            raise ValueError("its random effects do not match their groups")


def _rebuild(design: Design, digest: str) -> Model:
    """The model of a design, if it is the one that was saved."""
    checked = checked_design(design.X, design.names, design.random, design.weights, design.terms)
    if not _digest(checked) == digest:
        raise ValueError("the design does not match its checksum")
    return Model(make_family(checked))


def _digest(design: Design) -> str:
    """Checksum of X, groups, weights and names."""
    parts = [
        design.X,
        *(g.codes.astype(np.int64) for g in design.random),
        *(g.Z for g in design.random),
        design.weights,
    ]
    found = hashlib.sha256(json.dumps(design.names).encode())
    for part in parts:
        found.update(b"none" if part is None else repr(part.shape).encode() + part.tobytes())
    return found.hexdigest()
