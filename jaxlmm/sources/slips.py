"""What is given in the place of a table or an array by a slip, and the call that was meant."""

from __future__ import annotations

import os
from typing import Any

from jaxlmm.runtime.arguments import shown

__all__ = ["instead_of_table", "refuse_recordings"]

READERS = {".parquet": "read_parquet", ".xlsx": "read_excel", ".feather": "read_feather"}
EPOCHS = (
    "write Y = jaxlmm.mne_io.epochs_to_dataarray(epochs), then jaxlmm.lmm(formula, Y=Y): the formula names columns "
    "of epochs.metadata"
)
IMAGES = (
    "a masker of nilearn makes responses of images, Y = masker.fit_transform(images), a row for each image, and "
    "fit.to_nifti(masker, term) goes back"
)
# Names of files of images.
ENDS = (".nii", ".nii.gz", ".mgz", ".gii", ".gii.gz", ".hdr")
EVOKEDS = "write Y = jaxlmm.mne_io.evokeds_to_dataarray(evokeds), whose observations are the averages"


def instead_of_table(data: Any) -> str:
    """What was given for a table, and what to do."""
    kind = type(data).__name__
    if hasattr(data, "obs") and hasattr(data, "var_names"):
        return f"{kind}; give its table, .obs"
    if kind == "Raw" and hasattr(data, "to_adata"):
        return "the raw of an AnnData; give data.raw.to_adata()"
    if isinstance(data, (str, os.PathLike)):
        text = str(os.fspath(data))
        if "~" in text:
            return f"the formula {shown(text)}; the formula comes first, as in jaxlmm.lmm(formula, data)"
        how = READERS.get(os.path.splitext(text)[1].lower(), "read_csv")
        return f"the text {shown(text)}; if it is a file, read it first: data = pandas.{how}({shown(text)})"
    if kind.endswith("GroupBy"):
        return f"{kind}; give the table itself, and the columns of a response for each group as by=[...]"
    if _is_mne(data):
        return f"MNE's {kind}; {EPOCHS}"
    if _is_image(data):
        return f"{kind}; {IMAGES}"
    if hasattr(data, "shape"):
        return f"{kind} of shape {tuple(data.shape)}; an array of responses is Y, as in jaxlmm.lmm(formula, data, Y)"
    return kind


def refuse_recordings(what: str, given: Any) -> None:
    """ValueError for MNE's Epochs or images, lists of Evokeds or of images, in the place of an array."""
    if _is_mne(given):
        raise ValueError(f"{what} is MNE's {type(given).__name__}; {EPOCHS}.")
    if isinstance(given, (list, tuple)) and given and _is_mne(given[0]):
        raise ValueError(f"{what} is a list of MNE's {type(given[0]).__name__}; {EVOKEDS}.")
    if _is_image(given):
        named = f"the file {shown(given)}" if isinstance(given, (str, os.PathLike)) else type(given).__name__
        raise ValueError(f"{what} is {named}; {IMAGES}.")
    text = getattr(given, "ndim", 0) == 1 and getattr(getattr(given, "dtype", None), "kind", "") in ("O", "U", "T")
    listed = isinstance(given, (list, tuple)) or text
    first = next(iter(given), None) if listed else None
    if _is_image(first):
        named = "names of files" if isinstance(first, (str, os.PathLike)) else f"{type(first).__name__}s"
        raise ValueError(f"{what} holds {named}; {IMAGES}.")


def _is_image(given: Any) -> bool:
    """Whether this is an image of nibabel or nilearn, its data that are not read, or the name of its file."""
    if isinstance(given, (str, os.PathLike)):
        return str(os.fspath(given)).lower().endswith(ENDS)
    return type(given).__module__.partition(".")[0] in ("nibabel", "nilearn")


def _is_mne(given: Any) -> bool:
    return hasattr(given, "ch_names") and hasattr(given, "info") and type(given).__module__.partition(".")[0] == "mne"
