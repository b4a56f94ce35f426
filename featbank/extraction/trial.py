"""The trial: how many images at once a device embeds fastest, found while it works."""

from __future__ import annotations

__all__ = ["Trial"]

_GAIN = 1.05  # in images a second, or a larger batch is not worth its memory


class Trial:
    """Doubles the batch size as long as that brings more images a second.

    Attributes
    ----------
    size : int
        How many images the next batch should hold.
    """

    def __init__(self, first: int = 32, most: int = 512) -> None:
        self.size = first
        self._most = most
        self._best = 0, 0.0  # images, images a second
        self._warm = False
        self._settled = False

    def took(self, images: int, seconds: float, *, fitting: int) -> None:
        """Say how long a batch took, and how many images the memory can hold at once.

        The first batch of a size counts for nothing: libraries choose their algorithms over it.
        """
        if fitting < self.size:
            self._settle(fitting)
        if self._settled or images != self.size:
            return
        if not self._warm:
            self._warm = True
            return
        rate = images / max(seconds, 1e-9)
        if rate < _GAIN * self._best[1]:
            self._settle(self._best[0])
            return
        self._best = images, rate
        if 2 * images > self._most:
            self._settle(images)
            return
        self.size, self._warm = 2 * images, False

    def _settle(self, size: int) -> None:
        self.size, self._settled = size, True
