import dataclasses
import json
import os
import time

import pytest
import torch
import torchvision

from featbank.backbones import graph, memo
from featbank.backbones.recipe import Recipe
from featbank.backbones.request import Request
from featbank.backbones.resolution import resolve
from featbank.backbones.runtime import load
from featbank.data.decode import DecodePolicy
from featbank.errors import BackboneError, WeightsMismatch, WeightsUnavailable

MODEL = "squeezenet1_1"


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Caches of our own, so that nothing on this machine counts."""
    monkeypatch.setenv("FEATBANK_CACHE", str(tmp_path / "featbank"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return torchvision.models.squeezenet1_1(num_classes=7).eval()


@pytest.fixture
def weights(tmp_path, network):
    path = tmp_path / "mine.pth"
    torch.save(network.state_dict(), path)
    old(path)
    return path


def old(path):
    """Let the file's times lie outside the clock's tick; ctime can't be set, so wait for it."""
    os.utime(path, ns=(time.time_ns() - 10**10,) * 2)


def memo_files(places):
    return sorted((places / "featbank" / "recipes").glob("*.json"))


def test_a_file_is_known_by_its_bytes(weights):
    import hashlib

    recipe = resolve(Request(MODEL, weights=str(weights)))
    assert recipe.weights == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert recipe.preprocess.crop == (224, 224)
    assert recipe.preprocess.decoder == json.loads(json.dumps(DecodePolicy().to_dict()))
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_a_request_survives_json(weights):
    request = Request(MODEL, weights=str(weights), crop=200, decode=DecodePolicy(exif=False))
    assert Request.from_dict(json.loads(json.dumps(request.to_dict()))) == request
    with pytest.raises(BackboneError, match="not a request"):
        Request.from_dict({"model": "a", "colour": "b"})


def test_every_word_of_a_request_changes_the_recipe(weights, tmp_path, network, monkeypatch):
    monkeypatch.setattr(graph, "computes_in", lambda precision: True)  # whatever the processor
    base = Request(MODEL, weights="none", seed=0)
    other = tmp_path / "other.safetensors"
    from safetensors.torch import save_file

    save_file({k: v + 1 for k, v in network.state_dict().items()}, other)
    changes = [
        {"model": "mnasnet0_5"},
        {"weights": str(weights)},
        {"weights": str(other)},
        {"resize": 230},
        {"crop": 200},
        {"squash": True},
        {"input_size": 64},
        {"precision": "bfloat16", "runtime": "openvino"},
        {"precision": "bfloat16", "runtime": "torch"},
        {"precision": "float16"},
        {"decode": DecodePolicy(exif=False)},
        {"decode": DecodePolicy(background=(0, 0, 0))},
        {"seed": 1},
    ]
    assert {f.name for f in dataclasses.fields(Request)} == {k for c in changes for k in c}
    prints = [resolve(dataclasses.replace(base, **c)).fingerprint for c in changes]
    assert len({resolve(base).fingerprint, *prints}) == len(changes) + 1


def test_a_random_network_is_seeded():
    request = Request(MODEL, weights="none", seed=3)
    before = torch.get_rng_state()
    recipe = resolve(request)
    assert torch.equal(before, torch.get_rng_state())
    assert recipe.weights.startswith("random-3-")
    a, b = (load(request, recipe).network.state_dict() for _ in range(2))
    assert all(torch.equal(a[k], b[k]) for k in a)
    with pytest.raises(WeightsMismatch):
        load(dataclasses.replace(request, seed=4), recipe)


def test_loading_refuses_weights_with_other_bytes(weights, network):
    request = Request(MODEL, weights=str(weights))
    recipe = resolve(request)
    load(request, recipe)
    torch.save({k: v + 1 for k, v in network.state_dict().items()}, weights)
    with pytest.raises(WeightsMismatch, match="extract anew"):
        load(request, recipe)


def test_loading_refuses_another_backbones_recipe(weights):
    recipe = resolve(Request(MODEL, weights=str(weights)))
    with pytest.raises(BackboneError, match="not of alexnet"):
        load(Request("alexnet", weights=str(weights)), recipe)


def test_without_a_network_the_message_says_what_to_do(places, monkeypatch):
    from torchvision.models import ResNet50_Weights

    # An address that is never routed, and one that no name server knows: neither needs a network.
    monkeypatch.setattr(
        ResNet50_Weights.IMAGENET1K_V1.value, "url", "https://127.0.0.1:9/resnet50-0676ba61.pth"
    )
    with pytest.raises(WeightsUnavailable) as caught:
        resolve(Request("resnet50", weights="IMAGENET1K_V1"))
    message = str(caught.value)
    place = places / "torch" / "hub" / "checkpoints" / "resnet50-0676ba61.pth"
    for part in ("127.0.0.1", str(place), "--weights FILE", "efficientnet_lite0"):
        assert part in message
    assert not [p for p in place.parent.iterdir() if p.is_file()]


def test_the_hub_of_timm_fails_soon_and_quietly(monkeypatch, recwarn):
    pytest.importorskip("timm")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "https://127.0.0.1:9")
    # The hub's own client tries again for half a minute.
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(WeightsUnavailable, match=r"timm/resnet18 \(a1_in1k\).*--weights FILE"):
        resolve(Request("timm/resnet18.a1_in1k"))
    assert not recwarn


def test_weights_in_torch_hubs_folder_are_found(places, monkeypatch):
    from torchvision.models import SqueezeNet1_1_Weights

    name = os.path.basename(SqueezeNet1_1_Weights.DEFAULT.url)
    folder = places / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), folder / name)
    request = Request(MODEL)
    assert load(request).recipe == resolve(request)


def test_a_published_file_given_by_path_gets_its_own_transforms(monkeypatch, tmp_path):
    from torchvision.models import ResNet50_Weights

    from featbank.backbones.registry import find

    provider = find("resnet50").provider
    v1 = provider.preprocess("resnet50", None, "0676ba61" + "0" * 56)
    default = provider.preprocess("resnet50", None, "f" * 64)
    assert v1.resize == ResNet50_Weights.IMAGENET1K_V1.transforms().resize_size[0]
    assert default.resize == ResNet50_Weights.DEFAULT.transforms().resize_size[0]
    assert v1.resize != default.resize


def test_a_transformer_of_fixed_input_refuses_other_sizes():
    from featbank.backbones.registry import find

    provider = find("vit_b_16").provider
    with pytest.raises(BackboneError, match="224 x 224 pixels only, not 256 x 256"):
        provider.check_input("vit_b_16", "IMAGENET1K_V1", (256, 256))
    with pytest.raises(BackboneError, match="from 75 x 75"):
        find("inception_v3").provider.check_input("inception_v3", "IMAGENET1K_V1", (64, 64))


def test_the_memo_holds_until_the_file_changes(weights, places, network):
    request = Request(MODEL, weights=str(weights))
    time.sleep(2.1)  # younger files are not trusted
    recipe = resolve(request)
    assert len(memo_files(places)) == 1
    assert memo.recall(request) == recipe
    torch.save({k: v + 1 for k, v in network.state_dict().items()}, weights)
    assert memo.recall(request) is None
    assert resolve(request).weights != recipe.weights
    os.unlink(weights)
    assert memo.recall(request) is None


def test_a_file_that_has_just_changed_is_not_remembered(weights, places):
    resolve(Request(MODEL, weights=str(weights)))
    assert memo_files(places) == []


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"words": 1}', b"\xff\xfe"])
def test_a_damaged_memo_is_ignored_and_written_anew(places, damage):
    request = Request(MODEL, weights="none")
    recipe = resolve(request)
    (path,) = memo_files(places)
    good = path.read_bytes()
    path.write_bytes(damage)
    assert memo.recall(request) is None
    assert resolve(request) == recipe
    assert path.read_bytes() == good


def test_a_cache_that_cannot_be_written_is_no_error(places):
    (places / "featbank").write_text("a file where the folder should be")
    assert resolve(Request(MODEL, weights="none")).weights.startswith("random-0-")


def test_the_cache_directory_follows_the_environment(monkeypatch, tmp_path):
    assert memo.cache_dir() == tmp_path / "featbank"
    monkeypatch.delenv("FEATBANK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert memo.cache_dir() == tmp_path / "xdg" / "featbank"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert memo.cache_dir() == tmp_path / ".cache" / "featbank"


@pytest.mark.parametrize(
    "words",
    [{"precision": "int8"}, {"crop": 0}, {"input_size": -1}, {"seed": -1}, {"weights": ""}],
)
def test_words_without_sense_are_refused(words):
    with pytest.raises(BackboneError):
        Request(MODEL, **words)
