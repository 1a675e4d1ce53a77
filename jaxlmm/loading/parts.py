"""A fit from JSON and arrays, checked: what :mod:`jaxlmm.storage.parts` wrote."""

from __future__ import annotations

import contextlib
import dataclasses
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxlmm._types import Status
from jaxlmm.design.design import Design, checked_design
from jaxlmm.design.dropped import DroppedRows
from jaxlmm.design.random import RandomTerm
from jaxlmm.design.terms import TermStructure
from jaxlmm.families.registry import Model, make_family
from jaxlmm.loading.check import check_responses, check_weights
from jaxlmm.loading.formula import restore_source
from jaxlmm.loading.without import FitWithoutY
from jaxlmm.results.options import FitOptions
from jaxlmm.results.results import Fit
from jaxlmm.storage.absent import AbsentWeights, AbsentY, checksums
from jaxlmm.storage.codec import decode
from jaxlmm.storage.labels import decode_labels
from jaxlmm.storage.parts import FORMAT, GIVEN, MAJOR, SHARED, design_digest
from jaxlmm.tabular.dataset import ROWS

__all__ = ["check_manifest", "from_design_parts", "from_parts", "reading"]

# Kinds of numbers of a field, where these are not floats.
KIND = {"status": "i", "n_used": "iu"}
# What reading a damaged or foreign file may raise.
DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, LookupError, TypeError, ValueError, AttributeError,
    RuntimeError, ArithmeticError, AssertionError,
)  # fmt: skip


class _Refused(ValueError):
    """A file that is whole, but not for this version; says the rest of "<path> ..."."""


def from_parts(
    manifest: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    path: str,
    *,
    Y: Any = None,
    weights: Any = None,
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
        :func:`jaxlmm.loading.check.check_responses`.
    path : str
        For messages.
    Y, weights, data, context, trust_formula
        As in :func:`jaxlmm.load`.

    Raises
    ------
    ValueError
        Damaged parts, or of another version; ``Y``, ``weights``, ``data`` or ``context`` are not what was fitted.
    """
    fields = from_design_parts(manifest, arrays, path, data=data, context=context, trust_formula=trust_formula)
    with reading(path):
        stated = manifest["fields"]
        fields |= {name: decode(stated[name], arrays) if name in stated else arrays[name] for name in ROWS}
        if "labels" in stated:
            fields["labels"] = decode_labels(stated["labels"], arrays)
        shape = fields["design"].n_obs, len(fields["sigma2"])
        if "weights" in stated:
            fields["weights"] = _stored_weights(stated["weights"], arrays, shape)
        found = Fit(**fields, Y=arrays.get("Y"))  # type: ignore[arg-type]
        bits = arrays.get("missing", np.zeros((-(-found.n_obs // 8), 0), dtype=np.uint8))
        known = arrays.get("checksums")
        _check_rows(found, bits, known)
        if "Y" not in arrays:
            found = FitWithoutY(**fields, Y=AbsentY.make(found, bits, known))  # type: ignore[arg-type]
    if weights is not None:
        found = check_weights(weights, found)
    return found if Y is None else check_responses(Y, found, known)


def _stored_weights(stated: Any, arrays: Mapping[str, np.ndarray], shape: tuple[int, int]) -> Any:
    """Weights of each response's own, or what stands for them."""
    if stated == GIVEN:
        return AbsentWeights(shape)
    found = decode(stated, arrays)
    _check_shape("weights", found, shape)
    if found.dtype.kind not in "biuf" or np.any((found < 0) | (found == np.inf)):
        raise ValueError("weights are no finite numbers from 0 on")
    return found


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
    unknown = set(manifest["fields"]) - {*SHARED, *ROWS, "labels", "weights"}
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
    options = FitOptions(method, df)
    if (options.method, options.df) != (method, df):
        raise ValueError("method or df is not as it is stored")
    if not isinstance(design, Design):
        raise ValueError(f"its design is one {type(design).__name__}")
    whole = isinstance(design.X, np.ndarray) and design.X.ndim == 2 and design.X.dtype == np.float64
    names = isinstance(design.names, tuple) and all(isinstance(name, str) for name in design.names)
    random = isinstance(design.random, tuple)
    terms = design.terms is None or isinstance(design.terms, TermStructure)
    _check_dropped(design.dropped, len(design.X) if whole else 0)
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


def _check_dropped(dropped: Any, n_obs: int) -> None:
    """That these are rows beside those of the design."""
    if dropped is None:
        return
    rows = dropped.rows if isinstance(dropped, DroppedRows) else None
    if not (isinstance(rows, np.ndarray) and rows.ndim == 1 and rows.dtype.kind in "iu" and len(rows)):
        raise ValueError("its dropped rows are no rows")
    n = dropped.n_given
    if not isinstance(n, int) or n != n_obs + len(rows) or rows[0] < 0 or rows[-1] >= n or np.any(np.diff(rows) <= 0):
        raise ValueError("its dropped rows do not match its design")
    named = isinstance(dropped.missing, tuple) and all(
        isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str) and isinstance(one[1], int)
        for one in dropped.missing
    )
    if not named:
        raise ValueError("its dropped rows have no reasons")


def _rebuild(design: Design, digest: str) -> Model:
    """The model of a design, if it is the one that was saved."""
    checked = checked_design(design.X, design.names, design.random, design.weights, design.terms)
    checked = dataclasses.replace(checked, dropped=design.dropped)
    if not design_digest(checked) == digest:
        raise ValueError("the design does not match its checksum")
    return Model(make_family(checked))
