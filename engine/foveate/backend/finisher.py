"""A thread that waits for batches, so that the next one can begin."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Queue

__all__ = ["Finisher"]

_log = logging.getLogger(__name__)


class Finisher:
    """Runs what it is given, in order, in a thread of its own."""

    def __init__(self) -> None:
        self._steps: Queue[Callable[[], None] | None] = Queue()
        self._thread = threading.Thread(target=self._run, name="finish batches")
        self._thread.start()

    def add(self, step: Callable[[], None]) -> None:
        self._steps.put(step)

    def drain(self) -> None:
        """Return when all that was added is finished."""
        self._steps.join()

    def close(self) -> None:
        """Finish what was added, and the thread."""
        self._steps.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (step := self._steps.get()) is not None:
            try:
                step()
            except Exception:  # one batch must not cost the later ones their answers
                _log.exception("a batch could not be answered")
            finally:
                del step  # and with it the tensors of its requests, however long until the next
                self._steps.task_done()
