"""Compiled code that outlives the process."""

from __future__ import annotations

import jax

from jaxlmm.runtime.traced import keep_in

__all__ = ["enable_compile_cache"]


def enable_compile_cache(path: str) -> None:
    """Keep compiled code in the folder ``path``, so that later processes need not compile.

    This sets JAX's own ``jax_compilation_cache_dir`` for the whole process, hence it is asked for. With the package
    flatbuffers (``pip install "jaxlmm[cache]"``) models with several variances are not traced again either, which
    saves a second. What is in the folder is run: let it be one that you alone write to.

    Parameters
    ----------
    path : str
        Made where it is missing. A new version of jaxlmm or JAX adds to it; it may be deleted at any time.
    """
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    keep_in(path)
