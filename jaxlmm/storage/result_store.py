"""Results on disk as they come: a Zarr store, written block by block in a folder beside its place.

While a run is on, ``<out>.part`` holds the growing store, what was asked for (``settings.json``) and
the journals of the processes at work. When all blocks are finished the store is moved to ``<out>``,
which therefore never holds a part of the results. xarray opens it: ``xarray.open_zarr(out)``.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

try:
    import xarray as xr
    import zarr
except ImportError as error:
    raise ImportError('results on disk need zarr and xarray: pip install "jaxlmm[stream]"') from error

from jaxlmm.sources.plan import Plan
from jaxlmm.sources.sources import At
from jaxlmm.storage.absent import missing_cells
from jaxlmm.storage.journal import Journal, finished
from jaxlmm.storage.places import WHOLE, put_in_place, remove, scratch_folder, sweep
from jaxlmm.storage.seal import make_seal
from jaxlmm.storage.stored import (
    INSIDE,
    MISSING,
    block_checksum,
    block_results,
    check_replaceable,
    contents,
    is_result_store,
    part_of,
    read_settings,
    readable,
    region,
)

__all__ = ["ResultStore", "build", "clean_up", "packed_missing"]

# Zarr leaves out chunks that hold nothing but the fill value; here a chunk that is not there is one that was lost.
WRITE_ALL: Any = {"write_empty_chunks": True}
DIMS = "_ARRAY_DIMENSIONS"  # by which xarray knows the dimensions in Zarr's format 2


class ResultStore:
    """A store that is being written.

    Parameters
    ----------
    out : Path
        Where it will be.
    share : str
        Name of this process's share of the blocks.
    part : Path, optional
        Where it is written, as :func:`build` makes it. Default: ``<out>.part``.

    Raises
    ------
    ValueError
        Another process writes this share; what is there is damaged.
    """

    def __init__(self, out: Path, share: str, part: Path | None = None) -> None:
        self.out, self.part = out, part_of(out) if part is None else part
        self.journal = Journal(self.part, share)
        try:
            if not (self.part / "store").exists() and (self.part / WHOLE).exists():
                os.rename(self.part / WHOLE, self.part / "store")  # killed before the last step
            settings = read_settings(self.part)
            with readable(self.part):
                self.arrays, self.blocks = contents(zarr.open_group(self.part / "store", mode="r+"), settings)
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, out: Path, *content: Any) -> bool:
        """Make ``<out>.part`` ready for results; False if another process was faster.

        Parameters
        ----------
        out : Path
        *content
            As :func:`build` takes it.
        """
        with scratch_folder(out) as made:
            build(made, *content)
            try:
                os.rename(made, part_of(out))
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return False
                raise
        return True

    def write(self, block: int, values: Mapping[str, np.ndarray], extra: int = 0) -> None:
        """Store the results of a block, ([lead,] *block) each, and only then say that it is finished."""
        at = self.blocks[block]
        if MISSING not in values:  # what a block that was cut short may have left
            _chunk_path(self.part / "store" / MISSING, self.arrays[MISSING], at).unlink(missing_ok=True)
        for name, value in values.items():
            if name == MISSING:
                self.arrays[name][region(self.arrays[name], at)] = value
            else:
                _write_chunk(self.part / "store" / name, self.arrays[name], at, value)
        self.journal.add(block, block_checksum(values), extra)

    def finished(self) -> dict[int, int]:
        """Blocks that are finished, whole as they lie on disk, and the ``extra`` of each."""
        return {
            block: extra
            for block, (checksum, extra) in finished(self.part).items()
            if block < len(self.blocks) and block_checksum(block_results(self.arrays, self.blocks[block])) == checksum
        }

    def complete(self, *, overwrite: bool = True) -> bool:
        """Move the store to its place if all blocks are finished; whether it is there.

        Raises
        ------
        FileExistsError
            There are results already, and ``overwrite`` is False.
        """
        done = finished(self.part)
        if set(done) != set(range(len(self.blocks))):
            return False
        whole = self.part / WHOLE
        try:
            os.rename(self.part / "store", whole)  # of the processes that share the work one comes first
        except FileNotFoundError:
            return is_result_store(self.out)
        group = zarr.open_group(whole, mode="r+", use_consolidated=False)
        checks = np.array([done[k] for k in range(len(self.blocks))], dtype=np.uint32)
        private = zarr.open_group(whole / INSIDE, mode="r+")
        private.create_array("checksums", data=checks, overwrite=True, compressors=None, config=WRITE_ALL)
        settings = read_settings(self.part)
        inner = [f"{INSIDE}/{name}" for name in private.array_keys()]
        coords = [name for name in group.array_keys() if name not in settings["variables"]]
        make_seal(group, INSIDE, {*inner, *coords} - {MISSING}, settings)
        zarr.consolidate_metadata(whole)
        put_in_place(whole, self.out, overwrite=overwrite, check=check_replaceable)
        self.close()
        remove(self.part)
        return True

    def close(self) -> None:
        """Let go of the journal."""
        self.journal.close()


def build(
    made: Path, settings: Mapping[str, Any], plan: Plan, template: xr.Dataset, inside: Mapping[str, np.ndarray]
) -> None:
    """Fill a folder with a store without results, and what was asked for.

    Parameters
    ----------
    made : Path
        An empty folder.
    settings : mapping
        As JSON.
    plan : Plan
    template : Dataset
        Its coordinates and attributes are stored, its variables say the names, types and
        dimensions of results: any number before those of ``plan``.
    inside : mapping of str to ndarray
        Arrays for the group ``INSIDE``.
    """
    names = list(map(str, template.data_vars))
    settings = {**settings, "plan": {"dims": plan.dims, "block": plan.block}, "variables": names}
    _check_space(made, plan, template)
    store = made / "store"
    labels = template.drop_vars(list(template.data_vars)).drop_encoding()
    labels.to_zarr(
        store, mode="w", zarr_format=2, consolidated=False, write_empty_chunks=True,
        encoding={name: {"compressors": None} for name in labels.coords},
    )  # fmt: skip
    group = zarr.open_group(store, mode="r+")
    for name, variable in template.data_vars.items():
        lead = variable.shape[: variable.ndim - len(plan.dims)]
        floats = variable.dtype.kind == "f"
        group.create_array(
            str(name), shape=(*lead, *plan.dims), chunks=(*lead, *plan.block), dtype=variable.dtype,
            fill_value=np.nan if floats else None, compressors=None,
            attributes={DIMS: list(map(str, variable.dims))} | _plain(variable.attrs),
        )  # fmt: skip
    private = group.create_group(INSIDE)
    for key, array in inside.items():
        private.create_array(key, data=array, compressors=None, config=WRITE_ALL)
    height = -(-settings["Y"]["shape"][0] // 8)
    private.create_array(
        "missing", shape=(height, *plan.dims), chunks=(height, *plan.block), dtype=np.uint8, fill_value=0
    )
    group.attrs["jaxlmm"] = settings
    (made / "settings.json").write_text(json.dumps(settings))


def clean_up(out: Path) -> None:
    """Remove what killed processes left of their work on ``out``, but not an unfinished run."""
    sweep(out)
    part = part_of(out)
    begun = any((part / name).exists() for name in ("store", WHOLE))
    if (part / "settings.json").is_file() and not begun and is_result_store(out):
        remove(part)  # killed after the last step


def packed_missing(fit: Any, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The array ``MISSING`` (n_obs / 8, *shape) of a fit, where a response is incomplete."""
    if not fit.incomplete.any():
        return {}
    bits = np.zeros((-(-fit.n_obs // 8), fit.n_responses), dtype=np.uint8)
    bits[:, fit.incomplete] = missing_cells(fit)
    return {MISSING: bits.reshape(-1, *shape)}


def _check_space(made: Path, plan: Plan, template: xr.Dataset) -> None:
    """OSError if the results cannot fit on the disk."""
    each = sum(
        v.dtype.itemsize * int(np.prod(v.shape[: v.ndim - len(plan.dims)])) for v in template.data_vars.values()
    )
    need, free = each * int(np.prod(plan.dims)), shutil.disk_usage(made.parent).free
    if need > free:
        raise OSError(
            errno.ENOSPC,
            f"the results need {need / 1e9:.3g} GB and '{made.parent}' has {free / 1e9:.3g} GB free; make room, or "
            "give another path",
        )


def _plain(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as JSON has them."""
    return {str(k): v.tolist() if isinstance(v, (np.ndarray, np.generic)) else v for k, v in attrs.items()}


def _write_chunk(folder: Path, array: Any, at: At, value: np.ndarray) -> None:
    """Write a chunk without compression as Zarr's format 2 says: its numbers in C order, padded at an edge.

    Zarr itself takes ten times as long while other threads compute, for it hands each chunk through its own.
    """
    chunk = np.asarray(value, dtype=array.dtype)
    if chunk.shape != array.chunks:
        chunk = np.zeros(array.chunks, dtype=array.dtype)
        chunk[tuple(slice(n) for n in value.shape)] = value
    with open(_chunk_path(folder, array, at), "wb") as file:
        file.write(np.ascontiguousarray(chunk).data)


def _chunk_path(folder: Path, array: Any, at: At) -> Path:
    """File of the chunk that holds a block."""
    lead = array.ndim - len(at)
    key = ["0"] * lead + [str(s.start // n) for s, n in zip(at, array.chunks[lead:], strict=True)]
    return folder / (".".join(key) or "0")
