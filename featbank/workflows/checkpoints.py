"""Checkpoints: a folder that remembers which of several trainings are done, and with what.

    folder/
      run.json            what is trained on what: settings, recipe, digests of images and of parts
      .lock               held by the process that trains
      training-<i>/       what the training that goes on needs to go on; its own format
      training-<i>.npz    a training that is done: its description, and the probabilities it gave

`run.json` has a format. To change one of these files, raise `FORMAT`: a folder of another format
is begun anew.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank import durable
from featbank.errors import FineTuneError

__all__ = ["Checkpoints"]

logger = logging.getLogger(__name__)

FORMAT = 1

_RUN = "run.json"
_LOCK = ".lock"
_OURS = re.compile(r"training-\d+(\.npz)?|run\.json")


class Checkpoints:
    """The folder, held for one run; `opened` makes it.

    Parameters
    ----------
    folder : str
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    @classmethod
    @contextlib.contextmanager
    def opened(cls, folder: str, run: dict[str, Any], *, resume: bool) -> Iterator[Checkpoints]:
        """Hold a folder for a run, and empty it of other runs' unless this one goes on.

        Parameters
        ----------
        folder : str
        run : dict
            What the results depend on, plain data by name.
        resume : bool
            Keep what an earlier process of the same run has left.

        Raises
        ------
        FineTuneError
            What is to be resumed is of another run, what is to begin was begun and could be
            resumed, another process trains there, or files that are not ours bear our names.
        """
        durable.make_directory(folder)
        with _held(folder):
            own = cls(folder)
            if resume:
                own._check(run)
            elif own._holds(run):
                raise FineTuneError(
                    f"{folder} keeps what a run of these very words had trained when it was ended; "
                    "add --resume to go on (resume=True), name another folder (--checkpoints), or "
                    "remove this one to begin anew."
                )
            else:
                own._empty()
            text = json.dumps({"format": FORMAT, **run}, allow_nan=False)
            durable.write_file(os.path.join(folder, _RUN), text.encode())
            yield own

    @classmethod
    def forget(cls, folder: str) -> None:
        """Remove all that is ours, and the folder if nothing else is in it."""
        with contextlib.suppress(FineTuneError, OSError), _held(folder):
            cls(folder)._empty()
            os.unlink(os.path.join(folder, _LOCK))
            os.rmdir(folder)

    def of(self, number: int) -> str:
        """Return the folder of a training that goes on; it need not be there."""
        return os.path.join(self.folder, f"training-{number}")

    def done(self, number: int) -> tuple[dict[str, Any], npt.NDArray[np.float32]] | None:
        """Return description and probabilities of a training that is done, else None."""
        try:
            with np.load(f"{self.of(number)}.npz", allow_pickle=False) as file:
                return json.loads(str(file["about"])), file["probability"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, zipfile.BadZipFile) as error:
            raise FineTuneError(
                f"{self.of(number)}.npz is damaged ({error}); remove it, and this part is trained "
                "again."
            ) from error

    def finish(
        self, number: int, about: dict[str, Any], probability: npt.NDArray[np.float32]
    ) -> None:
        """Keep what a training came to, and remove what it needed to go on."""
        file = io.BytesIO()
        np.savez(file, about=np.array(json.dumps(about)), probability=probability)
        durable.write_file(f"{self.of(number)}.npz", file.getbuffer())
        if os.path.isdir(self.of(number)):
            durable.remove_folder(self.of(number))

    def _empty(self) -> None:
        """Remove what is ours, ``run.json`` last: where it is missing, nothing is."""
        names = sorted(filter(_OURS.fullmatch, os.listdir(self.folder)), key=_RUN.__eq__)
        if names and not self._is_ours():
            raise FineTuneError(
                f"{self.folder} holds {names[0]}, which is no checkpoint of featbank or a damaged "
                "one; name another folder (--checkpoints), or remove it."
            )
        for name in names:
            path = os.path.join(self.folder, name)
            if os.path.isdir(path):
                durable.remove_folder(path)
            else:
                os.unlink(path)

    def _is_ours(self) -> bool:
        return "format" in self._before()

    def _holds(self, run: dict[str, Any]) -> bool:
        """Tell whether trainings of this very run are here."""
        if self._before() != json.loads(json.dumps({"format": FORMAT, **run})):
            return False
        kept = (name for name in os.listdir(self.folder) if _OURS.fullmatch(name) and name != _RUN)
        paths = (os.path.join(self.folder, name) for name in kept)
        return any(not os.path.isdir(path) or os.listdir(path) for path in paths)

    def _before(self) -> dict[str, Any]:
        """Return what the folder is of; empty where that can't be told."""
        try:
            with open(os.path.join(self.folder, _RUN), encoding="utf-8") as file:
                before = json.load(file)
        except (OSError, ValueError):
            return {}
        return before if isinstance(before, dict) else {}

    def _check(self, run: dict[str, Any]) -> None:
        """Refuse to go on with another run; begin where there is none."""
        try:
            with open(os.path.join(self.folder, _RUN), encoding="utf-8") as file:
                before = json.load(file)
        except FileNotFoundError:
            logger.info("no checkpoints in %s; beginning anew.", self.folder)
            return
        except (OSError, ValueError) as error:
            raise FineTuneError(
                f"{os.path.join(self.folder, _RUN)} can't be read ({error}); name another folder "
                "(--checkpoints), or remove it to begin anew."
            ) from error
        if not isinstance(before, dict) or before.pop("format", None) != FORMAT:
            self._empty()
            return
        now = json.loads(json.dumps(run))
        differing = [
            f"{name}.{word}" if isinstance(now[name], dict) else name
            for name in now
            for word in (now[name] if isinstance(now[name], dict) else [name])
            if _differ(before.get(name), now[name], word)
        ]
        if differing:
            raise FineTuneError(
                f"the checkpoints in {self.folder} are of another training (it differs in "
                f"{', '.join(differing)}); give the same words to resume it, leave --resume out to "
                "begin anew, or name another folder."
            )


def _differ(before: Any, now: Any, word: str) -> bool:
    if isinstance(now, dict):
        return not isinstance(before, dict) or before.get(word) != now[word]
    return bool(before != now)


@contextlib.contextmanager
def _held(folder: str) -> Iterator[None]:
    """Keep other processes out of the folder, where the file system has locks."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(durable.lock(os.path.join(folder, _LOCK), wait=False))
        except BlockingIOError:
            raise FineTuneError(
                f"another process keeps its checkpoints in {folder}; wait for it, or name another "
                "folder (--checkpoints)."
            ) from None
        except OSError as error:
            if error.errno not in durable.NO_LOCKS:
                raise
        yield
