"""A signal is obeyed when nothing can be lost."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Interrupted(BaseException):
    """SIGTERM or SIGINT, obeyed at a moment when nothing can be lost."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Interrupt:
    """What SIGTERM and SIGINT do: set a flag while a loop or a write is under way, else end the run at once. Repeats do nothing."""

    def __init__(self) -> None:
        self.signum = 0
        self.deferred = False  # whether somebody will look at the flag soon

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.signum == 0:
            self.signum = signum
            if not self.deferred:
                raise Interrupted(signum)


@contextlib.contextmanager
def signals() -> Iterator[Interrupt]:
    interrupt = Interrupt()
    before = {s: signal.signal(s, interrupt) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield interrupt
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
