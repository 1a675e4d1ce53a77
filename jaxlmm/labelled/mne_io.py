"""Between MNE-Python and labelled arrays: epochs to responses, maps of results to evoked data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

try:
    import xarray as xr
except ImportError as error:
    raise ImportError('MNE data need xarray and mne: pip install "jaxlmm[mne]"') from error

from jaxlmm.labelled.data import coordinate
from jaxlmm.results.images import evoked_map

if TYPE_CHECKING:
    import mne

__all__ = ["epochs_to_dataarray", "map_to_evoked"]

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
) -> xr.DataArray:
    """Epochs as responses for :func:`jaxlmm.lmm`, whose ``obs_dim`` is "trial".

    Parameters
    ----------
    epochs : Epochs, EpochsTFR or EpochsSpectrum of MNE
        All channels are taken, bad ones too: use ``epochs.pick`` before. Epochs that are not loaded
        yet are read, and those that their ``reject`` drops are not there, as in ``epochs.get_data``.

    Returns
    -------
    DataArray, (trial, channel, time), (trial, channel, freq) or (trial, channel, freq, time)
        Coordinates: ``trial`` (numbers before epochs were dropped), ``event`` (name, or the code if
        it has none), the columns of ``epochs.metadata``, if any; ``channel``, ``channel_type``, of
        Epochs ``units`` of each channel; ``time`` in seconds, ``freq`` in hertz. If all channels
        have the same units, they are in ``attrs`` too. Power has none, as these depend on how it
        was made.

        Categories of the metadata keep their order: the coordinate has the attribute
        ``categories``, which files and :func:`jaxlmm.lmm` understand.

    Raises
    ------
    ValueError
        No epochs, such as averages or raw data; complex numbers; metadata with a column by the name
        of another coordinate.
    """
    values, axes = _values(epochs)
    types = epochs.get_channel_types(unique=False)
    names = {code: name for name, code in epochs.event_id.items()}
    codes = [int(code) for code in epochs.events[:, 2]]
    selection = getattr(epochs, "selection", None)
    coords: dict[str, Any] = {
        "trial": np.arange(len(values)) if selection is None else np.asarray(selection),
        "event": ("trial", [str(names.get(code, code)) for code in codes]),
        "channel": list(epochs.ch_names),
        "channel_type": ("channel", types),
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
    if len(set(units)) == 1 and units[0]:
        made.attrs["units"] = units[0]
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
        raise ValueError(
            f"epochs must be Epochs, EpochsTFR or EpochsSpectrum of MNE, found {type(epochs).__name__}: a model "
            "needs single trials. Of raw data make mne.Epochs; averages, one per subject and condition, go into a "
            "DataArray by hand, with these as coordinates."
        )
    if np.iscomplexobj(values) or values.ndim != 2 + len(axes):
        raise ValueError(
            f"the {type(epochs).__name__} hold complex numbers or single tapers, of the shape {values.shape}; "
            "compute them with output='power', average=False."
        )
    return values, axes


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
