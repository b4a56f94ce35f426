"""Networks without memory for their weights, to read their shape; import it where torch may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["Weightless"]


class Weightless(TorchFunctionMode):
    """Within this context, layers allocate their parameters on the meta device.

    ``torch.device("meta")`` alone would catch other tensors too, and RegNets read block widths
    out of theirs.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)
