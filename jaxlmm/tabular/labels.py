"""What the responses of a fit are called: dimensions and coordinates, as xarray has them, but without xarray.

The responses of a matrix have one dimension, ``response``; those of a labelled array have its
dimensions but that of the observations, the last of them varying fastest. xarray is imported where
its objects are made, pandas nowhere.
"""

from __future__ import annotations

import collections
import functools
import itertools
import math
import numbers
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxlmm.runtime.extras import extra
from jaxlmm.tabular.selection import position, positions

__all__ = ["NO_LABELS", "RESPONSE", "Coord", "Labels", "concat_labels", "text_of"]

# The dimension of the responses of a matrix.
RESPONSE = "response"


@dataclass(frozen=True, eq=False)
class Coord:
    """A coordinate.

    Attributes
    ----------
    dims : tuple of hashable
        Its dimensions: none, one or more of those of the responses.
    values : ndarray or pandas ExtensionArray
        None for a dimension that is labelled by several ``levels``.
    attrs : mapping
    levels : tuple of hashable
        Of a dimension with a MultiIndex: the coordinates that make it.
    """

    dims: tuple[Hashable, ...]
    values: Any
    attrs: Mapping[Any, Any] = field(default_factory=dict)
    levels: tuple[Hashable, ...] = ()


@dataclass(frozen=True, eq=False)
class Labels:
    """Dimensions, coordinates and units of m responses.

    Attributes
    ----------
    dims, shape : tuple
        Dimensions of the responses and their lengths; the last varies fastest.
    coords : mapping of hashable to Coord
    units : str or None
        Of the responses.
    """

    dims: tuple[Hashable, ...]
    shape: tuple[int, ...]
    coords: Mapping[Hashable, Coord] = field(default_factory=dict, repr=False)
    units: str | None = None

    @classmethod
    def of_matrix(cls, m: int, names: Sequence[str] = ()) -> Labels:
        """Of the m columns of a matrix, with their names if they have some."""
        return cls((RESPONSE,), (m,), _named(names) if len(names) else {})

    @classmethod
    def of_coords(
        cls, dims: Sequence[Hashable], shape: Sequence[int], coords: Any, units: str | None = None
    ) -> Labels:
        """Of a labelled array: its dimensions, their lengths, and its xarray Coordinates."""
        made = {}
        for name, coord in coords.items():
            index = coords.xindexes.get(name) if coord.dims == (name,) else None
            names = getattr(getattr(index, "index", None), "names", ())
            if len(names) > 1:
                made[name] = Coord((name,), None, dict(coord.attrs), tuple(names))
            else:
                made[name] = Coord(tuple(coord.dims), _values(coord), dict(coord.attrs))
        return cls(tuple(dims), tuple(shape), made, units)

    def __str__(self) -> str:
        """Dimensions and their lengths, " (channel: 3, time: 4)"; nothing for the columns of a matrix."""
        sizes = ", ".join(f"{dim}: {size}" for dim, size in zip(self.dims, self.shape, strict=True))
        return "" if self.dims == (RESPONSE,) else f" ({sizes})"

    @property
    def size(self) -> int:
        """Number of responses, m."""
        return math.prod(self.shape)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """A text for each response: its labels, "Fz, 0.1"; y0, y1, ... where these do not tell them apart."""
        if not self.dims:
            scalars = [(name, coord.values[()]) for name, coord in self.coords.items() if not coord.dims]
            texts = [[text_of(name, value)] for name, value in scalars] or [["y0"]]
        else:
            texts = [self._texts(dim, size) for dim, size in zip(self.dims, self.shape, strict=True)]
        names = tuple(map(", ".join, itertools.product(*texts)))
        return names if len(set(names)) == len(names) else tuple(f"y{j}" for j in range(self.size))

    def _texts(self, dim: Hashable, size: int) -> list[str]:
        """A text for each label of a dimension."""
        coord = self.coords.get(dim)
        if coord is None:
            return [f"y{i}" if dim == RESPONSE else text_of(dim, i) for i in range(size)]
        parts = [(name, self.coords[name].values) for name in coord.levels] or [(dim, coord.values)]
        return [", ".join(text_of(name, values[i]) for name, values in parts) for i in range(size)]

    @functools.cached_property
    def keys(self) -> dict[str, Any]:
        """What tells the responses apart in a long table: for each dimension the label of every response, (m,).

        A dimension without coordinate is numbered; one with a MultiIndex gives its levels.
        """
        at = np.indices(self.shape).reshape(len(self.dims), self.size) if self.dims else ()
        keys: dict[str, Any] = {}
        for dim, size, where in zip(self.dims, self.shape, at, strict=True):
            coord = self._coord(dim, size)
            for name in coord.levels or (dim,):
                keys[str(name)] = (coord if name == dim else self.coords[name]).values[where]
        return keys

    def _coord(self, dim: Hashable, size: int) -> Coord:
        """The coordinate of a dimension, also where there is none."""
        if dim in self.coords:
            return self.coords[dim]
        return Coord((dim,), np.array(self._texts(dim, size)) if dim == RESPONSE else np.arange(size))

    def to_coords(self, *, numbered: bool = True, flat: bool = False) -> Any:
        """xarray Coordinates; the names of the responses of a matrix are one, y0, y1, ... too if ``numbered``.

        ``flat``: the levels of a MultiIndex are coordinates without an index, which every file holds.
        """
        xr = extra("xarray", "labelled results")
        coords = dict(self.coords)
        if RESPONSE in self.dims and (numbered or RESPONSE in coords):
            coords = {RESPONSE: self._coord(RESPONSE, self.shape[self.dims.index(RESPONSE)])} | coords
        made = xr.Coordinates({k: (c.dims, c.values, dict(c.attrs)) for k, c in coords.items() if not c.levels})
        if flat:
            return made
        for dim, coord in coords.items():
            if coord.levels:
                rest = made.to_dataset().drop_vars([name for name in coord.levels if name in made])
                made = rest.assign_coords(self._several_levels(dim, coord)).coords
        return made.to_dataset()[list(coords)].coords if len(made) else made

    def _several_levels(self, dim: Hashable, coord: Coord) -> Any:
        """Coordinates of a dimension with a MultiIndex, the levels in order of appearance."""
        xr, pd = extra("xarray", "labelled results"), extra("pandas", "labels of several levels")
        given = [self.coords[name] for name in coord.levels]
        codes, levels = zip(*(pd.factorize(one.values) for one in given), strict=True)
        index = pd.MultiIndex(levels=levels, codes=codes, names=coord.levels)
        types = {name: one.values.dtype for name, one in zip(coord.levels, given, strict=True)}
        made = xr.Coordinates.from_xindex(xr.indexes.PandasMultiIndex(index, dim, types))
        for name in (dim, *coord.levels):
            made[name].attrs.update(self.coords[name].attrs)
        return made

    # -- some of the responses ------------------------------------------------------------------------

    def position(self, response: Any) -> int:
        """Row of one response, given by its position or its name; ValueError if there is none."""
        self._check_name(response)
        return position(response, self.names)

    def positions(self, responses: Any) -> np.ndarray:
        """Rows of responses, given by positions, a slice, a mask, or names; ValueError if there are none."""
        self._check_name(responses)
        return positions(responses, self.names)

    def _check_name(self, response: Any) -> None:
        """Say what to call instead of a label of one of several dimensions."""
        if not isinstance(response, str) or len(self.dims) < 2 or response in self.names:
            return
        for dim, size in zip(self.dims, self.shape, strict=True):
            if response in self._texts(dim, size):
                raise ValueError(
                    f"no response is named '{response}', which is a label of {dim!r}: call sel({dim}={response!r}). "
                    f"The names begin {', '.join(map(repr, self.names[:3]))}."
                )

    def take(self, rows: np.ndarray) -> Labels:
        """Labels of some responses by position, in any order, (k,).

        Of several dimensions they become one, ``response``, that is labelled by all of them.
        """
        rows = np.asarray(rows, dtype=np.intp)
        if not self.dims:
            if rows.tolist() == [0]:
                return self
            return Labels((RESPONSE,), (len(rows),), dict(self.coords), self.units)
        at = dict(zip(self.dims, np.unravel_index(rows, self.shape), strict=True))
        given = {dim: self._coord(dim, size) for dim, size in zip(self.dims, self.shape, strict=True)}
        # Coordinates keep their order, those that were none come first.
        coords = {dim: coord for dim, coord in given.items() if dim not in self.coords} | dict(self.coords)
        new = self.dims[0] if len(self.dims) == 1 else _free(RESPONSE, coords)
        made = {}
        for name, coord in coords.items():
            if coord.levels:
                continue
            where = tuple(at[dim] for dim in coord.dims)
            values = coord.values[where[0] if len(where) == 1 else where] if where else coord.values
            made[name] = Coord((new,) if where else (), values, coord.attrs)
        levels = tuple(itertools.chain.from_iterable(given[dim].levels or (dim,) for dim in self.dims))
        if len(levels) > 1 or levels[0] != new:
            attrs = given[new].attrs if new in given else {}
            made = {new: Coord((new,), None, attrs, levels)} | made
        return Labels((new,), (len(rows),), made, self.units)

    def cells(self, start: int = 0) -> Any:
        """The positions of the responses, counted from ``start``, as a DataArray with these labels."""
        rows = np.arange(start, start + self.size).reshape(self.shape)
        return extra("xarray", "labelled results").DataArray(rows, dims=self.dims, coords=self.to_coords())

    def locate(self, how: str, indexers: Mapping[Hashable, Any], **options: Any) -> tuple[np.ndarray, Labels]:
        """Positions and labels of the responses that xarray's ``sel`` or ``isel`` gives.

        Raises
        ------
        ValueError
            There is no such dimension or label.
        """
        try:
            found = getattr(self.cells(), how)(indexers, **options)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            sizes = ", ".join(f"{dim!r}: {size}" for dim, size in zip(self.dims, self.shape, strict=True))
            asked = ", ".join(f"{name}={value!r:.60}" for name, value in indexers.items())
            said = str(error.args[0] if error.args else error).rstrip(".")
            raise ValueError(f"{how}({asked}): {said}. The dimensions of the responses are {sizes}.") from None
        labels = Labels.of_coords(found.dims, found.shape, found.coords, self.units)
        return found.to_numpy().reshape(-1), labels


def concat_labels(parts: Sequence[Labels], dim: Hashable) -> tuple[np.ndarray, Labels]:
    """Labels of several sets of responses together.

    Returns
    -------
    rows : ndarray of int
        For each response its position among the responses of all parts, one part after another.
    labels : Labels

    Raises
    ------
    ValueError
        Dimensions or coordinates that do not match; a label twice.
    """
    m = sum(part.size for part in parts)
    plain = all(part.dims == (dim,) and set(part.coords) <= {dim} for part in parts)
    if plain and dim == RESPONSE and not any(coord.levels for part in parts for coord in part.coords.values()):
        named = any(part.coords for part in parts)
        labels = Labels.of_matrix(m, [name for part in parts for name in part.names] if named else ())
        rows = np.arange(m)
    else:
        xr = extra("xarray", "labelled results")
        starts = np.cumsum([0, *(part.size for part in parts[:-1])])
        cells = [part.cells(start) for part, start in zip(parts, starts, strict=True)]
        try:
            whole = xr.concat(cells, dim=dim, join="exact", coords="different", compat="equals")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the fits cannot be put together along {dim!r}: {error}") from None
        labels = Labels.of_coords(whole.dims, whole.shape, whole.coords, parts[0].units)
        rows = whole.to_numpy().reshape(-1)
    if rows.size != m:
        raise ValueError(f"the fits cannot be put together along {dim!r}: they have {m} responses, not {rows.size}.")
    if dim in labels.coords:
        texts = labels._texts(dim, labels.shape[labels.dims.index(dim)])
        twice = [text for text, count in collections.Counter(texts).items() if count > 1]
        if twice:
            raise ValueError(f"two fits have the label '{twice[0]}' along {dim!r}; rename it in one of them.")
    return rows, labels


# What stands for labels that are not given.
NO_LABELS = Labels((), ())


def text_of(name: Hashable, label: Any) -> str:
    """A label as part of a name; an integer alone would not say what it is, nor would it behind another digit."""
    if not isinstance(label, numbers.Integral) or isinstance(label, (bool, np.bool_)):
        return str(label)
    between = "=" if str(name)[-1:].isdigit() else ""
    return f"{name}{between}{label}"


def _named(names: Sequence[str]) -> dict[Hashable, Coord]:
    return {RESPONSE: Coord((RESPONSE,), np.array(list(names), dtype=np.str_))}


def _free(name: str, taken: Mapping[Hashable, Any]) -> str:
    while name in taken:
        name += "_"
    return name


def _values(coord: Any) -> Any:
    """The values of an xarray coordinate: of numpy, or an array of pandas where it holds one."""
    if isinstance(coord.dtype, np.dtype):
        return np.array(coord.to_numpy())
    return coord.to_index().array if coord.ndim else np.array(coord.item(), dtype=object)
