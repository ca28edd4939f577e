"""SIGINT and SIGTERM as a request, so that a step is finished and saved first."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """Inside the block the two signals only set a flag; another one, later, ends the process the ordinary way.

    Ctrl-C under torchrun reaches a process twice: from the terminal and from torchrun. What comes within
    ``ONE_REQUEST`` seconds of the first is therefore the same request.
    """

    ONE_REQUEST = 1.0

    def __init__(self) -> None:
        self.requested = False
        self.signal_number = 0
        self._asked_at = 0.0
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    def _ask(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if not self.requested:
            self.requested, self.signal_number, self._asked_at = True, number, time.monotonic()
        elif time.monotonic() - self._asked_at > self.ONE_REQUEST:
            self._give_back()
            os.kill(os.getpid(), number)

    def _give_back(self) -> None:
        while self._former:
            number, handler = self._former.popitem()
            signal.signal(number, handler)
