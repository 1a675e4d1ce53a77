"""Labels of responses as JSON and arrays, without loss."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from jaxlmm.storage.codec import KINDS, decode, encode
from jaxlmm.tabular.labels import Coord, Labels

__all__ = ["decode_labels", "encode_labels"]


def encode_labels(labels: Labels, arrays: dict[str, np.ndarray], name: str = "labels") -> dict[str, Any]:
    """Labels as JSON; arrays go to ``arrays``, under ``name`` and the number of the coordinate.

    Raises
    ------
    ValueError
        A coordinate that cannot be stored without loss; it is named.
    """
    coords = []
    for i, (key, coord) in enumerate(labels.coords.items()):
        made: dict[str, np.ndarray] = {}
        where = f"{name}.{i}"
        try:
            values = None if coord.levels else _encode_values(coord.values, made, where)
            attrs = [[encode(k, made, where), encode(v, made, f"{where}.{k}")] for k, v in coord.attrs.items()]
            coords.append([encode((key, coord.dims, coord.levels), made, where), values, attrs])
        except (ValueError, TypeError) as error:
            raise ValueError(f"coordinate {key!r} of the responses cannot be stored: {error} Or drop it.") from error
        arrays.update(made)
    dims = encode((labels.dims, labels.shape, labels.units), arrays, name)
    return {"dims": dims, "coords": coords}


def decode_labels(value: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Labels:
    """What :func:`encode_labels` was given; LookupError, TypeError or ValueError if it was not."""
    dims, shape, units = decode(value["dims"], arrays)
    coords: dict[Hashable, Coord] = {}
    for named, values, attrs in value["coords"]:
        key, of, levels = decode(named, arrays)
        found = None if values is None else _decode_values(values, arrays)
        coords[key] = Coord(of, found, {decode(k, arrays): decode(v, arrays) for k, v in attrs}, levels)
    labels = Labels(dims, shape, coords, units)
    lengths = dict(zip(dims, shape, strict=True))
    for key, coord in coords.items():
        expected = tuple(lengths[dim] for dim in coord.dims)
        if coord.levels:
            if not set(coord.levels) <= {name for name, one in coords.items() if one.dims == (key,)}:
                raise ValueError(f"the levels of {key!r} are not those of its dimension")
        elif tuple(coord.values.shape) != expected:
            raise ValueError(f"coordinate {key!r} has the shape {coord.values.shape}, and {expected} is needed")
    return labels


def _encode_values(values: Any, arrays: dict[str, np.ndarray], name: str) -> dict[str, Any]:
    if isinstance(values, np.ndarray):
        if values.dtype.kind in KINDS:
            return {"array": encode(values, arrays, name)}
        return {"objects": [list(values.shape), encode(values.ravel().tolist(), arrays, name)]}
    import pandas as pd  # which made these values

    from jaxlmm.storage.frame import encode_frame

    return {"pandas": encode_frame(pd.DataFrame({"labels": values}), arrays, name)}


def _decode_values(value: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    ((kind, inner),) = value.items()
    if kind == "array":
        return decode(inner, arrays)
    if kind == "objects":
        shape, listed = inner[0], decode(inner[1], arrays)
        made = np.empty(len(listed), dtype=object)
        made[:] = listed
        return made.reshape(shape)
    if kind != "pandas":
        raise ValueError(f"coordinates of kind {kind!r} are unknown")
    from jaxlmm.storage.frame import decode_frame

    return decode_frame(inner, arrays)["labels"].array
