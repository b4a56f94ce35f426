"""The network to tune: its new head, its stages, and what is frozen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from featbank.backbones import Column, Request, from_module, load, resolve
from featbank.errors import FineTuneError, UnknownLayer
from featbank.finetuning.network import TunableNetwork, tunable, untrained
from featbank.finetuning.settings import FineTuneSettings
from featbank.finetuning.stages import stages
from tests.tiny import PREPROCESS, TinyNet

SETTINGS = FineTuneSettings()


def request(model: str, side: int = 64) -> Request:
    return Request(model, weights="none", input_size=side)


def tiny(settings: FineTuneSettings = SETTINGS, module: nn.Module | None = None) -> TunableNetwork:
    backbone = from_module(module or TinyNet(), transform=PREPROCESS, version="1")
    return tunable(backbone, 3, settings)


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("shufflenet_v2_x0_5", "fc"),
        ("squeezenet1_1", "classifier.1"),
        ("mobilenet_v3_small", "classifier.3"),
        ("googlenet", "fc"),
        ("efficientnet_lite0", "classifier"),
        ("timm/resnet18", "fc"),
    ],
)
def test_the_head_stands_where_the_classifier_stood(model: str, path: str) -> None:
    network = tunable(request(model), 3, SETTINGS)
    assert network.head_path == path
    network.train()
    assert network.module(torch.rand(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize("model", ["shufflenet_v2_x0_5", "squeezenet1_1"])
def test_the_head_sees_the_penultimate_features(model: str) -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    network = tunable(request(model), 3, SETTINGS)
    column = Column()
    bank = load(request(model)).run(pixels.permute(0, 2, 3, 1).contiguous(), [column])[column]
    torch.testing.assert_close(network.features(network.inputs(pixels)), torch.from_numpy(bank))


def test_logits_of_a_network_that_ends_in_a_convolution_are_linear_in_its_features() -> None:
    network = tunable(request("squeezenet1_1"), 3, SETTINGS)
    inputs = torch.randn(2, 3, 64, 64)
    head = network.head
    with torch.no_grad():
        wanted = network.features(inputs) @ head.weight.flatten(1).T + head.bias  # type: ignore[operator, union-attr]
        torch.testing.assert_close(network.module(inputs), wanted)
    assert wanted.min() < 0


def test_a_hidden_layer_is_linear_relu_dropout() -> None:
    network = tiny(FineTuneSettings(hidden=[7], dropout=0.4))
    assert [type(layer).__name__ for layer in network.head.children()] == [
        *("LinearHead", "ReLU", "Dropout", "LinearHead"),
    ]
    assert network.head[2].p == 0.4  # type: ignore[index]


def test_a_network_without_a_classifier_gets_a_head_behind_it() -> None:
    body = nn.Sequential(*list(TinyNet().children())[:2])
    network = tiny(module=body)
    assert network.head_path == "head"
    assert network.module(torch.rand(2, 3, 32, 32)).shape == (2, 3)


def test_the_head_is_drawn_from_the_seed_alone() -> None:
    one, other = tiny(), tiny(FineTuneSettings(random_state=1))
    torch.rand(1)
    assert torch.equal(one.head.weight, tiny().head.weight)  # type: ignore[arg-type]
    assert not torch.equal(one.head.weight, other.head.weight)  # type: ignore[arg-type]


def test_a_network_is_rebuilt_without_its_weights() -> None:
    wanted = tunable(request("squeezenet1_1"), 3, SETTINGS)
    again = untrained(request("squeezenet1_1"), 3, SETTINGS, resolve(request("squeezenet1_1")))
    again.module.load_state_dict(wanted.module.state_dict())
    inputs = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.module(inputs), wanted.module(inputs))


def test_a_network_whose_head_is_used_twice_is_refused() -> None:
    class Twice(TinyNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(torch.relu(self.fc(self.pool(self.stage2(self.stage1(x))).flatten(1))))

    module = Twice(classes=12)
    backbone = from_module(module, transform=PREPROCESS, version="1", classifier="fc")
    with pytest.raises(FineTuneError, match="Twice can't be given another head in place of fc"):
        tunable(backbone, 3, SETTINGS)


def test_features_below_float32_are_refused() -> None:
    with pytest.raises(FineTuneError, match="leave the precision out"):
        tunable(Request("squeezenet1_1", weights="none", precision="bfloat16"), 3, SETTINGS)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("resnet18", ["conv1", "layer1", "layer2", "layer3", "layer4"]),
        ("efficientnet_lite0", ["conv_stem", *(f"blocks.{i}" for i in range(7)), "conv_head"]),
        ("mobilenet_v3_small", [*(f"features.{i}" for i in range(13)), "classifier"]),
        ("timm/vit_tiny_patch16_224", ["patch_embed", *(f"blocks.{i}" for i in range(12))]),
        (
            "timm/vgg11",
            [f"features.{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)]
            + ["pre_logits.fc1", "pre_logits.fc2"],
        ),
    ],
)
def test_stages_are_the_blocks_of_a_network(model: str, names: list[str]) -> None:
    from featbank.backbones.registry import find

    found = find(model)
    with torch.device("meta"):
        network = found.provider.build(found.name, None, (224, 224), None)
    head = found.provider.classifier(network)
    assert head is not None
    parts = stages(network, head)
    assert [stage.name for stage in parts] == names
    ids = [id(p) for stage in parts for p in stage.parameters]
    own = {id(p) for p in network.get_submodule(head).parameters()}
    assert sorted(ids) == sorted(id(p) for p in network.parameters() if id(p) not in own)


@pytest.mark.parametrize(
    ("unfreeze", "training"),
    [
        ("head", ["fc"]),
        ("stage2", ["stage2.0", "stage2.1", "fc"]),
        ("stage2.1", ["stage2.1", "fc"]),
        (1, ["stage2.0", "stage2.1", "fc"]),
        ("stage[12].1", ["stage1.1", "stage2.1", "fc"]),
        (("stage1", "stage2"), ["stage1.0", "stage1.1", "stage2.0", "stage2.1", "fc"]),
        ("all", ["stage1.0", "stage1.1", "stage2.0", "stage2.1", "fc"]),
    ],
)
def test_what_is_named_trains_and_the_rest_is_in_evaluation_mode(
    unfreeze: str | int | tuple[str, ...], training: list[str]
) -> None:
    network = tiny()
    network.freeze(unfreeze)
    network.train()
    layers = {path: m for path, m in network.module.named_modules() if list(m.parameters(False))}
    assert [path for path, m in layers.items() if m.training] == training
    assert [path for path, m in layers.items() if next(m.parameters()).requires_grad] == training
    assert network.trainable == sum(
        p.numel() for path in training for p in layers[path].parameters()
    )


def test_dropout_goes_with_what_follows_it() -> None:
    module = TinyNet()
    module.stage2.append(nn.Dropout(0.5))  # behind it comes the head
    module.stage1.append(nn.Dropout(0.5))
    network = tiny(module=module)
    network.freeze("head")
    network.train()
    assert network.module.stage2[3].training  # type: ignore[index]
    assert not network.module.stage1[3].training  # type: ignore[index]


def test_a_pattern_that_fits_nothing_names_the_nearest() -> None:
    said = "TinyNet has no layer 'stage3' to unfreeze; did you mean stage2, stage1"
    with pytest.raises(UnknownLayer, match=said):
        tiny().freeze("stage3")


def test_more_stages_than_there_are_is_refused() -> None:
    with pytest.raises(FineTuneError, match="TinyNet has 2 stages, and the last 3"):
        tiny().freeze(3)
