"""The provider: what the registry asks of each source of backbones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from featbank.backbones.recipe import Preprocess

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Provider"]


class Provider(Protocol):
    """A source of networks, their weights and the preprocessing that belongs to them.

    `tag` names weights that the source publishes; None stands for a file of the user's, or for a
    random network.
    """

    source: str

    def names(self) -> list[str]:
        """Return the names of the networks, sorted."""

    def tags(self, name: str) -> tuple[str, ...]:
        """Return the names of the weights that the source publishes for a network."""

    def default_tag(self, name: str) -> str | None:
        """Return which of them ``DEFAULT`` is, None if there are none."""

    def local(self, name: str, tag: str) -> Path | None:
        """Return the weights file if it is on this machine."""

    def fetch(self, name: str, tag: str) -> Path:
        """Return the weights file, downloaded if need be.

        Raises
        ------
        WeightsUnavailable
        """

    def preprocess(self, name: str, tag: str | None, digest: str | None) -> Preprocess:
        """Return the preprocessing of these weights; of ``DEFAULT`` where `tag` is None."""

    def check_input(self, name: str, tag: str | None, crop: tuple[int, int]) -> None:
        """Refuse a crop that a network with these published weights can't take.

        Raises
        ------
        BackboneError
        """

    def build(
        self, name: str, tag: str | None, crop: tuple[int, int], state: dict[str, Tensor] | None
    ) -> nn.Module:
        """Return the network, with the weights of `state`, or random ones if it is None."""

    def classifier(self, network: nn.Module) -> str | None:
        """Return the path of the final layer, whose input is the penultimate layer."""
