"""Means of one response as curves: of a fit, of marginal means, of their table; and the observations beside them."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlmm.inference.emmeans import EMMeans
from jaxlmm.plots.base import one_response
from jaxlmm.plots.words import number_texts
from jaxlmm.results.results import Fit
from jaxlmm.runtime.arguments import name_list, shown

__all__ = ["Curves", "level_positions", "observations", "read_curves", "rows_of"]

# Points of a curve.
CURVE = 41


@dataclass(frozen=True, eq=False)
class Curves:
    """Means of one response: k of them with their limits, and the levels of the variables of each.

    Attributes
    ----------
    x : str
    colour, panel : tuple of str
        Variables whose combinations have a colour, or a panel, each.
    labels : list of dict, length k
    estimate : ndarray, (k,)
    limits : ndarray, (k, 2)
    numeric : bool
        Whether x is a covariate: lines with bands; else points with intervals.
    spread : tuple of str
        Covariates that have their mean and one standard deviation below and above.
    """

    x: str
    colour: tuple[str, ...]
    panel: tuple[str, ...]
    labels: list[dict[str, Any]]
    estimate: np.ndarray
    limits: np.ndarray
    numeric: bool
    spread: tuple[str, ...] = ()

    def title(self, names: Sequence[str]) -> str:
        """Variables for a legend, with what the values of a covariate are."""
        return ", ".join(f"{name} (mean ± SD)" if name in self.spread else name for name in names)

    def levels(self, names: Sequence[str]) -> list[tuple[Any, ...]]:
        """Combinations of levels, in order of appearance."""
        return list(dict.fromkeys(tuple(label[name] for name in names) for label in self.labels))

    def texts(self, names: Sequence[str], *, named: bool | None = None) -> list[str]:
        """A text for each of them, ``named`` with its variable; None: numbers are."""
        levels = self.levels(names)
        parts = []
        for i, name in enumerate(names):
            values = [level[i] for level in levels]
            plain = all(isinstance(v, numbers.Real) and not isinstance(v, (bool, np.bool_)) for v in values)
            texts = number_texts(np.asarray(values, dtype=float)) if plain else [str(v) for v in values]
            parts.append([f"{name} = {text}" if (plain if named is None else named) else text for text in texts])
        return [", ".join(row) for row in zip(*parts, strict=True)] if parts else [""]

    def rows(self, names: Sequence[str], level: tuple[Any, ...], within: np.ndarray | None = None) -> np.ndarray:
        """Which means are of one combination, (k,) of bool."""
        found = np.array([tuple(label[name] for name in names) == level for label in self.labels])
        return found if within is None else found & within


def read_curves(
    fit: Any, specs: Any, by: Any, at: Any, response: Any, weights: Any, level: float
) -> tuple[Curves, str, str | None]:
    """Means of one response, its name, and its units."""
    if isinstance(fit, EMMeans):
        return _of_means(fit, specs, by, response, level)
    if hasattr(fit, "emmeans"):
        return _of_fit(fit, specs, by, at, response, weights, level)
    return _of_table(fit, specs, by, response)


def _of_means(means: EMMeans, specs: Any, by: Any, response: Any, level: float) -> tuple[Curves, str, str | None]:
    labels = means.responses
    i = 0 if labels is None else labels.position(response)
    names = means.specs if specs is None else name_list(specs, "specs")
    panel = means.by if by is None else name_list(by, "by")
    rows = [dict(label) for label in means.labels]
    for name in (*names, *panel):
        if name not in rows[0]:
            raise ValueError(f"there is no variable {name!r} in these means; they are of {', '.join(rows[0])}.")
    if not names:
        raise ValueError("these are overall means; say which variables are to be drawn, specs=...")
    curves = Curves(
        names[0], names[1:], panel, rows, means.estimate[i], means.conf_int(level)[i], is_numeric(rows, names[0])
    )
    return curves, "" if labels is None else labels.names[i], None if labels is None else labels.units


def _of_fit(
    fit: Fit, specs: Any, by: Any, at: Any, response: Any, weights: Any, level: float
) -> tuple[Curves, str, str | None]:
    if specs is None:
        raise ValueError("say which variables are to be drawn: specs='a', or ['a', 'b'] for an interaction.")
    one, name = one_response(fit, response)
    names, panel = name_list(specs, "specs"), name_list(by, "by")
    variables = {v.name: v for v in one.source.variables} if one.source is not None else {}
    given, spread = dict(at or {}), []
    for k, variable in enumerate((*names, *panel)):
        if variable in variables and variable not in given and not variables[variable].factor:
            given[variable] = _values(one, variable, whole=k == 0)
            if k and len(given[variable]) == 3:
                spread.append(variable)
    means = one.emmeans(list(names), by=list(panel) or None, at=given or None, weights=weights)
    if not isinstance(means, EMMeans):
        raise ValueError(f"specs must be names of variables, found {shown(specs)}.")
    numeric = names[0] in variables and not variables[names[0]].factor
    rows = [dict(label) for label in means.labels]
    curves = Curves(
        names[0], names[1:], panel, rows, means.estimate[0], means.conf_int(level)[0], numeric, tuple(spread)
    )
    return curves, name, one.labels.units


def _of_table(table: Any, specs: Any, by: Any, response: Any) -> tuple[Curves, str, str | None]:
    """Of what ``emmeans(...).tidy()`` gives."""
    from jaxlmm.sources.table import as_frame, is_table  # needs pandas

    if not is_table(table):
        raise ValueError(f"fit must be a Fit by formula, its emmeans, or their table, found {shown(table)}.")
    frame = as_frame(table)
    missing = [name for name in ("estimate", "conf.low", "conf.high") if name not in frame]
    if missing:
        raise ValueError(f"the table has no column {missing[0]!r}: it holds no means; give emmeans(...).tidy().")
    name = ""
    before = list(frame.columns[: frame.columns.get_loc("estimate")])
    if "response" in before:
        before.remove("response")
        found = list(dict.fromkeys(frame["response"]))
        wanted = found[response] if isinstance(response, numbers.Integral) and response < len(found) else response
        if wanted not in found:
            raise ValueError(f"no response is named {response!r}; the names begin {', '.join(map(repr, found[:3]))}.")
        frame, name = frame[frame["response"] == wanted], str(wanted)
    panel = name_list(by, "by")
    names = tuple(one for one in before if one not in panel) if specs is None else name_list(specs, "specs")
    for one in (*names, *panel):
        if one not in before:
            raise ValueError(f"the table has no column {one!r}; its variables are {', '.join(before) or '(none)'}.")
    if not names or frame.duplicated([*names, *panel]).any():
        raise ValueError(
            f"the table has several rows for one combination of {', '.join([*names, *panel])}; choose rows of one "
            f"response, or name the other columns, of {', '.join(before)}."
        )
    rows = frame[[*names, *panel]].to_dict("records")
    curves = Curves(
        names[0], tuple(names[1:]), panel, rows, frame["estimate"].to_numpy(float),
        frame[["conf.low", "conf.high"]].to_numpy(float), is_numeric(rows, names[0]),
    )  # fmt: skip
    return curves, name, None


def is_numeric(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return all(isinstance(row[name], numbers.Real) and not isinstance(row[name], (bool, np.bool_)) for row in rows)


def _values(fit: Fit, name: str, *, whole: bool) -> list[float]:
    """Of a covariate: its range in the data, or mean and one standard deviation around it; both, if it has two."""
    found = np.asarray(fit.source.values(name), dtype=np.float64)
    distinct = np.unique(found)
    if len(distinct) <= 2:
        return distinct.tolist()
    if whole:
        return np.linspace(distinct[0], distinct[-1], CURVE).tolist()
    mean, sd = float(found.mean()), float(found.std(ddof=1))
    return [mean - sd, mean, mean + sd]


def observations(fit: Any, curves: Curves, response: Any) -> dict[str, np.ndarray]:
    """Variables and values of one response, by name; its values as ""."""
    if not hasattr(fit, "source") or fit.source is None:
        raise ValueError("data=True needs the fit itself, which has the observations.")
    one, _ = one_response(fit, response)
    y = np.asarray(one.Y, dtype=np.float64)[:, 0]
    there = np.isfinite(y)
    names = (curves.x, *curves.colour, *curves.panel)
    return {name: np.asarray(one.source.values(name))[there] for name in names} | {"": y[there]}


def level_positions(curves: Curves) -> dict[Any, int]:
    return {level[0]: i for i, level in enumerate(curves.levels([curves.x]))}


def rows_of(
    points: Mapping[str, np.ndarray], names: Sequence[str], level: tuple[Any, ...], curves: Curves
) -> np.ndarray:
    """Observations at a combination of levels; a covariate counts as the nearest of its values."""
    found = np.ones(len(points[""]), dtype=bool)
    for i, name in enumerate(names):
        values = points[name]
        if values.dtype.kind in "iuf" and is_numeric(curves.labels, name):
            known = np.array([value[i] for value in curves.levels(names)], dtype=float)
            nearest = known[np.abs(values.astype(float)[:, None] - known).argmin(axis=1)]
            found &= nearest == float(level[i])
        else:
            found &= np.array([value == level[i] for value in values.tolist()])
    return found
