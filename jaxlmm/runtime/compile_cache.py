"""Compiled code that outlives the process."""

from __future__ import annotations

import jax

__all__ = ["enable_compile_cache"]


def enable_compile_cache(path: str) -> None:
    """Keep compiled code in the folder ``path``, so that later processes need not compile.

    This sets JAX's own ``jax_compilation_cache_dir`` for the whole process, hence it is asked for.
    """
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
