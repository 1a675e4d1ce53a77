"""What stands in a fit from a file for the parts that it has not: the responses, the formula's coding."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

__all__ = ["AbsentFormula", "AbsentWeights", "AbsentY", "checksums", "missing_cells"]

# Columns of Y that are read at once.
CHUNK = 1024


@dataclass(frozen=True, eq=False)
class AbsentY:
    """What stands for the responses of a fit saved without them: knows which cells are missing.

    Attributes
    ----------
    shape : tuple
        (n_obs, m).
    bits : ndarray of uint8, (n_obs / 8, k)
        Missing cells of the incomplete responses, packed.
    column : ndarray of int, (m,)
        Where in ``bits`` an incomplete response is; -1 for one that misses nothing.
    checksums : ndarray, (m,), or None
        Of the responses, where they are known.
    """

    shape: tuple[int, int]
    bits: np.ndarray
    column: np.ndarray
    checksums: np.ndarray | None

    @classmethod
    def make(cls, fit: Any, bits: np.ndarray, checksums: np.ndarray | None) -> AbsentY:
        """Of a fit (without Y) and the bits of its incomplete responses in order."""
        return cls(
            (fit.n_obs, fit.n_responses), bits, np.where(fit.incomplete, np.cumsum(fit.incomplete) - 1, -1), checksums
        )

    def __getitem__(self, key: Any) -> AbsentY:
        if isinstance(key, tuple) and key[:1] == (slice(None),) and not np.isscalar(key[1]):
            column = self.column[key[1]]
            known = None if self.checksums is None else self.checksums[key[1]]
            return AbsentY((self.shape[0], len(column)), self.bits, column, known)
        self._refuse()

    def join(self, others: Sequence[AbsentY]) -> AbsentY:
        """These responses and others beside them."""
        parts, columns, start = [self, *others], [], 0
        for part in parts:
            columns.append(np.where(part.column < 0, -1, part.column + start))
            start += part.bits.shape[1]
        known = [part.checksums for part in parts if part.checksums is not None]
        m = sum(part.shape[1] for part in parts)
        return AbsentY(
            (self.shape[0], m), np.concatenate([part.bits for part in parts], axis=1), np.concatenate(columns),
            np.concatenate(known) if len(known) == len(parts) else None,
        )  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self._refuse()

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        self._refuse()

    def __len__(self) -> int:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ValueError(
            "the fit was saved without its responses, which this needs; give them to load(path, Y=...), or save with "
            "include_Y=True."
        )


@dataclass(frozen=True, eq=False)
class AbsentWeights:
    """What stands for the weights of each response's own, (n_obs, m), where a file does not hold them."""

    shape: tuple[int, int]

    def __getitem__(self, key: Any) -> AbsentWeights:
        if isinstance(key, tuple) and key[:1] == (slice(None),) and not np.isscalar(key[1]):
            return AbsentWeights((self.shape[0], len(np.arange(self.shape[1])[key[1]])))
        self._refuse()

    def join(self, others: Sequence[AbsentWeights]) -> AbsentWeights:
        """These weights and others beside them."""
        return AbsentWeights((self.shape[0], sum(part.shape[1] for part in [self, *others])))

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ValueError(
            "the results were written without the weights of each response's own, which this needs; give them to "
            "load(path, weights=...)."
        )


@dataclass(frozen=True, eq=False)
class AbsentFormula:
    """The formula of a fit, where it cannot be applied to new data.

    Attributes
    ----------
    formula : str
    group_columns : tuple of str
    why : str
        What stands in the way; empty for a file that does not hold the data.
    stored : tuple of (dict, dict) or None
        What the file holds of the data, for the next file.
    """

    formula: str
    group_columns: tuple[str, ...]
    why: str = ""
    stored: tuple[Any, dict[str, np.ndarray]] | None = None

    def because(self, why: str) -> AbsentFormula:
        """The same, for another reason."""
        return dataclasses.replace(self, why=why)

    @property
    def variables(self) -> NoReturn:
        """ValueError."""
        self.rows(None)

    def table(self, data: Any) -> None:
        """ValueError for a table of variables; a matrix of columns of X needs no formula."""
        if hasattr(data, "columns") or hasattr(data, "keys"):
            self.rows(data)

    def rows(self, data: Any) -> NoReturn:
        """ValueError."""
        if self.why:
            raise ValueError(f"formula '{self.formula}' cannot be applied to data: {self.why}")
        raise ValueError(
            f"the fit was saved without the data, so formula '{self.formula}' cannot be applied; give the data frame "
            "that was fitted to load(path, data=...)."
        )

    random_rows = rows


def checksums(Y: np.ndarray) -> np.ndarray | None:
    """A checksum of each column's values and their type, (m,); of what stands for Y, those of Y if known."""
    if isinstance(Y, AbsentY):
        return Y.checksums
    start, found = zlib.crc32(Y.dtype.str.encode()), []
    for k in range(0, Y.shape[1], CHUNK):
        found += [zlib.crc32(column.data, start) for column in np.ascontiguousarray(Y[:, k : k + CHUNK].T)]
    return np.array(found, dtype=np.uint32)


def missing_cells(fit: Any) -> np.ndarray:
    """``AbsentY.bits`` of a fit."""
    if isinstance(fit.Y, AbsentY):
        return fit.Y.bits[:, fit.Y.column[fit.incomplete]]
    where = np.flatnonzero(fit.incomplete)
    parts = [np.packbits(np.isnan(fit.Y[:, where[k : k + CHUNK]]), axis=0) for k in range(0, len(where), CHUNK)]
    return np.concatenate([np.zeros((-(-fit.n_obs // 8), 0), dtype=np.uint8), *parts], axis=1)
