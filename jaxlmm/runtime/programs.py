"""Compiled programs of this process, of which only so many are kept.

XLA compiles a program for every shape of its arguments (a design, a width of blocks), and JAX keeps each for ever.
One takes up to a thousand memory maps. Linux gives a process 65,530 (``vm.max_map_count``) and ends it where it
needs more, so that a process that fits a hundred designs, one after the other, would die without a Python error.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from jaxlmm.runtime.threads import N_THREADS, as_here
from jaxlmm.runtime.traced import folder, platform, traced

__all__ = ["ahead", "jit", "n_maps", "n_programs"]

R = TypeVar("R")

MAPS, LIMIT = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
# Other programs of the process, JAX's own and those of other packages, have the other half.
MOST_MAPS = int(LIMIT.read_text()) // 2 if LIMIT.exists() else 0
# Where maps cannot be counted; a program takes some ten megabytes.
MOST_PROGRAMS = 128
# So many calls, of so few responses and so few numbers in all, take less time than compiling well for them.
FEW_RESPONSES, FEW_NUMBERS, FEW_CALLS = 16, 2**18, 32
FEW_IN_A_BLOCK = 64
PLAIN = {
    "xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_parallel_codegen_split_count": 1,
}  # fmt: skip

_functions: list[Any] = []
_counted = 0
# What has been compiled ahead.
_ahead: set[Any] = set()


def jit(
    function: Callable[..., R],
    *,
    quick: bool = True,
    alone: bool = True,
    batch: int | None = None,
    responses: Callable[..., int] | None = None,
    keep: bool = False,
    **options: Any,
) -> Callable[..., R]:
    """``jax.jit(function, **options)``, whose programs are forgotten, with those of all such functions, where they
    become too many; a shape that comes again is then compiled again.

    ``quick``: a CPU's programs compile in half the time. Most run no slower; one that takes longer to run says False.
    ``alone``: a program that runs beside threads of ours says False, and keeps to one thread on a CPU.
    ``batch``: the number of the argument whose last axis is that of responses. For few of them a CPU's program is not
    optimised and compiles in a third of the time, until it has been called ``FEW_CALLS`` times with such shapes.
    ``responses``: the number of a call's responses, for a program that has them along another axis; up to
    ``FEW_IN_A_BLOCK`` are few.
    ``keep``: one that takes long to trace, and knows its arguments alone, is kept as it was traced where compiled
    code is kept (``runtime.traced``).
    """
    programs: dict[Any, Any] = {}
    calls = collections.Counter[Any]()

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> R:
        plain = batch is not None and _small(args, args[batch])
        if responses is not None:
            plain = responses(*args, **kwargs) <= FEW_IN_A_BLOCK
        if plain:
            shapes = _shapes(args)
            calls[shapes] += 1
            plain = calls[shapes] <= FEW_CALLS
        _make_room()
        if keep and folder() is not None:
            kept = _kept(function, programs, plain, made, args, kwargs, options)
            if kept is not None:
                found: R = kept()
                return found
        if plain not in programs:
            programs[plain] = made(function, plain, **options)
        result: R = programs[plain](*args, **kwargs)
        return result

    def made(function: Callable[..., Any], plain: bool, **options: Any) -> Any:
        # Not before the first call: asking for the options starts JAX's backend.
        chosen = _compiler_option("xla_cpu_use_fusion_emitters", False) if quick else {}
        chosen = chosen | ({} if alone else _compiler_option("xla_cpu_multi_thread_eigen", False))
        for option, value in PLAIN.items() if plain else ():
            chosen = chosen | _compiler_option(option, value)
        _functions.append(jax.jit(function, compiler_options=chosen, **options))
        return _functions[-1]

    return call


def _kept(
    function: Callable[..., Any],
    programs: dict[Any, Any],
    plain: bool,
    made: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: dict[str, Any],
) -> Callable[[], Any] | None:
    """A call of a function whose traced programs are kept in a folder; None where JAX cannot write this one down."""
    numbers, names = np.atleast_1d(options.get("static_argnums", ())).tolist(), options.get("static_argnames", ())
    names = (names,) if isinstance(names, str) else tuple(names)
    fixed = tuple((k, args[k]) for k in numbers), tuple((name, kwargs[name]) for name in names if name in kwargs)
    others = tuple(None if k in numbers else arg for k, arg in enumerate(args))
    leaves, tree = jax.tree.flatten((others, {name: arg for name, arg in kwargs.items() if name not in names}))
    leaves = [np.asarray(leaf) if np.isscalar(leaf) else leaf for leaf in leaves]
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    key = fixed, tree, shapes, plain, platform(), jax.config.jax_enable_x64  # type: ignore[attr-defined]
    if key not in programs:

        def bound(*args: Any, **kwargs: Any) -> Any:
            given = dict(fixed[0])
            return function(*(given.get(k, arg) for k, arg in enumerate(args)), **kwargs, **dict(fixed[1]))

        try:
            program = traced(functools.wraps(function)(bound), leaves, tree, (fixed, *key[3:]))
            programs[key] = replace(program, call=made(program.call, plain))
        except Exception:  # an error of the function itself comes again
            programs[key] = None
    program = programs[key]
    return None if program is None else lambda: program.result(leaves)


def _small(args: tuple[Any, ...], batch: Any) -> bool:
    """Whether a batch is of few responses, with little data."""
    if max(np.shape(leaf)[-1] for leaf in jax.tree.leaves(batch)) > FEW_RESPONSES:
        return False
    return sum(np.size(leaf) for leaf in jax.tree.leaves(args)) <= FEW_NUMBERS


def _shapes(args: Any) -> Any:
    """What tells calls of different programs apart; hashable."""
    leaves, tree = jax.tree.flatten(args)
    return tree, tuple((np.shape(leaf), np.result_type(leaf)) for leaf in leaves)


@functools.cache
def _compiler_option(name: str, value: bool | int) -> dict[str, bool | int]:
    """An option of XLA on a CPU: without its emitters of fused loops our programs take half as long to compile.
    Nothing where this XLA has no such option."""
    options = {name: value}
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def _make_room() -> None:
    """Forget the programs if a new one has made them too many."""
    global _counted
    n = n_programs()
    if n > _counted and (n_maps() > MOST_MAPS if MAPS.exists() else n > MOST_PROGRAMS):
        for compiled in list(_functions):
            compiled.clear_cache()
        n = 0
    _counted = n


@contextlib.contextmanager
def ahead(work: Callable[[], object], like: Any) -> Iterator[None]:
    """Context beside whose body ``work()`` runs in another thread, the first time with such shapes: it calls programs
    that come next with arguments of no matter, so that they are compiled while the body's own are.

    ``like`` is a pytree whose structure and shapes tell whether these programs are there already. An error of
    ``work`` is left to the call that needs its result.
    """
    key = _shapes(like), platform()
    if key in _ahead or N_THREADS == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    _ahead.add(key)

    def try_it() -> None:
        with contextlib.suppress(Exception):
            work()

    thread = threading.Thread(target=as_here(try_it))
    thread.start()
    try:
        yield
    finally:
        thread.join()


def n_programs() -> int:
    """How many programs are kept now."""
    return sum(compiled._cache_size() for compiled in list(_functions))


def n_maps() -> int:
    """How many memory maps this process has; takes milliseconds."""
    return MAPS.read_bytes().count(b"\n")
