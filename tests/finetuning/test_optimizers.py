import copy
import sys

import pytest
import torch
from torch import nn

from featbank.errors import MissingDependency
from featbank.finetuning.optimizers import make_optimizer, parameter_groups
from featbank.finetuning.settings import FineTuneSettings
from tests.tiny import TinyNet


def stages(net):
    return [list(net.stage1.parameters()), list(net.stage2.parameters())]


def names(net, group):
    of = {id(p): name for name, p in net.named_parameters()}
    return [of[id(p)] for p in group["params"]]


def test_each_stage_further_from_the_head_learns_more_slowly():
    net = TinyNet()
    settings = FineTuneSettings(lr=1.0, backbone_lr=0.1, layer_decay=0.5)

    groups = parameter_groups(net.fc, stages(net), settings)

    rates = {g["name"]: g["lr"] for g in groups}
    assert rates == pytest.approx({"stage 1": 0.05, "stage 2": 0.1, "head": 1.0})
    assert list(rates) == ["stage 1", "stage 2", "head"]


def test_without_decay_by_layer_the_backbone_has_one_rate():
    net = TinyNet()
    groups = parameter_groups(net.fc, stages(net), FineTuneSettings(backbone_lr=0.2), rate=2.0)

    assert {g["name"]: g["lr"] for g in groups} == pytest.approx(
        {"stage 1": 0.4, "stage 2": 0.4, "head": 2.0}
    )


def test_biases_and_norms_do_not_decay():
    net = TinyNet()
    groups = parameter_groups(net.fc, stages(net), FineTuneSettings(weight_decay=0.3))

    decaying = [n for g in groups if g["weight_decay"] == 0.3 for n in names(net, g)]
    still = [n for g in groups if g["weight_decay"] == 0.0 for n in names(net, g)]
    assert decaying == ["stage1.0.weight", "stage2.0.weight", "fc.weight"]
    assert still == [
        *("stage1.1.weight", "stage1.1.bias", "stage2.1.weight", "stage2.1.bias", "fc.bias"),
    ]


def test_a_shared_parameter_counts_once_nearest_the_head():
    shared = nn.Linear(3, 3, bias=False)
    settings = FineTuneSettings(lr=1.0, backbone_lr=0.1, layer_decay=0.1)

    groups = parameter_groups(nn.Linear(3, 2), [shared.parameters(), shared.parameters()], settings)

    assert [g["name"] for g in groups] == ["stage 2", "head", "head"]
    make_optimizer(groups, settings)  # torch refuses a parameter that is in two groups


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_an_optimizer_is_torchs_with_the_groups_as_they_are(name, kind):
    net = TinyNet()
    settings = FineTuneSettings(optimizer=name, momentum=0.7, weight_decay=0.3)
    groups = parameter_groups(net.fc, stages(net), settings)

    optimizer = make_optimizer(groups, settings)

    assert type(optimizer) is kind
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (g["name"], g["lr"], g["weight_decay"]) for g in groups
    ]
    assert all(g.get("momentum", 0.7) == 0.7 for g in optimizer.param_groups)


def steps(net, optimizer, n):
    inputs = torch.linspace(-1, 1, 4 * 3 * 16 * 16).reshape(4, 3, 16, 16)
    for _ in range(n):
        optimizer.zero_grad()
        net(inputs).square().sum().backward()
        optimizer.step()
    return net.fc.weight.detach().clone()


def test_lookahead_goes_halfway_back_every_six_steps():
    settings = FineTuneSettings(optimizer="sgd", lr=1e-3, lookahead=True)
    plain, ahead = TinyNet(), TinyNet()
    without = torch.optim.SGD(plain.fc.parameters(), 1e-3, momentum=0.9, weight_decay=0)
    with_it = make_optimizer(
        parameter_groups(ahead.fc, [], FineTuneSettings(optimizer="sgd", lr=1e-3, weight_decay=0)),
        settings,
    )

    assert torch.equal(steps(plain, without, 11), steps(ahead, with_it, 11))
    slow = with_it.state_dict()["state"][0]["lookahead_slow_buff"].clone()
    fast = steps(plain, without, 1)
    torch.testing.assert_close(steps(ahead, with_it, 1), (slow + fast) / 2)


@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_training_goes_on_from_the_state_of_its_optimizer(name, lookahead):
    settings = FineTuneSettings(optimizer=name, lr=1e-3, lookahead=lookahead)

    def fresh(net):
        return make_optimizer(parameter_groups(net.fc, stages(net), settings), settings)

    net = TinyNet()
    optimizer = fresh(net)
    steps(net, optimizer, 8)
    other = copy.deepcopy(net)
    kept = copy.deepcopy(optimizer.state_dict())
    through = steps(net, optimizer, 7)

    resumed = fresh(other)
    resumed.load_state_dict(kept)
    assert torch.equal(steps(other, resumed, 7), through)


def test_lookahead_without_timm_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    settings = FineTuneSettings(lookahead=True)

    with pytest.raises(MissingDependency, match=r"featbank\[timm\]"):
        make_optimizer(parameter_groups(nn.Linear(2, 2), [], settings), settings)
