"""What may be exchanged under the null hypothesis: how the residuals of the reduced model are drawn again.

With the tested effect absent, r = y - X0 coef0 is Z b + e: its covariance V is that of the random terms. What
leaves V as it is may be applied to r, and the whole model is fitted to the result (Freedman & Lane 1983; Winkler,
Ridgway, Webster, Smith & Nichols 2014, NeuroImage 92:381). Four schemes:

within      rows change places within the cells in which all Z are constant (the levels of all grouping factors
            together). V is unchanged. Where the other columns of X are constant within the cells too, this is the
            same as permuting the labels of the condition, and exact.
sign-flip   whole blocks change their sign. Blocks are independent (no level of any grouping factor is in two of
            them), so that any random effects, slopes too, stay as they are: it asks for symmetry alone.
whole       whole blocks change places; their Z must be the same, row by row.
whitened    V^-1/2 r is drawn again, rows change places freely (or within ``blocks``), and V^1/2 of it is fitted,
            V the reduced model's. For crossed factors, where no rows are exchangeable as they are; approximate,
            since V is estimated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from jaxlmm.design.design import Design
from jaxlmm.design.random import same_partition
from jaxlmm.resampling.contrast import Tested
from jaxlmm.runtime.arguments import shown

__all__ = ["SCHEMES", "Scheme", "block_rows", "choose_scheme", "independent_blocks", "refuse_missing"]

SCHEMES = ("auto", "within", "sign-flip", "whole", "whitened")
# Fewer distinct draws cannot make a p-value of 5 %.
FEWEST = 20


@dataclass(frozen=True, eq=False)
class Scheme:
    """One way to draw again.

    Attributes
    ----------
    kind : {"within", "sign-flip", "whole", "whitened"}
    blocks : ndarray of int, (n_obs,)
        The cell or block of each row, 0, 1, ...
    n_distinct : float
        How many different results the draws have, the data themselves among them; infinity for very many.
    text : str
        A sentence that says what is done.
    """

    kind: str
    blocks: np.ndarray
    n_distinct: float
    text: str

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return int(self.blocks.max()) + 1

    @property
    def flips(self) -> bool:
        """Whether draws are signs of blocks, not orders of rows."""
        return self.kind == "sign-flip"


def choose_scheme(tested: Tested, scheme: str, blocks: Any, *, signed: bool) -> Scheme:
    """The scheme asked for, or the one that the design calls for.

    Parameters
    ----------
    tested : Tested
    scheme : str
        One of ``SCHEMES``.
    blocks : array-like, (n_obs,), or None
        Labels of the cells or blocks, instead of those of the design.
    signed : bool
        Whether the statistic tells directions apart; if not, a draw and its mirror image are one.

    Raises
    ------
    ValueError
        Unknown scheme, blocks of another length, a scheme that cannot change the tested columns or has fewer than
        20 distinct draws.
    """
    if not isinstance(scheme, str) or scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(map(repr, SCHEMES))}; found {shown(scheme)}.")
    design = tested.design
    given = None if blocks is None else _block_codes(blocks, design.n_obs)
    for kind in _automatic(tested, given) if scheme == "auto" else [scheme]:
        made = _MAKERS[kind](tested, given, signed)
        if made.n_distinct >= FEWEST:
            return made
    raise ValueError(
        f"scheme '{made.kind}' has {made.n_distinct:g} distinct draws for '{tested.name}', fewer than {FEWEST}, "
        f"so that no p-value could be below {1 / made.n_distinct:.3g}: {made.text} Use another scheme, or fit.test."
    )


def refuse_missing(tested: Tested, chosen: Scheme, blocks: Any, incomplete: Sequence[str], *, signed: bool) -> None:
    """ValueError, with what else can be done, where responses of these names miss rows that the scheme needs."""
    if chosen.kind != "whitened" or not len(incomplete):
        return
    given = None if blocks is None else _block_codes(blocks, tested.design.n_obs)
    kinds = _automatic(tested, given)[:-1]
    others = [repr(kind) for kind in kinds if _MAKERS[kind](tested, given, signed).n_distinct >= FEWEST]
    instead = f", or use scheme={' or '.join(others)}" if others else "; the design allows no other scheme"
    raise ValueError(
        f"{len(incomplete)} of the responses miss observations, the first '{incomplete[0]}', and scheme 'whitened' "
        f"draws from all rows: test those without, fit.select(~fit.incomplete){instead}."
    )


def _automatic(tested: Tested, given: np.ndarray | None) -> list[str]:
    """The schemes that the design allows, the best first."""
    design, found = tested.design, []
    cells = _cells(design) if given is None else given
    if _varies(tested.X1, cells) and _exchangeable(design, cells):
        found.append("within")
    blocks = independent_blocks(design) if given is None else given
    if blocks.max() > 0 and _separate(design, blocks):
        between = not _varies(tested.X1, blocks) and _varies(tested.X1, np.zeros_like(blocks))
        found += ["whole", "sign-flip"] if between and _alike(design, blocks) else ["sign-flip"]
    return [*found, "whitened"]


# -- the schemes -------------------------------------------------------------------------------------


def _within(tested: Tested, given: np.ndarray | None, signed: bool) -> Scheme:
    design = tested.design
    cells = _cells(design) if given is None else given
    where = _named(design)
    if not _varies(tested.X1, cells):
        raise ValueError(
            f"'{tested.name}' is constant within {where if given is None else 'the blocks'}, so that permuting rows "
            "within them changes nothing; use scheme='whole' or 'sign-flip'."
        )
    if not _exchangeable(design, cells):
        raise ValueError(
            f"rows within {where if given is None else 'the blocks'} differ in their random effects or weights, so "
            "that they are not exchangeable; use scheme='sign-flip' or 'whitened'."
        )
    exact = not _varies(tested.X0, cells)
    what = f"labels of '{tested.name}'" if exact else "residuals of the model without the tested effect"
    at = where if given is None else "the given blocks"
    return Scheme("within", cells, _n_orders(design.X, cells), f"{what} permuted within {at}.")


def _flip(tested: Tested, given: np.ndarray | None, signed: bool) -> Scheme:
    design = tested.design
    blocks = independent_blocks(design) if given is None else given
    n_blocks = int(blocks.max()) + 1
    if given is not None and not _separate(design, blocks):
        raise ValueError(
            "the given blocks share levels of a grouping factor, so that their signs cannot change one by one; give "
            "blocks that hold whole levels, or use scheme='whitened'."
        )
    if n_blocks == 1 and design.random:
        raise ValueError(
            "the grouping factors are crossed: no block of rows is independent of the others, so that signs cannot "
            "change; use scheme='whitened'."
        )
    n_distinct = 2.0 ** min(n_blocks - (not signed), 1023)
    name = design.random[0].name if design.random and given is None else "block"
    what = "data" if tested.X0.shape[1] == 0 else "residuals of the model without the tested effect"
    of = f"each {name}" if design.random or given is not None else "each row"
    return Scheme("sign-flip", blocks, n_distinct, f"signs of the {what} flipped, those of {of} together.")


def _whole(tested: Tested, given: np.ndarray | None, signed: bool) -> Scheme:
    design = tested.design
    blocks = independent_blocks(design) if given is None else given
    name = design.random[0].name if design.random and given is None else "block"
    if not _alike(design, blocks) or not _separate(design, blocks):
        raise ValueError(
            f"blocks ({name}) differ in their number of rows, their random effects or their weights, so that whole "
            "blocks cannot change places; use scheme='sign-flip'."
        )
    rows = block_rows(blocks)
    kinds: dict[bytes, int] = {}
    for at in rows:
        key = np.ascontiguousarray(tested.design.X[at]).tobytes()
        kinds[key] = kinds.get(key, 0) + 1
    count = _n_arrangements(kinds.values())
    text = f"residuals of the model without the tested effect permuted, those of each {name} together."
    return Scheme("whole", blocks, count, text)


def _whitened(tested: Tested, given: np.ndarray | None, signed: bool) -> Scheme:
    n = tested.design.n_obs
    cells = np.zeros(n, dtype=np.intp) if given is None else given
    if not _varies(tested.X1, cells):
        raise ValueError(
            f"'{tested.name}' is constant within the blocks, so that permuting within them changes nothing."
        )
    where = "" if given is None else " within the given blocks"
    text = (
        "residuals of the model without the tested effect, made uncorrelated by its fitted covariance, "
        f"permuted{where}, and correlated again."
    )
    return Scheme("whitened", cells, _n_orders(np.arange(n)[:, None], cells), text)


_MAKERS = {"within": _within, "sign-flip": _flip, "whole": _whole, "whitened": _whitened}


# -- properties of designs ---------------------------------------------------------------------------


def _named(design: Design) -> str:
    names = list(dict.fromkeys(term.name for term in design.random))
    return f"the levels of {', '.join(names)}" if names else "all rows"


def _cells(design: Design) -> np.ndarray:
    """Rows that have the same level of every grouping factor, as codes (n_obs,)."""
    if not design.random:
        return np.zeros(design.n_obs, dtype=np.intp)
    return np.asarray(
        np.unique(np.column_stack([term.codes for term in design.random]), axis=0, return_inverse=True)[1]
    ).reshape(-1)


def independent_blocks(design: Design) -> np.ndarray:
    """Smallest blocks of rows that share no level of any grouping factor; rows, without a random term."""
    n = design.n_obs
    if not design.random:
        return np.arange(n)
    rows, start, columns = np.arange(n), n, []
    for term in design.random:
        columns.append(start + term.codes)
        start += term.n_levels
    to = np.concatenate(columns)
    graph = scipy.sparse.coo_array((np.ones(len(to)), (np.tile(rows, len(columns)), to)), shape=(start, start))
    labels = scipy.sparse.csgraph.connected_components(graph, directed=False)[1][:n]
    return np.asarray(np.unique(labels, return_inverse=True)[1]).reshape(-1)


def _separate(design: Design, blocks: np.ndarray) -> bool:
    """Whether no level of any grouping factor is in two of the blocks."""
    return all(
        len(np.unique(np.column_stack([term.codes, blocks]), axis=0)) == term.n_levels for term in design.random
    )


def _varies(X: np.ndarray, cells: np.ndarray) -> bool:
    """Whether a column differs between rows of one cell."""
    first = np.unique(cells, return_index=True)[1][cells]
    return bool(np.any(X != X[first]))


def _exchangeable(design: Design, cells: np.ndarray) -> bool:
    """Whether rows of one cell have the same random effects and weights."""
    columns = [term.codes[:, None] for term in design.random] + [term.Z for term in design.random]
    if design.weights is not None:
        columns.append(design.weights[:, None])
    return not any(_varies(column, cells) for column in columns)


def _n_orders(X: np.ndarray, cells: np.ndarray) -> float:
    """In how many ways rows that change places within cells can be given the rows of X."""
    labels = np.asarray(np.unique(X, axis=0, return_inverse=True)[1]).reshape(-1)
    count = 1.0
    for at in block_rows(cells):
        count *= _n_arrangements(np.unique(labels[at], return_counts=True)[1])
    return count


def _n_arrangements(counts: Iterable[int]) -> float:
    """n! / (n1! n2! ...), infinite where it is very large."""
    counts = [int(k) for k in counts]
    total = math.lgamma(sum(counts) + 1) - sum(math.lgamma(k + 1) for k in counts)
    return float(round(math.exp(total))) if total < 30 else math.inf


def _alike(design: Design, blocks: np.ndarray) -> bool:
    """Whether all blocks have the same random effects and weights, row by row."""
    rows = block_rows(blocks)
    first = rows[0]

    def same(at: np.ndarray) -> bool:
        if len(at) != len(first) or (
            design.weights is not None and np.any(design.weights[at] != design.weights[first])
        ):
            return False
        return all(
            np.array_equal(term.Z[at], term.Z[first]) and same_partition(term.codes[at], term.codes[first])
            for term in design.random
        )

    return all(map(same, rows))


def block_rows(blocks: np.ndarray) -> list[np.ndarray]:
    """The rows of each block."""
    order = np.argsort(blocks, kind="stable")
    return list(np.split(order, np.cumsum(np.bincount(blocks))[:-1]))


def _block_codes(blocks: Any, n: int) -> np.ndarray:
    """Labels of blocks as codes (n_obs,)."""
    labels = list(np.asarray(blocks, dtype=object).reshape(-1)) if np.ndim(blocks) == 1 else []
    if len(labels) != n:
        raise ValueError(f"blocks must hold one label for each of the {n} observations, found {shown(blocks)}.")
    try:
        known = {label: k for k, label in enumerate(dict.fromkeys(labels))}
        return np.array([known[label] for label in labels])
    except TypeError:
        raise ValueError(f"blocks must hold hashable labels, found {shown(labels[0])}.") from None
