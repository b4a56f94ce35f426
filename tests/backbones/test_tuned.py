"""Features of a fine-tuned network: a file of weights that says what it is of."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from featbank.backbones import Column, Request, load, resolve
from featbank.backbones.registry import find
from featbank.backbones.tuned import describe_weights
from featbank.errors import BackboneError
from tests.conftest import Tour, run

SMALL = ("small-cnn-3", "small", "classifier")
RESNET = ("resnet18", "torchvision", "fc")
SQUEEZE = ("squeezenet1_1", "torchvision", "classifier.1")
PREPROCESS = {
    "resize": 40,
    "fit": "short",
    "crop": [32, 32],
    "interpolation": "bicubic",
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.4],
    "fill": [0, 0, 0],
    "decoder": {},
}


def head(kind, width, hidden, classes):
    """Return a head as fine-tuning builds it."""
    layers = []
    for size in hidden:
        layers += [kind(width, size), torch.nn.ReLU(), torch.nn.Dropout(0.5)]
        width = size
    layers.append(kind(width, classes))
    return torch.nn.Sequential(*layers) if hidden else layers[0]


def tuned(path, of=SMALL, *, hidden=(), classes=4, crop=(32, 32), **described):
    """Write a file as fine-tuning does; return the network and the path of its head."""
    name, source, final = of
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = find(f"{source}/{name}").provider.build(name, None, crop, None)
        old = network.get_submodule(final)
        if isinstance(old, torch.nn.Conv2d):
            new = head(lambda a, b: torch.nn.Conv2d(a, b, 1), old.in_channels, hidden, classes)
        else:
            new = head(torch.nn.Linear, old.in_features, hidden, classes)
    parent, _, last = final.rpartition(".")
    setattr(network.get_submodule(parent), last, new)
    text = {
        "format": 1,
        "model": name,
        "source": source,
        "preprocess": PREPROCESS,
        "classes": [f"class {i}" for i in range(classes)],
        "head": {"path": final, "hidden": list(hidden), "dropout": 0.5},
    } | described
    save_file(network.state_dict(), path, metadata={"featbank": json.dumps(text)})
    return network.eval()


def pixels():
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)


def features_before(network, final):
    """Return what the head sees."""
    seen = []
    network.get_submodule(final).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    mean, std = (torch.tensor(PREPROCESS[k]).view(3, 1, 1) for k in ("mean", "std"))
    batch = (torch.from_numpy(pixels()).permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.no_grad():
        network(batch)
    return (seen[0].mean((2, 3)) if seen[0].ndim == 4 else seen[0]).numpy()


@pytest.mark.parametrize("hidden", [(), (9,), (9, 6)])
@pytest.mark.parametrize("of", [SMALL, RESNET, SQUEEZE])
def test_features_are_what_the_new_head_sees(tmp_path, of, hidden):
    path = tmp_path / "tuned.safetensors"
    network = tuned(path, of, hidden=hidden)
    request = Request(of[0], weights=str(path))

    backbone = load(request, resolve(request))

    found = backbone.run(pixels(), [Column()])[Column()]
    np.testing.assert_allclose(found, features_before(network, of[2]), rtol=1e-4, atol=1e-5)


def test_a_linear_head_stays_the_final_layer_and_another_is_left_out(tmp_path):
    for hidden, expected in (((), 4), ((9,), 2)):
        path = tmp_path / f"{len(hidden)}.safetensors"
        network = tuned(path, hidden=hidden)
        request = Request("small-cnn-3", weights=str(path))
        column = Column("classifier")

        found = load(request, resolve(request)).run(pixels(), [column])[column]

        assert found.shape == (2, expected)
        if hidden:
            assert not found.any(), "what the file has no weights for stands for nothing"
        else:
            with torch.no_grad():
                logits = network.classifier(
                    torch.from_numpy(features_before(network, "classifier"))
                )
            np.testing.assert_allclose(found, logits.numpy(), rtol=1e-4, atol=1e-5)


def test_the_preprocessing_is_the_files_unless_the_user_says_otherwise(tmp_path):
    path = tmp_path / "tuned.safetensors"
    tuned(path, RESNET)
    own = resolve(Request("resnet18", weights=str(path))).preprocess

    assert (own.resize, own.crop, own.interpolation) == (40, (32, 32), "bicubic")
    assert (own.mean, own.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    larger = resolve(Request("resnet18", weights=str(path), input_size=64)).preprocess
    assert (larger.resize, larger.crop, larger.mean) == (80, (64, 64), own.mean)
    squashed = resolve(Request("resnet18", weights=str(path), squash=True)).preprocess
    assert (squashed.resize, squashed.fit) == ((32, 32), "squash")


def test_a_recipe_knows_the_file_by_its_bytes(tmp_path):
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    tuned(first)
    state = load_file(first)
    state["hidden.1.bias"] += 1
    text = json.loads(first.read_bytes()[8 : 8 + header_size(first)])["__metadata__"]
    save_file(state, second, metadata=text)

    recipes = [resolve(Request("small-cnn-3", weights=str(path))) for path in (first, second)]
    assert recipes[0].weights != recipes[1].weights
    assert recipes[0].preprocess == recipes[1].preprocess


def header_size(path):
    return struct.unpack("<Q", path.read_bytes()[:8])[0]


def test_a_new_head_may_have_a_bias_where_the_networks_own_has_none(tmp_path):
    path = tmp_path / "tuned.safetensors"
    side = PREPROCESS | {"resize": 224, "crop": [224, 224]}
    of = ("maxvit_t", "torchvision", "classifier.5")
    network = tuned(path, of, crop=(224, 224), preprocess=side)

    request = Request("maxvit_t", weights=str(path))
    found = load(request, resolve(request)).network

    state = found.state_dict()
    assert not state["classifier.5.weight"].any()
    assert torch.equal(state["classifier.3.weight"], network.classifier[3].weight)


def test_a_head_behind_a_whole_network_is_taken_off(tmp_path):
    path = tmp_path / "tuned.safetensors"
    text = {
        "format": 1,
        "model": "small-cnn-3",
        "source": "small",
        "preprocess": PREPROCESS,
        "classes": ["a", "b"],
        "head": {"path": "head", "hidden": [], "dropout": 0.0},
    }
    network = find("small-cnn-3").provider.build("small-cnn-3", None, (32, 32), None)
    state = {f"network.{k}": v for k, v in network.state_dict().items()}
    state |= {"head.weight": torch.ones(2, 2), "head.bias": torch.ones(2)}
    save_file(state, path, metadata={"featbank": json.dumps(text)})

    described = describe_weights(path)
    other = find("small-cnn-3").provider.build("small-cnn-3", None, (32, 32), None)
    assert not described.is_plain(state, other)
    described.pour(other, state, None)
    assert all(
        torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True)
    )


def test_weights_of_another_model_are_refused_with_the_right_name(tmp_path):
    path = tmp_path / "tuned.safetensors"
    tuned(path, RESNET)

    with pytest.raises(
        BackboneError, match=r"tuned resnet18, not of resnet34; say --model resnet18"
    ):
        resolve(Request("resnet34", weights=str(path)))


def test_weights_of_another_sources_namesake_are_refused(tmp_path):
    pytest.importorskip("timm")
    path = tmp_path / "tuned.safetensors"
    tuned(path, RESNET)

    with pytest.raises(BackboneError, match="say --model torchvision/resnet18"):
        resolve(Request("timm/resnet18", weights=str(path)))


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({"format": 3}, r"later format \(3\)"),
        ({"format": "x"}, "later format"),
        ({"head": None}, "can't be read"),
        ({"head": {"path": 3}}, "'3' is no name"),
        ({"model": ["resnet18"]}, "can't be read"),
        ({"preprocess": {}}, "can't be read"),
        ({"preprocess": PREPROCESS | {"crop": [10**6, 10**6]}}, "can't be read"),
        ({"preprocess": PREPROCESS | {"resize": 10**9}}, "can't be read"),
        ({"preprocess": PREPROCESS | {"fit": "transform"}}, "can't be read"),
        ({"preprocess": PREPROCESS | {"interpolation": "magic"}}, "can't be read"),
        ({"preprocess": PREPROCESS | {"mean": [0.5]}}, "can't be read"),
        ({"preprocess": PREPROCESS | {"extra": 1}}, "can't be read"),
    ],
)
def test_a_description_that_makes_no_sense_is_one_message(tmp_path, described, said):
    path = tmp_path / "tuned.safetensors"
    tuned(path, **described)

    with pytest.raises(BackboneError, match=said) as refused:
        resolve(Request("small-cnn-3", weights=str(path)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["[]", "{", "null", '"x"', "[" * 10_000])
def test_a_text_that_is_no_description_is_one_message(tmp_path, text):
    path = tmp_path / "tuned.safetensors"
    network = find("small-cnn-3").provider.build("small-cnn-3", None, (32, 32), None)
    save_file(network.state_dict(), path, metadata={"featbank": text})

    with pytest.raises(BackboneError, match="can't be read"):
        resolve(Request("small-cnn-3", weights=str(path)))


def test_tensors_that_are_missing_are_named(tmp_path):
    path = tmp_path / "tuned.safetensors"
    tuned(path, hidden=(9,))
    size = header_size(path)
    metadata = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]
    state = load_file(path)
    del state["stage2.0.weight"]
    save_file(state, path, metadata=metadata)
    request = Request("small-cnn-3", weights=str(path))

    with pytest.raises(BackboneError, match=r"stage2\.0\.weight is missing"):
        load(request, resolve(request))


def test_a_bank_of_tuned_features(tour: Tour, tmp_path: Path) -> None:
    path, bank = tmp_path / "tuned.safetensors", tmp_path / "bank"
    tuned(path, hidden=(9,))
    words = ("extract", tour.data, "--weights", path, "--bank", bank, "--workers", "0")

    assert run(*words, "--model", "small-cnn-3", "--json").json["computed"] == 15
    assert run(*words, "--model", "small-cnn-3", "--json").json["computed"] == 0
    run(*words, "--model", "small-cnn-4", status=1).is_one_message("say --model small-cnn-3")
