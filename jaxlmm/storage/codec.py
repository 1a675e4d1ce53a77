"""Python values as JSON without loss: labels of groups, names, terms. Arrays are set aside by name."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import fractions
import uuid
import zoneinfo
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxlmm.design.design import Design
from jaxlmm.design.dropped import DroppedRows
from jaxlmm.design.random import RandomTerm
from jaxlmm.design.terms import Factor, Part, Term, TermStructure

__all__ = ["KINDS", "decode", "encode"]

# Kinds of arrays that a file may hold: numbers, text and times.
KINDS = "biufcSUmM"
# The classes that a file may hold: decoding calls nothing else.
CLASSES: dict[str, type] = {
    c.__name__: c for c in (Design, DroppedRows, RandomTerm, TermStructure, Term, Part, Factor)
}
SEQUENCES: dict[str, Callable[[Any], Any]] = {"tuple": tuple, "list": list, "frozenset": frozenset}
# Of decimal numbers: those with more digits take for ever to be compared with others.
MAX_EXPONENT = 9999
PANDAS = ("Timestamp", "Timedelta", "Period", "Interval")


def encode(value: Any, arrays: dict[str, np.ndarray], name: str) -> Any:
    """``value`` as JSON; arrays go to ``arrays``, under ``name`` and what leads to them.

    Raises
    ------
    ValueError
        A value, anywhere inside, of a type that cannot be stored without loss.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind.__name__ in SEQUENCES and kind is SEQUENCES[kind.__name__]:
        return {kind.__name__: [encode(v, arrays, f"{name}.{i}") for i, v in enumerate(value)]}
    if CLASSES.get(kind.__name__) is kind:
        fields = {
            f.name: encode(getattr(value, f.name), arrays, f"{name}.{f.name}") for f in dataclasses.fields(value)
        }
        return {kind.__name__: fields}
    if kind is np.ndarray and value.dtype.kind in KINDS:
        arrays[name] = value
        return {"array": name}
    if isinstance(value, np.generic) and value.dtype.kind in KINDS:
        arrays[name] = np.asarray(value)
        return {"scalar": name}
    try:
        if kind.__module__.split(".")[0] == "pandas" and kind.__name__ in PANDAS:
            made = {kind.__name__: _from_pandas(value, lambda v, part: encode(v, arrays, f"{name}.{part}"))}
        else:
            made = {kind.__name__: _LEAVES[kind][0](value)}
        same = decode(made, arrays) == value
    except (KeyError, TypeError, ValueError, OverflowError):
        same = False
    if not same:
        raise ValueError(
            f"{name} holds {value!r:.60} ({kind.__name__}), which cannot be stored without loss; use numbers, text, "
            "times or tuples of these as labels."
        )
    return made


def decode(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """What :func:`encode` was given; LookupError, TypeError or ValueError if it was not."""
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "array":
        return arrays[inner]
    if kind == "scalar":
        if arrays[inner].ndim:
            raise ValueError(f"{inner} is no single value")
        return arrays[inner][()]
    if kind in SEQUENCES:
        if not isinstance(inner, list):
            raise TypeError(f"a {kind} of {type(inner).__name__}")
        return SEQUENCES[kind](decode(v, arrays) for v in inner)
    if kind in CLASSES:
        return CLASSES[kind](**{name: decode(v, arrays) for name, v in inner.items()})
    if kind in PANDAS:
        return _to_pandas(kind, inner, lambda v: decode(v, arrays))
    return _BY_NAME[kind](inner)


# -- leaves: type -> (to JSON, from JSON) ------------------------------------------------------------


def _from_datetime(value: datetime.datetime) -> list[Any]:
    zone: Any = value.tzinfo
    if isinstance(zone, zoneinfo.ZoneInfo):
        zone = zone.key
    elif isinstance(zone, datetime.timezone):
        zone = zone.utcoffset(None).total_seconds()
    elif zone is not None:
        raise TypeError(f"time zones of type {type(zone).__name__} are not stored")
    return [value.replace(tzinfo=None).isoformat(), value.fold, zone]


def _to_datetime(inner: list[Any]) -> datetime.datetime:
    text, fold, zone = inner
    if isinstance(zone, str):
        zone = _zone(zone)
    elif zone is not None:
        zone = datetime.timezone(datetime.timedelta(seconds=zone))
    return datetime.datetime.fromisoformat(text).replace(fold=fold, tzinfo=zone)


def _zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except OSError as error:  # a folder of zones
        raise ValueError(f"there is no time zone {name!r}") from error


def _to_decimal(text: str) -> decimal.Decimal:
    value = decimal.Decimal(text)
    if value.is_finite() and abs(value.adjusted()) > MAX_EXPONENT:
        raise ValueError(f"{text:.40} has too large an exponent")
    return value


def _to_fraction(text: str) -> fractions.Fraction:
    # A quotient of integers, as str gives it; "1e999999999" would be computed digit by digit.
    return fractions.Fraction(*map(int, text.split("/", 1)))


_LEAVES: dict[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    bytes: (bytes.hex, bytes.fromhex),
    complex: (repr, complex),
    decimal.Decimal: (str, _to_decimal),
    fractions.Fraction: (str, _to_fraction),
    uuid.UUID: (str, uuid.UUID),
    datetime.date: (datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.timedelta: (lambda v: [v.days, v.seconds, v.microseconds], lambda v: datetime.timedelta(*v)),
    datetime.datetime: (_from_datetime, _to_datetime),
}
_BY_NAME = {kind.__name__: read for kind, (_, read) in _LEAVES.items()}


def _from_pandas(value: Any, inside: Callable[[Any, str], Any]) -> list[Any]:
    kind = type(value).__name__
    if kind == "Timestamp":
        plain = value if value.tz is None else value.tz_convert("UTC").tz_localize(None)
        return [plain.isoformat(), value.unit, None if value.tz is None else str(value.tz)]
    if kind == "Timedelta":
        return [value.as_unit("ns").value, value.unit]
    if kind == "Period":
        return [value.ordinal, value.freqstr]
    return [inside(value.left, "left"), inside(value.right, "right"), value.closed]


def _to_pandas(kind: str, inner: list[Any], inside: Callable[[Any], Any]) -> Any:
    import pandas as pd

    if kind == "Timestamp":
        text, unit, zone = inner
        plain = pd.Timestamp(text).as_unit(unit)
        return plain if zone is None else plain.tz_localize("UTC").tz_convert(zone)
    if kind == "Timedelta":
        return pd.Timedelta(inner[0], unit="ns").as_unit(inner[1])
    if kind == "Period":
        return pd.Period(ordinal=inner[0], freq=inner[1])
    return pd.Interval(inside(inner[0]), inside(inner[1]), closed=inner[2])
