"""What a run on disk was asked for, so that it goes on only with the same."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxlmm.sources.sources import Source

__all__ = ["check_same", "digest", "make_settings"]

FORMAT = "jaxlmm results 1"
CHANGED = (
    "Y was changed, or is another, or its weights are (if only its files were moved or mended, resume='verify' "
    "compares what was fitted)"
)
PACKAGES = ("jaxlmm", "jax", "jaxlib", "jaxopt", "numpy", "scipy")


def make_settings(options: Mapping[str, Any], design: str, labels: str, source: Source) -> dict[str, Any]:
    """Options, versions, and what tells designs, labels and responses apart, as JSON."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "format": FORMAT,
        "versions": versions | {"the device": jax.default_backend()},
        "options": dict(options),
        "design": design,
        "labels": labels,
        "Y": {"shape": list(source.shape), "dtype": source.dtype.str, "stamp": source.stamp()},
    }


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], where: str, *, verify: bool = False) -> None:
    """ValueError that says in what the results at ``where`` were asked for otherwise.

    With ``verify`` files may have other times: their contents are compared elsewhere.
    """
    found = [_changed(before, now, "format", "the format")]
    for section in ("versions", "options"):
        old, new = before.get(section, {}), now[section]
        found += [_changed(old, new, name, name) for name in new]
    Y_before, Y_now = before.get("Y", {}), now["Y"]
    found += [_changed(Y_before, Y_now, name, f"the {name} of Y") for name in ("shape", "dtype")]
    for old, new, name, text in (
        (before, now, "design", "the design (X, groups, weights, names, terms or formula) is another"),
        (before, now, "labels", "the dimensions or coordinates of Y are others"),
        (Y_before, Y_now, "stamp", CHANGED),
    ):
        found.append(text if old.get(name) != new[name] and not (verify and text == CHANGED) else "")
    differences = [text for text in found if text]
    if differences:
        raise ValueError(
            f"the results at '{where}' cannot be resumed: {'; '.join(differences)}. Give what was given then, or "
            "overwrite=True to start anew."
        )


def digest(values: Any, arrays: Mapping[str, np.ndarray]) -> str:
    """Checksum of JSON values and arrays."""
    found = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        content = repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes()
        found.update(f"{name} {array.dtype.str} {array.shape}".encode() + content)
    return found.hexdigest()


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], key: str, text: str) -> str:
    return "" if old.get(key) == new[key] else f"{text} was {old.get(key)}, is {new[key]}"
