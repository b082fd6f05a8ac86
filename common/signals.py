"""A signal is obeyed when nothing can be lost."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from common.errors import LostWorker

SILENCE, PATIENCE = 1800.0, 10.0  # seconds that a run waits for a batch; after a signal


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
        self.waits = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGALRM:
            if self.signum:
                raise Interrupted(self.signum)
            silent = f"no batch of data came for {SILENCE / 60:.0f} min: is its file system there?"
            raise LostWorker(f"{silent} The same command goes on from the last checkpoint")
        if self.signum == 0:
            self.signum = signum
            if not self.deferred:
                raise Interrupted(signum)
            if self.waits:
                signal.setitimer(signal.ITIMER_REAL, PATIENCE)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """While something is waited for that may never come. Raises LostWorker, and after a signal Interrupted: it does not."""
        self.waits = True
        signal.setitimer(signal.ITIMER_REAL, SILENCE)
        if self.signum:  # read last: none slips between
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        try:
            yield
        finally:
            self.waits = False
            signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def signals() -> Iterator[Interrupt]:
    interrupt = Interrupt()
    before = {s: signal.signal(s, interrupt) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    try:
        yield interrupt
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
