"""A fit in one file, without loss.

The file is a zip archive that ``numpy.load`` opens too: every array as ``.npy``, bit by bit, and
all else as JSON in ``manifest.json``. There is no pickle in it, and of a formula only what
:mod:`jaxlmm.formula.guard` knows is evaluated. What follows from X, groups and weights alone
(``Fit.model``), and from a formula and its data, is computed anew. For exchange, write tables or
datasets instead: these formats would lose labels that are neither numbers nor text.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jaxlmm.storage.parts import to_parts
from jaxlmm.storage.places import check_name, scratch_file, sweep
from jaxlmm.storage.zip import write_archive

__all__ = ["save"]


def save(fit: Any, path: Any, *, include_Y: bool = False, overwrite: bool = False) -> None:
    """Write a fit to a file; see :meth:`jaxlmm.Fit.save`."""
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


def _check_free(target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise ValueError(f"{target} is a folder; give another path, or one that ends with .zarr.")
    if os.path.lexists(target) and not overwrite:
        raise FileExistsError(f"{target} exists; give another path, or overwrite=True.")
