"""The rooms of the package: who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jaxlmm

PACKAGE = Path(jaxlmm.__file__).parent
# In the order in which data flows: a room imports only rooms that stand before it, and itself.
ROOMS = (
    "_types runtime sources design optimize engine families tabular inference resampling storage results "
    "comparison formula labelled loading outofcore doors plots naplib cli __init__ __main__"
).split()
# Rooms that import what the core does without.
EDGES = {
    "sources",
    "formula",
    "labelled",
    "storage",
    "loading",
    "outofcore",
    "doors",
    "plots",
    "naplib",
    "cli",
    "__main__",
}
# Still built for one model family.
KNOWN: dict[str, set[str]] = {}
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.stat().st_size
)


def source(module: str) -> Path:
    path = PACKAGE / Path(*module.split("."))
    return path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"


def imports(module: str) -> set[str]:
    """Every module that is imported, anywhere in the file but under TYPE_CHECKING."""
    found: set[str] = set()
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(source(module).read_text())):  # parents come before their children
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skipped |= {id(child) for statement in node.body for child in ast.walk(statement)}
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            found |= {text_of(argument) for argument in node.args}
    return found


def called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def text_of(argument: ast.expr) -> str:
    """A module that is imported by its name as text; a part that is computed is "?"."""
    if isinstance(argument, ast.JoinedStr):
        return "".join(map(text_of, argument.values))
    return str(argument.value) if isinstance(argument, ast.Constant) else "?"


def inner(module: str) -> set[str]:
    """The modules of the package that ``module`` imports."""
    return {name.removeprefix("jaxlmm.") for name in imports(module)} & set(MODULES) - {module}


def test_every_module_has_its_room() -> None:
    assert {module.split(".")[0] for module in MODULES} == set(ROOMS)


@pytest.mark.parametrize("module", MODULES)
def test_no_import_points_back(module: str) -> None:
    room = ROOMS.index(module.split(".")[0])
    later = {name for name in inner(module) if ROOMS.index(name.split(".")[0]) > room}
    later -= KNOWN.get(module, set())
    assert not later, f"{module} imports {later}, which stand after it"


def test_no_modules_form_a_cycle() -> None:
    left = {module: inner(module) for module in MODULES}
    while free := {module for module, needs in left.items() if not needs & set(left)}:
        left = {module: needs for module, needs in left.items() if module not in free}
    assert not left, f"these modules import each other: {sorted(left)}"


@pytest.mark.parametrize("module", MODULES)
def test_no_module_of_the_package_is_imported_by_a_computed_name(module: str) -> None:
    computed = {name for name in imports(module) if "?" in name}
    assert not computed or module == "runtime.extras", f"{module} imports {computed}"


@pytest.mark.parametrize(
    "line",
    [
        'importlib.import_module("jaxlmm.results.results")', '__import__("jaxlmm.results.results")',
        'import_module("jaxlmm.results.results", None)', "from jaxlmm.results import results",
        "def f():\n    import jaxlmm.results.results",
    ],
)  # fmt: skip
def test_imports_are_seen_however_they_are_written(
    line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "text.py").write_text(line)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    assert "results.results" in inner("runtime.text")


def test_computed_names_are_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "naplib.py").write_text('import_module(f"jaxlmm.{name}")')
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    assert imports("naplib") == {"jaxlmm.?"}


@pytest.mark.parametrize("module", MODULES)
def test_heavy_and_foreign_imports_stay_in_their_rooms(module: str) -> None:
    roots = {name.split(".")[0] for name in imports(module)}
    assert "jaxopt" not in roots or module == "optimize.solver"
    assert "statsmodels" not in roots
    if module.split(".")[0] not in EDGES:
        assert not roots & {"matplotlib", "pandas", "xarray", "dask", "zarr", "h5py", "click"}


@pytest.mark.parametrize("module", MODULES)
def test_what_is_compiled_is_counted(module: str) -> None:
    used = {ast.unparse(node) for node in ast.walk(ast.parse(source(module).read_text()))}
    # What is exported is not run; parts of blocks are traced within programs.
    assert "jax.jit" not in used or module in ("runtime.programs", "runtime.traced", "engine.blocks")


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
