"""The command line's ``plot``: from a file that ``fit`` wrote to a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from jaxlmm import plots
from jaxlmm.cli.chosen import choose
from jaxlmm.cli.kinds import IN_PYTHON, KINDS, Kind
from jaxlmm.cli.written import TABLES, read_written
from jaxlmm.runtime.extras import extra

__all__ = ["plot_file"]

PICTURES = (".png", ".pdf", ".svg", ".jpg")
MM = 25.4


def plot_file(
    *,
    fit: Path,
    kind: str,
    out: Path,
    overwrite: bool,
    at: Sequence[str] = (),
    units: str | None = None,
    array: str | None = None,
    trust_formula: bool = False,
    width: float = 85.0,
    height: float | None = None,
    size: float = 8.0,
    xlim: tuple[float, float] | None = None,
    ylim: tuple[float, float] | None = None,
    **options: Any,
) -> str:
    """Draw what ``fit`` wrote; returns one line that says what was done.

    ``options`` are those that kinds of pictures take, see :data:`jaxlmm.cli.kinds.KINDS`; None and () are not given.

    Raises
    ------
    ValueError, OSError, ImportError
        With a message that says what to do; nothing is written then.
    """
    _check_out(out, overwrite)
    if kind in IN_PYTHON:
        _refuse_test(kind, fit, options.get("term"))
    picture = KINDS[kind]
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    for name in given:
        if name not in picture.takes:
            raise ValueError(f"--kind {kind} takes no --{name}.")
    found = read_written(fit, kind, array, trust_formula, picture.responses or "data" in given)
    open_before = set(plt.get_fignums())
    try:
        if isinstance(found, pd.DataFrame):
            if at or units:
                raise ValueError(f"--{'at' if at else 'units'} does not go with a table of marginal means.")
        else:
            if units is not None:
                found = dataclasses.replace(found, labels=dataclasses.replace(found.labels, units=units))
            found, values = choose(found, at, variables="at" in picture.takes)
            given |= {"at": values} if values else {}
            _check_dims(kind, picture, found)
        arguments = _arguments(kind, picture, given, found)
        with plots.paper(width / MM, size):
            axes = None
            if height is not None:
                axes = plt.subplots(figsize=(width / MM, height / MM), layout="constrained")[1]
            axes = getattr(plots, picture.picture)(found, ax=axes, **arguments)
            _save(axes, out, xlim, ylim)
    except ValueError as error:
        raise ValueError(picture.in_options(str(error))) from None
    finally:
        for number in set(plt.get_fignums()) - open_before:
            plt.close(number)
    return f"{kind}{_of_which(picture, given, found)} -> {out}"


def _check_out(out: Path, overwrite: bool) -> None:
    if out.suffix.lower() not in PICTURES:
        raise ValueError(f"--out '{out}' must end in {', '.join(PICTURES)}.")
    if not out.resolve().parent.is_dir():
        raise ValueError(f"the folder '{out.resolve().parent}' does not exist; make it first.")
    if out.exists() and not overwrite:
        raise ValueError(f"'{out}' exists; add --overwrite, or choose another name.")


def _refuse_test(kind: str, path: Path, term: Any) -> None:
    """Permutation tests are in no file that ``jaxlmm fit`` writes."""
    saved = "fit.npz" if path.suffix in (*TABLES, ".zarr") else path
    call = IN_PYTHON[kind].format(fit=saved, term=term[0] if term else "TERM")
    more = "" if saved == path else f"; 'jaxlmm fit --save {saved}' writes the fit"
    raise ValueError(
        f"--kind {kind} is of a permutation test, which fits the model to each draw anew and is in no file of "
        f"'jaxlmm fit': in Python, {call}{more}."
    )


def _check_dims(kind: str, picture: Kind, found: Any) -> None:
    """ValueError where the responses have another number of dimensions than the picture can show."""
    dims = picture.dims
    if not dims or len(found.dims) in dims:
        return
    sizes = ", ".join(f"{dim} ({size})" for dim, size in zip(found.dims, found.shape, strict=True)) or "none"
    wanted = {1: "one dimension", 2: "two dimensions", 3: "three with one --term"}
    said = f"--kind {kind} needs responses of {' or of '.join(wanted[n] for n in dims)}; these have {sizes}"
    if len(found.dims) < min(dims):
        raise ValueError(f"{said}; leave out --at, or draw --kind {'course' if len(found.dims) == 1 else 'forest'}.")
    raise ValueError(f"{said}; choose labels of the others by --at NAME=LABEL, or draw --kind volcano.")


def _of_which(picture: Kind, given: Mapping[str, Any], found: Any) -> str:
    """Which of several responses a picture is of, if that was not asked for."""
    if picture.takes.get("response") != "response" or "response" in given or isinstance(found, pd.DataFrame):
        return ""
    return f" of '{found.response_names[0]}', the first of {found.n_responses:,}" if found.n_responses > 1 else ""


# -- how it is drawn --------------------------------------------------------------------------------


def _arguments(kind: str, picture: Kind, given: Mapping[str, Any], found: Any) -> dict[str, Any]:
    """Arguments of the function that draws."""
    out: dict[str, Any] = {}
    for name, value in given.items():
        if name in picture.several or not isinstance(value, tuple):
            out[picture.takes[name]] = list(value) if isinstance(value, tuple) else value
        elif len(value) > 1:
            raise ValueError(f"--kind {kind} takes one --{name}, found {len(value)}.")
        else:
            out[picture.takes[name]] = value[0]
    if picture.takes.get("term") == "term" and "term" not in out:
        out["term"] = _only_term(kind, found)
    if "variable" in picture.takes and "variable" not in given and not isinstance(found, pd.DataFrame):
        raise ValueError(f"--kind {kind} needs --variable, {_variables(found)}.")
    if "positions" in given:
        out[picture.takes["positions"]] = _positions(given["positions"], found)
    elif kind == "topomap":
        raise ValueError(
            "--kind topomap needs --positions: a montage that MNE knows, such as biosemi64 or standard_1005, or a "
            "file with the positions of the channels."
        )
    if kind == "map" and len(found.dims) == 3 and "terms" not in out:
        out["terms"] = _only_term(kind, found)
    if kind == "course":
        out.setdefault("test", "bh")
    if kind == "qq" and ("group" in given or "effect" in given):
        out["what"] = "ranef"
    return out


def _only_term(kind: str, found: Any) -> str:
    effects = [name for name in found.names if name != "Intercept"]
    if len(effects) != 1:
        raise ValueError(f"--kind {kind} needs --term, one of {', '.join(found.names)}.")
    return str(effects[0])


def _variables(found: Any) -> str:
    if getattr(found, "source", None) is None:
        return "but this model has no formula, so there are none"
    return f"one of {', '.join(variable.name for variable in found.source.variables)}"


def _positions(given: str, found: Any) -> Any:
    """An mne.Info with the positions of the channels: those of a montage by name, or in a file."""
    mne = extra("mne", "positions of channels")
    if given.endswith((".fif", ".fif.gz")):
        return mne.io.read_info(given, verbose="error")
    if Path(given).exists():
        montage = mne.channels.read_custom_montage(given)
    elif given in mne.channels.get_builtin_montages():
        montage = mne.channels.make_standard_montage(given)
    else:
        known = ", ".join(mne.channels.get_builtin_montages())
        raise ValueError(f"--positions is '{given}', which is no file and no montage of MNE; these are {known}.")
    names = [str(name) for dim in found.dims for name in _names(found, dim)]
    absent = [name for name in names if name not in montage.ch_names]
    if absent or not names:
        raise ValueError(
            f"'{given}' has no channel {absent[0]!r}; its channels begin {', '.join(montage.ch_names[:5])}."
            if names
            else "--positions are of channels by name, which these responses have not."
        )
    info = mne.create_info(names, 100.0, "eeg")
    info.set_montage(montage)
    return info


def _names(found: Any, dim: Any) -> list[Any]:
    """Labels of a dimension that are names."""
    coord = found.labels.coords.get(dim)
    if coord is None or coord.levels or np.asarray(coord.values).dtype.kind in "iuf":
        return []
    return np.asarray(coord.values).tolist()


def _save(ax: Axes, out: Path, xlim: tuple[float, float] | None, ylim: tuple[float, float] | None) -> None:
    """Write the figure, with limits of its axes, or of all its panels."""
    panels = [child for child in ax.child_axes if child.axison] or [ax]
    for name, limits in (("x", xlim), ("y", ylim)):
        if limits is None:
            continue
        if limits[0] == limits[1] or not np.isfinite(limits).all():
            raise ValueError(f"--{name}lim is {limits[0]:g} {limits[1]:g}; give two different numbers.")
        for panel in panels:
            getattr(panel, f"set_{name}lim")(*limits)
    figure = ax.get_figure(root=True)
    assert figure is not None  # it was drawn just now
    figure.savefig(out)
