from __future__ import annotations

import pytest

from tests.conftest import run


def test_a_part_of_a_name_lists_backbones_with_their_sizes() -> None:
    found = run("models", "shufflenet_v2", "--source", "torchvision", "--json").json["models"]

    assert [one["name"] for one in found] == [
        "shufflenet_v2_x0_5",
        "shufflenet_v2_x1_0",
        "shufflenet_v2_x1_5",
        "shufflenet_v2_x2_0",
    ]
    assert found[0]["features"] == 1024
    assert found[0]["parameters"] == 1_366_792
    assert found[0]["input_size"] == 224
    assert found[0]["default"] == "IMAGENET1K_V1"
    assert isinstance(found[0]["local"], bool)


def test_a_table_for_people() -> None:
    said = run("models", "shufflenet_v2_x0_5", "--source", "torchvision").out.splitlines()

    assert said[0].split()[:4] == ["name", "source", "features", "parameters"]
    assert said[1].split()[:5] == ["shufflenet_v2_x0_5", "torchvision", "1024", "1.4", "M"]
    assert said[2] == "weights: IMAGENET1K_V1"


def test_the_layers_of_one_backbone_have_their_shapes() -> None:
    found = run("models", "shufflenet_v2_x0_5", "--layers", "--json").json["layers"]

    shapes = {layer["name"]: layer["shape"] for layer in found}
    assert shapes["conv5"] == [1024, 7, 7]
    assert shapes["fc"] == [1000]
    assert "conv5" in run("models", "shufflenet_v2_x0_5", "--layers").out


@pytest.mark.parametrize("words", [("shufflenet_v2_x0_6",), ("shufflenet_v2_x0_6", "--layers")])
def test_an_unknown_name_suggests_the_nearest(words: tuple[str, ...]) -> None:
    assert "did you mean shufflenet_v2_x0_5" in run("models", *words, status=1).err


def test_a_name_of_another_source_is_not_found_in_this_one() -> None:
    answer = run("models", "shufflenet_v2_x0_5", "--source", "package", status=1)

    assert "no backbone fits 'shufflenet_v2_x0_5' in package" in answer.err
