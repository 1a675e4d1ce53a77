"""Between MNE-Python and labelled arrays: epochs to responses, maps of results to evoked data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

try:
    import xarray as xr
except ImportError as error:
    raise ImportError('MNE data need xarray and mne: pip install "jaxlmm[mne]"') from error

if TYPE_CHECKING:
    import mne

__all__ = ["epochs_to_dataarray", "map_to_evoked"]

DIMS = ("trial", "channel", "time")
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


def epochs_to_dataarray(epochs: mne.BaseEpochs) -> xr.DataArray:
    """Epochs as responses for :func:`jaxlmm.labelled.fit_dataarray`, with ``obs_dim="trial"``.

    Parameters
    ----------
    epochs : mne.Epochs
        All channels are taken, bad ones too: use ``epochs.pick`` before.

    Returns
    -------
    DataArray, (trial, channel, time)
        Coordinates: ``trial`` (numbers before epochs were dropped), ``event`` (name), the columns
        of ``epochs.metadata``, if any; ``channel``, ``channel_type``, ``units`` of each channel;
        ``time`` in seconds. If all channels have the same units, they are in ``attrs`` too.

    Raises
    ------
    ValueError
        The metadata have a column by the name of another coordinate.
    """
    types = epochs.get_channel_types()
    units = [UNITS.get(kind, "") for kind in types]
    names = {code: name for name, code in epochs.event_id.items()}
    coords: dict[str, Any] = {
        "trial": np.asarray(epochs.selection),
        "event": ("trial", [names[code] for code in epochs.events[:, 2]]),
        "channel": list(epochs.ch_names),
        "channel_type": ("channel", types),
        "units": ("channel", units),
        "time": np.asarray(epochs.times),
    }
    if epochs.metadata is not None:
        for column in epochs.metadata.columns:
            if column in coords:
                raise ValueError(f"the metadata have a column {column!r}, the name of a coordinate; rename it.")
            coords[str(column)] = ("trial", np.asarray(epochs.metadata[column]))
    made = xr.DataArray(epochs.get_data(copy=False), dims=DIMS, coords=coords, name="epochs")
    made["time"].attrs["units"] = "s"
    if len(set(units)) == 1 and units[0]:
        made.attrs["units"] = units[0]
    return made


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
    try:
        import mne
    except ImportError as error:
        raise ImportError('this needs MNE-Python: pip install "jaxlmm[mne]"') from error
    if sorted(map(str, data.dims)) != ["channel", "time"]:
        raise ValueError(
            f"a map has the dimensions 'channel' and 'time', found {', '.join(map(repr, data.dims)) or 'none'}; "
            "select one of the others, such as .sel(term='age')."
        )
    missing = [dim for dim in ("channel", "time") if dim not in data.coords]
    if missing:
        raise ValueError(f"the map has no coordinate {missing[0]!r}, which tells where its values belong.")
    channels = [str(name) for name in data["channel"].to_numpy()]
    unknown = [name for name in channels if name not in info["ch_names"]]
    if unknown:
        raise ValueError(f"info has no channel {unknown[0]!r}; give the info of the epochs that were fitted.")
    times = data["time"].to_numpy()
    if not np.allclose(np.diff(times) * info["sfreq"], 1.0, atol=1e-3):
        raise ValueError(
            f"the times are not spaced by 1 / sfreq = {1 / info['sfreq']:.6g} s, as evoked data must be; "
            "give all times, and the info of the epochs after any resampling."
        )
    order = [name for name in info["ch_names"] if name in channels]
    values = data.transpose("channel", "time").to_numpy()[[channels.index(name) for name in order]]
    if comment is None:
        term = [str(data[name].item()) for name in ("term",) if name in data.coords]
        comment = " ".join([str(data.name or "map"), *term])
    picked = mne.pick_info(info, [info["ch_names"].index(name) for name in order])
    return mne.EvokedArray(np.asarray(values, dtype=np.float64), picked, tmin=float(times[0]), comment=comment)
