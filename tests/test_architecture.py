"""The rooms of the package: who may import whom, and how large a module may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jaxlmm

PACKAGE = Path(jaxlmm.__file__).parent
# In the order in which data flows; a module imports only modules that stand before it.
ORDER = (
    "_types threads text multiplicity fingerprint encoded sources plan overlap lazy device arrays labels terms "
    "design crossprod spectrum objective solver search reduce reduce_device inference stream block "
    "stream_device estimates contrasts hypotheses anova patterns crosslik missing tukey emmeans profile "
    "intervals effects derived selection summary exports results fit rlrt compare formula_text "
    "formula_data formula_guard formula_design formula tables labelled_data labelled labelled_formula "
    "cluster mne_io storage_codec storage_absent storage_zip storage_frame storage_formula storage_check "
    "storage_parts opening journal result_store storage_store storage run_settings resumable to_store "
    "plots_base plots_maps plots_many plots_one plots run effects_model demo cli __init__ __main__ "
).split()
EDGES = set(
    (
        "formula_data formula_guard formula_design formula tables labelled_data labelled labelled_formula "
        "cluster mne_io storage_codec storage_absent storage_zip storage_frame storage_formula storage_check "
        "storage_parts opening journal result_store storage_store storage run_settings resumable to_store run "
        "plots_base plots_maps plots_many plots_one plots effects_model demo cli __main__ "
    ).split()
)
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


def imports(module: str) -> set[str]:
    """Every module that is imported, anywhere in the file but under TYPE_CHECKING."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    found: set[str] = set()
    skipped: set[int] = set()
    for node in ast.walk(tree):  # parents come before their children
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skipped |= {id(child) for statement in node.body for child in ast.walk(statement)}
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_module_has_its_place() -> None:
    assert sorted(ORDER) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_no_import_points_back(module: str) -> None:
    inner = {name.split(".")[1] for name in imports(module) if name.startswith("jaxlmm.")} & set(MODULES)
    later = {name for name in inner if ORDER.index(name) >= ORDER.index(module)}
    assert not later, f"{module} imports {later}, which stand after it"


@pytest.mark.parametrize("module", MODULES)
def test_heavy_and_foreign_imports_stay_in_their_rooms(module: str) -> None:
    roots = {name.split(".")[0] for name in imports(module)}
    assert "jaxopt" not in roots or module == "solver"
    assert "statsmodels" not in roots
    if module not in EDGES:
        assert not roots & {"matplotlib", "pandas", "xarray", "dask", "zarr", "h5py", "click"}


@pytest.mark.parametrize("module", MODULES)
def test_modules_stay_small(module: str) -> None:
    # Most of results.py are the docstrings of what a Fit offers.
    limit = 400 if module == "results" else 340
    assert len((PACKAGE / f"{module}.py").read_text().splitlines()) <= limit


def test_importing_makes_no_array_and_loads_no_edge() -> None:
    code = (
        "import sys, jaxlmm, jax\n"
        "assert not jax.live_arrays(), 'arrays were made'\n"
        "loaded = {'matplotlib', 'pandas', 'statsmodels', 'click'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "assert not jax.config.jax_enable_x64\n"
        "assert jaxlmm.LinearMixedEffectsModel and 'matplotlib' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
