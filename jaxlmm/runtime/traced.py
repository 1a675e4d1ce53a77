"""Programs as JAX has traced them, in a folder: a later process need not trace them again.

A small fit takes longer to trace than to run. ``jax.export`` gives a traced program as bytes (by flatbuffers, an
optional package), which are kept beside the compiled code of ``enable_compile_cache``.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

__all__ = ["Traced", "folder", "keep_in", "platform", "traced"]

_folder: Path | None = None


def keep_in(path: str | Path | None) -> None:
    """Keep traced programs in a folder from now on, or nowhere; nor without flatbuffers."""
    global _folder
    _folder = None if path is None or importlib.util.find_spec("flatbuffers") is None else Path(path)


def folder() -> Path | None:
    """Where traced programs are kept."""
    return _folder


@dataclass(frozen=True, eq=False)
class Traced:
    """A traced program: ``call`` takes the leaves of its arguments and gives those of its result.

    ``like`` is a result whose leaves are their numbers.
    """

    call: Callable[..., Any]
    like: Any

    def result(self, leaves: Sequence[Any]) -> Any:
        """The result of given leaves."""
        return jax.tree.unflatten(jax.tree.structure(self.like), self.call(*leaves))


def traced(function: Callable[..., Any], leaves: Sequence[Any], tree: Any, fixed: Any) -> Traced:
    """``function(*args, **kwargs)`` for arguments that have such ``leaves`` in this ``tree``, read or traced now.

    ``fixed`` says all else that the program depends on, such as static arguments that ``function`` holds.
    """
    assert _folder is not None
    shapes = [jax.ShapeDtypeStruct(np.shape(leaf), np.result_type(leaf)) for leaf in leaves]
    like, where = jax.tree.unflatten(tree, range(len(leaves))), platform()
    called = function.__module__, function.__qualname__
    what = pickle.dumps((called, fixed, like, [str(s) for s in shapes], where, _here()))
    path = _folder / f"jaxlmm-{hashlib.sha256(what).hexdigest()}"
    try:
        kept = pickle.loads(path.read_bytes())
        return Traced(jax.export.deserialize(kept["program"]).call, kept["like"])
    except Exception:  # not there, or not whole: it is made again
        pass
    results: list[Any] = []

    def flat(*leaves: Any) -> list[Any]:
        args, kwargs = jax.tree.unflatten(tree, leaves)
        out, structure = jax.tree.flatten(function(*args, **kwargs))
        results.append(jax.tree.unflatten(structure, range(len(out))))
        return list(out)

    program = jax.export.export(jax.jit(flat), platforms=(where,))(*shapes)
    _write(path, pickle.dumps({"program": bytes(program.serialize()), "like": results[-1]}))
    return Traced(program.call, results[-1])


def platform() -> str:
    """Of the device that computes."""
    device: Any = jax.config.jax_default_device  # type: ignore[attr-defined]
    return "cpu" if getattr(device, "platform", device) == "cpu" else jax.export.default_export_platform()


@functools.cache
def _here() -> tuple[str, ...]:
    """What a traced program depends on beside its arguments and the device: versions, our own source."""
    source = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        source.update(path.read_bytes())
    return jax.__version__, importlib.metadata.version("jaxlib"), source.hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Write the whole file or nothing; a folder that cannot be written to is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}")
        part.write_bytes(content)
        part.replace(path)
    except OSError:
        return
