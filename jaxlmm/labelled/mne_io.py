"""Between MNE-Python and labelled arrays: epochs to responses, maps of results to evoked data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    import xarray as xr
except ImportError as error:
    raise ImportError('MNE data need xarray and mne: pip install "jaxlmm[mne]"') from error

from jaxlmm.labelled.data import coordinate
from jaxlmm.results.images import evoked_map
from jaxlmm.runtime.arguments import check_option
from jaxlmm.sources.table import as_frame

if TYPE_CHECKING:
    import mne

__all__ = ["epochs_to_dataarray", "evokeds_to_dataarray", "map_to_evoked"]

# What may become of channels in info["bads"].
BADS = ("drop", "missing", "keep")
# Units of MNE's data by type of channel; other types have none.
UNITS = dict.fromkeys(("eeg", "eog", "ecg", "emg", "bio", "seeg", "ecog", "dbs"), "V") | {
    "mag": "T",
    "grad": "T/m",
    "ref_meg": "T",
    "hbo": "M",
    "hbr": "M",
    "dipole": "Am",
    "gsr": "S",
    "temperature": "degC",
}


def epochs_to_dataarray(
    epochs: mne.BaseEpochs | mne.time_frequency.EpochsTFR | mne.time_frequency.EpochsSpectrum,
    *,
    bads: str = "drop",
) -> xr.DataArray:
    """Epochs as responses for :func:`jaxlmm.lmm`, whose ``obs_dim`` is "trial".

    Parameters
    ----------
    epochs : Epochs, EpochsTFR or EpochsSpectrum of MNE
        Epochs that are not loaded yet are read, and those that their ``reject`` or annotations such as "BAD_blink"
        drop are not there, as in ``epochs.get_data``. Channels of all types are taken; ``epochs.pick`` chooses.
    bads : {"drop", "missing", "keep"}
        What becomes of channels in ``info["bads"]``: they are left out, the default of ``mne.pick_types``, so that
        they are no tests in corrections for many tests and no members of clusters; all of them is missing, so
        that maps have every channel; or they are like others, as in MNE's averages.

    Returns
    -------
    DataArray, (trial, channel, time), (trial, channel, freq) or (trial, channel, freq, time)
        Coordinates: ``trial`` (numbers before epochs were dropped), ``event`` (name, or the code if
        it has none), the columns of ``epochs.metadata``, if any; ``channel``, ``channel_type``, ``bad`` (whether it
        is in ``info["bads"]``), of Epochs ``units`` of each channel; ``time`` in seconds, ``freq`` in
        hertz. If all channels have the same units, they are in ``attrs`` too. Power has none, as
        these depend on how it was made.

        Categories of the metadata keep their order: the coordinate has the attribute
        ``categories``, which files and :func:`jaxlmm.lmm` understand.

    Raises
    ------
    ValueError
        No epochs, such as averages or raw data; complex numbers; metadata with a column by the name
        of another coordinate; no channel is left.
    """
    bads = check_option("bads", bads, BADS)
    values, axes = _values(epochs)
    types = epochs.get_channel_types(unique=False)
    bad = np.isin(epochs.ch_names, epochs.info["bads"])
    _refuse_all_bad(bad, bads, "all channels are in info['bads']", "'keep'")
    names = {code: name for name, code in epochs.event_id.items()}
    codes = [int(code) for code in epochs.events[:, 2]]
    selection = getattr(epochs, "selection", None)
    coords: dict[str, Any] = {
        "trial": np.arange(len(values)) if selection is None else np.asarray(selection),
        "event": ("trial", [str(names.get(code, code)) for code in codes]),
        "channel": list(epochs.ch_names),
        "channel_type": ("channel", types),
        "bad": ("channel", bad),
        **axes,
    }
    units = [UNITS.get(kind, "") for kind in types] if set(axes) == {"time"} else []
    if units:
        coords["units"] = ("channel", units)
    if epochs.metadata is not None:
        for column in epochs.metadata.columns:
            if str(column) in coords:
                raise ValueError(f"the metadata have a column {column!r}, the name of a coordinate; rename it.")
            coords[str(column)] = coordinate(epochs.metadata[column], "trial")
    made = xr.DataArray(values, dims=("trial", "channel", *axes), coords=coords, name="epochs")
    for axis, unit in (("time", "s"), ("freq", "Hz")):
        if axis in made.coords:
            made[axis].attrs["units"] = unit
    if bads == "missing" and bad.any():
        made = made.where(~made["bad"])
    return _without(made, bad, bads)


def _refuse_all_bad(bad: np.ndarray, bads: str, found: str, instead: str) -> None:
    """ValueError if no channel is left."""
    if bads == "drop" and len(bad) and bad.all():
        raise ValueError(f"{found}, so none is left; give bads={instead}, or correct the list.")


def _without(made: xr.DataArray, bad: np.ndarray, bads: str) -> xr.DataArray:
    """Without bad channels, if these are to be left out, and with the units that all channels have."""
    if bads == "drop" and bad.any():
        made = made.isel(channel=~bad)
    left = set(made["units"].values.tolist()) if "units" in made.coords else set()
    if len(left) == 1 and "" not in left:
        made.attrs["units"] = left.pop()
    return made


def _values(epochs: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Data of epochs, and what its axes after the channels are; reading may drop epochs, so it comes first."""
    mne = _mne()
    if isinstance(epochs, mne.BaseEpochs):
        values, axes = epochs.get_data(copy=False), {"time": np.asarray(epochs.times)}
    elif isinstance(epochs, mne.time_frequency.EpochsTFR):
        values, axes = np.asarray(epochs.data), {"freq": np.asarray(epochs.freqs), "time": np.asarray(epochs.times)}
    elif isinstance(epochs, mne.time_frequency.EpochsSpectrum):
        values = epochs.get_data(picks=np.arange(len(epochs.ch_names)))
        axes = {"freq": np.asarray(epochs.freqs)}
    else:
        if isinstance(epochs, (list, tuple)) and epochs and all(isinstance(one, mne.BaseEpochs) for one in epochs):
            raise ValueError(
                f"epochs must be one Epochs, found a list of {len(epochs)}; give mne.concatenate_epochs(epochs), "
                "whose metadata say which subject each epoch is of."
            )
        raise ValueError(
            f"epochs must be Epochs, EpochsTFR or EpochsSpectrum of MNE, found {type(epochs).__name__}: a model "
            "needs single trials. Of raw data make mne.Epochs; a list of averages, one per subject and condition, "
            "goes to evokeds_to_dataarray(evokeds, metadata)."
        )
    if np.iscomplexobj(values) or values.ndim != 2 + len(axes):
        raise ValueError(
            f"the {type(epochs).__name__} hold complex numbers or single tapers, of the shape {values.shape}; "
            "compute them with output='power', average=False."
        )
    return values, axes


def evokeds_to_dataarray(
    evokeds: Sequence[mne.Evoked], metadata: Any = None, *, bads: str = "missing"
) -> xr.DataArray:
    """Averages, such as one per subject and condition, as responses for :func:`jaxlmm.lmm`.

    Parameters
    ----------
    evokeds : sequence of Evoked
        Of the same channels, in any order, and the same times.
    metadata : DataFrame, or what makes one, optional
        A row for each of them, in their order: the subject, the condition, ...; its columns are coordinates, and
        categories keep their order.
    bads : {"missing", "drop", "keep"}
        What becomes of channels in ``info["bads"]``, as in :func:`epochs_to_dataarray`: they are missing in the
        averages in which they are bad, so that the other subjects are still fitted there; those that are bad in any
        of them are left out, which are those that ``mne.combine_evoked`` marks; or they are like others.

    Returns
    -------
    DataArray, (evoked, channel, time)
        Coordinates: ``evoked`` (0, 1, ...), ``comment``, ``nave`` (trials of each average, for weights), the columns
        of ``metadata``; ``channel``, in the order of the first, ``channel_type``, ``units``, ``bad`` (whether it is
        in ``info["bads"]`` of any of them); ``time`` in seconds.

    Raises
    ------
    ValueError
        No averages; other channels or times in some of them; a table of another length, or with the name of another
        coordinate; no channel is left.
    """
    bads = check_option("bads", bads, BADS)
    kind, listed = _mne().Evoked, list(evokeds) if isinstance(evokeds, (list, tuple)) else []
    wrong = [type(one).__name__ for one in listed if not isinstance(one, kind)]
    if not listed or wrong:
        found = wrong[0] if wrong else "none" if isinstance(evokeds, (list, tuple)) else type(evokeds).__name__
        raise ValueError(f"evokeds must be a list of Evoked of MNE, found {found}; epochs go to epochs_to_dataarray.")
    first = listed[0]
    values = np.full((len(listed), *first.data.shape), np.nan)
    for k, one in enumerate(listed):
        if sorted(one.ch_names) != sorted(first.ch_names):
            other = sorted(set(one.ch_names) ^ set(first.ch_names))[0]
            raise ValueError(
                f"evoked {k} and evoked 0 have other channels ({other!r} is in one of them alone); pick the same, "
                "mne.channels.equalize_channels(evokeds), or interpolate what is missing."
            )
        if one.times.shape != first.times.shape or not np.allclose(one.times, first.times, atol=1e-6):
            raise ValueError(f"evoked {k} and evoked 0 have other times; crop or resample them alike.")
        values[k] = one.data[[one.ch_names.index(name) for name in first.ch_names]]
    each = np.array([np.isin(first.ch_names, one.info["bads"]) for one in listed])  # (evoked, channel)
    bad = np.asarray(each.any(axis=0))
    _refuse_all_bad(bad, bads, "every channel is in info['bads'] of some evoked", "'missing' or 'keep'")
    if bads == "missing":
        values[each] = np.nan
    types = first.get_channel_types(unique=False)
    units = [UNITS.get(name, "") for name in types]
    coords: dict[str, Any] = {
        "evoked": np.arange(len(listed)),
        "comment": ("evoked", [str(one.comment or "") for one in listed]),
        "nave": ("evoked", [int(one.nave) for one in listed]),
        "channel": list(first.ch_names),
        "channel_type": ("channel", types),
        "units": ("channel", units),
        "bad": ("channel", bad),
        "time": np.asarray(first.times),
    }
    if metadata is not None:
        table = as_frame(metadata)
        if len(table) != len(listed):
            raise ValueError(f"metadata has {len(table)} rows for {len(listed)} evokeds; give a row for each.")
        for column in table.columns:
            if column in coords:
                raise ValueError(f"the metadata have a column {column!r}, the name of a coordinate; rename it.")
            coords[column] = coordinate(table[column], "evoked")
    made = xr.DataArray(values, dims=("evoked", "channel", "time"), coords=coords, name="evoked")
    made["time"].attrs["units"] = "s"
    return _without(made, bad, bads)


def _mne() -> Any:
    try:
        import mne
    except ImportError as error:
        raise ImportError('this needs MNE-Python: pip install "jaxlmm[mne]"') from error
    return mne


def map_to_evoked(data: xr.DataArray, info: mne.Info, *, comment: str | None = None) -> mne.EvokedArray:
    """A map of results over channels and times as evoked data, for MNE's plots.

    Parameters
    ----------
    data : DataArray, (channel, time) or (time, channel)
        One term of one variable: ``dataset["statistic"].sel(term="age")``.
    info : mne.Info
        Of the epochs. Channels that ``data`` has not are left out.
    comment : str, optional
        Default: the name of ``data`` and of the term.

    Returns
    -------
    mne.EvokedArray
        Channels in the order of ``info``. MNE's plots scale to microvolts and the like; for
        statistics say ``scalings=1, units="t"``.

    Raises
    ------
    ValueError
        Other dimensions, channels that ``info`` has not, times that are not spaced by 1 / sfreq.
    """
    _mne()  # an error that says how to install it comes first
    if sorted(map(str, data.dims)) != ["channel", "time"]:
        raise ValueError(
            f"a map has the dimensions 'channel' and 'time', found {', '.join(map(repr, data.dims)) or 'none'}; "
            "select one of the others, such as .sel(term='age')."
        )
    missing = [dim for dim in ("channel", "time") if dim not in data.coords]
    if missing:
        raise ValueError(f"the map has no coordinate {missing[0]!r}, which tells where its values belong.")
    channels = [str(name) for name in data["channel"].to_numpy()]
    if comment is None:
        term = [str(data[name].item()) for name in ("term",) if name in data.coords]
        comment = " ".join([str(data.name or "map"), *term])
    values = data.transpose("channel", "time").to_numpy()
    return evoked_map(values, channels, data["time"].to_numpy(), info, comment)
