"""Maps of a fit as what other packages draw: evoked data of MNE, images through a masker of nilearn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlmm.inference.multiplicity import adjust_pvalues
from jaxlmm.results.top import term_column
from jaxlmm.runtime.arguments import check_option, shown
from jaxlmm.runtime.extras import extra

__all__ = ["MAPS", "evoked_map", "fit_evoked", "fit_nifti", "map_values"]

# What may be drawn, as attributes of a fit (m, p); and adjusted p-values.
ADJUSTED = "pvalue_adjusted"
MAPS = ("coef", "se", "statistic", "df", "pvalue", "zscore", "neglog10p", ADJUSTED)
# What voxels without a value have in an image: p-values of 1; standard errors and degrees of freedom are not there.
P_VALUES = ("pvalue", ADJUSTED)
OUTSIDE = dict.fromkeys(P_VALUES, 1.0) | dict.fromkeys(("se", "df"), np.nan)
# Dimensions of evoked data.
CHANNEL, TIME = "channel", "time"


def map_values(fit: Any, term: Any, variable: str, adjust: str = "bh") -> np.ndarray:
    """One variable of one effect, (m,)."""
    check_option("variable", variable, MAPS)
    j = term_column(fit, term)
    if variable == ADJUSTED:
        return np.asarray(adjust_pvalues(fit.pvalue[:, j], adjust))
    return np.asarray(getattr(fit, variable)[:, j])


def fit_evoked(fit: Any, info: Any, term: Any, variable: str, adjust: str) -> Any:
    """See :meth:`jaxlmm.Fit.to_evoked`."""
    info = getattr(info, "info", info)
    if "ch_names" not in info or not isinstance(term, (str, int, np.integer)):
        raise ValueError(
            f"to_evoked takes the info of the epochs and then one term, to_evoked(epochs.info, {fit.names[-1]!r}); "
            f"found {shown(info)} and {shown(term)}."
        )
    values = map_values(fit, term, variable, adjust).reshape(fit.shape)
    dims = [str(dim) for dim in fit.dims]
    if dims == [CHANNEL]:  # of one time or window
        values, dims = values[:, None], [CHANNEL, TIME]
        times = np.zeros(1)
    elif sorted(dims) == [CHANNEL, TIME]:
        times = np.asarray(_labels(fit, TIME), dtype=np.float64)
    else:
        raise ValueError(
            f"evoked data have the dimensions 'channel' and 'time', the fit has {', '.join(map(repr, dims))}; "
            "select one label of the others, such as fit.sel(freq=10), or rename the dimensions of Y."
        )
    values = values if dims == [CHANNEL, TIME] else values.T
    channels = [str(name) for name in _labels(fit, CHANNEL)]
    return evoked_map(values, channels, times, info, f"{variable} {fit.names[term_column(fit, term)]}")


def _labels(fit: Any, dim: str) -> np.ndarray:
    coord = fit.labels.coords.get(dim)
    if coord is None or coord.levels:
        raise ValueError(f"the fit has no coordinate {dim!r}, which tells where its values belong.")
    return np.asarray(coord.values)


def evoked_map(values: np.ndarray, channels: Sequence[str], times: np.ndarray, info: Any, comment: str) -> Any:
    """Values (channel, time) as evoked data, channels in the order of ``info``.

    Raises
    ------
    ValueError
        Channels that ``info`` has not, times that are not spaced by 1 / sfreq.
    """
    mne = extra("mne", "evoked data")
    unknown = [name for name in channels if name not in info["ch_names"]]
    if unknown:
        raise ValueError(f"info has no channel {unknown[0]!r}; give the info of the epochs that were fitted.")
    if not np.allclose(np.diff(times) * info["sfreq"], 1.0, atol=1e-3):
        raise ValueError(
            f"the times are not spaced by 1 / sfreq = {1 / info['sfreq']:.6g} s, as evoked data must be; "
            "give all times, and the info of the epochs after any resampling."
        )
    order = [name for name in info["ch_names"] if name in channels]
    rows = np.asarray(values, dtype=np.float64)[[channels.index(name) for name in order]]
    picked = mne.pick_info(info, [info["ch_names"].index(name) for name in order])
    return mne.EvokedArray(rows, picked, tmin=float(times[0]), comment=comment)


def fit_nifti(fit: Any, masker: Any, term: Any, variable: str, adjust: str, fill: float | None) -> Any:
    """See :meth:`jaxlmm.Fit.to_nifti`."""
    if not hasattr(masker, "inverse_transform"):
        kind = shown(masker) if isinstance(masker, str) else f"a {type(masker).__name__}"
        raise ValueError(
            f"masker is {kind}; give the masker of nilearn that made the responses, which has "
            "inverse_transform, such as nilearn.maskers.NiftiMasker(mask_img=...).fit()."
        )
    values = map_values(fit, term, variable, adjust).astype(np.float64)
    outside = OUTSIDE.get(variable, 0.0)
    values[np.isnan(values)] = outside if fill is None else fill
    image = _inverse(masker, values)
    if variable in P_VALUES:
        # A masker puts 0 where it has no voxel, which would be the smallest p-value.
        image = _filled(image, _inverse(masker, np.ones(len(values))), outside)
    return image


def _inverse(masker: Any, values: np.ndarray) -> Any:
    """The image of some values; the masker's own error, with what to do."""
    try:
        return masker.inverse_transform(values)
    except (ValueError, TypeError, IndexError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        todo = "give the one that made the responses of this fit, after its fit(), and a fit of all of them"
        raise ValueError(f"the masker does not take {len(values)} values ({said}); {todo}.") from error


def _filled(image: Any, inside: Any, value: float) -> Any:
    """An image with a value where ``inside`` is 0: of nibabel, of nilearn's surfaces, or an array."""
    if hasattr(image, "get_fdata"):
        return type(image)(np.where(inside.get_fdata() == 0, value, image.get_fdata()), image.affine)
    if hasattr(image, "mesh"):
        parts, there = image.data.parts, inside.data.parts
        return type(image)(image.mesh, {name: np.where(there[name] == 0, value, parts[name]) for name in parts})
    return np.where(np.asarray(inside) == 0, value, image)
