from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from featbank.backbones import from_module
from featbank.backbones.request import Request
from featbank.backbones.resolution import build
from featbank.errors import BackboneError, ClassifierError
from featbank.finetuning.images import Images
from featbank.finetuning.network import tunable
from featbank.finetuning.settings import FineTuneSettings
from featbank.finetuning.tuned import TunedClassifier
from tests.tiny import PREPROCESS, TinyNet

REQUEST = Request("squeezenet1_1", weights="none", input_size=64)
CLASSES = ("cat", "dog", "eel")
IMAGES = Images.of_arrays(
    np.random.default_rng(0).integers(0, 256, (4, 70, 80, 3)).astype(np.uint8)
)


def tuned(**words: Any) -> TunedClassifier:
    settings = FineTuneSettings(random_state=3, **words)
    network = tunable(REQUEST, 3, settings)
    return TunedClassifier.of(REQUEST, network, CLASSES, settings, {"images": 12})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tuned") / "tuned.safetensors"
    tuned().save(path)
    return path


def described(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def changed(path: Path, to: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Write a file whose description says something else, and whose digest is right."""
    loaded = TunedClassifier.load(path)
    header, _ = described(path)
    text = json.loads(header["__metadata__"]["featbank"])
    change(text)
    from featbank.backbones.recipe import canonical_json
    from featbank.backbones.tuned import digest_tuned

    text.pop("digest", None)
    text["digest"] = digest_tuned(canonical_json(text), loaded.state)
    save_file(dict(loaded.state), to, metadata={"featbank": canonical_json(text)})
    return to


@pytest.mark.parametrize("words", [{}, {"hidden": (7, 5), "dropout": 0.4}])
def test_a_file_brings_the_same_network_back(tmp_path: Path, words: dict[str, Any]) -> None:
    made = tuned(**words)
    made.save(tmp_path / "t.safetensors")
    again = TunedClassifier.load(tmp_path / "t.safetensors")

    assert (again.classes, again.settings) == (CLASSES, made.settings)
    assert again.recipe == made.recipe
    assert again.preprocess == made.preprocess
    assert again.provenance == {"images": 12}
    assert again.digest == made.digest
    told = again.predict_proba(IMAGES, workers=0)
    np.testing.assert_array_equal(told, made.predict_proba(IMAGES, workers=0))
    best = again.top(IMAGES, 2, workers=0)[0]
    assert best[0].label == CLASSES[told[0].argmax()]
    assert best[0].probability == pytest.approx(told[0].max())
    assert len(best) == 2


def test_the_tensors_bear_the_networks_own_names(saved: Path) -> None:
    import torchvision

    own = torchvision.models.squeezenet1_1().state_dict()
    state = load_file(saved)

    assert set(state) == set(own)
    assert state["classifier.1.weight"].shape == (3, 512, 1, 1)


def test_the_header_says_what_other_parts_read(saved: Path) -> None:
    header, _ = described(saved)
    text = json.loads(header["__metadata__"]["featbank"])

    assert text["format"] == 2
    assert (text["model"], text["source"]) == ("squeezenet1_1", "torchvision")
    assert text["head"] == {"path": "classifier.1", "hidden": [], "dropout": 0.0}
    assert text["preprocess"]["crop"] == [64, 64]
    assert text["classes"] == list(CLASSES)


def test_it_pickles_without_its_network() -> None:
    made = tuned()
    expected = made.predict_proba(IMAGES, workers=0)
    data = pickle.dumps(made)

    assert len(data) < 1.05 * sum(array.nbytes for array in made.state.values())
    np.testing.assert_array_equal(pickle.loads(data).predict_proba(IMAGES, workers=0), expected)


def test_no_images_have_no_probabilities() -> None:
    assert tuned().predict_proba(Images.of_arrays([])).shape == (0, 3)


def test_a_module_of_the_callers_pickles_but_has_no_file(tmp_path: Path) -> None:
    backbone = from_module(TinyNet(), transform=PREPROCESS, version="1")
    network = tunable(backbone, 3, FineTuneSettings())
    made = TunedClassifier.of(backbone, network, CLASSES, FineTuneSettings())
    again = pickle.loads(pickle.dumps(made))

    np.testing.assert_array_equal(
        again.predict_proba(IMAGES, workers=0), made.predict_proba(IMAGES, workers=0)
    )
    with pytest.raises(ClassifierError, match="a module of your own can't be saved"):
        made.save(tmp_path / "t.safetensors")


@pytest.mark.parametrize("where", [0.001, 0.3, 0.999])
def test_a_changed_byte_is_found(saved: Path, tmp_path: Path, where: float) -> None:
    data = bytearray(saved.read_bytes())
    data[8 + int(where * (len(data) - 8))] ^= 1
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(data)

    with pytest.raises(ClassifierError, match=r"is damaged|can't be read|no classifier"):
        TunedClassifier.load(broken)


def test_a_damaged_file_gives_no_features_either(saved: Path, tmp_path: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-1000] ^= 1
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(data)
    build(Request("squeezenet1_1", weights=str(saved), input_size=64))
    with pytest.raises(BackboneError, match="is damaged"):
        build(Request("squeezenet1_1", weights=str(broken), input_size=64))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no classifier file"),
        (b"\xff" * 8 + b"{}", "no classifier file"),
        ((2).to_bytes(8, "little") + b"[]", "its header can't be read"),
        ((4).to_bytes(8, "little") + b'{"a"', "its header can't be read"),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, "its header can't be read"),
        (
            (28).to_bytes(8, "little") + b'{"__metadata__":{"x": "ab"}}',
            "holds weights, and no classes",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(content)

    with pytest.raises(ClassifierError, match=said) as caught:
        TunedClassifier.load(path)
    assert "\n" not in str(caught.value)


def test_pipes_and_missing_files_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name, said in (("pipe", "is not a regular file"), ("none", "can't be read: No such")):
        with pytest.raises(ClassifierError, match=said):
            TunedClassifier.load(tmp_path / f"{name}.safetensors")


def _set(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(text: dict[str, Any]) -> None:
        for key in path[:-1]:
            text = text[key]
        text[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("format", to=3), "in a later format"),
        (_set("classes", to=["a", 1, "b"]), "garbles classes"),
        (_set("classes", to=["a", "a", "b"]), "is refused"),
        (_set("classes", to=["a", "b"]), "do not fit squeezenet1_1"),
        (_set("head", "hidden", to=[10**7]), "its head is larger than its tensors"),
        (_set("head", "hidden", to=["x"]), "garbles"),
        (_set("head", "hidden", to=[5]), "do not fit squeezenet1_1"),
        (_set("recipe", "preprocess", "crop", to=[10**6, 10**6]), "its input has"),
        (_set("request", "model", to="vit_h_14"), "vit_h_14 has"),
        (_set("request", "model", to="resnet18"), "do not fit resnet18"),
        (_set("settings", to=None), "garbles"),
        (_set("recipe", to=[]), "garbles"),
    ],
)
def test_a_hostile_description_is_refused_in_one_sentence(
    saved: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    hostile = changed(saved, tmp_path / "hostile.safetensors", change)

    with pytest.raises(ClassifierError, match=said) as caught:
        TunedClassifier.load(hostile).network()
    assert "\n" not in str(caught.value)
