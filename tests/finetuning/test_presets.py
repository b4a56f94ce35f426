from __future__ import annotations

import pytest

from featbank.errors import FineTuneError
from featbank.finetuning.presets import PRESETS, Preset, parse_preset, parse_scratch
from featbank.finetuning.settings import FineTuneSettings


def test_every_preset_is_settings() -> None:
    for name in PRESETS:
        assert FineTuneSettings.from_dict(parse_preset(name).words)


def test_a_text_changes_words_of_a_preset() -> None:
    found = parse_preset("mine=full:unfreeze=layer3+layer4,hidden=64,lr=1e-3,model=resnet18")

    assert found.name == "mine"
    assert found.model == {"model": "resnet18"}
    settings = FineTuneSettings.from_dict(found.words)
    assert (settings.unfreeze, settings.hidden) == (("layer3", "layer4"), (64,))
    assert settings.lr == 1e-3


def test_a_network_from_scratch_comes_before_its_words() -> None:
    assert parse_scratch("small-cnn-3") == Preset("small-cnn-3", {}, {"model": "small-cnn-3"})
    assert parse_scratch("tiny=small-cnn-3,epochs=3,input_size=64") == Preset(
        "tiny", {"epochs": 3}, {"model": "small-cnn-3", "input_size": 64}
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lastt", "there is no preset 'lastt' of fine-tuning; did you mean last"),
        ("last:", "nothing follows the colon"),
        ("last:epochs", "'epochs' in 'last:epochs' is not of the form word=value"),
    ],
)
def test_a_text_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(FineTuneError, match=said):
        parse_preset(text)
