"""Responses that lie on a GPU, in blocks: reduced and fitted where they are; results alone are fetched.

One array a block comes back, copied while the next block computes. Nothing else is waited for.
"""

from __future__ import annotations

import collections
import concurrent.futures
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm._types import float64_scope
from jaxlmm.engine.blocks import BLOCK_WIDTHS, GPU_BYTES, block_width
from jaxlmm.families.intercept.block import BlockFitter, Constants, Raw, fit_block
from jaxlmm.families.intercept.reduce import Reducer, Stats
from jaxlmm.families.intercept.reduce_device import DeviceReducer, DeviceStats, make_device_reducer, reduce_block
from jaxlmm.optimize.search import Optimum
from jaxlmm.runtime import programs
from jaxlmm.runtime.device import DeviceMatrix, take_block
from jaxlmm.runtime.progress import advance

__all__ = ["DeviceFitter", "fit_on_device", "fit_packed"]

# A block is reduced in chunks of at most this many bytes of float64, and fitted as a whole.
CHUNK_BYTES = 256 * 2**20
WIDTHS = (*BLOCK_WIDTHS, 16384, 65536)
# Chunks in a block, at most: how many are fitted together if there are very many observations.
MOST_CHUNKS = 64
# Blocks whose results may wait for the host.
IN_FLIGHT = 4


def fit_on_device(reducer: Reducer, Y: DeviceMatrix, method: str, out: dict[str, np.ndarray]) -> np.ndarray:
    """Fit the columns of Y (n_obs, m) into ``out``.

    Returns
    -------
    ndarray of bool, (m,)
        Which responses are still to be fitted from the host: one pass would cost them digits, or
        they are bad. Their rows of ``out`` mean nothing.
    """
    left = np.ones(Y.shape[1], dtype=bool)
    waiting: collections.deque[tuple[int, concurrent.futures.Future[None]]] = collections.deque()

    def wait() -> None:
        n, job = waiting.popleft()
        job.result()
        advance(n)

    # JAX may hold the calling thread while a GPU runs a loop; results are stored in another meanwhile.
    with float64_scope(), concurrent.futures.ThreadPoolExecutor(1) as pool:
        blocks = []
        for first, part in Y.parts:
            fitter = DeviceFitter.make(reducer, method, part)
            blocks.append([(fitter, first, part, k) for k in range(0, part.shape[1], fitter.width)])
        # One block of every device in turn.
        for turn in range(max(map(len, blocks))):
            for fitter, first, part, k in (b[turn] for b in blocks if turn < len(b)):
                raw = fitter.start(part, k)
                n = min(fitter.width, part.shape[1] - k)
                waiting.append((n, pool.submit(fitter.store, out, left, first, part.shape[1], k, raw)))
                if len(waiting) > IN_FLIGHT * len(blocks):
                    wait()
        while waiting:
            wait()
    advance(-int(np.count_nonzero(left)))
    return left


@dataclass(frozen=True)
class DeviceFitter:
    """A design ready to take blocks of ``width`` responses of an array on one device, in chunks of ``chunk``."""

    fitter: BlockFitter
    device_reducer: DeviceReducer
    width: int
    chunk: int

    @classmethod
    def make(cls, reducer: Reducer, method: str, part: jax.Array) -> DeviceFitter:
        """For an array (n_obs, c) on one device; in a float64 scope."""
        device, (n, m) = part.device, part.shape
        chunk = 2 ** int(np.log2(np.clip(CHUNK_BYTES // (8 * n), 8, WIDTHS[-1])))
        most = min(max(GPU_BYTES // (8 * len(reducer.spectrum.d)), BLOCK_WIDTHS[1]), MOST_CHUNKS * chunk)
        width = block_width(m, [w for w in WIDTHS if w <= most])
        fitter = BlockFitter.make(reducer, method, 1, [device])
        return cls(fitter, make_device_reducer(reducer, device), width, min(chunk, width))

    def starts(self, first: int, m: int) -> list[int]:
        """Where the chunks begin of the block at ``first``, of m responses; the last may overlap another."""
        last = max(m - self.chunk, 0)
        return [min(k, last) for k in range(first, min(first + self.width, m), self.chunk)]

    def start(self, part: jax.Array, first: int) -> jax.Array:
        """Send a block on its way: statistics, fit, and one array of results, which is a promise."""
        starts = self.starts(first, part.shape[1])
        chunks = [reduce_block(self.device_reducer, take_block(part, k, self.chunk)) for k in starts]
        # A block that is not full is filled with its last chunk: the shape is what is compiled.
        chunks += chunks[-1:] * (self.width // self.chunk - len(chunks))
        packed: jax.Array = fit_packed(self.fitter.constants, tuple(chunks))
        packed.copy_to_host_async()
        return packed

    def store(
        self, out: dict[str, np.ndarray], left: np.ndarray, offset: int, m: int, first: int, packed: jax.Array
    ) -> None:
        """Wait for a block; write its results to ``out``, and which responses are left, from ``offset`` on."""
        values = np.asarray(packed)
        p = (len(values) - 7) // 2
        safe, shift, *optimum = values[:7]
        for j, k in enumerate(self.starts(first, m)):
            c = min(self.chunk, m)
            at, cols = slice(j * self.chunk, j * self.chunk + c), slice(offset + k, offset + k + c)
            lam, pwrss, deviance, hessian, converged = (a[at] for a in optimum)
            found = Optimum(lam, pwrss, deviance, hessian, converged > 0)
            none, no = np.empty((0, c)), np.zeros(c, dtype=bool)
            raw = Raw(found, values[7 : 7 + p, at], values[7 + p :, at], no)  # type: ignore[arg-type]
            stats = Stats(none, none, none[:0], shift[at], np.ones(c), np.zeros((p, c)), ~no, no, no)
            self.fitter.store(out, cols, stats, raw)
            left[cols] = safe[at] == 0


@programs.jit
def fit_packed(constants: Constants, chunks: tuple[DeviceStats, ...]) -> jax.Array:
    """Statistics to one array (7 + 2 p, c): safe, shift, the optimum, coefficients, variances."""
    stats = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=-1), *chunks)
    # A bad response must not slow the loops that all share.
    ols, u = (jnp.where(stats.safe, a, 0.0) for a in (stats.ols, stats.u))
    raw = fit_block(constants, ols, u, jnp.where(stats.safe, stats.rest, 1.0))
    found = raw.optimum
    rows = [stats.safe, stats.shift, found.lam, found.pwrss, found.deviance, found.hessian, found.converged]
    return jnp.concatenate([jnp.stack([a.astype(jnp.float64) for a in rows]), raw.coef, raw.variance])
