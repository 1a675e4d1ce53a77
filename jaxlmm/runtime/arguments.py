"""Arguments of public functions, checked in one place: sentences for what can be wrong with any of them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import jax

__all__ = ["check_concrete", "check_integer", "check_option", "name_list"]


def check_concrete(value: Any, what: str) -> None:
    """ValueError for an array of JAX that a transformation is tracing, and that has no numbers yet."""
    if isinstance(value, jax.core.Tracer):
        raise ValueError(
            f"{what} has no values yet: jax.jit, jax.vmap or jax.grad is tracing it, and jaxlmm needs the numbers "
            "themselves. Call it outside the traced function, with all responses in the columns of one Y."
        )


def check_option(name: str, value: Any, allowed: Sequence[str]) -> str:
    """The one of the words ``allowed`` that ``value`` is, in any case, with "_" or " " for "-"; else ValueError."""
    for word in allowed:
        if isinstance(value, str) and _plain(value) == _plain(word):
            return word
    raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, found {shown(value)}.")


def _plain(word: str) -> str:
    return word.strip().casefold().replace("_", "-").replace(" ", "-")


def check_integer(name: str, value: Any, least: int, most: int | None = None, why: str = "") -> int:
    """``value`` as an int from ``least`` to ``most``; ``why`` says what the upper limit is for."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, found {shown(value)}.") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, found {shown(number)}.")
    if most is not None and number > most:
        raise ValueError(f"{name} must be at most {most}, found {shown(number)}{why}.")
    return number


def name_list(names: Any, what: str) -> tuple[str, ...]:
    """One name or a sequence of names, as a tuple; none for None."""
    if names is None:
        return ()
    if isinstance(names, str):
        return (names,)
    if isinstance(names, (set, frozenset)):
        raise ValueError(f"{what} is a set, whose order is another in each run; give a list.")
    found = tuple(names) if hasattr(names, "__iter__") else None
    if found is None or not all(isinstance(name, str) for name in found):
        raise ValueError(f"{what} must be a name or a list of names, found {shown(names)}.")
    return found


def shown(value: Any) -> str:
    """What was found, short enough for a message."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**30:
        return f"an integer of {value.bit_length() * 0.30103:.0f} digits"
    try:
        text = repr(value)
    except Exception:  # somebody else's class
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"a {type(value).__name__}"
