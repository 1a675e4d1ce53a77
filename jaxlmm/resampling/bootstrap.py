"""Bootstrap of mixed models, with a refit of the whole model for every replicate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.special

from jaxlmm._types import Status
from jaxlmm.design.contrasts import contrast_matrix
from jaxlmm.design.design import Design, checked_design
from jaxlmm.design.random import RandomTerm
from jaxlmm.families.base import Family, covariances
from jaxlmm.families.registry import make_family
from jaxlmm.inference.distributions import check_level
from jaxlmm.resampling.schemes import block_rows, independent_blocks
from jaxlmm.resampling.whitening import effect_columns, symmetric_roots
from jaxlmm.runtime.arguments import check_integer, check_option
from jaxlmm.runtime.progress import progress
from jaxlmm.runtime.threads import N_THREADS, by_chunks
from jaxlmm.sources.weighted import WeightedMatrix

__all__ = ["Bootstrap", "bootstrap", "simulate_responses"]

KINDS = ("parametric", "wild", "cases")
INTERVALS = ("percentile", "basic", "bca")
KEPT = ("coef", "se_gls", "theta", "sigma2", "status")
# Memory of what is simulated together, responses at most, and the most that replicates may take.
BYTES, WIDTH = 256 * 2**20, 4096
MOST_BYTES = 8 * 2**30
# Eigenvalues below this, relative to the largest, are 0; columns of a unit matrix that are taken together.
NULL, AT_ONCE = 1e-9, 256
# Fewer blocks cannot stand for the population that they come from.
FEWEST_BLOCKS = 5
# From so many on each has too little weight for the fits without it to matter.
MANY_BLOCKS = 200


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """n replicates of m fits; what :meth:`jaxlmm.Fit.bootstrap` returns.

    Attributes
    ----------
    kind : {"parametric", "wild", "cases"}
    coef, se : ndarray, (n, m, p)
        Coefficients and their standard errors in each replicate; NaN where a refit failed.
    theta : ndarray, (n, m, k)
    sigma2 : ndarray, (n, m)
    n_singular, n_failed : ndarray of int, (m,)
        Replicates with a singular covariance (kept), and without a fit (left out).
    text : str
        A sentence that says what was drawn.
    """

    kind: str
    coef: np.ndarray
    se: np.ndarray
    theta: np.ndarray
    sigma2: np.ndarray
    n_singular: np.ndarray
    n_failed: np.ndarray
    text: str
    fit: Any = field(repr=False)

    @property
    def n(self) -> int:
        """Number of replicates."""
        return len(self.sigma2)

    def __repr__(self) -> str:
        return (
            f"Bootstrap({self.kind}, {self.n} replicates of {self.sigma2.shape[1]} responses; {self.text} "
            f"{int(self.n_singular.sum())} refits were singular (kept), {int(self.n_failed.sum())} failed (left out))"
        )

    def replicates(self, what: Any = "coef") -> tuple[np.ndarray, np.ndarray]:
        """A function of the parameters in every replicate (n, m, ...), and its estimates (m, ...).

        Parameters
        ----------
        what : str, contrast, or function
            "coef"; "sd", the standard deviations and correlations of the random effects and the residual standard
            deviation (the last); the name of a property of :class:`jaxlmm.Fit` that follows from coefficients and
            variances, such as "sigma2", "icc" or "rsquared_marginal"; a contrast as :meth:`jaxlmm.Fit.test` takes
            it; or a function of a Fit that gives an array (m, ...). Replicates keep no likelihood: what needs it or
            its curvature (Satterthwaite's degrees of freedom and their p-values, AIC) is NaN in them. X and weights
            are those of the fit.
        """
        if isinstance(what, str) and what == "coef":
            return self.coef, self.fit.coef
        if isinstance(what, str) and what == "sd":
            return self.replicates(_deviations)
        if isinstance(what, str):
            return self.replicates(lambda fit: getattr(fit, what))
        if not callable(what):
            L, _ = contrast_matrix(what, 0.0, self.fit.names)
            return self.coef @ L.T, self.fit.coef @ L.T
        lost = {name: np.full_like(getattr(self.fit, name), np.nan) for name in ("loglik", "hessian")}
        parts = [
            what(
                dataclasses.replace(
                    self.fit, coef=self.coef[i], se_gls=self.se[i], theta=self.theta[i], sigma2=self.sigma2[i], **lost
                )
            )
            for i in range(self.n)
        ]
        return np.stack(parts), np.asarray(what(self.fit))

    def conf_int(self, what: Any = "coef", *, level: float = 0.95, method: str = "percentile") -> np.ndarray:
        """Intervals, (m, ..., 2).

        Parameters
        ----------
        what : as in :meth:`replicates`
        level : float
        method : {"percentile", "basic", "bca"}
            Davison & Hinkley (1997), sections 5.2 and 5.3. "bca" is corrected for bias and acceleration (Efron 1987);
            the acceleration is that of the jackknife over independent blocks, a fit without each of them. Blocks
            without which X has not its rank are not left out in turn.

        Raises
        ------
        ValueError
            Another method or level; "bca" with fewer than 5 independent blocks (crossed factors have one).
        """
        check_level(level)
        method = check_option("method", method, INTERVALS)
        values, estimate = self.replicates(what)
        tails = np.array([0.5 - level / 2, 0.5 + level / 2])
        if method == "bca":
            below = np.sum(values < estimate, axis=0) + 0.5 * np.sum(values == estimate, axis=0)
            share = below / np.maximum(np.sum(~np.isnan(values), axis=0), 1)
            z0 = scipy.special.ndtri(np.clip(share, 1e-12, 1 - 1e-12))
            z = z0[..., None] + scipy.special.ndtri(tails)
            a = self._acceleration(what)[..., None]
            at = scipy.special.ndtr(z0[..., None] + z / (1 - a * z))
        else:
            at = np.broadcast_to(tails, (*estimate.shape, 2))
        limits = _quantiles(values, at)
        if method == "basic":
            limits = 2 * estimate[..., None] - limits[..., ::-1]
        return np.where(np.isnan(estimate)[..., None], np.nan, limits)

    def standard_error(self, what: Any = "coef") -> np.ndarray:
        """Standard deviation over the replicates, (m, ...)."""
        off = _centred(self.replicates(what)[0])
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.sqrt(np.nansum(off**2, axis=0) / np.maximum(np.sum(~np.isnan(off), axis=0) - 1, 0)))

    def band(self, tested: Any, *, level: float = 0.95) -> np.ndarray:
        """Simultaneous intervals (m, 2) of one contrast or coefficient, which hold for all responses together.

        The estimate with its standard error times the quantile of the largest absolute t of each replicate over the
        responses, t being the deviation from the estimate in standard errors of the replicate. The replicates of
        "wild" and "cases" keep the correlation between responses, those of "parametric" have none.

        Raises
        ------
        ValueError
            A parametric bootstrap; more than one contrast.
        """
        check_level(level)
        if self.kind == "parametric":
            raise ValueError(
                "responses are simulated one by one in a parametric bootstrap, so that a band over them is not to be "
                "had; use kind='wild' or 'cases'."
            )
        L, _ = contrast_matrix({tested: 1} if isinstance(tested, str) else tested, 0.0, self.fit.names)
        j = np.flatnonzero(L[0])
        if len(L) > 1 or len(j) > 1:
            raise ValueError("a band is of one coefficient; write the model such that the contrast is one.")
        column, scale = int(j[0]), float(L[0].sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (self.coef[:, :, column] - self.fit.coef[:, column]) / self.se[:, :, column]
        largest = np.fmax.reduce(np.abs(np.where(np.isfinite(t), t, np.nan)), axis=1)
        q = float(_quantiles(largest, np.array([level]))[0])
        centre, half = self.fit.coef[:, column], q * self.fit.se_gls[:, column]
        return np.sort(scale * np.stack([centre - half, centre + half], axis=-1), axis=-1)

    def _acceleration(self, what: Any) -> np.ndarray:
        """Of each parameter, (m, ...): the skewness of the jackknife over blocks, / 6."""
        design, parts = self.fit.design, []
        blocks = independent_blocks(design)
        _check_blocks(design, blocks, "method='bca' leaves out", "method='percentile' or 'basic'")
        for rows in block_rows(blocks):
            found = _without(self.fit, rows)
            if found is None:
                continue
            one = _replicate(self, {name: found[name][None] for name in KEPT})
            parts.append(one.replicates(what)[0][0])
        if not parts:
            raise ValueError("X has not its rank without any of the blocks; use method='percentile' or 'basic'.")
        off = -_centred(np.stack(parts))
        with np.errstate(divide="ignore", invalid="ignore"):
            a = np.nansum(off**3, axis=0) / (6 * np.nansum(off**2, axis=0) ** 1.5)
        return np.asarray(np.where(np.isfinite(a), a, 0.0))


def _replicate(like: Bootstrap, found: dict[str, np.ndarray]) -> Bootstrap:
    return dataclasses.replace(
        like, coef=found["coef"], se=found["se_gls"], theta=found["theta"], sigma2=found["sigma2"]
    )


def bootstrap(fit: Any, n: int, kind: str, seed: int, show: bool | None) -> Bootstrap:
    """See :meth:`jaxlmm.Fit.bootstrap`."""
    n, seed = check_integer("n", n, 1), check_integer("seed", seed, 0)
    kind = check_option("kind", kind, KINDS)
    design, m = fit.design, fit.n_responses
    p, k = design.n_fixef, fit.model.family.n_theta
    needed = 8 * n * m * (2 * p + k + 2)
    if needed > MOST_BYTES:
        raise ValueError(
            f"{n} replicates of {m} responses take {needed / 1e9:.3g} GB; take some of the responses, "
            "fit.select(...), or fewer replicates."
        )
    out = {name: np.full((n, m, p), np.nan) for name in ("coef", "se_gls")}
    out |= {"theta": np.full((n, m, k), np.nan), "sigma2": np.full((n, m), np.nan)}
    status = np.full((n, m), Status.OK, dtype=np.int8)
    where, done = np.flatnonzero(fit.converged), 0
    with progress("Bootstrap", n * len(where), "fits", show, kept="Nothing is kept of it.") as work:
        for replicates, at, found in _DRAWS[kind](fit, n, seed, where):
            shape = (len(replicates), len(at))
            for name, whole in out.items():
                whole[np.ix_(replicates, at)] = found[name].reshape(*shape, *found[name].shape[1:])
            status[np.ix_(replicates, at)] = found["status"].reshape(shape)
            done += len(replicates) * len(at)
            work.reach(done)
    return Bootstrap(
        kind, out["coef"], out["se_gls"], out["theta"], out["sigma2"],
        np.sum(status == Status.SINGULAR, axis=0), np.sum(status > Status.SINGULAR, axis=0), _TEXTS[kind], fit,
    )  # fmt: skip


_TEXTS = {
    "parametric": "responses were simulated from the fitted model, each on its own.",
    "wild": "residuals of independent blocks, each from the fit without that block, were given random signs.",
    "cases": "independent blocks were drawn with replacement.",
}
Found = tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]


def _chunks(where: np.ndarray, n: int, bytes_each: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Numbers of chunks of responses, those responses, and replicates that are made together."""
    for chunk, start in enumerate(range(0, len(where), WIDTH)):
        at = where[start : start + WIDTH]
        several = max(1, BYTES // (bytes_each * len(at)))
        for first in range(0, n, several):
            yield chunk, at, np.arange(first, min(first + several, n))


@dataclass(frozen=True, eq=False)
class _Part:
    """Responses ``at`` that have one design, of some ``rows``; ``own``: it is not that of all responses."""

    family: Family
    rows: slice | np.ndarray
    at: np.ndarray
    own: bool


def _parts(fit: Any, where: np.ndarray) -> Iterator[_Part]:
    """The responses ``where`` by their designs."""
    own = fit.own_design[where]
    if not own.all():
        yield _Part(fit.model.family, slice(None), where[~own], False)
    if own.any():
        others = where[own]
        for columns, rows, family in fit.model.family.designs(fit.responses, others):
            yield _Part(family, np.flatnonzero(rows), others[columns], True)


def _rows(fit: Any, rows: np.ndarray, where: np.ndarray | slice = slice(None)) -> np.ndarray | WeightedMatrix:
    """Rows of the responses ``where``, with their weights if they have some of their own."""
    Y = np.asarray(fit.Y[:, where], dtype=np.float64)[rows]
    if fit.weights is None:
        return Y
    return WeightedMatrix(Y, np.asarray(fit.weights[:, where], dtype=np.float64)[rows])


def _parametric(fit: Any, n: int, seed: int, where: np.ndarray) -> Iterator[Found]:
    """Simulated responses, those of each design together."""
    for part in _parts(fit, where):
        yield from _simulated_fits(fit, n, seed, part)


def _simulated_fits(fit: Any, n: int, seed: int, part: _Part) -> Iterator[Found]:
    """Coordinates of simulated responses: cost does not grow with the number of observations."""
    family = part.family
    design, basis = family.design, _simulated_basis(family)
    for chunk, at, replicates in _chunks(part.at, n, 64 * (design.n_obs if basis is None else len(basis.fixed))):
        # A stream for each replicate and chunk: the same whatever is made together.
        number = [chunk, 1 + int(part.at[0])] if part.own else [chunk]
        streams = [np.random.default_rng([seed, int(i), *number]) for i in replicates]
        if basis is None:
            drawn = np.concatenate([simulate_responses(fit, design, at, rng) for rng in streams], axis=1)
            yield replicates, at, family.fit_columns(drawn, fit.method)[0]
            continue
        roots = [symmetric_roots(Phi) for Phi in covariances(fit.theta[at], family.sizes)]
        sigma, fixed = np.sqrt(fit.sigma2[at]), basis.fixed @ fit.coef[at].T
        coordinates, rest = np.empty((len(fixed), len(replicates), len(at))), np.empty((len(replicates), len(at)))

        def simulate(some: slice) -> None:
            for i in range(some.start, some.stop):
                one, left = _simulated(basis, roots, len(at), streams[i])  # noqa: B023
                coordinates[:, i], rest[i] = fixed + sigma * one, sigma**2 * left  # noqa: B023

        by_chunks(len(replicates), max(1, -(-len(replicates) // N_THREADS)), simulate)
        found = family.fit_coordinates(coordinates.reshape(len(fixed), -1), rest.ravel(), fit.method)
        yield replicates, at, found


def _simulated(
    basis: _SimulatedBasis, roots: list[np.ndarray], c: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (r, c) of random effects and noise over sigma, and the sum of squares (c,) that they leave."""
    coordinates = basis.noise @ rng.standard_normal((basis.noise.shape[1], c))
    for columns, root in zip(basis.random, roots, strict=True):
        r, levels, size = columns.shape
        effects = rng.standard_normal((levels, size, c))
        effects = effects * root[:, 0, 0] if size == 1 else np.einsum("mij,ljm->lim", root, effects, optimize=True)
        coordinates += columns.reshape(r, -1) @ effects.reshape(levels * size, -1)
    return coordinates, rng.chisquare(basis.n_rest, c) if basis.n_rest else np.zeros(c)


@dataclass(frozen=True, eq=False)
class _SimulatedBasis:
    """Coordinates of X (r, p), of each term's columns (r, levels, columns), a root of the noise's covariance, and the
    degrees of freedom that are left."""

    fixed: np.ndarray
    random: list[np.ndarray]
    noise: np.ndarray
    n_rest: int


def _simulated_basis(family: Family) -> _SimulatedBasis | None:
    design = family.design
    fixed = family.coordinates(design.X)
    if fixed is None:
        return None
    random = []
    for term in design.random:
        made = family.coordinates(effect_columns(term).reshape(design.n_obs, -1))
        assert made is not None
        random.append(made.reshape(len(made), term.n_levels, term.size))
    # Noise of the observations has the variance 1 / weight. Where no coordinates give 0, those of noise have the
    # inverse of their cross-products as covariance; else the family chooses among those that are alike.
    r, n = len(fixed), design.n_obs
    square = family.explained(np.eye(r))
    both = np.eye(r)[:, :, None] + np.eye(r)[:, None, :]
    gram = (family.explained(both.reshape(r, -1)).reshape(r, r) - square[:, None] - square[None]) / 2
    values, vectors = np.linalg.eigh(gram)
    if values[0] <= NULL * values[-1]:
        covariance, variance = np.zeros((r, r)), 1.0 if design.weights is None else 1 / design.weights
        for start in range(0, n, AT_ONCE):
            unit = np.eye(n, min(AT_ONCE, n - start), -start)
            A = family.coordinates(unit)
            assert A is not None
            covariance += (A * np.broadcast_to(variance, n)[start : start + AT_ONCE]) @ A.T
        values, vectors = np.linalg.eigh(covariance)
        kept = values > NULL * values[-1]
        noise = vectors[:, kept] * np.sqrt(values[kept])
    else:
        noise = vectors / np.sqrt(values)
    return _SimulatedBasis(fixed, random, noise, n - noise.shape[1])


def _without(fit: Any, rows: np.ndarray) -> dict[str, np.ndarray] | None:
    """Fits of all responses without some rows; None where the others do not tell the effects apart."""
    kept = np.ones(fit.design.n_obs, dtype=bool)
    kept[rows] = False
    try:
        family = fit.model.family.take(kept)
    except ValueError:
        return None
    return family.fit_columns(_rows(fit, kept), fit.method)[0]


def _wild(fit: Any, n: int, seed: int, where: np.ndarray) -> Iterator[Found]:
    """Signs of the blocks' residuals, the same for all responses.

    The residuals of a block are those from the fit without it: the block pulls the coefficients towards itself, and
    where blocks are few its own residuals would be too small (MacKinnon, Nielsen & Webb 2023).
    """
    design = fit.design
    blocks = independent_blocks(design)
    _check_blocks(design, blocks, "kind='wild' draws", "kind='parametric'")
    signs = np.random.default_rng(seed).integers(0, 2, (n, int(blocks.max()) + 1)) * 2.0 - 1.0
    shifts = _shifts_without_blocks(fit, blocks)
    for part in _parts(fit, where):
        own, X = blocks[part.rows], part.family.design.X
        for _, at, replicates in _chunks(part.at, n, 64 * design.n_obs):
            fixed = X @ fit.coef[at].T
            residuals = np.asarray(fit.Y[:, at], dtype=np.float64)[part.rows] - fixed
            for block, shift in enumerate(shifts):
                rows = own == block
                residuals[rows] -= X[rows] @ shift[at].T
            drawn = [fixed + signs[i][own][:, None] * residuals for i in replicates]
            yield replicates, at, part.family.fit_columns(np.concatenate(drawn, axis=1), fit.method)[0]


def _shifts_without_blocks(fit: Any, blocks: np.ndarray) -> list[np.ndarray]:
    """How coefficients (m, p) change without each block; by 0 where they are not to be had, or blocks are many."""
    if blocks.max() >= MANY_BLOCKS:
        return []
    shifts = []
    for rows in block_rows(blocks):
        found = _without(fit, rows)
        shift = np.zeros_like(fit.coef) if found is None else found["coef"] - fit.coef
        shifts.append(np.where(np.isfinite(shift), shift, 0.0))
    return shifts


def _cases(fit: Any, n: int, seed: int, where: np.ndarray) -> Iterator[Found]:
    """Blocks with replacement: another design in each replicate, the same for all responses."""
    design = fit.design
    blocks = independent_blocks(design)
    _check_blocks(design, blocks, "kind='cases' draws", "kind='parametric'")
    rows = block_rows(blocks)
    steps = [_step(term, rows) for term in design.random]
    rng = np.random.default_rng(seed)
    for i in range(n):
        drawn = rng.integers(0, len(rows), len(rows))
        order = np.concatenate([rows[j] for j in drawn])
        copy = np.repeat(np.arange(len(drawn)), [len(rows[j]) for j in drawn])
        try:
            family = make_family(_filled(_resampled(design, order, copy), steps))
        except ValueError:  # blocks that cannot tell the effects apart
            failed = {name: np.full((len(where), *getattr(fit, name).shape[1:]), np.nan) for name in KEPT[:4]}
            yield np.array([i]), where, failed | {"status": np.full(len(where), Status.TOO_FEW)}
            continue
        yield np.array([i]), where, family.fit_columns(_rows(fit, order, where), fit.method)[0]


def _resampled(design: Design, order: np.ndarray, copy: np.ndarray) -> Design:
    """The design of rows that are drawn; a block that is drawn again has levels of its own."""
    random = []
    for term in design.random:
        pairs, codes = np.unique(np.column_stack([copy, term.codes[order]]), axis=0, return_inverse=True)
        levels = tuple((int(k), term.levels[j]) for k, j in pairs)
        random.append(dataclasses.replace(term, levels=levels, codes=codes.reshape(-1), Z=term.Z[order]))
    weights = None if design.weights is None else design.weights[order]
    return checked_design(design.X[order], design.names, tuple(random), weights, None)


def _step(term: RandomTerm, rows: list[np.ndarray]) -> int:
    """Levels of a term are filled up to a multiple of this: 1 where all blocks have as many."""
    counts = [len(np.unique(term.codes[at])) for at in rows]
    return 1 if len(set(counts)) == 1 else max(1, sum(counts) // 8)


def _filled(design: Design, steps: list[int]) -> Design:
    """The design with levels of which no observation is, so that what is compiled for one draw serves others.

    Such a level adds nothing to the likelihood.
    """
    if design.has_one_intercept:  # its groups are not counted in what is compiled
        return design
    random = []
    for term, step in zip(design.random, steps, strict=True):
        more = tuple((-1, k) for k in range(-term.n_levels % step))
        random.append(dataclasses.replace(term, levels=term.levels + more))
    return dataclasses.replace(design, random=tuple(random))


_DRAWS: dict[str, Callable[..., Iterator[Found]]] = {"parametric": _parametric, "wild": _wild, "cases": _cases}


def _check_blocks(design: Design, blocks: np.ndarray, what: str, instead: str) -> None:
    n_blocks = int(blocks.max()) + 1
    if n_blocks < FEWEST_BLOCKS:
        terms = " + ".join(term.label for term in design.random)
        raise ValueError(
            f"{what} independent blocks of observations, of which {terms or 'the design'} has {n_blocks}, fewer than "
            f"{FEWEST_BLOCKS}; use {instead}."
        )


def _deviations(fit: Any) -> np.ndarray:
    """Standard deviations, correlations and sigma, (m, K + 1)."""
    parts = []
    for V in fit.varcorr.values():
        sd = np.sqrt(np.diagonal(V, axis1=1, axis2=2))
        parts.append(sd)
        i, j = np.tril_indices(V.shape[1], -1)
        with np.errstate(divide="ignore", invalid="ignore"):
            parts.append(V[:, i, j] / (sd[:, i] * sd[:, j]))
    return np.concatenate([*parts, np.sqrt(fit.sigma2)[:, None]], axis=1)


def _centred(values: np.ndarray) -> np.ndarray:
    """Values (n, ...) less their mean along the first axis, NaN left out."""
    with np.errstate(invalid="ignore"):
        return np.asarray(values - np.nansum(values, axis=0) / np.sum(~np.isnan(values), axis=0))


def _quantiles(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Quantiles ``at`` (..., q) of values (n, ...) along the first axis, NaN left out: those of rank (n + 1) at."""
    ordered = np.sort(values, axis=0)  # NaN last
    n = np.sum(~np.isnan(ordered), axis=0)[..., None]
    rank = np.clip(at * (n + 1) - 1, 0, np.maximum(n - 1, 0))
    low = np.floor(rank).astype(int)
    high = np.minimum(low + 1, np.maximum(n - 1, 0))
    moved = np.moveaxis(ordered, 0, -1)
    a, b = (np.take_along_axis(moved, index, axis=-1) for index in (low, high))
    return np.asarray(np.where(n > 0, a + (rank - low) * (b - a), np.nan))


def simulate_responses(fit: Any, design: Design, where: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Responses (n_obs, c) simulated from the fitted model of the responses ``where``, on their design."""
    c = len(where)
    y = rng.standard_normal((design.n_obs, c))
    if design.weights is not None:
        y /= np.sqrt(design.weights)[:, None]
    for term, Phi in zip(design.random, covariances(fit.theta[where], fit.model.family.sizes), strict=True):
        effects = np.einsum("mij,lmj->lmi", symmetric_roots(Phi), rng.standard_normal((term.n_levels, c, term.size)))
        y += np.einsum("nr,ncr->nc", term.Z, effects[term.codes])
    return np.asarray(design.X @ fit.coef[where].T + np.sqrt(fit.sigma2[where]) * y)
