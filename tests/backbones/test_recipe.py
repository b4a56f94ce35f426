from __future__ import annotations

import json

import pytest

from featbank.backbones.recipe import Recipe
from featbank.backbones.request import Request
from featbank.errors import BackboneError
from tests.bank.builders import RECIPE


def plain(**changes):
    """Return the recipe as JSON brings it; a dot in a name leads into the preprocessing."""
    data = json.loads(json.dumps(RECIPE.to_dict()))
    for name, value in changes.items():
        (data["preprocess"] if name in data["preprocess"] else data)[name] = value
    return data


def test_a_recipe_comes_back_from_json():
    assert Recipe.from_dict(plain()) == RECIPE


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": None}, {"backbone": ["a"]}, {"backbone": "x" * 100_000}, {"weights": 5},
        {"precision": 1}, {"version": "1"}, {"runtime": 3}, {"source": {}}, {"preprocess": [1]},
        {"preprocess": "text"}, {"crop": 8}, {"crop": [8]}, {"resize": "large"}, {"fit": None},
        {"mean": [None] * 3}, {"mean": [float("nan")] * 3}, {"std": "abc"}, {"fill": {}},
        {"decoder": []}, {"decoder": {"a": float("inf")}}, {"stranger": 1},
    ],
)  # fmt: skip
def test_a_recipe_of_other_kinds_is_refused(changes):
    with pytest.raises(BackboneError, match="not a recipe that featbank can read"):
        Recipe.from_dict(plain(**changes))


@pytest.mark.parametrize("data", [None, [], "text", 3, {}])
def test_what_is_no_recipe_is_refused(data):
    with pytest.raises(BackboneError, match="not a recipe that featbank can read"):
        Recipe.from_dict(data)


@pytest.mark.parametrize(
    "changes",
    [{"model": 5}, {"model": ["a"]}, {"weights": None}, {"decode": [1]}, {"resize": "x"},
     {"decode": {"background": [1]}}, {"seed": "x"}, {"precision": {}}],
)  # fmt: skip
def test_a_request_of_other_kinds_is_refused(changes):
    with pytest.raises(BackboneError):
        Request.from_dict({**Request("resnet18").to_dict(), **changes})
