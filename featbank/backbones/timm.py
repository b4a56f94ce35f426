"""timm's networks (extra ``timm``), with the data configuration of their own weights."""

from __future__ import annotations

import functools
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featbank.backbones.preprocess import INTERPOLATIONS
from featbank.backbones.recipe import Preprocess
from featbank.backbones.weights import (
    State,
    classes_in,
    download,
    first_complaint,
    reachable,
    unavailable,
)
from featbank.errors import BackboneError, MissingDependency, nearest

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn

__all__ = ["TimmProvider", "from_config", "import_timm"]

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def import_timm() -> ModuleType:
    """Import timm, or say which extra brings it."""
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "this backbone needs timm, which is not installed: pip install 'featbank[timm]'"
        ) from error
    return timm


@functools.cache
def _names() -> tuple[str, ...]:
    return tuple(sorted(import_timm().list_models()))


@functools.cache
def _tags() -> dict[str, list[str]]:
    """Return the tags of all networks' weights: timm takes milliseconds to list those of one."""
    tags: dict[str, list[str]] = {}
    for full in sorted(import_timm().list_pretrained()):
        name, _, tag = full.partition(".")
        tags.setdefault(name, []).append(tag)
    return tags


class TimmProvider:
    """Every network that ``timm.list_models`` lists, without the tags of its weights."""

    source = "timm"

    def names(self) -> list[str]:
        """Return the names of the networks, sorted."""
        return list(_names())

    def tags(self, name: str) -> tuple[str, ...]:
        """Return the tags of the weights, the default first."""
        tags = _tags().get(name, ())
        default = self.default_tag(name)
        return tuple(sorted(tags, key=lambda tag: tag != default))

    def default_tag(self, name: str) -> str | None:
        """Return timm's default tag."""
        cfg = import_timm().get_pretrained_cfg(name)
        return (cfg.tag or "") if cfg is not None and cfg.has_weights else None

    def _cfg(self, name: str, tag: str | None) -> Any:
        timm = import_timm()
        cfg = timm.get_pretrained_cfg(name)
        if not tag or cfg.tag == tag:
            return cfg
        tags = self.tags(name)
        if tag not in tags:
            raise BackboneError(
                f"timm's {name} has no weights {tag!r}, and there is no such file; "
                + (nearest(tag, tags) if tags else "give --weights FILE or --weights none.")
            )
        return timm.get_pretrained_cfg(f"{name}.{tag}")

    def local(self, name: str, tag: str) -> Path | None:
        """Return the file in the hub's cache or in torch.hub's, if it is there."""
        import torch.hub
        from huggingface_hub import try_to_load_from_cache

        cfg = self._cfg(name, tag)
        if cfg.hf_hub_id:
            repo, _, revision = cfg.hf_hub_id.partition("@")
            for file in _files(cfg):
                path = try_to_load_from_cache(repo, file, revision=revision or None)
                if isinstance(path, str):
                    return Path(path)
        if cfg.url:
            path = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(cfg.url)
            if path.is_file():
                return path
        return None

    def fetch(self, name: str, tag: str) -> Path:
        """Return the file from the hub's cache, downloaded if need be."""
        import torch.hub

        if path := self.local(name, tag):
            return path
        cfg = self._cfg(name, tag)
        what = f"timm/{name}" + (f" ({tag})" if tag else "")
        if cfg.hf_hub_id:
            return _from_hub(cfg, what)
        path = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(cfg.url)
        download(cfg.url, path, what=what)
        return path

    def preprocess(self, name: str, tag: str | None, digest: str | None) -> Preprocess:
        """Return the data configuration of the weights."""
        from timm.data import resolve_data_config

        cfg = self._cfg(name, tag)
        return from_config(resolve_data_config(pretrained_cfg=cfg.to_dict()), what=name)

    def check_input(self, name: str, tag: str | None, crop: tuple[int, int]) -> None:
        """Refuse what is smaller than the network takes; other sizes are for `build` to try."""
        smallest = self._cfg(name, tag).min_input_size
        if smallest and (crop[0] < smallest[1] or crop[1] < smallest[2]):
            raise BackboneError(
                f"timm/{name} takes images from {smallest[1]} x {smallest[2]} pixels on, not "
                f"{crop[0]} x {crop[1]}; give a larger --input-size."
            )

    def build(
        self, name: str, tag: str | None, crop: tuple[int, int], state: State | None
    ) -> nn.Module:
        """Build the network; where its input size is fixed, for this one."""
        timm = import_timm()
        cfg = self._cfg(name, tag)
        options: dict[str, Any] = {}
        if cfg.fixed_input_size and crop != tuple(cfg.input_size[1:]):
            options["img_size"] = crop
        overlay: dict[str, Any] = {}
        if state is not None:
            classes = cfg.num_classes
            if isinstance(cfg.classifier, str):
                classes = classes_in(state, cfg.classifier, classes)
            overlay = {"state_dict": state, "num_classes": classes}
            if classes != cfg.num_classes:
                overlay["label_offset"] = 0  # a head of the user's own has no spare first class
            options["num_classes"] = classes
        full = f"{name}.{tag}" if tag else name
        try:
            network: nn.Module = timm.create_model(
                full, pretrained=state is not None, pretrained_cfg_overlay=overlay, **options
            )
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            raise BackboneError(
                f"timm/{name} takes {cfg.input_size[1]} x {cfg.input_size[2]} pixels only; "
                "leave --crop and --input-size away."
            ) from error
        except (RuntimeError, KeyError, AssertionError, ValueError) as error:
            # Filters of checkpoints and size checks say it in their own ways.
            raise BackboneError(
                f"timm/{name} can't be built for {crop[0]} x {crop[1]} pixels"
                + (f" with these weights: {first_complaint(error)}" if state else f": {error}")
            ) from error
        network.pretrained_cfg.pop("state_dict", None)  # type: ignore[operator, union-attr]
        return network

    def classifier(self, network: nn.Module) -> str | None:
        """Return the path of what ``get_classifier`` returns; an encoder has none."""
        final = network.get_classifier() if hasattr(network, "get_classifier") else None  # type: ignore[operator]
        if isinstance(final, tuple):  # a distilled network has two, on the same features
            final = final[0]
        return next((path for path, layer in network.named_modules() if layer is final), None)


def from_config(config: dict[str, Any], *, what: str) -> Preprocess:
    """Return timm's data configuration as data of ours, to the same pixels."""
    height, width = config["input_size"][1:]
    # As timm's transforms_imagenet_eval has it.
    resize = math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"])
    fit = {"squash": "squash", "border": "long"}.get(config["crop_mode"], "short")
    interpolation = str(config["interpolation"])
    if interpolation not in INTERPOLATIONS:
        raise BackboneError(
            f"timm/{what} asks for {interpolation!r} interpolation, which is not one of "
            f"{', '.join(INTERPOLATIONS)}; it can be used through from_module."
        )
    return Preprocess(
        resize=resize[0] if fit == "short" and resize[0] == resize[1] else resize,
        fit=fit,
        crop=(height, width),
        interpolation=interpolation,
        mean=tuple(float(v) for v in config["mean"]),
        std=tuple(float(v) for v in config["std"]),
        fill=tuple(round(255 * v) for v in config["mean"]) if fit == "long" else (0, 0, 0),
    )


def _files(cfg: Any) -> tuple[str, ...]:
    return (cfg.hf_hub_filename,) if cfg.hf_hub_filename else _HUB_FILES


def _from_hub(cfg: Any, what: str) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    url = f"{constants.ENDPOINT}/{cfg.hf_hub_id}"
    # Without a network the hub's own client tries again for half a minute, aloud.
    reason = "offline mode" if constants.HF_HUB_OFFLINE else reachable(constants.ENDPOINT)
    if reason is not None:
        raise unavailable(what, url=url, path=None, reason=reason)
    repo, _, revision = cfg.hf_hub_id.partition("@")
    reason = "it has no file of weights"
    for file in _files(cfg):
        try:
            return Path(hf_hub_download(repo, file, revision=revision or None))
        except LocalEntryNotFoundError as error:
            raise unavailable(what, url=url, path=None, reason="the connection broke") from error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            lines = str(error).splitlines() or [type(error).__name__]
            raise unavailable(what, url=url, path=None, reason=lines[0]) from error
    raise unavailable(what, url=url, path=None, reason=reason)
