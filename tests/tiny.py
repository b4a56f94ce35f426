"""The small fakes that most tests share: a seeded network with BatchNorm, and small images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from featbank.backbones.recipe import Preprocess

PREPROCESS = Preprocess(
    resize=36,
    fit="short",
    crop=(32, 32),
    interpolation="bilinear",
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)
"""What TinyNet takes: 32 x 32 pixels."""


class TinyNet(torch.nn.Module):
    """Two named stages with BatchNorm, 12 features in the penultimate layer, a final `fc`.

    The running statistics are not the initial ones, so that a network left in training mode
    computes something else. `calls` counts forward passes.
    """

    def __init__(self, seed: int = 0, classes: int = 5) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stage1 = torch.nn.Sequential(
                torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
                torch.nn.BatchNorm2d(8),
                torch.nn.ReLU(inplace=True),
            )
            self.stage2 = torch.nn.Sequential(
                torch.nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False),
                torch.nn.BatchNorm2d(12),
                torch.nn.ReLU(inplace=True),
            )
            self.pool = torch.nn.AdaptiveAvgPool2d(1)
            self.fc = torch.nn.Linear(12, classes)
            for layer in self.modules():
                if isinstance(layer, torch.nn.BatchNorm2d):
                    layer.running_mean.uniform_(-0.2, 0.2)
                    layer.running_var.uniform_(0.5, 1.5)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.fc(self.pool(self.stage2(self.stage1(x))).flatten(1))


def make_images(folder: Path, n: int = 12, classes: int = 3, seed: int = 0) -> list[Path]:
    """Write `n` small RGB images into class folders ``a``, ``b``, ``c``, ...; return their paths.

    PNG and JPEG in turn, of sides from 33 to 60; a class has a colour of its own, so that it can
    be learned.
    """
    rng = np.random.default_rng(seed)
    colours = rng.integers(40, 216, size=(classes, 3))
    paths = []
    for i in range(n):
        label = i % classes
        side = Path(folder) / chr(ord("a") + label)
        side.mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(33, 61, size=2)
        noise = rng.normal(0, 20, size=(height, width, 3))
        pixels = np.clip(colours[label] + noise, 0, 255).astype(np.uint8)
        path = side / f"{i:03d}.{'png' if i // classes % 2 == 0 else 'jpg'}"
        Image.fromarray(pixels).save(path)
        paths.append(path)
    return sorted(paths)
