"""Ways to compare k means, by the names that R's emmeans has for them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlmm.runtime.arguments import shown

__all__ = ["METHODS", "Comparison", "comparison"]

POLYNOMIALS = ("linear", "quadratic", "cubic", "quartic", "degree 5", "degree 6")
# Integers are sought for the weights of polynomials until none is further off.
INTEGER_TOL = 0.05


@dataclass(frozen=True, eq=False)
class Comparison:
    """Weights (q, k) of k means, with names, and how the tests are adjusted unless the user says.

    ``pairs`` are all pairwise differences, the one family that Tukey's range is for, of ``n_means`` means.
    """

    names: tuple[str, ...]
    weights: np.ndarray
    adjust: str
    pairs: bool = False

    @property
    def n_means(self) -> int:
        """Means that are compared: those with a weight."""
        return int(np.count_nonzero((self.weights != 0).any(axis=0)))


def comparison(
    method: Any,
    names: Sequence[str],
    *,
    ref: Any = None,
    reverse: bool = False,
    exclude: Any = None,
    include: Any = None,
) -> Comparison:
    """A way to compare means, as weights.

    Parameters
    ----------
    method : str; mapping of str to weights; or array-like, (k,) or (q, k)
        One of ``METHODS``, "_" for "." if you like. A mapping gives weights by the names of contrasts: k of them, or
        a mapping from names of means.
    names : sequence of str, length k
        Of the means.
    ref : str or sequence of str, optional
        The means that "trt.vs.ctrl" compares with. Default: the first.
    reverse : bool
        Turn the differences round.
    exclude, include : str or sequence of str, optional
        Means that have no part in the comparison, or the only ones that have.

    Raises
    ------
    ValueError
        An unknown method or mean, weights of another length; both of ``exclude`` and ``include``, or nothing left.
    """
    kept = _kept(tuple(names), exclude, include)
    if len(kept) < len(names):
        if not isinstance(method, str):
            raise ValueError("exclude and include go with a method by name; give weights of 0 instead.")
        part = comparison(method, [names[i] for i in kept], ref=ref, reverse=reverse)
        weights = np.zeros((len(part.names), len(names)))
        weights[:, kept] = part.weights
        return dataclasses.replace(part, weights=weights)
    if isinstance(method, str):
        name = _method(method)
        found = METHODS[name](tuple(names), ref)
        if ref is not None and not name.startswith("trt"):
            raise ValueError(f"ref is given, but {method!r} compares with no reference; leave it out.")
    elif ref is not None:
        raise ValueError("ref is given beside weights of your own; leave it out.")
    else:
        found = _own(method, tuple(names))
    if reverse and found.adjust in ("tukey", "dunnettx", "mvt"):
        turned = tuple(" - ".join(name.split(" - ")[::-1]) for name in found.names)
        return Comparison(turned, -found.weights, found.adjust, found.pairs)
    if reverse:
        raise ValueError("reverse turns differences round; change the signs of your own weights instead.")
    return found


def _kept(names: tuple[str, ...], exclude: Any, include: Any) -> list[int]:
    """Positions of the means that are compared."""
    if exclude is not None and include is not None:
        raise ValueError("exclude and include are both given; leave one out.")
    word, given = ("include", include) if exclude is None else ("exclude", exclude)
    if given is None:
        return list(range(len(names)))
    single = isinstance(given, (str, bytes)) or not hasattr(given, "__iter__")
    found = {_position(one, names) for one in ([given] if single else given)}
    kept = [i for i in range(len(names)) if (i in found) == (word == "include")]
    if not kept:
        raise ValueError(f"{word} leaves no mean to compare; the means are {', '.join(names)}.")
    return kept


def _method(given: str) -> str:
    word = given.strip().lower().replace("_", ".")
    word = {"mean.chg": "mean_chg", "dunnett": "trt.vs.ctrl", "tukey": "pairwise", "pairs": "pairwise"}.get(
        word, word
    )
    word = {"trt.vs.ctrl1": "trt.vs.ctrl"}.get(word, word)
    if word not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, or weights, found {shown(given)}.")
    return word


def _pairwise(names: tuple[str, ...], ref: Any) -> Comparison:
    pairs = list(itertools.combinations(range(len(names)), 2))
    return Comparison(*_differences(names, pairs), "tukey", pairs=True)


def _revpairwise(names: tuple[str, ...], ref: Any) -> Comparison:
    pairs = [(i, j) for i in range(len(names)) for j in range(i)]
    return Comparison(*_differences(names, pairs), "tukey", pairs=True)


def _consecutive(names: tuple[str, ...], ref: Any) -> Comparison:
    return Comparison(*_differences(names, [(i + 1, i) for i in range(len(names) - 1)]), "mvt")


def _control(names: tuple[str, ...], ref: Any) -> Comparison:
    """Each mean less that of ``ref``, or less the average of several."""
    single = isinstance(ref, (str, bytes)) or not hasattr(ref, "__iter__")
    listed = [names[0]] if ref is None else [ref] if single else list(ref)
    if not listed or len(listed) >= len(names) > 1:
        raise ValueError(f"ref must name some of the means, and leave some to compare: {', '.join(names)}.")
    control = [_position(one, names) for one in listed]
    called = names[control[0]] if len(control) == 1 else f"avg({','.join(names[j] for j in control)})"
    others = [i for i in range(len(names)) if i not in control]
    weights = np.eye(len(names))[others]
    weights[:, control] = -1 / len(control)
    return Comparison(tuple(f"{names[i]} - {called}" for i in others), weights, "dunnettx")


def _last_control(names: tuple[str, ...], ref: Any) -> Comparison:
    return _control(names, names[-1] if ref is None else ref)


def _effects(names: tuple[str, ...], ref: Any) -> Comparison:
    return Comparison(tuple(f"{name} effect" for name in names), np.eye(len(names)) - 1 / len(names), "bh")


def _deleted_effects(names: tuple[str, ...], ref: Any) -> Comparison:
    """Each mean less that of all others."""
    found = _effects(names, ref)
    return Comparison(found.names, found.weights / found.weights.diagonal()[:, None], "bh")


def _changes(names: tuple[str, ...], ref: Any) -> Comparison:
    """The mean of all later ones less the mean of those up to here."""
    k = len(names)
    weights = np.array([[-1 / i] * i + [1 / (k - i)] * (k - i) for i in range(1, k)])
    return Comparison(tuple(f"{a}|{b}" for a, b in itertools.pairwise(names)), weights.reshape(k - 1, k), "mvt")


def _polynomials(names: tuple[str, ...], ref: Any) -> Comparison:
    """Orthogonal polynomials of the positions, in integers."""
    k = len(names)
    degree = min(len(POLYNOMIALS), k - 1)
    powers = np.vander(np.arange(k) - (k - 1) / 2, degree + 1, increasing=True)
    Q, R = np.linalg.qr(powers)
    return Comparison(POLYNOMIALS[:degree], np.array([_integers(c) for c in (Q * np.sign(np.diag(R))).T[1:]]), "none")


def _integers(weights: np.ndarray) -> np.ndarray:
    """The smallest integers in the proportions of some weights."""
    weights = weights / weights[weights > 0.01].min()
    off = np.abs(weights - np.round(weights)).max()
    while off > INTEGER_TOL:
        weights = weights / off
        off = np.abs(weights - np.round(weights)).max()
    return np.asarray(np.round(weights))


def _identity(names: tuple[str, ...], ref: Any) -> Comparison:
    return Comparison(names, np.eye(len(names)), "none")


METHODS: dict[str, Callable[[tuple[str, ...], Any], Comparison]] = {
    "pairwise": _pairwise,
    "revpairwise": _revpairwise,
    "trt.vs.ctrl": _control,
    "trt.vs.ctrlk": _last_control,
    "eff": _effects,
    "del.eff": _deleted_effects,
    "consec": _consecutive,
    "mean_chg": _changes,
    "poly": _polynomials,
    "identity": _identity,
}


def _differences(names: tuple[str, ...], pairs: Sequence[tuple[int, int]]) -> tuple[tuple[str, ...], np.ndarray]:
    one = np.eye(len(names))
    weights = np.array([one[i] - one[j] for i, j in pairs]).reshape(len(pairs), len(names))
    return tuple(f"{names[i]} - {names[j]}" for i, j in pairs), weights


def _own(method: Any, names: tuple[str, ...]) -> Comparison:
    """Weights that the user gives."""
    if isinstance(method, Mapping):
        rows = {str(name): _row(str(name), value, names) for name, value in method.items()}
        if not rows:
            raise ValueError("method is an empty dict; give weights by the name of each contrast.")
        return Comparison(tuple(rows), np.stack(list(rows.values())), "none")
    try:
        weights = np.atleast_2d(np.asarray(method, dtype=np.float64))
    except (TypeError, ValueError, OverflowError):
        weights = np.full((0, 0), np.nan)
    if weights.ndim != 2 or weights.shape[1] != len(names) or not len(weights) or not np.isfinite(weights).all():
        raise ValueError(
            f"method must be one of {', '.join(map(repr, METHODS))}, a dict of weights by the names of contrasts, or "
            f"weights of shape (q, {len(names)}), one for each of {', '.join(names)}; found {shown(method)}."
        )
    index = getattr(method, "index", None)
    labels = [str(name) for name in index] if index is not None and not callable(index) else _numbered(len(weights))
    return Comparison(tuple(labels), weights, "none")


def _numbered(n: int) -> list[str]:
    return [f"contrast {j + 1}" for j in range(n)]


def _row(contrast: str, given: Any, names: tuple[str, ...]) -> np.ndarray:
    if isinstance(given, Mapping):
        weights = np.zeros(len(names))
        for name, weight in given.items():
            weights[_position(name, names)] = weight
        given = weights
    try:
        row = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        row = np.full(1, np.nan)
    if row.shape != (len(names),) or not np.isfinite(row).all():
        raise ValueError(
            f"contrast {contrast!r} needs {len(names)} weights, one for each of {', '.join(names)}, or a dict from "
            f"some of these names to weights; found {shown(given)}."
        )
    return row


def _position(name: Any, names: tuple[str, ...]) -> int:
    """Position of a mean by its name, or by the number that its level is."""
    text = f"{name:g}" if isinstance(name, float) else shown(name) if isinstance(name, int) else str(name)
    found = [i for i, known in enumerate(names) if known in (text, f"({text})")]
    if not found and isinstance(name, (int, float)):  # numbers stand behind the name of their variable
        found = [
            i for i, known in enumerate(names) if known.endswith(text) and not known[: -len(text)][-1:].isdigit()
        ]
    if len(found) != 1:
        raise ValueError(f"there is no mean {shown(name)}; the means are {', '.join(names)}.")
    return found[0]
