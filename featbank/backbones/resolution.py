"""From a request to its recipe, and to the network that the recipe describes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featbank.backbones import graph, memo
from featbank.backbones.device import likely_device
from featbank.backbones.preprocess import override
from featbank.backbones.provider import Provider
from featbank.backbones.recipe import Preprocess, Recipe, canonical_json
from featbank.backbones.registry import find
from featbank.backbones.request import Request
from featbank.backbones.tuned import TunedWeights, describe_weights
from featbank.backbones.weights import digest_file, digest_state, read
from featbank.errors import (
    BackboneError,
    MissingDependency,
    WeightsMismatch,
    WeightsUnavailable,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = ["build", "resolve", "seeded"]


@dataclass(frozen=True)
class _Choice:
    """What a request's words lead to: `file` is None for a random network."""

    provider: Provider
    name: str
    tag: str | None
    file: Path | None
    tuned: TunedWeights | None = None


def resolve(request: Request) -> Recipe:
    """Return the recipe of a request, from the memo where it still holds.

    Weights that are not on this machine are downloaded; ``"none"`` makes a random network.

    Raises
    ------
    UnknownBackbone, WeightsUnavailable, MissingDependency, BackboneError
    """
    request = dataclasses.replace(request, runtime=_engine(request) or "auto")
    if recipe := memo.recall(request):
        return recipe
    choice = _choose(request)
    looked = time.time_ns()
    stat = None if choice.file is None else memo.stat_of(choice.file)
    if choice.file is None:
        preprocess = _preprocess(request, choice, None)
        weights = _random_name(request, _random(request, choice, preprocess))
    else:
        weights = digest_file(choice.file)
        preprocess = _preprocess(request, choice, weights)
    recipe = Recipe(
        backbone=choice.name,
        source=choice.provider.source,
        weights=weights,
        preprocess=preprocess,
        precision=request.precision,
        runtime=None if request.precision == "float32" else request.runtime,
    )
    memo.remember(request, recipe, file=choice.file, stat=stat, looked=looked)
    return recipe


def build(request: Request, recipe: Recipe | None = None) -> tuple[nn.Module, str | None, Recipe]:
    """Build the network of a request, with its weights.

    Parameters
    ----------
    request : Request
    recipe : Recipe, optional
        What the request must come to; by default what it does come to.

    Returns
    -------
    network : torch.nn.Module
        In evaluation mode, without gradients.
    classifier : str or None
        Path of its final layer.
    recipe : Recipe

    Raises
    ------
    WeightsMismatch
        The weights have other bytes than the recipe says.
    """
    choice = _choose(request)
    if recipe is None:
        recipe = resolve(request)
    if (recipe.backbone, recipe.source) != (choice.name, choice.provider.source):
        raise BackboneError(
            f"the recipe is of {recipe.source}'s {recipe.backbone}, not of {request.model}; "
            "ask for the backbone that the features were made with."
        )
    if choice.file is None:
        network = _random(request, choice, recipe.preprocess)
        weights = _random_name(request, network)
    else:
        state, weights = read(choice.file)
        if weights == recipe.weights:
            crop, tuned = recipe.preprocess.crop, choice.tuned
            if tuned is not None:
                tuned.verify(state)
            with seeded(request.seed):
                if tuned is None:
                    network = choice.provider.build(choice.name, choice.tag, crop, state)
                else:
                    network = choice.provider.build(choice.name, choice.tag, crop, None)
                    if tuned.is_plain(state, network):
                        network = choice.provider.build(choice.name, choice.tag, crop, state)
                    else:
                        tuned.pour(network, state, choice.provider.classifier(network))
    if weights != recipe.weights:
        raise WeightsMismatch(
            f"the weights of {request.model} ({choice.file or 'random'}) have the digest "
            f"{weights[:24]}, the recipe says {recipe.weights[:24]}; give the file that the "
            "features were made with, or extract anew."
        )
    network.eval().requires_grad_(False)
    return network, choice.provider.classifier(network), recipe


def _engine(request: Request) -> str | None:
    """Return what computes below float32, where engines differ; None in float32."""
    precision = request.precision
    if request.runtime == "openvino" and not graph.computes_in(precision):
        if graph.available():
            raise BackboneError(
                f"this processor has no {precision}, so OpenVINO can't compute in it; "
                "use --runtime torch, or leave the precision out."
            )
        raise MissingDependency(
            "--runtime openvino needs OpenVINO, which is not installed; run "
            "`pip install 'featbank[openvino]'`, or leave the runtime out."
        )
    if precision == "float32":
        return None
    if request.runtime != "auto":
        return request.runtime
    on_cpu = precision == "bfloat16" and likely_device() == "cpu"
    return "openvino" if on_cpu and graph.computes_in(precision) else "torch"


def _choose(request: Request) -> _Choice:
    found = find(request.model)
    provider, name = found.provider, found.name
    if request.random:
        return _Choice(provider, name, None, None)
    if request.file is not None:
        path = Path(request.file)
        if not path.is_file():
            raise WeightsUnavailable(
                f"there is no weights file {path}; check the path after --weights."
            )
        tuned = describe_weights(path)
        if tuned is not None:
            tuned.check(name, provider.source)
        return _Choice(provider, name, found.tag, path, tuned)
    tag = request.weights
    if tag == "DEFAULT":
        default = found.tag or provider.default_tag(name)
        if default is None:
            raise WeightsUnavailable(
                f"nobody publishes weights of {request.model}; give --weights none for a random "
                "network, to be trained from scratch, or --weights FILE."
            )
        tag = default
    return _Choice(provider, name, tag, provider.fetch(name, tag))


def _preprocess(request: Request, choice: _Choice, digest: str | None) -> Preprocess:
    published = request.file is None and choice.file is not None
    if choice.tuned is not None:
        own = choice.tuned.preprocess
    else:
        own = choice.provider.preprocess(choice.name, choice.tag, digest)
    preprocess = override(
        own,
        resize=request.resize,
        crop=request.crop,
        squash=request.squash,
        input_size=request.input_size,
    )
    choice.provider.check_input(choice.name, choice.tag if published else None, preprocess.crop)
    # Through JSON, so that a recipe equals the one that is read back.
    decoder = json.loads(canonical_json(request.decode.to_dict()))
    return dataclasses.replace(preprocess, decoder=decoder)


def _random(request: Request, choice: _Choice, preprocess: Preprocess) -> nn.Module:
    with seeded(request.seed):
        return choice.provider.build(choice.name, choice.tag, preprocess.crop, None)


def _random_name(request: Request, network: nn.Module) -> str:
    return f"random-{request.seed}-{digest_state(network)}"


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw initial weights from `seed`, and leave the caller's generators as they were."""
    import numpy as np
    import torch

    # Initialisers draw from the global generators: torch's, and some timm networks NumPy's.
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
