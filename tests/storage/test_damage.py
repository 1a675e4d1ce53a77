"""Damaged, enlarged and mixed files: an error in words, in bounded time and memory, or the fit itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from test_storage import CODES, assert_same, data, fitted

import jaxlmm
from jaxlmm.loading.load import load
from jaxlmm.storage.save import save

zarr = pytest.importorskip("zarr")
pytest.importorskip("xarray")

from jaxlmm.storage import places  # noqa: E402

SLOW = hypothesis.settings(
    max_examples=60, deadline=20000, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)


def load_or_refuse(path: Path, fit: Any, same: bool = True) -> None:
    """The fit as it was, or an error in words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = load(path)
        except (ValueError, OSError) as error:
            assert len(str(error)) > 20
        else:
            if same:
                assert_same(found, fit)
                np.testing.assert_allclose(found.resid(), fit.resid(), rtol=1e-12)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder, fit = tmp_path_factory.mktemp("whole"), fitted(response_names=list("stuvwxyz"))
    save(fit, folder / "f.npz", include_Y=True)
    save(fit, folder / "f.zarr", include_Y=True)
    return fit, folder


@SLOW
@hypothesis.given(draw=st.data())
def test_any_byte_of_any_file_of_a_store(stores: tuple[Any, Path], draw: st.DataObject) -> None:
    fit, folder = stores
    files = sorted(p for p in (folder / "f.zarr").rglob("*") if p.is_file())
    path = draw.draw(st.sampled_from(files))
    whole = path.read_bytes()
    hypothesis.assume(whole)
    how, at = draw.draw(st.sampled_from(["flip", "cut", "gone"])), draw.draw(st.integers(0, len(whole) - 1))
    try:
        if how == "gone":
            path.unlink()
        else:
            flipped = whole[:at] + bytes([whole[at] ^ (1 << draw.draw(st.integers(0, 7)))]) + whole[at + 1 :]
            path.write_bytes(flipped if how == "flip" else whole[:at])
        load_or_refuse(folder / "f.zarr", fit, same=path.name[0] != ".")
    finally:
        path.write_bytes(whole)


@SLOW
@hypothesis.given(draw=st.data())
def test_any_byte_of_a_file(stores: tuple[Any, Path], draw: st.DataObject) -> None:
    fit, folder = stores
    whole, path = (folder / "f.npz").read_bytes(), folder / "damaged.npz"
    at = draw.draw(st.integers(0, len(whole) - 1))
    cut = draw.draw(st.booleans())
    path.write_bytes(
        whole[:at] if cut else whole[:at] + bytes([whole[at] ^ draw.draw(st.integers(1, 255))]) + whole[at + 1 :]
    )
    load_or_refuse(path, fit, same=False)


@SLOW
@hypothesis.given(draw=st.data())
def test_any_value_of_the_manifest(stores: tuple[Any, Path], draw: st.DataObject) -> None:
    fit, folder = stores
    with zipfile.ZipFile(folder / "f.npz") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(parts["manifest.json"])
    places_: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            places_.append((value, key))
            walk(value[key])

    walk(manifest)
    holder, key = draw.draw(st.sampled_from(places_))
    nested: Any = []
    for _ in range(500):
        nested = [nested]
    holder[key] = draw.draw(st.sampled_from(
        [None, -1, 10**30, 1e308, "x", "", [], {}, [1, 2], {"tuple": 3}, {"array": "coef"}, {"array": []}, nested,
         {"Fraction": "1e999999999"}, {"Decimal": "1e999999999999"}, {"datetime": ["x", 0, "America"]},
         {"Period": [10**30, "D"]}, {"RandomTerm": {}}, {"scalar": "coef"}])
    )  # fmt: skip
    with zipfile.ZipFile(folder / "odd.npz", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, json.dumps(manifest) if name == "manifest.json" else content)
    load_or_refuse(folder / "odd.npz", fit, same=False)


@pytest.mark.parametrize(("name", "value"), [
    ("method", "MINQUE"), ("method", 3), ("df_method", "bayes"), ("df_method", None),
])  # fmt: skip
def test_unknown_methods(stores: tuple[Any, Path], name: str, value: Any) -> None:
    _, folder = stores
    with zipfile.ZipFile(folder / "f.npz") as archive:
        parts = {n: archive.read(n) for n in archive.namelist()}
    manifest = json.loads(parts["manifest.json"])
    manifest["fields"][name] = value
    with zipfile.ZipFile(folder / "m.npz", "w") as archive:
        for n, content in parts.items():
            archive.writestr(n, json.dumps(manifest) if n == "manifest.json" else content)
    with pytest.raises(ValueError, match="it is damaged"):
        load(folder / "m.npz")


def archive_with(folder: Path, path: Path, **arrays: Any) -> Path:
    with zipfile.ZipFile(folder / "f.npz") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if name.removesuffix(".npy") not in arrays:
                new.writestr(name, old.read(name))
        for name, content in arrays.items():
            with new.open(f"{name}.npy", "w", force_zip64=True) as member:
                if isinstance(content, np.ndarray):
                    np.lib.format.write_array(member, content)
                else:
                    member.writelines(content)
    return path


def header(shape: str) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize("arrays", [
    {"sigma2": [header("(1000000000000,)")]}, {"sigma2": [header("(-8,)"), bytes(64)]},
    {"sigma2": [header("(8, 0, 9**9)")]},
    {"bomb": (bytes(2**24) for _ in range(30))}, {"status": np.full(8, 99, dtype=np.int8)},
    {"n_used": np.full(8, 1000)}, {"coef": np.zeros((8, 3), dtype=complex)}, {"Y": np.zeros((26, 8))},
    {"sigma2": np.array(list("abcdefgh"))},
], ids=["8 TB", "negative", "expression", "bomb", "status", "n_used", "complex", "another Y", "text"])  # fmt: skip
def test_arrays_that_say_what_is_not_so(stores: tuple[Any, Path], arrays: Any) -> None:
    _, folder = stores
    with pytest.raises(ValueError, match="it is damaged"):
        load(archive_with(folder, folder / "a.npz", **arrays))


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    for call in (load, lambda path: save(fitted(), path), lambda path: save(fitted(), path + ".zarr")):
        with pytest.raises(ValueError, match="too long a name"):
            call("x" * 1000)  # type: ignore[operator]
    with pytest.raises(ValueError, match="is a folder"):
        save(fitted(), tmp_path, overwrite=True)


# -- several processes, and processes that were killed ---------------------------------------------

WRITER = """
import sys, numpy as np, jaxlmm
seed, path = int(sys.argv[1]), sys.argv[2]
rng = np.random.default_rng(seed)
X, Y = np.column_stack([np.ones(60), rng.normal(size=60)]), rng.normal(size=(60, 50))
fit = jaxlmm.fit(X, Y, np.arange(60) % 6)
for _ in range(15):
    fit.save(path, overwrite=True)
"""


def test_two_processes_never_mix_two_fits(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    fits = []
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        X, Y = np.column_stack([np.ones(60), rng.normal(size=60)]), rng.normal(size=(60, 50))
        fits.append(jaxlmm.fit(X, Y, np.arange(60) % 6))
    fits[0].save(path)
    command = [sys.executable, "-c", WRITER]
    writers = [subprocess.Popen([*command, str(seed), str(path)]) for seed in (1, 2)]
    n = 0
    while any(writer.poll() is None for writer in writers):
        found, n = load(path), n + 1
        assert any(np.array_equal(found.coef, f.coef) and np.array_equal(found.design.X, f.design.X) for f in fits)
    assert n and [writer.wait() for writer in writers] == [0, 0]
    assert os.listdir(tmp_path) == ["x.zarr"]


@pytest.mark.parametrize("suffix", ["f.npz", "f.zarr"])
def test_what_killed_processes_left_is_removed(suffix: str, tmp_path: Path) -> None:
    out = tmp_path / suffix
    for left in (
        f"{suffix}.0123456789ab.new",
        f"{suffix}.part.0123456789ab.old",
        f"{suffix}.0123456789ab.new.0123456789ab.old",
    ):
        (tmp_path / left / "store").mkdir(parents=True)
    (tmp_path / f"{suffix}.mine.new").write_text("years of work")
    with places.scratch_folder(out) as alive:
        save(fitted(), out)
        assert alive.is_dir(), "another process is at work there"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([suffix, f"{suffix}.mine.new"])


def test_killed_between_two_renamings(tmp_path: Path) -> None:
    """The new results are whole and the old ones are aside: the next that comes finishes it."""
    out = tmp_path / "f.zarr"
    save(fitted(method="ML"), out)
    made = tmp_path / "f.zarr.0123456789ab.new"
    made.mkdir()
    os.rename(out, made / "whole")
    (made / "replaced-0123456789ab").mkdir()
    assert load(out).method == "ML"
    assert os.listdir(tmp_path) == ["f.zarr"]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 3}', '{"Y": {"shape": "x"}}'])
def test_a_damaged_unfinished_run_is_said_and_replaced(content: str, tmp_path: Path) -> None:
    X, Y = data(missing=False)
    out = tmp_path / "o.zarr"
    (tmp_path / "o.zarr.part" / "store").mkdir(parents=True)
    (tmp_path / "o.zarr.part" / "settings.json").write_text(content)
    with pytest.raises(ValueError, match=r"holds an unfinished run that is damaged .* overwrite=True starts anew"):
        jaxlmm.fit(X, Y, CODES, out=out, resume=True, progress=False)
    jaxlmm.fit(X, Y, CODES, out=out, overwrite=True, progress=False)
    assert os.listdir(tmp_path) == ["o.zarr"]
