"""Augmentation: named presets of random changes to images, taken from well-known tutorials.

========  ==========================================================================================
none      what evaluation does: the recipe's own resizing and crop
light     the same, then a rotation by up to 10 degrees and a flip: the whole image stays in view
          (the dogs-and-cats tutorials)
crop      RandomResizedCrop and a flip (PyTorch's `Transfer Learning for Computer Vision
          <https://pytorch.org/tutorials/beginner/transfer_learning_tutorial.html>`_: ants and bees)
flowers   4 pixels of reflected border, a rotation by up to 10 degrees, RandomResizedCrop, a flip
          (the tutorials on the 102 Oxford flowers)
standard  RandomResizedCrop to 256 of at least 80 % of the area, a rotation by up to 15 degrees, a
          flip, the centre of 224 (LearnOpenCV's `Image Classification using Transfer Learning in
          PyTorch <https://learnopencv.com/image-classification-using-transfer-learning-in-pytorch/>`_:
          animals of Caltech-256)
strong    RandomResizedCrop, a flip, RandAugment (Cubuk et al. 2019, arXiv:1909.13719); then by
          batch mixup (Zhang et al. 2017, arXiv:1710.09412; alpha 0.2) or CutMix (Yun et al. 2019,
          arXiv:1905.04899; alpha 1), as in `torchvision's recipe
          <https://pytorch.org/blog/how-to-train-state-of-the-art-models-using-torchvision-latest-primitives/>`_
========  ==========================================================================================

Flips are horizontal. Sizes are in proportion to the recipe's crop, resizing takes the recipe's
filter and empty corners its fill. Everything is done by `torchvision.transforms.v2`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from featbank.backbones.preprocess import FROM_TRANSFORM, apply
from featbank.backbones.recipe import Preprocess
from featbank.errors import FineTuneError, nearest
from featbank.finetuning.settings import AUGMENTS

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

__all__ = ["Augmentation", "augmentation"]

_WHOLE = ("none", "light")
"""These begin with the recipe's own resizing and crop."""


@dataclass(frozen=True)
class Augmentation:
    """A preset for networks of one preprocessing; `augmentation` makes it.

    Attributes
    ----------
    name : str
    preprocess : Preprocess
    n_classes : int
    """

    name: str
    preprocess: Preprocess
    n_classes: int

    def image(self, image: Image.Image, rng_seed: int) -> Tensor:
        """Return the pixels of one image, changed at random.

        Parameters
        ----------
        image : PIL.Image.Image
            In mode RGB.
        rng_seed : int
            From 0 to below 2**63. The change follows from it alone; torch's generator is left as
            it was.

        Returns
        -------
        Tensor of shape (3, H, W), uint8
            H and W are the crop of the preprocessing.
        """
        from PIL import Image
        from torchvision.transforms.v2.functional import pil_to_tensor

        if self.name in _WHOLE:
            image = Image.fromarray(apply(self.preprocess, image))
        if self._change is not None:
            with _seeded(rng_seed):
                image = self._change(image)
        return pil_to_tensor(image)

    def batch(self, pixels: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mix the images of a batch, where the preset does that.

        Parameters
        ----------
        pixels : Tensor of shape (B, 3, H, W), float
        y : Tensor of shape (B,), int64
            Classes as codes.
        generator : torch.Generator
            On the CPU; what is mixed with what follows from it.

        Returns
        -------
        pixels : Tensor of shape (B, 3, H, W)
        targets : Tensor of shape (B,) or (B, K)
            The codes, or the share of each class where images were mixed.
        """
        if self._mix is None:
            return pixels, y
        import torch

        with _seeded(int(torch.randint(2**62, (), generator=generator))):
            mixed, targets = self._mix(pixels, y)
        return mixed, targets

    @cached_property
    def _change(self) -> Any:
        from torchvision.transforms import v2

        if self.name == "none":
            return None
        height, width = self.preprocess.crop
        fill = list(self.preprocess.fill)
        filter_ = v2.InterpolationMode(self.preprocess.interpolation)

        def rotation(degrees: float) -> Any:
            return v2.RandomRotation(degrees, v2.InterpolationMode.BILINEAR, fill=fill)

        def cut(height: int, width: int, least: float) -> Any:
            # torchvision's range of proportions, seen from those of the crop.
            ratio = (3 / 4 * width / height, 4 / 3 * width / height)
            return v2.RandomResizedCrop((height, width), (least, 1.0), ratio, filter_)

        flip = v2.RandomHorizontalFlip()
        if self.name == "light":
            return v2.Compose([rotation(10), flip])
        if self.name == "crop":
            return v2.Compose([cut(height, width, 0.08), flip])
        if self.name == "flowers":
            pad = v2.Pad(4, padding_mode="reflect")
            return v2.Compose([pad, rotation(10), cut(height, width, 0.08), flip])
        if self.name == "standard":
            larger = cut(round(height * 256 / 224), round(width * 256 / 224), 0.8)
            return v2.Compose([larger, rotation(15), flip, v2.CenterCrop((height, width))])
        return v2.Compose([cut(height, width, 0.08), flip, v2.RandAugment(fill=fill)])

    @cached_property
    def _mix(self) -> Any:
        if self.name != "strong":
            return None
        from torchvision.transforms import v2

        k = self.n_classes
        return v2.RandomChoice(
            [v2.MixUp(alpha=0.2, num_classes=k), v2.CutMix(alpha=1.0, num_classes=k)]
        )


def augmentation(name: str, preprocess: Preprocess, *, n_classes: int) -> Augmentation:
    """Return the augmentation of this name.

    Parameters
    ----------
    name : {"none", "light", "crop", "flowers", "standard", "strong"}
    preprocess : Preprocess
        Of the network's recipe.
    n_classes : int

    Returns
    -------
    Augmentation
        It can be pickled.

    Raises
    ------
    FineTuneError
        There is no such preset, or the preprocessing is a function of the caller's.

    Examples
    --------
    >>> import PIL.Image
    >>> preprocess = Preprocess(36, "short", (32, 32), "bilinear", (0.5,) * 3, (0.5,) * 3)
    >>> light = augmentation("light", preprocess, n_classes=2)
    >>> light.image(PIL.Image.new("RGB", (60, 40)), rng_seed=0).shape
    torch.Size([3, 32, 32])
    """
    if name not in AUGMENTS:
        raise FineTuneError(f"there is no augment {name!r}; {nearest(name, AUGMENTS)}")
    if preprocess.fit == FROM_TRANSFORM:
        raise FineTuneError(
            "this network comes with a transform function, which nothing can be put into; give "
            "from_module a Preprocess or a torchvision preset to fine-tune it."
        )
    return Augmentation(name, preprocess, n_classes)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Let the transforms, which draw from torch's own generator, draw from a seed."""
    import torch

    state = torch.get_rng_state()
    try:
        # torch.manual_seed would seed the GPUs too.
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(state)
