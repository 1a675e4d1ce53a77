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
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

try:
    import xarray as xr
    import zarr
except ImportError as error:
    raise ImportError('results on disk need zarr and xarray: pip install "jaxlmm[stream]"') from error

from jaxlmm.results.results import Fit
from jaxlmm.sources.fingerprint import array_crc
from jaxlmm.sources.plan import Plan
from jaxlmm.sources.sources import At
from jaxlmm.storage.absent import missing_cells
from jaxlmm.storage.journal import Journal, finished

__all__ = [
    "INSIDE", "MISSING", "ResultStore", "check_replaceable", "is_result_store", "packed_missing", "read_settings",
    "remove_part", "stored_content", "stored_results", "stored_settings",
]  # fmt: skip

# The group in the store that holds what is not results: the design, checksums of the blocks.
INSIDE = "_jaxlmm"
# Which observations are missing, packed bits (n_obs / 8, *dims).
MISSING = f"{INSIDE}/missing"
DIMS = "_ARRAY_DIMENSIONS"  # by which xarray knows the dimensions in Zarr's format 2


class ResultStore:
    """A store that is being written.

    Parameters
    ----------
    out : Path
        Where it will be.
    share : str
        Name of this process's share of the blocks.
    """

    def __init__(self, out: Path, share: str) -> None:
        self.out, self.part = out, out.with_name(out.name + ".part")
        self.journal = Journal(self.part, share)
        try:
            if not (self.part / "store").exists() and (self.part / "whole").exists():
                os.rename(self.part / "whole", self.part / "store")  # killed before the last step
            group = zarr.open_group(self.part / "store", mode="r+")
            self.arrays, self.blocks = _contents(group, read_settings(self.part))
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(
        cls,
        out: Path,
        settings: Mapping[str, Any],
        plan: Plan,
        template: xr.Dataset,
        inside: Mapping[str, np.ndarray],
    ) -> bool:
        """Make ``<out>.part`` ready for results; False if another process was faster.

        Parameters
        ----------
        out : Path
        settings : mapping
            As JSON.
        plan : Plan
        template : Dataset
            Its coordinates and attributes are stored, its variables say the names, types and
            dimensions of results: one or none before those of ``plan``.
        inside : mapping of str to ndarray
            Arrays for the group ``INSIDE``.
        """
        part, made = out.with_name(out.name + ".part"), out.with_name(f"{out.name}.{uuid.uuid4().hex}.new")
        names = list(map(str, template.data_vars))
        settings = {**settings, "plan": {"dims": plan.dims, "block": plan.block}, "variables": names}
        _check_space(out, plan, template)
        try:
            store = made / "store"
            labels = template.drop_vars(list(template.data_vars)).drop_encoding()
            labels.to_zarr(store, mode="w", zarr_format=2, consolidated=False)
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
                private.create_array(key, data=array)
            height = -(-settings["Y"]["shape"][0] // 8)
            private.create_array(
                "missing", shape=(height, *plan.dims), chunks=(height, *plan.block), dtype=np.uint8, fill_value=0
            )
            group.attrs["jaxlmm"] = settings
            (made / "settings.json").write_text(json.dumps(settings))
            os.rename(made, part)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return True

    def write(self, block: int, values: Mapping[str, np.ndarray], extra: int = 0) -> None:
        """Store the results of a block, ([lead,] *block) each, and only then say that it is finished."""
        at = self.blocks[block]
        if MISSING not in values:  # what a block that was cut short may have left
            _chunk_path(self.part / "store" / MISSING, self.arrays[MISSING], at).unlink(missing_ok=True)
        for name, value in values.items():
            if name == MISSING:
                self.arrays[name][_region(self.arrays[name], at)] = value
            else:
                _write_chunk(self.part / "store" / name, self.arrays[name], at, value)
        self.journal.add(block, _checksum(values), extra)

    def finished(self) -> dict[int, int]:
        """Blocks that are finished, whole as they lie on disk, and the ``extra`` of each."""
        return {
            block: extra
            for block, (checksum, extra) in finished(self.part).items()
            if block < len(self.blocks) and _checksum(_read(self.arrays, self.blocks[block])) == checksum
        }

    def complete(self) -> bool:
        """Move the store to its place if all blocks are finished; whether it is there."""
        done = finished(self.part)
        if set(done) != set(range(len(self.blocks))):
            return False
        whole = self.part / "whole"
        try:
            os.rename(self.part / "store", whole)  # of the processes that share the work one comes first
        except FileNotFoundError:
            return is_result_store(self.out)
        private = zarr.open_group(whole / INSIDE, mode="r+")
        checks = np.array([done[k] for k in range(len(self.blocks))], dtype=np.uint32)
        private.create_array("checksums", data=checks, overwrite=True)
        zarr.consolidate_metadata(whole)
        if self.out.exists():
            check_replaceable(self.out)
            os.rename(self.out, self.part / f"replaced-{uuid.uuid4().hex}")
        os.rename(whole, self.out)
        self.close()
        remove_part(self.part)
        return True

    def close(self) -> None:
        """Let go of the journal."""
        self.journal.close()


def remove_part(part: Path) -> None:
    """Delete ``<out>.part``; by another name first, so that it is there whole or not at all."""
    gone = part.with_name(f"{part.name}.{uuid.uuid4().hex}.old")
    try:
        os.rename(part, gone)
    except FileNotFoundError:  # another process was faster
        return
    shutil.rmtree(gone, ignore_errors=True)


def read_settings(part: Path) -> dict[str, Any]:
    """What the run in the folder ``part`` was asked for."""
    found: dict[str, Any] = json.loads((part / "settings.json").read_text())
    return found


def stored_settings(out: Path) -> dict[str, Any]:
    """What the run whose results are at ``out`` was asked for."""
    found: dict[str, Any] = json.loads((out / ".zattrs").read_text())["jaxlmm"]
    return found


def stored_content(out: Path) -> tuple[list[At], dict[int, int]]:
    """The blocks of the results at ``out``, and the ``extra`` of each by number."""
    group = zarr.open_group(out, mode="r")
    checks = np.asarray(group[f"{INSIDE}/checksums"])
    return _contents(group, stored_settings(out))[1], dict(enumerate(checks[:, 1].tolist()))


def stored_results(out: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """The group at ``out``, and its results by name.

    Raises
    ------
    ValueError
        A block is not what was written.
    """
    group = zarr.open_group(out, mode="r")
    arrays, blocks = _contents(group, stored_settings(out))
    found = {name: np.empty(array.shape, dtype=array.dtype) for name, array in arrays.items() if name != MISSING}
    for at, (known, _) in zip(blocks, np.asarray(group[f"{INSIDE}/checksums"]).tolist(), strict=True):
        part = _read(arrays, at)
        if _checksum(part) != known:
            where = ", ".join(f"{s.start}:{s.stop}" for s in at)
            raise ValueError(f"the results of responses [{where}] are not those that were written")
        for name, array in found.items():
            array[_region(array, at)] = part[name]
    return group, found


def packed_missing(fit: Fit, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The array ``MISSING`` (n_obs / 8, *shape) of a fit, where a response is incomplete."""
    if not fit.incomplete.any():
        return {}
    bits = np.zeros((-(-fit.n_obs // 8), fit.n_responses), dtype=np.uint8)
    bits[:, fit.incomplete] = missing_cells(fit)
    return {MISSING: bits.reshape(-1, *shape)}


def is_result_store(path: Path) -> bool:
    """Whether a folder holds finished results."""
    try:
        return bool(stored_settings(path))
    except (OSError, ValueError, LookupError, TypeError):
        return False


def check_replaceable(out: Path) -> None:
    """ValueError if what is at ``out`` was not written by this package."""
    if not is_result_store(out):
        raise ValueError(f"'{out}' is not a store of results, so it is not replaced; give another path.")


def _check_space(out: Path, plan: Plan, template: xr.Dataset) -> None:
    """OSError if the results cannot fit on the disk."""
    each = sum(
        v.dtype.itemsize * int(np.prod(v.shape[: v.ndim - len(plan.dims)])) for v in template.data_vars.values()
    )
    need, free = each * int(np.prod(plan.dims)), shutil.disk_usage(out.parent).free
    if need > free:
        raise OSError(
            errno.ENOSPC,
            f"the results need {need / 1e9:.3g} GB and '{out.parent}' has {free / 1e9:.3g} GB free; make room, or "
            "give another path",
        )


def _checksum(values: Mapping[str, np.ndarray]) -> int:
    crc = 0
    for name in sorted(values):
        crc = array_crc(values[name], crc)
    return crc


def _plain(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as JSON has them."""
    return {str(k): v.tolist() if isinstance(v, (np.ndarray, np.generic)) else v for k, v in attrs.items()}


def _contents(group: Any, settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[At]]:
    """The arrays of results by name, and the blocks."""
    arrays = {name: group[name] for name in [*settings["variables"], MISSING]}
    return arrays, Plan(**{k: tuple(v) for k, v in settings["plan"].items()}).blocks()


def _read(arrays: Mapping[str, Any], at: At) -> dict[str, np.ndarray]:
    """A block's results as they lie on disk; none if a chunk of them is damaged."""
    try:
        found = {name: np.asarray(array[_region(array, at)]) for name, array in arrays.items()}
    except (OSError, ValueError, RuntimeError):
        return {}
    if not found[MISSING].any():
        del found[MISSING]  # was not written
    return found


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


def _region(array: Any, at: At) -> tuple[slice, ...]:
    return (*[slice(None)] * (array.ndim - len(at)), *at)
