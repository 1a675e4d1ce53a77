"""Several devices, and responses that stay on one: the results of numpy and one device.

CPUs stand for GPUs: XLA can split one into several devices, and ``device.PLATFORMS`` says whose
arrays stay where they are.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import blups, simulate, unbalanced, value_of

import jaxlmm
from jaxlmm import Status
from jaxlmm._types import float64_scope
from jaxlmm.design.arrays import response_matrix
from jaxlmm.engine.blocks import GPU_WIDTHS, block_width
from jaxlmm.families.intercept import reduce, stream_device
from jaxlmm.families.intercept.block import BlockFitter
from jaxlmm.families.intercept.reduce_device import SegmentSum
from jaxlmm.runtime import device
from jaxlmm.runtime.device import DeviceMatrix, device_matrix
from jaxlmm.runtime.progress import progress

FIELDS = "coef se_gls lam sigma2 loglik hessian".split()
N_DEVICES = 4


def assert_same(found: jaxlmm.Fit, expected: jaxlmm.Fit, rtol: float) -> None:
    assert np.array_equal(found.status, expected.status)
    assert np.array_equal(found.n_used, expected.n_used)
    for name in FIELDS:
        a, b = getattr(found, name), getattr(expected, name)
        # A coefficient of a response is known to the precision of the largest.
        size = np.abs(b).max(axis=1, keepdims=True) if b.ndim == 2 else np.abs(b)
        ok = (np.abs(a - b) <= rtol * np.maximum(size, 1e-290)) | (np.isnan(a) & np.isnan(b)) | (a == b)
        assert ok.all(), (name, np.argwhere(~ok)[:5], a[~ok][:5], b[~ok][:5])


def with_troubles(rng: np.random.Generator, Y: np.ndarray, X: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Y (n_obs, 12 or more) with one response of each kind that needs care."""
    Y = Y.copy()
    Y[3, 0] = np.nan
    Y[:, 1] = np.nan
    Y[5, 2] = np.inf
    Y[:, 3] = 5.0
    Y[:, 4] = codes * 1.5 + X[:, 1]
    Y[:, 5] += 1e6
    Y[:, 6] += 1e3 * rng.normal(size=codes.max() + 1)[codes]  # variance ratio 1e6
    Y[:, 7] += 1e4 * X[:, 1]
    Y[:, 8] *= 1e-150
    Y[:, 9] *= 1e120
    Y[:, 10] = rng.normal(size=len(Y)) - 0.5 * Y[:, 10].mean()  # no group effect
    Y[:, 11] = Y[:, 11] * 1e-9 + 1.0
    return Y


def place(Y: np.ndarray, dtype: Any = None) -> jax.Array:
    with float64_scope():
        return jnp.asarray(Y, dtype=dtype)


# -- several devices -------------------------------------------------------------------------------


def in_subprocess(*checks: str) -> None:
    """Run functions of this module, one after the other, with a CPU that is split into devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={N_DEVICES}"
    code = "import test_devices; " + "; ".join(f"test_devices.{check}()" for check in checks)
    here = Path(__file__).parent
    found = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": found}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=environment)


def two_valleys(rng: np.random.Generator, X: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Responses whose large groups agree and whose small ones differ, or the reverse: often two minima."""
    sizes = np.bincount(codes)
    order = np.argsort(sizes)
    effect = np.zeros((len(sizes), 400))
    effect[order[: len(sizes) // 2]] = rng.normal(size=(len(sizes) // 2, 400)) * rng.uniform(0, 6, 400)
    return X @ rng.normal(size=(X.shape[1], 400)) + effect[codes] + 0.5 * rng.normal(size=(len(codes), 400))


def check_sharded() -> None:
    rng = np.random.default_rng(1)
    assert len(jax.local_devices()) == N_DEVICES
    codes = unbalanced(rng, 12, 30)
    X, Y = simulate(rng, codes, 4, m=9000, ratio=0.05)
    Y = np.concatenate([with_troubles(rng, Y, X, codes), two_valleys(rng, X, codes)], axis=1)
    m = Y.shape[1]
    for last, method in ((129, "ML"), (m, "REML")):
        spread = jaxlmm.fit(X, Y[:, -last:], codes, method=method)
        with jax.default_device(jax.local_devices()[1]):
            one = jaxlmm.fit(X, Y[:, -last:], codes, method=method)
        assert_same(spread, one, 1e-12)
    assert 0 < one.singular.sum() < m and set(one.status) >= {Status.NONFINITE, Status.CONSTANT, Status.NO_RESIDUAL}


def check_placement() -> None:
    rng = np.random.default_rng(2)
    codes = unbalanced(rng, 12, 30)
    X, Y = simulate(rng, codes, 3, m=500)
    model, devices = jaxlmm.prepare(X, codes), jax.local_devices()
    with float64_scope():
        made = BlockFitter.make(model.family.reducer, "REML", 500)
        assert made.devices == tuple(devices) and made.width == N_DEVICES * block_width(500 // N_DEVICES)
        stats = reduce.Stats.empty(model.family.reducer, 500)
        reduce.reduce_panel(model.family.reducer, Y, slice(0, 500), stats)
        raw = made.start(stats)
        for leaf in jax.tree.leaves(raw):
            shards = leaf.addressable_shards
            assert [s.data.shape[-1] for s in shards] == [made.width // N_DEVICES] * N_DEVICES
            assert {s.device for s in shards} == set(devices)
        assert BlockFitter.make(model.family.reducer, "REML", 5).devices == (devices[0],)
        assert BlockFitter.make(model.family.reducer, "REML", 500, devices[1:3]).devices == tuple(devices[1:3])
        with jax.default_device(devices[2]):
            assert BlockFitter.make(model.family.reducer, "REML", 500).devices == (devices[2],)
            assert BlockFitter.make(model.family.reducer, "REML", 500).start(stats).coef.devices() == {devices[2]}
        with jax.default_device("cpu"):
            assert BlockFitter.make(model.family.reducer, "REML", 500).devices == (devices[0],)


def check_stays_on_several() -> None:
    device.PLATFORMS = frozenset({"cpu"})
    stream_device.WIDTHS = (8, 32)
    rng = np.random.default_rng(3)
    codes = unbalanced(rng, 12, 9)
    X, Y = simulate(rng, codes, 3, m=400)
    Y = with_troubles(rng, Y, X, codes)
    expected = jaxlmm.fit(X, Y, codes)
    mesh = jax.make_mesh((N_DEVICES,), ("m",), axis_types=(jax.sharding.AxisType.Auto,))
    for spec, parts in (((None, "m"), N_DEVICES), ((None, None), 1), (("m", None), 0)):
        rows = len(Y) - len(Y) % N_DEVICES if parts == 0 else len(Y)
        with float64_scope():
            y = jax.device_put(Y[:rows], jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec)))
        if parts == 0:  # whole columns are on no device, so it is taken to the host
            assert device_matrix(y) is None
            assert_same(jaxlmm.fit(X[:rows], y, codes[:rows]), jaxlmm.fit(X[:rows], Y[:rows], codes[:rows]), 0)
            continue
        found = jaxlmm.fit(X, y, codes)
        assert len(found.Y.parts) == parts
        assert_same(found, expected, 1e-10)
        assert np.array_equal(found.Y[:, 90:310], Y[:, 90:310])
        assert np.array_equal(found.Y[2, [399, 0, 250]], Y[2, [399, 0, 250]])


def test_several_devices_have_their_pieces_and_give_the_results_of_one() -> None:
    in_subprocess("check_placement", "check_sharded", "check_stays_on_several")


def test_widths_of_gpus_are_larger() -> None:
    assert [block_width(m, GPU_WIDTHS) for m in (1, 129, 10**6)] == [128, 2048, 16384]


# -- responses on a device -------------------------------------------------------------------------


@pytest.fixture
def stays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Arrays of the CPU stay there as a GPU's would, in many small blocks; the columns that are fetched."""
    monkeypatch.setattr(device, "PLATFORMS", frozenset({"cpu"}))
    monkeypatch.setattr(stream_device, "WIDTHS", (8, 32, 64))
    monkeypatch.setattr(stream_device, "CHUNK_BYTES", 2 * 32 * 8 * 60)
    fetched: list[int] = []
    take = device.take_columns

    def recorded(array: jax.Array, where: np.ndarray, width: int) -> jax.Array:
        fetched.extend(where.tolist())
        return take(array, where, width)

    monkeypatch.setattr(device, "take_columns", recorded)
    return fetched


DESIGNS = {
    "few groups": dict(groups=12, largest=9),
    "few groups, merged terms": dict(groups=40, largest=2),
    "many groups": dict(groups=130, largest=9),
    "many groups of one size": dict(groups=120, largest=1, repeat=3),
    "all rows of one group but one": dict(groups=3, largest=2, repeat=20),
    "no groups": dict(groups=12, largest=9, grouped=False),
    "no groups, sparse": dict(groups=12, largest=9, grouped=False, sparse=True),
    "few groups, sparse": dict(groups=12, largest=9, sparse=True),
    "no constant": dict(groups=12, largest=9, columns=slice(1, None)),
    "many groups, no constant": dict(groups=130, largest=9, columns=slice(1, None)),
}


# Weights make groups of one size differ, so only these have another path with them.
WEIGHTED = ("few groups", "many groups of one size", "no groups")
# Missing observations take the same path whatever the design, and most of the time of these tests.
INCOMPLETE = ("few groups", "no groups", "no constant")


def design(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, groups: int, largest: int, repeat: int = 1,
    grouped: bool = True, sparse: bool = False, columns: slice = slice(None),
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:  # fmt: skip
    """X, Y (.., 100), codes, and the groups to fit."""
    codes = np.repeat(unbalanced(rng, groups, largest), repeat)
    X, Y = simulate(rng, codes, 4, m=100, ratio=0.5)
    if sparse:
        monkeypatch.setattr(reduce, "DENSE_BYTES", 0)
    return X[:, columns], Y, codes, codes if grouped else None


@pytest.mark.parametrize(
    ("name", "weighted"), [*((name, False) for name in DESIGNS), *((name, True) for name in WEIGHTED)]
)
def test_same_as_numpy(name: str, weighted: bool, stays: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    X, Y, codes, groups = design(rng, monkeypatch, **DESIGNS[name])
    Y = with_troubles(rng, Y, X, codes)
    if name not in INCOMPLETE:
        Y[np.isnan(Y)] = np.inf
    weights = rng.uniform(0.3, 3.0, len(X)) if weighted else None
    method = "ML" if weighted else "REML"
    expected = jaxlmm.fit(X, Y, groups, weights=weights, method=method)
    y = place(Y)
    with progress("Fit", y.shape[1], "responses") as counted:
        found = jaxlmm.fit(X, y, groups, weights=weights, method=method)
        assert found.converged.sum() <= counted.done < 100  # those with an infinite value are not counted
    assert isinstance(found.Y, DeviceMatrix) and found.Y.array is y
    assert_same(found, expected, 1e-10)
    # Of the responses that need care only those that need it on the host too.
    assert set(stays) <= {0, 1, 2, 3, 4, 8, 9} | ({5, 11} if "no constant" in name else set())
    assert not jax.config.jax_enable_x64


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint8", "int64", "bool"])
@pytest.mark.parametrize("groups", [12, 130])
def test_types_of_responses(dtype: str, groups: int, stays: list[int]) -> None:
    rng = np.random.default_rng(5)
    codes = unbalanced(rng, groups, 9)
    X, Y = simulate(rng, codes, 3, m=40)
    if dtype == "bool":
        Y = Y > 0
    elif "int" in dtype:
        Y = np.clip(np.round(20 * Y) + 100, 0, 255)
    y = place(Y, dtype)
    found = jaxlmm.fit(X, y, codes)
    expected = jaxlmm.fit(X, np.asarray(y).astype(np.float32) if dtype == "bfloat16" else np.asarray(y), codes)
    assert found.Y.array.dtype == y.dtype and found.Y.dtype == expected.Y.dtype
    assert_same(found, expected, 1e-10)
    assert found.converged.all() and not stays
    np.testing.assert_allclose(found.resid(), expected.resid(), rtol=0, atol=1e-9 * np.abs(Y).max())


def test_rounding_of_the_type_decides_what_is_constant(stays: list[int]) -> None:
    rng = np.random.default_rng(6)
    codes = unbalanced(rng, 12, 9)
    X, _ = simulate(rng, codes, 3)
    Y = (X @ rng.normal(size=(3, 60)) + 1e3).astype(np.float32)
    Y[:, 30:] += (rng.normal(size=(12, 30))[codes]).astype(np.float32)
    expected, found = jaxlmm.fit(X, Y, codes), jaxlmm.fit(X, place(Y), codes)
    assert set(expected.status) == {Status.CONSTANT, Status.NO_RESIDUAL}
    assert np.array_equal(found.status, expected.status)


def test_only_what_needs_care_is_fetched(stays: list[int]) -> None:
    rng = np.random.default_rng(7)
    codes = unbalanced(rng, 12, 9)
    X, Y = simulate(rng, codes, 3, m=500)
    Y += 1e6
    Y[:, 100:200] += 1e3 * rng.normal(size=(12, 100))[codes]
    y = place(Y)
    jaxlmm.fit(X, y, codes)
    assert not stays
    Y[2, [7, 450]] = np.nan
    jaxlmm.fit(X, place(Y), codes, missing="refuse")
    assert sorted(stays) == [7, 450]
    del stays[:]
    jaxlmm.fit(X, place(Y), codes)
    assert set(stays) == {7, 450}
    # JAX keeps what it once took to the host.
    assert y._npy_value is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("m", [1, 8, 33, 97])
def test_any_number_of_responses(m: int, stays: list[int]) -> None:
    rng = np.random.default_rng(8)
    codes = unbalanced(rng, 5, 9)
    X, Y = simulate(rng, codes, 2, m=97)
    expected = jaxlmm.fit(X, Y[:, :m], codes)
    assert_same(jaxlmm.fit(X, place(Y[:, :m]), codes), expected, 1e-10)
    if m == 1:
        assert_same(jaxlmm.fit(X, place(Y[:, 0]), codes), expected, 1e-10)


def test_all_responses_missing_something(stays: list[int]) -> None:
    rng = np.random.default_rng(9)
    codes = unbalanced(rng, 12, 9)
    X, Y = simulate(rng, codes, 3, m=1100)
    Y[3] = np.nan  # one pattern of many, which gets a design of its own
    Y[rng.integers(0, len(Y), 40), rng.integers(0, 30, 40)] = np.nan
    found, expected = jaxlmm.fit(X, place(Y), codes), jaxlmm.fit(X, Y, codes)
    assert_same(found, expected, 1e-10)
    for name in ("se", "df", "pvalue", "ranef", "ranef_sd", "rsquared_marginal"):
        np.testing.assert_allclose(value_of(found, name), value_of(expected, name), rtol=1e-7, atol=1e-10)


def test_everything_else_of_a_fit(stays: list[int], tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    codes = unbalanced(rng, 12, 9)
    X, Y = simulate(rng, codes, 3, m=20)
    Y += 1e7  # float32 arithmetic would show
    Y[2, 3] = np.nan
    y = place(Y)
    found, expected = jaxlmm.fit(X, y, codes), jaxlmm.fit(X, Y, codes)
    np.testing.assert_allclose(found.resid(), expected.resid(), rtol=0, atol=1e-7)
    np.testing.assert_allclose(blups(found), blups(expected), rtol=0, atol=1e-7)
    whole = [expected.select([0, 1]).profile().coef, found.select([0, 1]).profile().coef]
    np.testing.assert_allclose(*whole, rtol=1e-9)
    pairs = [[jaxlmm.fit(x, one, codes, method="ML") for x in (X[:, :1], X)] for one in (y, Y)]
    np.testing.assert_allclose(*[jaxlmm.compare(*pair).statistic for pair in pairs], rtol=1e-9)
    assert found.summary(3) == expected.summary(3)
    part = found.select([3, 5])
    np.testing.assert_array_equal(part.Y, Y[:, [3, 5]])
    found.save(tmp_path / "fit")
    np.testing.assert_array_equal(jaxlmm.load(tmp_path / "fit", Y=Y).Y, Y)
    again = jaxlmm.prepare(X, codes).fit(found.Y)
    assert again.Y.array is y


def test_indexing_is_numpys(stays: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "FETCH_BYTES", 8 * 6 * 4)
    Y = np.arange(6.0 * 50).reshape(6, 50)
    made, _ = response_matrix(place(Y), 6)
    mask = Y[0] % 3 == 0
    keys: list[Any] = [
        (slice(None), slice(3, 40)), (slice(None), slice(None, None, 7)), (slice(None), [4, 1, 49]), (slice(None), 5),
        (slice(None), mask), (2, 3), 4, slice(1, 3), (slice(None, None, 2), slice(0, 9, 2)), ([1, 2], [3, 4]),
        np.ix_([0, 5, 2], [7, 3]), np.ix_(Y[:, 0] > 20, [7, 3, 7]), (slice(None), np.zeros(0, dtype=int)),
        (slice(None), -1),
    ]  # fmt: skip
    for key in keys:
        np.testing.assert_array_equal(made[key], Y[key])
    np.testing.assert_array_equal(np.asarray(made), Y)
    np.testing.assert_array_equal(Y - made, Y - Y)
    np.testing.assert_array_equal(made.astype(np.float32), Y.astype(np.float32))
    assert made.shape == (6, 50) and len(made) == 6 and made.size == 300 and made.dtype == np.float64
    assert "(6, 50)" in repr(made)
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(made, copy=False)
    with pytest.raises(IndexError):
        made[:, 50]


def test_errors_are_those_of_numpy_arrays(stays: list[int]) -> None:
    X = np.column_stack([np.ones(6), np.arange(6.0)])
    with pytest.raises(ValueError, match="Y has 5 rows, X has 6"):
        jaxlmm.fit(X, place(np.zeros((5, 2))))
    with pytest.raises(ValueError, match="looks transposed"):
        jaxlmm.fit(X, place(np.zeros((5, 6))))
    with pytest.raises(ValueError, match="no columns"):
        jaxlmm.fit(X, place(np.zeros((6, 0))))
    with pytest.raises(ValueError, match="must be numeric, found dtype complex"):
        jaxlmm.fit(X, place(np.zeros((6, 2)), complex))
    with pytest.raises(ValueError, match="response_names has 1 entries"):
        jaxlmm.fit(X, place(np.zeros((6, 2))), response_names=["a"])
    gone = place(np.zeros((6, 2)))
    gone.delete()
    with pytest.raises(ValueError, match="cannot be made into an array"):
        jaxlmm.fit(X, gone)


def test_arrays_of_a_cpu_are_numpy_arrays() -> None:
    y = jnp.ones((4, 3))
    assert device_matrix(y) is None and device_matrix(np.ones((4, 3))) is None
    assert isinstance(response_matrix(y, 4)[0], np.ndarray)


def test_segment_sums() -> None:
    rng = np.random.default_rng(11)
    codes = rng.permutation(np.repeat(np.arange(7), [1, 2, 3, 4, 5, 40, 1]))
    weights, y = rng.normal(size=len(codes)), rng.normal(size=(len(codes), 3))
    expected = np.zeros((7, 3))
    np.add.at(expected, codes, weights[:, None] * y)
    made = SegmentSum.make(codes, weights, 7)
    assert sum(rows.size for rows in made.rows) <= 2 * len(codes)
    with float64_scope():
        np.testing.assert_allclose(made(jnp.asarray(y)), expected, rtol=1e-13, atol=1e-13)


def test_padding_of_segment_sums_keeps_columns_apart() -> None:
    codes = np.array([0, 0, 0, 1, 1, 1])
    y = np.arange(12.0).reshape(6, 2)
    y[0, 1] = np.nan
    with float64_scope():
        sums = np.asarray(SegmentSum.make(codes, np.ones(6), 2)(jnp.asarray(y)))
    np.testing.assert_array_equal(sums[:, 0], [6.0, 24.0])
