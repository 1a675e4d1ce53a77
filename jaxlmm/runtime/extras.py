"""Packages that the core does without, imported when something first needs them."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["extra"]

# Which extra of this package brings them: pip install "jaxlmm[...]".
EXTRAS = {"pandas": "pandas", "xarray": "xarray", "zarr": "stream", "mne": "mne"}


def extra(name: str, what: str) -> Any:
    """The package ``name``; ImportError that says how to install it, for ``what`` needs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'{what} need {name}: pip install "jaxlmm[{EXTRAS[name]}]"') from error
