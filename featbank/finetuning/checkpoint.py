"""Checkpoints: a training on disk after each epoch, so that a killed one goes on to the same end.

A folder holds ``checkpoint.json``, written last and atomically, and the files that it names with
their digests: ``weights-N.safetensors`` of the last epoch and of the best, and
``optimizer-N.safetensors``. Only what can change in this training is kept; the rest follows from
the recipe. Format 1; a later one raises the number and keeps reading this one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from featbank import durable
from featbank.errors import FineTuneError

__all__ = ["Checkpoint", "Course"]

_FORMAT = 1
_NAME = "checkpoint.json"
_TENSORS = re.compile(r"(weights|optimizer)-\d+\.safetensors")
_DIGITS = 64  # of a SHA-256
_MAX_BYTES = 64 << 20  # of checkpoint.json


@dataclass
class Course:
    """How far a training has come.

    Attributes
    ----------
    epoch : int
        Whole epochs that are over.
    history : list of dict
        One an epoch.
    best_epoch : int
        0 before the first.
    best : float or None
        What was watched, at that epoch.
    seconds : float
    stopped : str or None
        Why it is over; None if it isn't.
    """

    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best: float | None = None
    seconds: float = 0.0
    stopped: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """The folder of one training.

    Attributes
    ----------
    folder : Path
    identity : dict
        Everything that the training follows from, as plain data.
    """

    folder: Path
    identity: dict[str, Any]

    def begin(self, *, resume: bool) -> dict[str, Any] | None:
        """Make the folder ready; return what to go on from, None to begin at the beginning.

        Raises
        ------
        FineTuneError
            There is a checkpoint and `resume` is false, or it is of another training or damaged.
        """
        path = self.folder / _NAME
        try:
            durable.make_directory(self.folder)
            durable.remove_temporaries(self.folder, seconds=0 if resume else 3600)
            if not path.exists():
                return None
            if path.stat().st_size > _MAX_BYTES:
                raise self._damaged("checkpoint.json is too large")
            text = path.read_bytes()
        except OSError as error:
            raise FineTuneError(
                f"the folder of checkpoints {self.folder} can't be used: {error.strerror or error}."
            ) from error
        state = self._read(text)
        if not resume:
            raise FineTuneError(
                f"{self.folder} holds a training that came to epoch {state['course']['epoch']}; "
                "say resume to go on with it, or give another folder."
            )
        self._compare(state["identity"])
        return state

    def _read(self, text: bytes) -> dict[str, Any]:
        try:
            state = json.loads(text)
            if state["format"] > _FORMAT:
                raise FineTuneError(
                    f"the checkpoint in {self.folder} was written by a later featbank; update it."
                )
            body = {key: value for key, value in state.items() if key != "sha256"}
            if _digest(body) != state["sha256"]:
                raise ValueError("its digest is another")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if isinstance(error, FineTuneError):
                raise
            raise self._damaged("checkpoint.json is not what was written") from error
        return dict(state)

    def _compare(self, other: dict[str, Any]) -> None:
        mine, theirs = (_flat(json.loads(json.dumps(x))) for x in (self.identity, other))
        for name in dict.fromkeys([*mine, *theirs]):
            here, there = mine.get(name), theirs.get(name)
            if here != there:
                digests = isinstance(here, str) and len(here) == _DIGITS
                what = "differs" if digests else f"is {_short(there)} there and {_short(here)} here"
                raise FineTuneError(
                    f"{self.folder} holds another training, in which {name} {what}; give the same "
                    "settings and images, or another folder."
                )

    def load(self, state: dict[str, Any], name: str) -> dict[str, Tensor]:
        """Read one of the files that a state names: "weights", "best" or "optimizer".

        Raises
        ------
        FineTuneError
            It is missing, or has other bytes than were written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            entry = state["files"][name]
            file = os.path.basename(entry["name"])
            data = (self.folder / file).read_bytes()
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                raise self._damaged(f"{file} is not what was written")
            return load(data)
        except OSError as error:
            raise self._damaged(f"{file} can't be read ({error.strerror})") from error
        except (SafetensorError, KeyError, TypeError) as error:
            raise self._damaged("its files don't fit together") from error

    def _damaged(self, what: str) -> FineTuneError:
        return FineTuneError(
            f"the checkpoint in {self.folder} is damaged: {what}; remove the folder to begin anew."
        )

    def save(
        self,
        course: Course,
        *,
        weights: dict[str, Tensor],
        optimizer: dict[str, Tensor],
        groups: list[dict[str, Any]],
        scaler: dict[str, Any],
        threads: int,
    ) -> None:
        """Write the state after an epoch; the one before it stands until this one is whole.

        Raises
        ------
        FineTuneError
            It could not be written; the one before it stands.
        """
        from safetensors.torch import save

        try:
            files = {
                kind: self._write(f"{kind}-{course.epoch}.safetensors", save(tensors))
                for kind, tensors in (("weights", weights), ("optimizer", optimizer))
            }
            files["best"] = files["weights"]
            if course.best_epoch != course.epoch:
                files["best"] = self._kept(f"weights-{course.best_epoch}.safetensors")
            self._write_state(
                {
                    "format": _FORMAT,
                    "identity": self.identity,
                    "course": course.__dict__,
                    "files": files,
                    "groups": groups,
                    "scaler": scaler,
                    "threads": threads,
                }
            )
        except OSError as error:
            raise FineTuneError(
                f"the checkpoint of epoch {course.epoch} can't be written to {self.folder} "
                f"({error.strerror or error}); the one before it stands, for resume."
            ) from error

    def finish(self, stopped: str) -> None:
        """Note in the last state why the training is over."""
        path = self.folder / _NAME
        if path.exists():
            state = self._read(path.read_bytes())
            state["course"]["stopped"] = stopped
            self._write_state(state)

    def _write_state(self, state: dict[str, Any]) -> None:
        body = {key: value for key, value in state.items() if key != "sha256"}
        text = json.dumps({**body, "sha256": _digest(body)}, indent=1, allow_nan=False)
        durable.write_file(self.folder / _NAME, text.encode())
        kept = {entry["name"] for entry in state["files"].values()}
        for path in self.folder.iterdir():
            if _TENSORS.fullmatch(path.name) and path.name not in kept:
                with contextlib.suppress(OSError):
                    durable.fs.unlink(str(path))

    def _write(self, name: str, data: bytes) -> dict[str, str]:
        durable.write_file(self.folder / name, data)
        return {"name": name, "sha256": hashlib.sha256(data).hexdigest()}

    def _kept(self, name: str) -> dict[str, str]:
        state = self._read((self.folder / _NAME).read_bytes())
        return next(
            {"name": name, "sha256": str(entry["sha256"])}
            for entry in state["files"].values()
            if entry["name"] == name
        )


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, by dotted names."""
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(item, f"{prefix}.{key}" if prefix else key)
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
