import pytest

from featbank.backbones.registry import describe, find, list_backbones
from featbank.errors import BackboneError, MissingDependency, UnknownBackbone


def test_every_classification_network_of_torchvision_is_listed():
    import torchvision.models

    expected = torchvision.models.list_models(module=torchvision.models)
    assert list_backbones(source="torchvision") == sorted(expected)


def test_a_pattern_is_a_part_of_the_name_or_a_shell_pattern():
    assert list_backbones("NET5", source="torchvision") == [
        "resnet50",
        "wide_resnet50_2",
    ]
    assert list_backbones("vgg1?", source="torchvision") == ["vgg11", "vgg13", "vgg16", "vgg19"]
    assert list_backbones("no such thing") == []


def test_every_listed_name_is_found_where_it_was_listed():
    pytest.importorskip("timm")
    for source in ("package", "torchvision"):
        assert all(find(n).provider.source == source for n in list_backbones(source=source))
    names = list_backbones("resnet50")
    assert {"resnet50", "timm/resnet50"} <= set(names)
    for name in list_backbones("resnet", source="timm"):
        assert find(name).provider.source == "timm"


def test_a_name_that_two_sources_have_goes_to_the_first():
    pytest.importorskip("timm")
    assert find("resnet50").provider.source == "torchvision"
    assert find("timm/resnet50").provider.source == "timm"
    assert find("timm/efficientnet_lite0").provider.source == "timm"
    found = find("resnet50.a1_in1k")
    assert (found.provider.source, found.name, found.tag) == ("timm", "resnet50", "a1_in1k")


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("resnet5", "resnet50"),
        ("eficientnet_lite0", "efficientnet_lite0"),
        ("torchvision/vgg_16", "vgg16"),
        ("timm/vit_base_patch16_22", "vit_base_patch16_224"),
        ("resnet50.a1_in1", "a1_in1k"),
        ("", "valid names are"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(name, suggestion):
    pytest.importorskip("timm")
    with pytest.raises(UnknownBackbone, match=suggestion):
        find(name)


def test_without_timm_its_names_say_how_to_get_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingDependency, match=r"pip install 'featbank\[timm\]'"):
        find("timm/resnet50")


def test_an_unknown_source_is_refused():
    with pytest.raises(BackboneError, match="did you mean torchvision"):
        list_backbones(source="torchvison")


@pytest.mark.parametrize(
    ("name", "features", "parameters", "side"),
    [
        ("resnet50", 2048, 25_557_032, 224),
        ("vgg16", 4096, 138_357_544, 224),
        ("squeezenet1_1", 512, 1_235_496, 224),
        ("inception_v3", 2048, None, 299),
        ("vit_b_16", 768, 86_567_656, 224),
        ("regnet_y_400mf", 440, 4_344_144, 224),  # reads block widths out of tensors
        ("timm/vit_base_resnet26d_224", 768, None, 224),  # runs while it is built
        ("efficientnet_lite2", 1280, None, 260),
        ("timm/vit_small_patch14_dinov2", 384, None, 518),
    ],
)
def test_a_backbone_is_described_without_its_weights(name, features, parameters, side):
    if name.startswith(("timm/", "efficientnet_lite")):
        pytest.importorskip("timm")
    info = describe(name)
    assert (info.name, info.features, info.input_size) == (name, features, side)
    assert parameters in (None, info.parameters)
    assert info.default is None or info.default in info.weights


def test_a_long_list_is_described_without_building():
    info = describe("resnet50", build=False)
    assert info.features is None
    assert info.weights == ("IMAGENET1K_V1", "IMAGENET1K_V2")
