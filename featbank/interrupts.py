"""Interrupts: Ctrl-C and SIGTERM, held back while something must come to its end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["held_back"]

_PATIENCE = 2


@contextlib.contextmanager
def held_back(*, patience: float = _PATIENCE) -> Iterator[Callable[[], None]]:
    """Let Ctrl-C and SIGTERM wait until the block is over.

    Of those that waited, the first one's handler is called. A signal without a handler ends the
    process as ever, and in any thread but the main one, which gets none, nothing is to be done.

    Parameters
    ----------
    patience : float
        How many may wait; who insists, with one more, is obeyed at once.

    Yields
    ------
    callable
        For a long block: to be called wherever an interrupt may as well be heeded.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    waiting: list[tuple[int, FrameType | None]] = []
    over = False

    def note(number: int, frame: FrameType | None) -> None:
        handler = handlers[signal.Signals(number)]
        # Over, and still here: it fell upon the lines that bring the handlers back.
        if callable(handler) and (over or len(waiting) >= patience):
            handler(number, frame)
        else:
            waiting.append((number, frame))

    def give_way() -> None:
        if waiting:
            number, frame = waiting[0]
            waiting.clear()
            handlers[signal.Signals(number)](number, frame)  # type: ignore[operator, misc]

    try:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, note)
        yield give_way
    finally:
        over = True
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, handler)
        give_way()
