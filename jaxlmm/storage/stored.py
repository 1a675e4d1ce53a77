"""What a store of results holds: the settings it was asked for with, its blocks, its numbers, all of it checked."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

try:
    import zarr
except ImportError as error:
    raise ImportError('results on disk need zarr and xarray: pip install "jaxlmm[stream]"') from error

from jaxlmm.sources.fingerprint import array_crc
from jaxlmm.sources.plan import Plan
from jaxlmm.sources.sources import At
from jaxlmm.storage.seal import check_held, check_seal, read_seal

__all__ = [
    "INSIDE", "MISSING", "block_checksum", "block_results", "check_replaceable", "contents", "is_result_store",
    "part_of", "read_settings", "readable", "region", "stored_content", "stored_results", "stored_settings",
]  # fmt: skip

# The group in the store that holds what is not results: the design, checksums of the blocks.
INSIDE = "_jaxlmm"
# Which observations are missing, packed bits (n_obs / 8, *dims).
MISSING = f"{INSIDE}/missing"
# What reading a damaged run may raise.
DAMAGE = (OSError, LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError, AssertionError)


def part_of(out: Path) -> Path:
    """Where results grow until they are moved to ``out``."""
    return out.with_name(out.name + ".part")


def read_settings(part: Path) -> dict[str, Any]:
    """What the run in the folder ``part`` was asked for; ValueError if that cannot be read."""
    with readable(part):
        return _checked_settings(json.loads((part / "settings.json").read_text()))


def stored_settings(out: Path) -> dict[str, Any]:
    """What the run whose results are at ``out`` was asked for.

    Raises
    ------
    OSError, LookupError, TypeError, ValueError
        No results there, or damaged ones.
    """
    return _checked_settings(json.loads((out / ".zattrs").read_text())["jaxlmm"])


def _checked_settings(found: Any) -> dict[str, Any]:
    """The settings, if they have what is read of them here."""
    shape, plan = found["Y"]["shape"], found["plan"]
    numbers = [*shape, *plan["dims"], *plan["block"]]
    texts = [found["format"], *found["variables"]]
    if not all(type(v) is int and v > 0 for v in numbers) or not all(isinstance(v, str) for v in texts):
        raise ValueError("its settings are not settings")
    if shape[1:] != plan["dims"] or len(plan["dims"]) != len(plan["block"]):
        raise ValueError(f"its settings speak of responses {shape[1:]} and {plan['dims']}")
    return dict(found)


@contextlib.contextmanager
def readable(part: Path) -> Iterator[None]:
    """Whatever reading a damaged run raises is a ValueError that says so."""
    try:
        yield
    except DAMAGE as error:
        raise ValueError(
            f"'{part}' holds an unfinished run that is damaged ({error!r:.200}); overwrite=True starts anew."
        ) from error


def stored_content(out: Path) -> tuple[list[At], dict[int, int]]:
    """The blocks of the results at ``out``, and the ``extra`` of each by number."""
    settings = stored_settings(out)
    group = zarr.open_group(out, mode="r")
    checks = _checksums(group, settings)
    return contents(group, settings)[1], dict(enumerate(checks[:, 1].tolist()))


def stored_results(out: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """The group at ``out``, and its results by name.

    Raises
    ------
    ValueError
        Something of it is not what was written. Other errors of damaged files pass too.
    """
    settings, seal = stored_settings(out), read_seal(out / INSIDE)
    group = zarr.open_group(out, mode="r")
    check_seal(seal, group, out, settings)
    checks = _checksums(group, settings)
    arrays, blocks = contents(group, settings)
    for name in settings["variables"]:
        check_held(out / name, arrays[name])
    found = {name: np.empty(array.shape, dtype=array.dtype) for name, array in arrays.items() if name != MISSING}
    for at, (known, _) in zip(blocks, checks.tolist(), strict=True):
        part = block_results(arrays, at)
        if block_checksum(part) != known:
            where = ", ".join(f"{s.start}:{s.stop}" for s in at)
            raise ValueError(f"the results of responses [{where}] are not those that were written")
        for name, array in found.items():
            array[region(array, at)] = part[name]
    return group, found


def _checksums(group: Any, settings: Mapping[str, Any]) -> np.ndarray:
    """Of the blocks, and of their responses, (blocks, 2)."""
    n = len(_plan(settings))
    array = group[f"{INSIDE}/checksums"]
    if array.shape != (n, 2):
        raise ValueError(f"its checksums are {array.shape}, and it has {n} blocks")
    return np.asarray(array)


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


def block_checksum(values: Mapping[str, np.ndarray]) -> int:
    crc = 0
    for name in sorted(values):
        crc = array_crc(values[name], crc)
    return crc


def _plan(settings: Mapping[str, Any]) -> Plan:
    return Plan(**{k: tuple(v) for k, v in settings["plan"].items()})


def contents(group: Any, settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[At]]:
    """The arrays of results by name, and the blocks."""
    plan, arrays = _plan(settings), {name: group[name] for name in [*settings["variables"], MISSING]}
    for name, array in arrays.items():
        lead = array.ndim - len(plan.dims)
        if (
            array.shape[lead:] != plan.dims
            or array.chunks[lead:] != plan.block
            or array.chunks[:lead] != array.shape[:lead]
        ):
            raise ValueError(f"'{name}' has the shape {array.shape} in chunks of {array.chunks}")
    if arrays[MISSING].shape[0] != -(-settings["Y"]["shape"][0] // 8) or arrays[MISSING].dtype != np.uint8:
        raise ValueError("the cells that are missing are those of other responses")
    return arrays, plan.blocks()


def block_results(arrays: Mapping[str, Any], at: At) -> dict[str, np.ndarray]:
    """A block's results as they lie on disk; none if a chunk of them is damaged."""
    try:
        found = {name: np.asarray(array[region(array, at)]) for name, array in arrays.items()}
    except (OSError, ValueError, RuntimeError, MemoryError):
        return {}
    if not found[MISSING].any():
        del found[MISSING]  # was not written
    return found


def region(array: Any, at: At) -> tuple[slice, ...]:
    return (*[slice(None)] * (array.ndim - len(at)), *at)
