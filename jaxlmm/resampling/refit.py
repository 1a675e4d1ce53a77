"""The statistic of the whole model, fitted again to every draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlmm._types import Status
from jaxlmm.design.design import checked_design
from jaxlmm.families.base import Family, Provider
from jaxlmm.families.registry import make_family
from jaxlmm.resampling.contrast import Tested
from jaxlmm.resampling.draws import Draws
from jaxlmm.resampling.schemes import Scheme, block_rows
from jaxlmm.resampling.whitening import make_roots

__all__ = ["Refits", "Statistics", "prepare_refits"]

# Responses of the whole array that are drawn together, and drawn responses that are fitted at once.
BYTES = 256 * 2**20
# Coordinates of each block cost as much as a pass over the observations where there are this many times more.
WORTH_IT = 8
# The least part of a response's sum of squares that coordinates may leave: else the difference has lost its digits.
LEAST_LEFT = 1e-6


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of some responses: ``where`` (c,) are their positions, ``values`` (n draws, c).

    ``singular`` and ``failed`` count refits, (c,); ``values`` is NaN where a refit failed.
    """

    where: np.ndarray
    values: np.ndarray
    singular: np.ndarray
    failed: np.ndarray


@dataclass(frozen=True, eq=False)
class Refits:
    """A hypothesis, ready to be tested on draws of the responses.

    Attributes
    ----------
    tested : Tested
    scheme : Scheme
    family : Family
        Of ``tested.design``.
    reduced : Family or None
        The model without the tested effect; None where nothing is left of X.
    method : {"REML", "ML"}
    """

    tested: Tested
    scheme: Scheme
    family: Family
    reduced: Family | None
    method: str

    def pieces(self, where: np.ndarray, most: int | None = None) -> list[np.ndarray]:
        """The responses ``where``, at most ``most`` together, whose residuals, and roots of V, fit in memory."""
        design = self.tested.design
        size = design.n_obs
        if self.scheme.kind == "whitened":
            size += sum(term.size * term.n_levels for term in design.random) ** 2
        width = max(1, min(BYTES // (8 * size * 4), len(where) if most is None else most))
        return [where[k : k + width] for k in range(0, len(where), width)]

    def observed(self, Y: Any, where: np.ndarray) -> np.ndarray:
        """Statistics (c,) of the columns ``where`` of Y (n_obs, m) themselves."""
        width = max(1, BYTES // (8 * self.tested.design.n_obs))
        chunks = [where[start : start + width] for start in range(0, len(where), width)]
        return np.concatenate([self.fits(np.asarray(Y[:, some], dtype=np.float64))[1] for some in chunks])

    def statistics(self, Y: Any, where: np.ndarray, draws: Draws) -> Statistics:
        """Statistics of the columns ``where`` of Y (n_obs, m), on all draws; "whitened" ones miss nothing."""
        y = np.asarray(Y[:, where], dtype=np.float64)
        absent = np.asarray(np.isnan(y).any(axis=0))
        out = Statistics(where, np.empty((draws.n, len(where))), *np.zeros((2, len(where)), dtype=int))
        for some in (np.flatnonzero(~absent), np.flatnonzero(absent)):
            if len(some):
                self._draw(y[:, some], some, draws, out, complete=not absent[some[0]])
        return out

    def _draw(self, y: np.ndarray, at: np.ndarray, draws: Draws, out: Statistics, *, complete: bool) -> None:
        residuals, theta = self._residuals(y)
        if self.scheme.kind == "whitened":
            roots = make_roots(self.tested.design, theta)
            self._gather(at, draws, _Rows(self, roots.whiten(residuals), roots.colour), out)
            return
        blocks = self._by_blocks(residuals) if complete and self.scheme.flips else None
        if blocks is not None:
            good = blocks.left() > LEAST_LEFT * blocks.total
            if good.any():
                self._gather(at[good], draws, blocks.take(good), out)
            at, residuals = at[~good], residuals[:, ~good]
        if len(at):
            self._gather(at, draws, _Rows(self, residuals), out)

    def _gather(self, at: np.ndarray, draws: Draws, source: Any, out: Statistics) -> None:
        """All draws of the responses ``at`` of ``out``, as many at once as fit in memory."""
        c = len(at)
        several = max(1, BYTES // (8 * self.tested.design.n_obs * c))
        for start in range(0, draws.n, several):
            found, values = source.statistics(draws.values[start : start + several])
            status = found["status"].reshape(-1, c)
            out.values[start : start + several, at] = values.reshape(-1, c)
            out.singular[at] += np.sum(status == Status.SINGULAR, axis=0)
            out.failed[at] += np.sum(status > Status.SINGULAR, axis=0)

    def fits(self, Y: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Fits of responses (n_obs, c), and their statistics."""
        found, _ = self.family.fit_columns(Y, self.method)
        return found, self.statistic_of(found, Y)

    def statistic_of(self, found: dict[str, np.ndarray], Y: np.ndarray | None = None) -> np.ndarray:
        """t of one tested coefficient, F of several, (c,); NaN where there is no fit.

        ``Y`` are the responses, if some of them may miss observations.
        """
        q, family = self.tested.q, self.family
        coef = found["coef"][:, -q:]
        if q == 1:
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.asarray(coef[:, 0] / found["se_gls"][:, -1])
        out, L = np.full(len(coef), np.nan), np.eye(family.design.n_fixef)[-q:]
        phi, fitted = family.phi(found["theta"]), found["status"] <= Status.SINGULAR
        own = fitted & (found["n_used"] < family.design.n_obs)
        where = np.flatnonzero(own)
        parts: list[tuple[np.ndarray, Provider]] = [(np.flatnonzero(fitted & ~own), family)]
        if len(where):
            assert Y is not None
            others = family.incomplete(Y, where, phi[where], reml=self.method == "REML")
            parts += [(where[at], provider) for at, provider in others]
        for at, provider in parts:
            if len(at):
                C = provider.contrasts(phi[at], L, joint=True).value
                solved = np.linalg.solve(C, coef[at][:, :, None])[:, :, 0]
                out[at] = np.einsum("mq,mq->m", coef[at], solved) / (q * found["sigma2"][at])
        return out

    def _residuals(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Residuals of the reduced model (n_obs, c), and its theta (c, k)."""
        if self.reduced is None:
            return y, self.family.fit_columns(y, self.method)[0]["theta"]
        found, _ = self.reduced.fit_columns(y, self.method)
        return y - self.reduced.design.X @ found["coef"].T, found["theta"]

    def _by_blocks(self, residuals: np.ndarray) -> _Blocks | None:
        """Coordinates of each block's residuals, where these are fewer than the observations."""
        rows, family = block_rows(self.scheme.blocks), self.family
        first = family.coordinates(residuals[:, :1])
        n, c = residuals.shape
        if first is None or len(rows) * len(first) > WORTH_IT * n or 8 * len(rows) * len(first) * c > 8 * BYTES:
            return None
        parts = []
        for at in rows:
            masked = np.zeros_like(residuals)
            masked[at] = residuals[at]
            parts.append(family.coordinates(masked))
        weights = self.tested.design.weights
        squares = residuals**2 if weights is None else weights[:, None] * residuals**2
        return _Blocks(self, np.stack(parts), squares.sum(axis=0))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class _Rows:
    """Draws of rows or signs of residuals (n_obs, c), fitted as responses; ``after`` is applied to each draw."""

    refits: Refits
    residuals: np.ndarray
    after: Any = None

    def statistics(self, draws: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Fits of all draws (b, any), one after another, and their statistics."""
        scheme, parts = self.refits.scheme, []
        for draw in draws:
            drawn = draw[scheme.blocks][:, None] * self.residuals if scheme.flips else self.residuals[draw]
            parts.append(drawn if self.after is None else self.after(drawn))
        return self.refits.fits(np.concatenate(parts, axis=1))


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Signs of blocks, applied to the coordinates (blocks, r, c) of each one's residuals."""

    refits: Refits
    coordinates: np.ndarray
    total: np.ndarray

    def statistics(self, draws: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Fits of all draws (b, blocks), one after another, and their statistics."""
        refits, family = self.refits, self.refits.family
        n_blocks, r, c = self.coordinates.shape
        drawn = draws.astype(float) @ self.coordinates.reshape(n_blocks, -1)
        drawn = np.ascontiguousarray(np.moveaxis(drawn.reshape(len(draws), r, c), 0, 1)).reshape(r, -1)
        rest = np.tile(self.total, len(draws)) - family.explained(drawn)
        found = family.fit_coordinates(drawn, np.maximum(rest, 0.0), refits.method)
        return found, refits.statistic_of(found)

    def left(self) -> np.ndarray:
        """Sums of squares (c,) of the residuals themselves that coordinates leave."""
        return self.total - self.refits.family.explained(self.coordinates.sum(axis=0))

    def take(self, where: np.ndarray) -> _Blocks:
        """Those of some responses."""
        return _Blocks(self.refits, self.coordinates[:, :, where], self.total[where])


def prepare_refits(tested: Tested, scheme: Scheme, method: str) -> Refits:
    """All the work that depends on the design alone."""
    design, p0 = tested.design, tested.X0.shape[1]
    reduced = None
    if p0:
        names = design.names[:p0]
        reduced = make_family(checked_design(tested.X0, names, design.random, design.weights, None))
    return Refits(tested, scheme, make_family(design), reduced, method)
