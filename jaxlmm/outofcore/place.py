"""Where results go, and how a long run is cut: what :func:`jaxlmm.fit` is told about ``out``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from jaxlmm.inference.distributions import check_level
from jaxlmm.runtime.arguments import shown

__all__ = ["LEVEL", "Place"]

# Of Wald intervals in datasets, unless another is asked for.
LEVEL = 0.95


@dataclass(frozen=True)
class Place:
    """Options of :func:`jaxlmm.fit` about the place of the results.

    Attributes
    ----------
    out : path or None
        Folder of the results. None: they stay in memory, or are computed when dask is asked to.
    resume : bool or "verify"
    block : int or None
    share : (int, int) or None
    overwrite : bool
    level : float or None
    progress : bool or None

    Raises
    ------
    ValueError
        An option that says nothing without ``out``; a level that is none.
    """

    out: Any = None
    resume: bool | str = False
    block: int | None = None
    share: tuple[int, int] | None = None
    overwrite: bool = False
    level: float | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.level is not None:
            check_level(self.level)
        if self.out is not None:
            if not isinstance(self.out, (str, os.PathLike)) or not os.fspath(self.out):
                raise ValueError(
                    f"out must be the path of a folder to be made, such as 'maps.zarr', found {shown(self.out)}."
                )
            return
        for name in ("resume", "block", "share", "overwrite"):
            value = getattr(self, name)
            if value is not None and value is not False:
                raise ValueError(
                    f"{name} is given without out: it is for results that are written to disk, out='maps.zarr'; give "
                    f"out too, or leave {name} out."
                )

    def refuse_level(self) -> None:
        """ValueError if a level is given: the result in memory has intervals of any level."""
        if self.level is not None:
            raise ValueError(
                "level is given without out: it is for results on disk, and of dask arrays; ask the fit for "
                f"conf_int({self.level})."
            )
