"""Texts of pictures: names of terms and responses short enough to stand beside an axis, units, lines that fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlmm.tabular.labels import text_of

__all__ = [
    "cut",
    "cut_apart",
    "dim_label",
    "level_texts",
    "measured",
    "number_texts",
    "response_texts",
    "row_labels",
    "term_text",
    "wrapped",
]

# Mean width of a character, relative to the size of the font.
CHARACTER = 0.56
TREATMENT = re.compile(r"\[T\.([^\]]*)\]")
TIMES = " × "
# What a line may be made of: words with the blanks after them, brackets.
PARTS = re.compile(r"(?:[^\s\[]+|\[)[^\s\[]*\s*|\s+")
# Most digits of a number in a name.
DIGITS = 12
# How far a number in a name may be off, relative to the distance to the next.
CLOSE = 0.05


def term_text(name: str) -> str:
    """A fixed effect as people write it: "cond[T.rare]:age" as "cond[rare] × age"."""
    text = TREATMENT.sub(r"[\1]", name)
    out, depth = "", 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        out += TIMES if character == ":" and not depth else character
    return out


def number_texts(values: np.ndarray) -> list[str]:
    """Numbers in as few digits as say them: 0.30000000000000004 as "0.3"; none is off by 5 % of what lies between."""
    known = np.unique(values[np.isfinite(values)])
    gap = np.min(np.diff(known)) if len(known) > 1 else np.max(np.abs(known), initial=0.0)
    for digits in range(3, DIGITS + 1):
        texts = [f"{value:.{digits}g}" for value in values.tolist()]
        if np.all(np.abs(np.array(texts, dtype=float) - values)[np.isfinite(values)] <= CLOSE * gap):
            return texts
    return [str(value) for value in values.tolist()]


def level_texts(name: Any, values: Any) -> list[str]:
    """Labels of one dimension, or levels of a variable, as texts; an integer alone would not say what it is."""
    array = np.asarray(values)
    if array.dtype.kind == "f":
        return number_texts(array)
    return [text_of(name, value) for value in array.tolist()]


def response_texts(fit: Any) -> list[str]:
    """A short text for each response: its labels, numbers in as few digits as tell them apart."""
    keys, names = fit.labels.keys, list(fit.response_names)
    if not keys:  # one response, told by the labels that were chosen
        scalars = [(name, coord.values) for name, coord in fit.labels.coords.items() if not coord.dims]
        keys = {str(name): np.reshape(np.asarray(value), 1) for name, value in scalars}
    if not any(np.asarray(values).dtype.kind == "f" for values in keys.values()):
        return names
    parts = [level_texts(name, values) for name, values in keys.items()]
    if len(parts) == 1:  # a number alone would not say what it is
        parts = [[f"{next(iter(keys))} {text}" for text in parts[0]]]
    made = [", ".join(part) for part in zip(*parts, strict=True)]
    return made if len(set(made)) == len(made) else names


def dim_label(labels: Any, dim: Any) -> str:
    """Label of an axis: the attributes ``long_name`` and ``units`` of a coordinate, as xarray's own plots."""
    coord = labels.coords.get(dim)
    attrs = getattr(coord, "attrs", {})
    text = str(attrs.get("long_name") or dim)
    return f"{text} ({attrs['units']})" if attrs.get("units") else text


def measured(text: str, units: Any) -> str:
    """A quantity with its units, if it has some."""
    return f"{text} ({units})" if units else text


def cut(text: str, characters: int) -> str:
    """The beginning and the end of a text that is too long, with an ellipsis between them."""
    if len(text) <= characters:
        return text
    keep = max(characters - 1, 2)
    return f"{text[: keep - keep // 2]}…{text[len(text) - keep // 2 :]}"


def cut_apart(texts: Sequence[str], characters: int) -> list[str]:
    """Texts that are too long, cut in the middle, at the end or at the beginning: where most stay distinct."""
    if all(len(text) <= characters for text in texts):
        return list(texts)
    keep = max(characters - 1, 2)
    ways = [
        [cut(text, characters) for text in texts],
        [text if len(text) <= characters else f"{text[:keep]}…" for text in texts],
        [text if len(text) <= characters else f"…{text[-keep:]}" for text in texts],
    ]
    return max(ways, key=lambda way: len(set(way)))


def wrapped(text: str, points: float, size: float, lines: int = 3) -> str:
    """A text in lines of a width in points, at blanks and before brackets; what is too long is cut in the middle.

    Parameters
    ----------
    text : str
    points : float
        Width that is there.
    size : float
        Of the font, in points.
    lines : int
        Most lines.
    """
    room = max(int(points / (CHARACTER * size)), 6)
    found = [""]
    for part in PARTS.findall(text):
        if found[-1] and len((found[-1] + part).rstrip()) > room:
            found[-1] = found[-1].rstrip()
            found.append("")
        found[-1] += part
    if len(found) > lines:
        found = [*found[: lines - 1], " ".join(found[lines - 1 :])]
    return "\n".join(cut(line, room) for line in found)


def row_labels(texts: Sequence[str], points: float, size: float) -> list[str]:
    """Names of the rows of a picture, in two lines if need be, that take at most a width in points."""
    made = [wrapped(text, points, size, lines=2) for text in texts]
    if len(set(made)) == len(set(texts)):
        return made
    return cut_apart(texts, max(int(points / (CHARACTER * size)), 6))
