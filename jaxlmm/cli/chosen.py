"""Which responses a picture is of: what ``--at NAME=LABEL`` chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlmm.tabular.labels import Labels

__all__ = ["choose"]


def choose(found: Any, at: Sequence[str], *, variables: bool) -> tuple[Any, dict[str, list[Any]]]:
    """The responses with some labels, and values of the formula's variables, if these may be given.

    ``at`` holds ``NAME=LABEL`` each; a name that is given more than once has several labels.
    """
    dims = [str(dim) for dim in found.labels.dims]
    known = {}
    if variables and at and getattr(found, "source", None) is not None:
        known = {variable.name: variable for variable in found.source.variables}
    where: dict[Any, list[int]] = {}
    values: dict[str, list[Any]] = {}
    for one in at:
        name, equals, label = one.partition("=")
        if not equals or (name not in dims and name not in known):
            of = [f"the dimensions {', '.join(dims)}"]
            of += [f"the variables {', '.join(known)}"] if known else []
            raise ValueError(f"--at is '{one}'; give NAME=LABEL, of {' or '.join(of)}.")
        if name in dims:
            k = dims.index(name)
            where.setdefault(found.labels.dims[k], []).append(_position(found.labels, k, label))
        else:
            values.setdefault(name, []).append(_value(known[name], label))
    if where:
        found = found.isel({dim: rows[0] if len(rows) == 1 else rows for dim, rows in where.items()})
    return found, values


def _position(labels: Labels, k: int, label: str) -> int:
    """Where a dimension has a label: a name, or the nearest number."""
    dim = labels.dims[k]
    values = np.asarray(labels._coord(dim, labels.shape[k]).values)
    if values.dtype.kind in "iuf":
        try:
            return int(np.abs(values - float(label)).argmin())
        except ValueError:
            raise ValueError(
                f"--at {dim}={label}: the labels of {dim} are numbers, {values[0]} to {values[-1]}."
            ) from None
    texts = [str(v) for v in values]
    if label not in texts:
        raise ValueError(f"--at {dim}={label}: the labels of {dim} are {', '.join(texts[:8])}.")
    return texts.index(label)


def _value(variable: Any, label: str) -> Any:
    """A level of a factor, or a number."""
    if variable.factor:
        levels = {str(level): level for level in variable.levels}
        if label not in levels:
            raise ValueError(f"--at {variable.name}={label}: its levels are {', '.join(levels)}.")
        return levels[label]
    try:
        return float(label)
    except ValueError:
        raise ValueError(f"--at {variable.name}={label}: {variable.name} is a number.") from None
