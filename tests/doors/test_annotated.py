"""AnnData: its table and its X or layers, as a stand-in with the same parts always, as the real one where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

import jaxlmm

pd = pytest.importorskip("pandas")
pytest.importorskip("formulaic")

N, M = 48, 30
RNG = np.random.default_rng(0)
FORMULA = "treatment + (1 | donor)"
OBS = pd.DataFrame(
    {
        "donor": np.repeat([f"d{j}" for j in range(12)], 4),
        "treatment": pd.Categorical(["control", "drug"] * 24, ["control", "drug"]),
        "depth": RNG.uniform(1, 2, N),
    },
    index=[f"cell{i}" for i in range(N)],
)
VAR = pd.DataFrame({"length": np.arange(M)}, index=[f"g{j}" for j in range(M)])
COUNTS = RNG.poisson(1.0, size=(N, M)).astype(float)
LAYERS = {"log": np.log1p(COUNTS), "sparse": scipy.sparse.csr_matrix(np.log1p(COUNTS))}


class AnnData:
    """The parts of an AnnData that are looked at."""

    def __init__(self, X: Any, obs: Any = OBS, var: Any = VAR, layers: Any = None) -> None:
        self.X, self.obs, self.var, self.layers = X, obs, var, LAYERS if layers is None else layers

    @property
    def obs_names(self) -> Any:
        return self.obs.index

    @property
    def var_names(self) -> Any:
        return self.var.index


def make(kind: str, **parts: Any) -> Any:
    parts = {"X": scipy.sparse.csr_matrix(COUNTS), "obs": OBS, "var": VAR, "layers": LAYERS} | parts
    return AnnData(**parts) if kind == "stand-in" else pytest.importorskip("anndata").AnnData(**parts)


KINDS = pytest.mark.parametrize("kind", ["stand-in", "anndata"])


@KINDS
@pytest.mark.parametrize("X", ["sparse", "dense"])
def test_obs_are_the_data_and_X_the_responses(kind: str, X: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = jaxlmm.lmm(FORMULA, OBS, COUNTS)
    data = make(kind, X=scipy.sparse.csr_array(COUNTS) if X == "sparse" else COUNTS)
    fit = jaxlmm.lmm(FORMULA, data)
    np.testing.assert_allclose(fit.coef, expected.coef, rtol=1e-7, atol=1e-10)
    assert fit.dims == ("var",) and fit.response_names == tuple(VAR.index)
    np.testing.assert_allclose(fit.resid(), expected.resid(), rtol=1e-6, atol=1e-9)
    assert fit["g7"].n_responses == 1 and fit.tidy()["var"].iloc[0] == "g0"
    missing = OBS.copy()
    missing.loc["cell3", "donor"] = None
    part = jaxlmm.lmm(FORMULA, make(kind, X=data.X, obs=missing))
    np.testing.assert_allclose(part.coef, jaxlmm.lmm(FORMULA, missing, COUNTS).coef, rtol=1e-7, atol=1e-10)


@KINDS
def test_layers_names_weights_and_disk(kind: str, tmp_path: Path) -> None:
    expected = jaxlmm.lmm(FORMULA, OBS, LAYERS["log"])
    for layer in LAYERS:
        fit = jaxlmm.lmm(FORMULA, make(kind), layer=layer, responses=["g3", "g1?"])
        assert fit.response_names == ("g3", *(f"g{j}" for j in range(10, 20)))
        np.testing.assert_allclose(fit.coef, expected.coef[[3, *range(10, 20)]], rtol=1e-7, atol=1e-10)
    named = make(kind, var=VAR.rename_axis("gene"))
    assert jaxlmm.lmm(FORMULA, named, weights="depth").dims == ("gene",)
    W = RNG.uniform(1, 2, (N, M))
    own = jaxlmm.lmm(FORMULA, make(kind), weights=W)
    np.testing.assert_allclose(own.coef, jaxlmm.lmm(FORMULA, OBS, COUNTS, weights=W).coef, rtol=1e-7, atol=1e-10)
    pytest.importorskip("zarr")
    data = jaxlmm.lmm(FORMULA, make(kind), layer="sparse", out=tmp_path / "r.zarr", progress=False, block=7)
    np.testing.assert_allclose(data["coef"].to_numpy().T, expected.coef, rtol=1e-7, atol=1e-10)
    again = jaxlmm.lmm(
        FORMULA, make(kind), layer="sparse", out=tmp_path / "r.zarr", progress=False, block=7, resume=True
    )
    assert again.identical(data)


def test_a_sparse_matrix_is_made_dense_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxlmm.sources import plan, sparse

    widths: list[int] = []
    read = sparse.SparseSource.read

    def noted(self: Any, at: Any) -> np.ndarray:
        found = read(self, at)
        widths.append(found.shape[1])
        return found

    monkeypatch.setattr(sparse.SparseSource, "read", noted)
    monkeypatch.setattr(plan, "BLOCK_BYTES", 7 * N * 8)
    jaxlmm.lmm(FORMULA, make("stand-in"))
    assert max(widths) <= 7 and sum(widths) == M


@KINDS
def test_refused(kind: str) -> None:
    twice = VAR.set_axis(["g0"] + [f"g{j}" for j in range(M - 1)], axis=0)
    for options, message in (
        ({"layer": "lgo"}, "layer is 'lgo', which data has not; its layers are 'log', 'sparse'"),
        ({"data": OBS, "Y": COUNTS, "layer": "log"}, "layer is 'log', but data is no AnnData"),
        ({"formula": f"depth ~ {FORMULA}"}, "names a response, but those of an AnnData are X or a layer"),
        ({"formula": "treatment + g3 + (1 | donor)"}, r"write data.obs\['g3'\] = data.obs_vector\('g3'\) before"),
        ({"by": "gene"}, "the variables of an AnnData are the responses, so leave it out"),
        ({"formula": None}, "the formula must be text"),
        ({"responses": "zz*"}, "nothing matches the pattern 'zz\\*'"),
        ({"data": make("stand-in", var=twice)}, "the var_names of data are not unique, such as 'g0'"),
        ({"data": make("stand-in", X=None)}, "data has no X; say which layer"),
        ({"data": OBS, "Y": make(kind)}, r"Y is an AnnData; call jaxlmm.lmm\(formula, adata\)"),
    ):
        with pytest.raises(ValueError, match=message):
            jaxlmm.lmm(**{"formula": FORMULA, "data": make(kind), **options})
    with pytest.raises(ValueError, match=r"give its table, \.obs"):
        jaxlmm.prepare(FORMULA, make(kind))
    with pytest.raises(ValueError, match="Y is an AnnData"):
        jaxlmm.fit(np.ones((N, 1)), make(kind))


def test_what_lies_on_disk(tmp_path: Path) -> None:
    anndata, h5py = pytest.importorskip("anndata"), pytest.importorskip("h5py")
    assert h5py
    make("anndata", X=COUNTS, layers={}).write_h5ad(tmp_path / "dense.h5ad")
    dense = anndata.read_h5ad(tmp_path / "dense.h5ad", backed="r")
    np.testing.assert_allclose(
        jaxlmm.lmm(FORMULA, dense).coef, jaxlmm.lmm(FORMULA, OBS, COUNTS).coef, rtol=1e-7, atol=1e-10
    )
    make("anndata", layers={}).write_h5ad(tmp_path / "sparse.h5ad")
    with pytest.raises(ValueError, match=r"on disk; give data.to_memory\(\)"):
        jaxlmm.lmm(FORMULA, anndata.read_h5ad(tmp_path / "sparse.h5ad", backed="r"))
