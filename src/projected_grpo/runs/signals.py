"""How a loop hears that it is to stop."""

import signal
from _thread import start_new_thread
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from loguru import logger


@contextmanager
def stop_on_signal(*, patient: bool = False) -> Iterator[list[int]]:
    """Ctrl-C or SIGTERM asks the loop to end after the step in hand; a second one ends it at once,
    where it is `patient` only a second Ctrl-C."""
    received: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if received:
            if patient and number == signal.SIGTERM:
                return
            raise KeyboardInterrupt
        received.append(number)
        # Said by another thread: this one may be in the logger at this moment, which is not
        # re-entrant and would answer with a traceback.
        said = "stopping after this step; press Ctrl-C again to stop at once"
        start_new_thread(logger.warning, (said,))

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
