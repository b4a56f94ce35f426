from __future__ import annotations

import dataclasses
import json
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from featbank.backbones import graph
from featbank.backbones.recipe import Column
from featbank.backbones.request import Request
from featbank.backbones.resolution import resolve
from featbank.backbones.runtime import Backbone, load
from featbank.errors import BackboneError, MissingDependency
from featbank.extraction.loader import GraphLoader, RequestLoader, fastest
from tests.tiny import make_images

pytest.importorskip("openvino")

COLUMNS = (
    *(Column(), Column("stage2", "max"), Column("stage2", "cov")),
    Column("stage3", "gem", dtype="float16"),
)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load(Request("shufflenet_v2_x0_5", weights="none", input_size=64))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEATBANK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("featbank.extraction.loader._graphs", {})
    monkeypatch.setattr("featbank.extraction.loader._loaded", OrderedDict())
    return tmp_path / "cache"


def said(cache: Path) -> Path:
    """Return the one file that says what became of a graph."""
    (path,) = cache.glob("graphs/*.json")
    return path


def pixels(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 64, 64, 3), np.uint8)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_gives_the_features_of_the_eager_network_for_any_batch(backbone, own_cache, n):
    made = graph.make(backbone, COLUMNS)
    expected, got = backbone.run(pixels(n), COLUMNS), made.run(pixels(n), COLUMNS)
    for column in COLUMNS:
        assert got[column].dtype == column.dtype
        tolerance = 1e-5 if column.dtype == "float32" else 2e-3
        assert np.linalg.norm(got[column].astype(np.float64) - expected[column]) <= tolerance * (
            np.linalg.norm(expected[column].astype(np.float64))
        )


def test_leaves_the_network_in_evaluation_mode(backbone, own_cache):
    before = backbone.run(pixels(3), COLUMNS[:1])[COLUMNS[0]]
    graph.make(backbone, COLUMNS)
    assert not any(module.training for module in backbone.network.modules())
    assert np.array_equal(backbone.run(pixels(3), COLUMNS[:1])[COLUMNS[0]], before)


def test_gives_some_of_its_columns(backbone, own_cache):
    made = graph.make(backbone, COLUMNS)
    assert list(made.run(pixels(2), COLUMNS[1:2])) == [COLUMNS[1]]


def test_is_found_again_and_only_for_the_same_recipe_and_columns(backbone, own_cache):
    made = graph.make(backbone, COLUMNS)
    assert graph.find(backbone.recipe, COLUMNS) == made
    assert graph.find(backbone.recipe, COLUMNS[:1]) is None
    other = dataclasses.replace(backbone.recipe, weights="0" * 64)
    assert graph.find(other, COLUMNS) is None


def test_another_version_of_a_package_makes_it_anew(backbone, own_cache, monkeypatch):
    graph.make(backbone, COLUMNS)
    monkeypatch.setattr(graph, "_versions", lambda: {"torch": "99"})
    assert graph.find(backbone.recipe, COLUMNS) is None


@pytest.mark.parametrize("suffix", [".onnx", ".json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_file_is_never_run(backbone, own_cache, suffix, damage):
    made = graph.make(backbone, COLUMNS)
    path = Path(made.path) if suffix == ".onnx" else said(own_cache)
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[data.index(b"sha256") + 12 if suffix == ".json" else len(data) // 2] ^= 1
        path.write_bytes(data if damage == "flipped" else data[: len(data) // 2])
    assert graph.find(backbone.recipe, COLUMNS) is None


def test_a_file_that_was_changed_after_it_was_found_is_not_run(backbone, own_cache):
    made = graph.make(backbone, COLUMNS)
    Path(made.path).write_bytes(b"something else")
    with pytest.raises(OSError, match="changed since"):
        dataclasses.replace(made).run(pixels(1), COLUMNS)


def test_torch_runs_on_where_the_file_is_gone(own_cache):
    loader = loader_of()
    found = fastest(loader, COLUMNS[:1], device="cpu")
    assert isinstance(found, GraphLoader)
    Path(found.graph.path).unlink()
    again = pickle.loads(pickle.dumps(found)).load("cpu")
    assert isinstance(again, Backbone)
    needed = fastest(loader_of(runtime="openvino"), COLUMNS[:1], device="cpu")
    Path(needed.graph.path).unlink()
    with pytest.raises(OSError, match=r"onnx"):
        pickle.loads(pickle.dumps(needed)).load("cpu")


def test_a_graph_with_other_features_is_refused(backbone, own_cache, monkeypatch):
    honest = graph.Graph.values
    monkeypatch.setattr(
        graph.Graph,
        "values",
        lambda self, batch: [v * np.float32(1 + 1e-4) for v in honest(self, batch)],
    )
    with pytest.raises(BackboneError, match=r"off by 1\.0e-04"):
        graph.make(backbone, COLUMNS[:1])
    monkeypatch.undo()
    monkeypatch.setenv("FEATBANK_CACHE", str(own_cache))
    with pytest.raises(BackboneError, match=r"off by 1\.0e-04"):  # remembered
        graph.find(backbone.recipe, COLUMNS[:1])
    assert not list(own_cache.glob("graphs/*.onnx"))


def loader_of(**words: str) -> RequestLoader:
    request = Request("shufflenet_v2_x0_5", weights="none", input_size=64, **words)
    return RequestLoader(request, resolve(request))


def test_a_network_that_cannot_be_exported_runs_in_torch(own_cache, monkeypatch, caplog):
    tried = []

    def refuse(*args, **options):
        tried.append(1)
        raise torch.onnx.errors.UnsupportedOperatorError("aten::odd", 17, None)

    monkeypatch.setattr("torch.onnx.export", refuse)
    monkeypatch.setattr("featbank.extraction.loader._said", set())
    loader = loader_of()
    for _ in range(2):
        assert fastest(loader, COLUMNS[:1], device="cpu") is loader
    assert len(tried) == 1
    assert [r.message for r in caplog.records if "aten::odd" in r.message] != []
    assert len([r for r in caplog.records if "torch is tried" in r.message]) == 1


def test_what_may_pass_is_not_remembered(backbone, own_cache, monkeypatch):
    def fail(*args, **options):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("torch.onnx.export", fail)
        with pytest.raises(BackboneError):
            graph.make(backbone, COLUMNS[:1])
    assert graph.find(backbone.recipe, COLUMNS[:1]) is None
    assert graph.make(backbone, COLUMNS[:1])


def test_a_runtime_that_was_asked_for_is_not_left_silently(own_cache, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("no such operator")

    monkeypatch.setattr("torch.onnx.export", fail)
    with pytest.raises(BackboneError, match=r"no such operator.*--runtime torch"):
        fastest(loader_of(runtime="openvino"), COLUMNS[:1], device="cpu")
    with pytest.raises(BackboneError, match="not on cuda"):
        fastest(loader_of(runtime="openvino"), COLUMNS[:1], device="cuda")


def test_two_processes_that_make_a_graph_at_once_keep_out_of_each_others_way(
    backbone, own_cache, monkeypatch
):
    first = graph.make(backbone, COLUMNS[:1])
    honest = graph._export
    monkeypatch.setattr(graph, "_export", lambda *words: honest(*words) + b"\x72\x00")
    second = graph.make(backbone, COLUMNS[:1])
    assert first.digest != second.digest
    for made in (first, second):
        assert dataclasses.replace(made).run(pixels(1), COLUMNS[:1])


def test_graphs_that_nobody_asks_for_are_forgotten(backbone, own_cache):
    old, used = (Path(graph.make(backbone, [column]).path) for column in COLUMNS[:2])
    for path in (old, used):
        os.utime(path, (0, 0))
    assert graph.find(backbone.recipe, COLUMNS[1:2])
    graph.make(backbone, COLUMNS[2:])
    assert not old.exists()
    assert used.exists()


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("cuda", {}),
        ("cpu", {"runtime": "torch"}),
        ("cpu", {"precision": "bfloat16", "runtime": "torch"}),
        ("cpu", {"precision": "float16"}),
    ],
)
def test_torch_runs_the_rest(own_cache, device, words):
    loader = loader_of(**words)
    assert fastest(loader, COLUMNS[:1], device=device) is loader


def test_the_runtime_is_part_of_the_recipe_below_float32_only(own_cache, monkeypatch):
    assert loader_of(runtime="torch").recipe == loader_of().recipe
    assert loader_of().recipe.runtime is None
    assert loader_of(precision="bfloat16", runtime="torch").recipe.runtime == "torch"
    assert loader_of(precision="float16").recipe.runtime == "torch"
    for capable in (True, False):
        monkeypatch.setattr(graph, "computes_in", lambda precision, capable=capable: capable)
        recipe = loader_of(precision="bfloat16").recipe
        assert recipe.runtime == ("openvino" if capable else "torch")


def test_openvino_is_not_asked_for_what_it_cannot_do(own_cache, monkeypatch):
    with pytest.raises(BackboneError, match="float32 or bfloat16"):
        loader_of(precision="float16", runtime="openvino")
    monkeypatch.setattr(graph, "computes_in", lambda precision: False)
    with pytest.raises(BackboneError, match="this processor has no bfloat16"):
        loader_of(precision="bfloat16", runtime="openvino")
    monkeypatch.setattr(graph, "available", lambda: False)
    with pytest.raises(MissingDependency, match="pip install"):
        loader_of(runtime="openvino")


@pytest.mark.skipif(not graph.computes_in("bfloat16"), reason="this processor has no bfloat16")
def test_computes_in_bfloat16(own_cache, backbone):
    loader = loader_of(precision="bfloat16", runtime="openvino")
    found = fastest(loader, COLUMNS[:1], device="cpu")
    assert isinstance(found, GraphLoader)
    got = found.load("cpu").run(pixels(3), COLUMNS[:1])[COLUMNS[0]]
    exact = backbone.run(pixels(3), COLUMNS[:1])[COLUMNS[0]]
    error = np.linalg.norm(got - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert np.all(error < 0.05)
    assert np.all(error > 1e-5)  # it did round
    both = fastest(loader_of(), COLUMNS[:1], device="cpu").load("cpu")
    again = both.run(pixels(3), COLUMNS[:1])[COLUMNS[0]]
    np.testing.assert_allclose(again, exact, rtol=1e-3, atol=1e-5)


def test_travels_as_a_path(backbone, own_cache):
    made = graph.make(backbone, COLUMNS)
    made.run(pixels(1), COLUMNS)
    data = pickle.dumps(GraphLoader(made))
    assert len(data) < 4096
    again = pickle.loads(data).load("cpu")
    assert np.array_equal(
        again.run(pixels(2), COLUMNS[:1])[COLUMNS[0]], made.run(pixels(2), COLUMNS[:1])[COLUMNS[0]]
    )


SIGNALLED = """
import pickle, signal, sys
from pathlib import Path
import numpy as np
from featbank.backbones.recipe import Column
data = Path(sys.argv[1]).read_bytes()
first, second = pickle.loads(data), pickle.loads(data)
for one in (first, second):
    one.run(np.zeros((1, 64, 64, 3), np.uint8), [Column()])
del first, one
del second
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_after_graphs_came_and_went_ends_nothing(backbone, own_cache, tmp_path):
    made = tmp_path / "graph"
    made.write_bytes(pickle.dumps(graph.make(backbone, COLUMNS)))
    command = [sys.executable, "-c", SIGNALLED, made]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_vision_transformers_have_graphs_too(own_cache):
    backbone = load(Request("timm/vit_tiny_patch16_224", weights="none"))
    columns = [Column(), Column("blocks.5", "cls")]
    made = graph.make(backbone, columns)
    assert made is not None
    batch = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    expected, got = backbone.run(batch, columns), made.run(batch, columns)
    for column in columns:
        np.testing.assert_allclose(got[column], expected[column], rtol=1e-3, atol=1e-4)


def test_a_second_extraction_of_new_images_imports_no_torch(own_cache, tmp_path):
    make_images(tmp_path / "a", 4)
    make_images(tmp_path / "b", 4, seed=5)
    script = (
        "import sys, featbank\n"
        "bank = featbank.extract(sys.argv[1], 'shufflenet_v2_x0_5', sys.argv[2], weights='none',"
        " input_size=64, workers=0)\n"
        "print(len(bank.index), 'torch' in sys.modules)\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", script, tmp_path / name, tmp_path / "bank"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for name in ("a", "b")
    ]
    assert said == [["4", "True"], ["8", "False"]]


def test_the_json_beside_it_says_how_exact_it_is(backbone, own_cache):
    made = graph.make(backbone, COLUMNS[:1])
    assert made
    told = json.loads(said(own_cache).read_text())
    assert 0 <= told["error"] <= graph.TOLERANCE["float32"]
    assert told["versions"]["torch"]


def test_one_graph_gives_all_views(backbone, own_cache):
    views = [Column(view=view) for view in ("hflip", "identity", "rot90")]
    loader = RequestLoader(Request("shufflenet_v2_x0_5", weights="none", input_size=64),
                           backbone.recipe)  # fmt: skip

    found = fastest(loader, views, device="cpu")

    assert isinstance(found, GraphLoader)
    assert fastest(loader, [Column(view="vflip")], device="cpu") == found
    assert found.graph.columns == (Column(),)
    expected, got = backbone.run(pixels(2), views), found.graph.run(pixels(2), views)
    for column in views:
        np.testing.assert_allclose(got[column], expected[column], rtol=1e-3, atol=1e-5)
    assert not np.allclose(got[views[0]], got[views[1]], rtol=1e-3)
