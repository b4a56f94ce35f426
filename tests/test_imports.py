"""What imports what: the house's direction, and how light it stays."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import featbank
from featbank import backbones
from featbank.backbones import device, graph
from tests.conftest import MODEL, PATIENCE, Tour, run

PACKAGE = Path(featbank.__file__).parent
ORDER = (
    *("data", "backbones", "bank", "extraction", "heads", "evaluation", "classifier"),
    *("finetuning", "reporting", "workflows"),
)
LAST = ("estimator", "cli")  # both see all the others, and not each other
EVERYWHERE = {"errors", "durable", "frames", "hdf5", "interrupts", "regular", "targets"}
HEAVY = ("torch", "torchvision", "timm", "sklearn")


def imports(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts() -> set[str]:
    names = {path.stem for path in PACKAGE.glob("*.py")}
    names |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    return names - {"__init__", "__main__"}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def allowed(part: str) -> set[str]:
    if part in EVERYWHERE:
        return EVERYWHERE
    left = ORDER if part in LAST else ORDER[: ORDER.index(part)]
    return {part, *left, *EVERYWHERE}


def modules(*names: str) -> list[Path]:
    return [path for name in names for path in sorted((PACKAGE / name).rglob("*.py"))]


def test_every_part_has_its_place_in_the_house() -> None:
    assert parts() - EVERYWHERE <= {*ORDER, *LAST}


@pytest.mark.parametrize("part", sorted(parts()))
def test_a_part_imports_only_parts_to_its_left(part: str) -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        if part_of(path) != part:
            continue
        for name in imports(path):
            package, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if package == "featbank" and other in parts():
                assert other in allowed(part), f"{path} imports {name}"


@pytest.mark.parametrize(
    ("names", "stranger"),
    [(("bank",), "torch"), (("heads", "evaluation"), "h5py"), (("backbones",), "h5py")],
)
def test_the_three_nevers(names: tuple[str, ...], stranger: str) -> None:
    for path in modules(*names):
        assert stranger not in {name.partition(".")[0] for name in imports(path)}, path
    found = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in modules(*names)
    ]
    assert stranger not in loaded_by("import " + ", ".join(found))


def loaded_by(code: str, *words: str | Path, cwd: Path | None = None) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after running `code`."""
    end = "\nimport json, sys; print(); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code + end, *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


COMMAND = "import sys; from featbank.cli import cli; cli(sys.argv[1:], standalone_mode=False)"


def test_importing_featbank_is_light() -> None:
    assert not loaded_by("import featbank; dir(featbank)") & {*HEAVY, "numpy", "h5py", "PIL"}


@pytest.mark.parametrize("words", [("--help",), ("extract", "--help"), ("fit", "--help")])
def test_help_is_light(words: tuple[str, ...]) -> None:
    assert not loaded_by(COMMAND, *words) & {*HEAVY, "numpy", "h5py", "PIL"}


@pytest.mark.parametrize(
    "module",
    ["featbank.data.decode", "featbank.backbones.preprocess", "featbank.extraction.worker"],
)
def test_what_decode_workers_import_is_light(module: str) -> None:
    assert not loaded_by(f"import {module}") & {*HEAVY, "h5py", "scipy"}


def test_an_extraction_with_nothing_to_do_loads_no_network(tour: Tour) -> None:
    words = (*MODEL, "--bank", tour.bank)

    assert not loaded_by(COMMAND, "extract", tour.data, *words) & set(HEAVY)
    assert not loaded_by(COMMAND, "status", tour.data, *words) & set(HEAVY)


@pytest.mark.skipif(device._may_have_accelerator(), reason="torch is asked about the GPU")
def test_no_head_needs_torch_on_a_cpu(tour: Tour, tmp_path: Path) -> None:
    heads = ",".join(featbank.list_heads())
    words = ("fit", "--bank", tour.bank, "--head", heads, "--no-tune", "--jobs", "1")

    assert not loaded_by(COMMAND, *words, cwd=tmp_path) & {"torch", "torchvision"}
    assert len(list(tmp_path.glob("*.skops"))) == heads.count(",") + 1
    assert "skops" not in loaded_by(COMMAND, *words, "--no-save")


@pytest.mark.parametrize("head", ["logreg", "svm"])
def test_a_prediction_loads_neither_torch_nor_scikit_learn(
    tour: Tour, tmp_path: Path, head: str
) -> None:
    fit = ("fit", "--bank", tour.bank, "--head", head, "--no-tune", "--jobs", "1")
    run(*fit, "--out", tmp_path)
    image = next((tour.data / "a").iterdir())
    words = ("predict", tmp_path / f"{head}.skops", image, "--json")
    run(*words)  # makes the graph

    there = loaded_by(COMMAND, *words)

    assert not there & {"sklearn", "skops", "scipy", "joblib", "pandas"}
    if graph.available():
        assert not there & set(HEAVY)
    assert not loaded_by(COMMAND, *words, "--bank", tour.bank) & {*HEAVY, "openvino"}


def test_public_names_have_one_home_and_are_documented() -> None:
    assert sorted(featbank.__all__) == featbank.__all__
    assert set(featbank.__all__) == set(featbank._HOMES)
    for name, home in featbank._HOMES.items():
        value = getattr(featbank, name)
        assert value is getattr(importlib.import_module(home), name)
        assert name in importlib.import_module(home).__all__
        assert value.__module__ == home
        assert inspect.getdoc(value), f"{name} has no docstring"
    assert set(featbank.__all__) <= set(dir(featbank))


def test_public_names_are_known_to_type_checkers() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    told = {
        (alias.name, node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("featbank.")
        for alias in node.names
    }
    assert {name for name, _ in told} == set(featbank.__all__)


def test_the_names_of_backbones_are_at_home_where_it_says() -> None:
    assert sorted(backbones.__all__) == backbones.__all__ == sorted(backbones._HOMES)
    for name, home in backbones._HOMES.items():
        module = importlib.import_module(f"featbank.backbones.{home}")
        assert getattr(backbones, name) is getattr(module, name)
    with pytest.raises(AttributeError, match="has no attribute 'Recip'"):
        backbones.Recip  # noqa: B018


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'extrakt'"):
        featbank.extrakt  # noqa: B018
