"""Epochs of every kind as responses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import jaxlmm

pd = pytest.importorskip("pandas")
mne = pytest.importorskip("mne")
xr = pytest.importorskip("xarray")

N = 49
KEPT = np.delete(np.arange(N), [9, 19])


def make(**options: Any) -> mne.Epochs:
    """49 epochs, of which ``reject`` drops two."""
    rng = np.random.default_rng(0)
    raw = mne.io.RawArray(rng.normal(size=(2, 6000)) * 1e-6, mne.create_info(["Fz", "Cz"], 100, "eeg"), verbose=False)
    raw._data[0, [1025, 2025]] += 1e-3
    events = np.c_[np.arange(1, N + 1) * 100 + 20, np.zeros(N, int), 1 + np.arange(N) % 2]
    metadata = pd.DataFrame({
        "subject": np.repeat(list("abcdefg"), 7), "k": np.arange(N),
        "cond": pd.Categorical(np.tile(["standard", "deviant"], 25)[:N], categories=["standard", "deviant"]),
    })  # fmt: skip
    return mne.Epochs(
        raw, events, {"a": 1, "b": 2}, -0.1, 0.2, baseline=None, reject={"eeg": 1e-4}, metadata=metadata,
        verbose=False, **options,
    )  # fmt: skip


def test_epochs_that_are_not_read_yet() -> None:
    found, loaded = (jaxlmm.mne_io.epochs_to_dataarray(make(preload=preload)) for preload in (False, True))
    xr.testing.assert_identical(found, loaded)
    assert found.shape == (N - 2, 2, 31)
    for name in ("trial", "k"):
        np.testing.assert_array_equal(found[name], KEPT)
    again = make(preload=False)
    again.drop_bad(verbose=False)
    xr.testing.assert_identical(jaxlmm.mne_io.epochs_to_dataarray(again), loaded)
    fit = jaxlmm.lmm("cond + (1 | subject)", Y=found, obs_dim="trial")
    assert fit.names == ("Intercept", "cond[T.deviant]")
    # A table that follows the epochs, and one of all of them, two too many.
    same = jaxlmm.lmm("cond + (1 | subject)", again.metadata, found, obs_dim="trial")
    np.testing.assert_array_equal(same.coef, fit.coef)
    with pytest.raises(ValueError, match="data has 49 rows, Y has 47 along 'trial'"):
        jaxlmm.lmm("cond", make(preload=False).metadata, found, obs_dim="trial")


def test_time_frequency_and_spectra() -> None:
    epochs = make(preload=True)
    tfr = epochs.compute_tfr("morlet", freqs=[20.0, 25.0], n_cycles=1, average=False, verbose=False)
    psd = epochs.compute_psd(fmin=5, fmax=40, verbose=False)
    for given, dims, values in (
        (tfr, ("trial", "channel", "freq", "time"), tfr.data), (psd, ("trial", "channel", "freq"), psd.get_data()),
    ):  # fmt: skip
        found = jaxlmm.mne_io.epochs_to_dataarray(given)
        assert found.dims == dims and "units" not in found.attrs and found["freq"].attrs["units"] == "Hz"
        np.testing.assert_array_equal(found.values, values)
        np.testing.assert_array_equal(found["freq"], given.freqs)
        np.testing.assert_array_equal(found["k"], KEPT)
        maps = jaxlmm.lmm("cond + (1 | subject)", Y=found, obs_dim="trial").to_dataset()
        assert maps["coef"].dims == ("term", *dims[1:])
        cell = jaxlmm.lmm("cond + (1 | subject)", epochs.metadata, values[:, 1, 1].reshape(N - 2, -1)[:, 0])
        one = maps["pvalue"].isel(channel=1, freq=1)
        np.testing.assert_allclose(one.values.reshape(2, -1)[:, 0], cell.pvalue[0], rtol=1e-7)


def test_what_is_no_power_and_no_epochs() -> None:
    epochs = make(preload=True)
    complex_tfr = epochs.compute_tfr(
        "morlet", freqs=[20.0], n_cycles=1, average=False, output="complex", verbose=False
    )
    with pytest.raises(ValueError, match=r"found a list of 2; give mne.concatenate_epochs\(epochs\)"):
        jaxlmm.mne_io.epochs_to_dataarray([epochs, epochs])
    with pytest.raises(ValueError, match=r"the EpochsTFR hold complex numbers .* compute them with output='power'"):
        jaxlmm.mne_io.epochs_to_dataarray(complex_tfr)
    raw = mne.io.RawArray(np.zeros((2, 100)), epochs.info, verbose=False)
    for other in (epochs.average(), raw, np.zeros((3, 4))):
        name = type(other).__name__
        with pytest.raises(ValueError, match=f"must be Epochs, EpochsTFR or EpochsSpectrum of MNE, found {name}"):
            jaxlmm.mne_io.epochs_to_dataarray(other)


def test_a_code_without_a_name_is_its_own_name() -> None:
    epochs = make(preload=True)
    epochs.event_id = {"a": 1}
    found = jaxlmm.mne_io.epochs_to_dataarray(epochs)
    assert sorted(set(found["event"].values.tolist())) == ["2", "a"]


def test_bad_channels() -> None:
    epochs = make(preload=True)
    whole = jaxlmm.mne_io.epochs_to_dataarray(epochs)
    assert whole["bad"].values.tolist() == [False, False]
    epochs.info["bads"] = ["Fz"]
    found = jaxlmm.mne_io.epochs_to_dataarray(epochs)
    assert found["channel"].values.tolist() == ["Cz"] and found["bad"].values.tolist() == [False]
    np.testing.assert_array_equal(found.sel(channel="Cz"), epochs.get_data(picks="Cz")[:, 0])
    assert mne.pick_types(epochs.info, eeg=True).tolist() == [1]  # MNE's own default
    kept = jaxlmm.mne_io.epochs_to_dataarray(epochs, bads="keep")
    assert kept["bad"].values.tolist() == [True, False] and kept.attrs["units"] == "V"
    np.testing.assert_array_equal(kept, whole)
    missing = jaxlmm.mne_io.epochs_to_dataarray(epochs, bads="missing")
    assert missing.attrs == kept.attrs and missing.shape == kept.shape
    assert missing.sel(channel="Fz").isnull().all() and not missing.sel(channel="Cz").isnull().any()
    fit = jaxlmm.lmm("cond + (1 | subject)", Y=missing.isel(time=[3, 4]), obs_dim="trial")
    assert fit.converged.reshape(2, 2).tolist() == [[False, False], [True, True]]
    assert fit.to_dataset()["bad"].values.tolist() == [True, False]
    psd = epochs.compute_psd(picks="all", fmin=5, fmax=40, verbose=False)
    assert jaxlmm.mne_io.epochs_to_dataarray(psd)["channel"].values.tolist() == ["Cz"]
    epochs.info["bads"] = ["Fz", "Cz"]
    with pytest.raises(ValueError, match="all channels are in info\\['bads'\\], so none is left; give bads='keep'"):
        jaxlmm.mne_io.epochs_to_dataarray(epochs)
    with pytest.raises(ValueError, match="bads must be one of 'drop', 'missing', 'keep', found 'no'"):
        jaxlmm.mne_io.epochs_to_dataarray(epochs, bads="no")


def test_annotated_epochs_are_not_there() -> None:
    raw = mne.io.RawArray(np.ones((1, 1000)), mne.create_info(["Cz"], 100, "eeg"), verbose=False)
    raw.set_annotations(mne.Annotations([3.1], [0.1], ["BAD_blink"]))
    events = np.c_[np.arange(1, 9) * 100, np.zeros(8, int), np.ones(8, int)]
    epochs = mne.Epochs(raw, events, tmin=0, tmax=0.2, baseline=None, preload=False, verbose=False)
    assert jaxlmm.mne_io.epochs_to_dataarray(epochs)["trial"].values.tolist() == [0, 1, 3, 4, 5, 6, 7]


def test_metadata_with_the_name_of_a_coordinate() -> None:
    epochs = make(preload=True)
    epochs.metadata = epochs.metadata.rename(columns={"k": "event"})
    with pytest.raises(ValueError, match="the metadata have a column 'event', the name of a coordinate; rename it"):
        jaxlmm.mne_io.epochs_to_dataarray(epochs)


def averages(n: int = 20) -> tuple[list[Any], pd.DataFrame]:
    """Averages of ten subjects in two conditions; the second has its channels in another order, a bad one."""
    rng = np.random.default_rng(1)
    info = mne.create_info(["Fz", "Cz", "Pz"], 100.0, "eeg")
    made = [mne.EvokedArray(rng.normal(size=(3, 4)) * 1e-6, info, nave=5 + k, comment=f"c{k}") for k in range(n)]
    made[1] = made[1].copy().reorder_channels(["Pz", "Fz", "Cz"])
    made[1].info["bads"] = ["Cz"]
    table = pd.DataFrame({
        "subject": np.repeat([f"s{k}" for k in range(n // 2)], 2),
        "cond": pd.Categorical(["new", "old"] * (n // 2), ["old", "new"]),
    })  # fmt: skip
    return made, table


def test_lists_of_averages() -> None:
    made, table = averages()
    found = jaxlmm.mne_io.evokeds_to_dataarray(made, table)
    assert found.dims == ("evoked", "channel", "time") and found.attrs["units"] == "V"
    assert found["nave"].values.tolist() == list(range(5, 25)) and found["time"].attrs["units"] == "s"
    np.testing.assert_array_equal(found.sel(channel="Pz").values[1], made[1].data[0])
    assert np.isnan(found.sel(channel="Cz").values[1]).all() and np.isnan(found.values).sum() == 4
    kept = jaxlmm.mne_io.evokeds_to_dataarray(made, bads="keep")
    np.testing.assert_array_equal(kept.sel(channel="Cz").values[1], made[1].data[2])
    dropped = jaxlmm.mne_io.evokeds_to_dataarray(made, table, bads="drop")
    in_order = [made[0], made[1].copy().reorder_channels(["Fz", "Cz", "Pz"])]
    assert mne.combine_evoked(in_order, "nave").info["bads"] == ["Cz"]  # as in any of them
    assert found["bad"].values.tolist() == kept["bad"].values.tolist() == [False, True, False]
    xr.testing.assert_identical(dropped, found.sel(channel=["Fz", "Pz"]))
    fit = jaxlmm.lmm("cond", Y=found, weights="nave")
    assert fit.names == ("Intercept", "cond[T.new]") and fit.sel(channel="Cz").n_used.tolist() == [19] * 4
    assert fit.to_evoked(made[0].info, "cond[T.new]").data.shape == (3, 4)


def test_averages_that_do_not_go_together() -> None:
    made, table = averages()
    for evokeds, metadata, message in (
        (made[0], None, "must be a list of Evoked of MNE, found EvokedArray"),
        ([], None, "found none"),
        ([made[0], make(preload=True)], None, "found Epochs; epochs go to epochs_to_dataarray"),
        ([made[0], made[1].copy().pick(["Fz"])], None, "evoked 1 and evoked 0 have other channels .'Cz' is in one"),
        ([made[0], made[2].copy().crop(0, 0.02)], None, "evoked 1 and evoked 0 have other times"),
        (made, table.head(3), "metadata has 3 rows for 20 evokeds"),
        (made, table.rename(columns={"cond": "time"}), "a column 'time', the name of a coordinate"),
    ):
        with pytest.raises(ValueError, match=message):
            jaxlmm.mne_io.evokeds_to_dataarray(evokeds, metadata)
    with pytest.raises(ValueError, match="bads must be one of 'drop', 'missing', 'keep'"):
        jaxlmm.mne_io.evokeds_to_dataarray(made, bads="interpolate")
    made[0].info["bads"] = ["Fz", "Pz"]
    with pytest.raises(ValueError, match="in info\\['bads'\\] of some evoked, so none is left; give bads='missing'"):
        jaxlmm.mne_io.evokeds_to_dataarray(made, bads="drop")
