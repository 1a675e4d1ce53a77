"""Ways out of a fit: scores that do not underflow, the top table, evoked data, images, pictures."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
from click.testing import CliRunner

import jaxlmm
from jaxlmm.cli.cli import main
from jaxlmm.inference.tails import neglog10_pvalues, zscores

pd = pytest.importorskip("pandas")
xr = pytest.importorskip("xarray")
pytest.importorskip("formulaic")

N, CHANNELS, TIMES = 60, ["Fz", "Cz", "Pz"], np.arange(4) / 100
RNG = np.random.default_rng(0)
FRAME = pd.DataFrame({
    "subject": np.repeat([f"s{i}" for i in range(10)], 6), "x": RNG.normal(size=N),
    "cond": np.tile(["a", "b", "c"], N // 3),
})  # fmt: skip
DATA = RNG.normal(size=(N, 3, 4)) + RNG.normal(size=(10, 3, 4)).repeat(6, axis=0)
DATA[:, 1, 2] += 3 * FRAME["x"].to_numpy()
DATA[:, 2, 3] = 1.0  # not fitted


@pytest.fixture(scope="module")
def fit() -> jaxlmm.Fit:
    Y = xr.DataArray(DATA, dims=("trial", "channel", "time"), coords={"channel": CHANNELS, "time": TIMES})
    return jaxlmm.lmm("x + cond + (1 | subject)", FRAME, Y, obs_dim="trial")


# -- scores ----------------------------------------------------------------------------------------------


def reference(t: float, df: float) -> mpmath.mpf:
    """-log10 of the two-sided p-value, in 40 digits: the series of the incomplete beta function."""
    with mpmath.workdps(40):
        T = mpmath.mpf(t)
        if np.isinf(df):
            return -mpmath.log10(mpmath.erfc(T / mpmath.sqrt(2)))
        n = mpmath.mpf(df)
        x, a, b = n / (n + T * T), n / 2, mpmath.mpf(1) / 2
        total = term = mpmath.mpf(1)
        k = 0
        while term > mpmath.mpf(10) ** -40 * total:
            term *= x * (a + b + k) / (a + 1 + k)
            total, k = total + term, k + 1
        return -(
            a * mpmath.log(x) + b * mpmath.log(1 - x) - mpmath.log(a * mpmath.beta(a, b)) + mpmath.log(total)
        ) / (mpmath.log(10))


@pytest.mark.parametrize("df", [1.0, 3.0, 10.3, 117.2, 1e4, np.inf])
@pytest.mark.parametrize("t", [2.0, 8.0, 37.7, 60.0, 150.0, 1e20, 1e155])
def test_small_p_values_have_a_logarithm(t: float, df: float) -> None:
    if (np.isinf(df) and t > 200) or (df > 1e3 and t < 30):
        pytest.skip("the reference takes for ever")
    found = neglog10_pvalues(np.array([t, -t]), np.array([df, df]))
    np.testing.assert_allclose(found, float(reference(t, df)), rtol=1e-12)


def test_z_scores() -> None:
    from scipy import stats

    t = np.array([-3.0, 0.0, 0.5, 30.0, -38.0, np.nan])
    z = zscores(t, np.full(6, 20.0))
    np.testing.assert_allclose(2 * stats.norm.sf(np.abs(z)), 2 * stats.t.sf(np.abs(t), 20.0), rtol=1e-9)
    assert np.array_equal(np.sign(z[:5]), np.sign(t[:5])) and np.isnan(z[5])
    normal = np.array([-3000.0, -38.5, 1.0, 50.0])  # z of z is z, where p is 0
    np.testing.assert_allclose(zscores(normal, np.full(4, np.inf)), normal, rtol=1e-9)
    assert np.all(np.diff(zscores(np.array([1e3, 1e6, 1e9]), np.full(3, 1e3))) > 0)


def test_of_a_fit_and_its_dataset(fit: jaxlmm.Fit) -> None:
    good = fit.converged
    np.testing.assert_allclose(10 ** -fit.neglog10p[good], fit.pvalue[good], rtol=1e-12)
    assert np.isnan(fit.zscore[~good]).all() and np.isnan(fit.neglog10p[~good]).all()
    data = fit.to_dataset(adjust="BH", scores=True)
    same = jaxlmm.adjust_pvalues(fit.to_dataset()["pvalue"], "bh")
    xr.testing.assert_allclose(data["pvalue_adjusted"], same)
    assert data["zscore"].dims == data["coef"].dims == ("term", "channel", "time")
    np.testing.assert_array_equal(data["neglog10p"].to_numpy().reshape(4, -1).T, fit.neglog10p)
    assert not {"pvalue_adjusted", "zscore", "neglog10p"} & set(fit.to_dataset())
    with pytest.raises(ValueError, match="adjust must be one of"):
        fit.to_dataset(adjust="sidak")


# -- the top table ---------------------------------------------------------------------------------------


def test_the_strongest_come_first(fit: jaxlmm.Fit) -> None:
    rows = fit.top("x", 3)
    assert rows.columns[:3].tolist() == ["channel", "time", "estimate"] and len(rows) == 3
    assert rows.iloc[0][["channel", "time"]].tolist() == ["Cz", 0.02]
    whole = fit.top("x", None, adjust="holm")
    assert len(whole) == fit.converged.sum() and whole["p.value"].is_monotonic_increasing
    tidy = fit.tidy(adjust="holm", effects="fixed")
    tidy = tidy[tidy["term"] == "x"].sort_values("p.value").head(11)
    for name in ("estimate", "p.value", "p.adjusted", "conf.low"):
        np.testing.assert_allclose(whole[name], tidy[name])
    assert fit.top(1, 1)["estimate"].item() == rows["estimate"].iloc[0]


def test_p_values_of_zero_are_sorted() -> None:
    x = np.tile([0.0, 1.0], 1000)
    Y = RNG.normal(size=(2000, 3)) + x[:, None] * np.array([60.0, 300.0, 4000.0])
    fit = jaxlmm.fit(np.column_stack([np.ones(2000), x]), Y, names=["one", "x"])
    rows = fit.top("x")
    assert (rows["p.value"] == 0).all() and rows["response"].tolist() == ["y2", "y1", "y0"]
    assert rows["neglog10.p"].iloc[-1] > 400 and np.isfinite(rows["neglog10.p"]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cond",), r"the factor 'cond' has the effects 'cond\[T.b\]', 'cond\[T.c\]'; give one"),
        (("z",), "there is no term 'z'; the terms are 'Intercept', 'x'"),
        (("x", 0), "n must be at least 1"),
    ],
)
def test_top_refused(fit: jaxlmm.Fit, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit.top(*arguments)


# -- evoked data and images ------------------------------------------------------------------------------


def test_evoked(fit: jaxlmm.Fit) -> None:
    mne = pytest.importorskip("mne")
    info = mne.create_info(["Oz", "Pz", "Fz", "Cz"], 100.0, "eeg")
    evoked = fit.to_evoked(info, "x")
    assert evoked.ch_names == ["Pz", "Fz", "Cz"] and evoked.comment == "statistic x"
    by_channel = fit.statistic[:, 1].reshape(3, 4)
    np.testing.assert_array_equal(evoked.data, by_channel[[2, 0, 1]])
    np.testing.assert_array_equal(fit.to_evoked(info, "x", "pvalue_adjusted", adjust="holm").data.shape, (3, 4))
    one = fit.sel(time=0.02).to_evoked(info, "x", "zscore")
    assert one.data.shape == (3, 1) and one.times.tolist() == [0.0]
    for wrong, message in (
        (lambda: fit.isel(channel=0).to_evoked(info, "x"), "dimensions 'channel' and 'time', the fit has 'time'"),
        (lambda: fit.to_evoked(info, "x", "t"), "variable must be one of 'coef'"),
        (lambda: fit.isel(time=[0, 2]).to_evoked(info, "x"), "not spaced by 1 / sfreq"),
        (lambda: fit.to_evoked(mne.create_info(["Fz"], 100.0), "x"), "info has no channel 'Cz'"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()


class Masker:
    """nilearn's way back, of a mask of 12 voxels."""

    def inverse_transform(self, values: np.ndarray) -> np.ndarray:
        if values.shape != (12,):
            raise ValueError("X must be of length 12.")
        return values.reshape(2, 2, 3)


def test_images(fit: jaxlmm.Fit) -> None:
    image = fit.to_nifti(Masker(), "x")
    assert image.ravel()[11] == 0.0  # not fitted
    np.testing.assert_array_equal(image.ravel()[:11], fit.zscore[:11, 1])
    assert np.isnan(fit.to_nifti(Masker(), "x", "statistic", fill=np.nan).ravel()[11])
    assert np.isnan(fit.to_nifti(Masker(), "x", "se").ravel()[11])
    assert fit.to_nifti(Masker(), "x", "pvalue").ravel()[11] == 1.0  # 0 would be the smallest
    with pytest.raises(ValueError, match="the masker does not take 4 values"):
        fit.sel(channel="Fz").to_nifti(Masker(), "x")
    with pytest.raises(ValueError, match="which has inverse_transform"):
        fit.to_nifti("mask.nii", "x")


def test_images_of_nilearn(fit: jaxlmm.Fit) -> None:
    maskers, nibabel = pytest.importorskip("nilearn.maskers"), pytest.importorskip("nibabel")
    mask = np.zeros((4, 4, 4), dtype=np.int8)
    mask[1:3, 1:3, :3] = 1
    masker = maskers.NiftiMasker(mask_img=nibabel.Nifti1Image(mask, np.eye(4))).fit()
    image = fit.to_nifti(masker, "x", "statistic")
    np.testing.assert_allclose(image.get_fdata()[mask > 0][:11], fit.statistic[:11, 1], rtol=1e-6)
    with pytest.raises(ValueError, match="the masker does not take 4 values"):
        fit.sel(channel="Fz").to_nifti(masker, "x")
    p = fit.to_nifti(masker, "x", "pvalue").get_fdata()
    assert (p[mask == 0] == 1).all() and p[mask > 0][11] == 1
    np.testing.assert_allclose(p[mask > 0][:11], fit.pvalue[:11, 1], rtol=1e-12)
    with pytest.raises(ValueError, match="not fitted yet"):
        fit.to_nifti(maskers.NiftiMasker(mask_img=nibabel.Nifti1Image(mask, np.eye(4))), "x")
    labels = (np.arange(64).reshape(4, 4, 4) % 13).astype(np.int16)
    regions = maskers.NiftiLabelsMasker(nibabel.Nifti1Image(labels, np.eye(4))).fit()
    p = fit.to_nifti(regions, "x", "pvalue").get_fdata()
    np.testing.assert_allclose(p.ravel()[:12], [1, *fit.pvalue[:11, 1]], rtol=1e-12)


def test_surfaces_of_nilearn(fit: jaxlmm.Fit) -> None:
    maskers, surface = pytest.importorskip("nilearn.maskers"), pytest.importorskip("nilearn.surface")
    mesh = surface.InMemoryMesh(RNG.normal(size=(8, 3)), np.arange(24).reshape(8, 3) % 8)
    there = {"left": np.arange(8) < 5, "right": np.arange(8) > 0}
    masker = maskers.SurfaceMasker(surface.SurfaceImage(surface.PolyMesh(mesh, mesh), there)).fit()
    score, p = (fit.to_nifti(masker, "x", variable).data.parts for variable in ("zscore", "pvalue"))
    found = np.concatenate([score[side].ravel()[mask] for side, mask in there.items()])
    np.testing.assert_array_equal(found[:11], fit.zscore[:11, 1])
    assert (p["left"].ravel()[5:] == 1).all() and p["right"].ravel()[0] == 1 and (p["left"].ravel()[:5] < 1).all()


def test_the_page_of_fmri_with_nilearn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page says of maskers, with files of images."""
    pytest.importorskip("nilearn")
    nibabel = pytest.importorskip("nibabel")
    page = (Path(__file__).parents[2] / "docs" / "fmri.md").read_text(encoding="utf-8")
    code = re.findall(r"^```text\n(.*?)^```", page, re.S | re.M)
    way_back = re.findall(r"`(fit\.to_nifti\([^`]+)`", page)
    monkeypatch.chdir(tmp_path)
    rng, shape = np.random.default_rng(3), (6, 7, 5)
    mask = np.zeros(shape, dtype=np.uint8)
    mask[1:5, 1:6, 1:4] = 1
    nibabel.Nifti1Image(mask, np.eye(4)).to_filename("mask.nii.gz")
    rows = [(f"s{k}", load) for k in range(8) for load in ("easy", "medium", "hard")]
    images = pd.DataFrame(rows, columns=["subject", "load"]).assign(file=[f"{k}.nii.gz" for k in range(24)])
    images["load"] = pd.Categorical(images["load"], ["easy", "medium", "hard"])
    for k, file in enumerate(images["file"]):
        volume = rng.normal(size=shape) + 3 * (images["load"][k] == "hard")
        volume[2, 3, 2] = np.nan if k == 5 else volume[2, 3, 2]
        nibabel.Nifti1Image(volume.astype(np.float32), np.eye(4)).to_filename(file)
    names: dict[str, Any] = {"images": images, "np": np}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of nilearn, about its own next version
        for block in code:
            exec(block, names)
    Y = names["Y"]
    assert Y.shape == (24, 60) and len(code) == 2 and len(way_back) == 1
    fit = jaxlmm.lmm("load + (1 | subject)", images, Y)
    assert sorted(set(fit.n_used.tolist())) == [23, 24]
    exec(way_back[0], {"fit": fit, "masker": names["masker"]})
    scores = nibabel.load("z.nii.gz").get_fdata()
    np.testing.assert_allclose(scores[mask > 0], fit.zscore[:, 2])
    assert (scores[mask == 0] == 0).all() and np.median(scores[mask > 0]) > 4


# -- pictures on the command line ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A long table, fitted to each kind of file."""
    pytest.importorskip("zarr")
    folder = tmp_path_factory.mktemp("written")
    parts = [
        FRAME.assign(trial=np.arange(N), channel=c, time=t, y=DATA[:, j, k])
        for j, c in enumerate(CHANNELS) for k, t in enumerate(TIMES)
    ]  # fmt: skip
    pd.concat(parts).to_csv(folder / "long.csv", index=False)
    model = ["fit", folder / "long.csv", "--formula", "y ~ x + cond + (1 | subject)", "--no-progress"]
    long = ["--by", "channel", "--by", "time", "--obs", "trial"]
    for more in (
        ["--out", folder / "r.csv", "--save", folder / "fit.npz"], ["--out", folder / "r.parquet"],
        ["--out", folder / "r.zarr"], ["--out", folder / "glance.csv", "--what", "glance"],
    ):  # fmt: skip
        result = CliRunner().invoke(main, [str(a) for a in (*model, *long, *more)])
        assert result.exit_code == 0, result.output
    return folder


def draw(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["plot", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.mark.parametrize("name", ["r.csv", "r.parquet", "r.zarr", "fit.npz"])
@pytest.mark.parametrize("kind", ["map", "volcano", "pvalues", "forest"])
def test_what_was_written_is_drawn(written: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn: list[Any] = []
    save = Figure.savefig

    def kept(self: Any, *args: Any, **options: Any) -> None:
        drawn.append(self)
        save(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", kept)
    out = written / f"{name}-{kind}.png"
    more = ["--term", "x"] if kind != "forest" else ["--response", "Cz, 0.02"]
    code, text = draw(written / name, "--kind", kind, *more, "--out", out)
    assert code == 0 and out.stat().st_size > 5000, text
    if kind == "map":
        mesh = drawn[0].axes[0].collections[0]
        found = jaxlmm.load(written / "fit.npz").statistic[:, 1].reshape(3, 4)
        np.testing.assert_allclose(np.ma.filled(mesh.get_array(), np.nan).reshape(3, 4), found, rtol=1e-6)
        assert [t.get_text() for t in drawn[0].axes[0].get_yticklabels()] == CHANNELS


def test_pictures_refused(written: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "p.png")
    for arguments, message in (
        ((written / "r.csv", "--kind", "qq"), "--kind qq needs more than a table of effects"),
        (
            (written / "glance.csv", "--kind", "map", "--term", "x"),
            "has no column 'term': it is no table of effects",
        ),
        ((written / "r.csv", "--kind", "map", "--at", "time=0.02"), "map needs responses of two dimensions"),
        ((written / "r.csv", "--kind", "map", "--term", "x", "--at", "freq=3"), "of the dimensions channel, time"),
        ((written / "r.csv", "--kind", "map", "--term", "x", "--at", "channel=Oz"), "labels of channel are Fz, Cz"),
        ((written / "r.csv", "--kind", "map", "--term", "x", "--at", "time=early"), "are numbers, 0.0 to 0.03"),
        ((written / "r.zarr", "--kind", "residuals"), "saved without its responses"),
        ((written / "long.csv", "--kind", "volcano", "--term", "x"), "it is no table of effects"),
    ):
        code, text = draw(*arguments, *out)
        assert code == 1 and message in text and text.count("\n") == 1, text
    cut = pd.read_csv(written / "r.csv").sort_values("p.value")
    cut.to_csv(tmp_path / "cut.csv", index=False)
    code, text = draw(tmp_path / "cut.csv", "--kind", "volcano", "--term", "x", *out)
    assert code == 1 and "was it sorted or cut?" in text
