"""Samples that worker processes read and decode, in batches that are a function of what is asked and of nothing else.

A sample draws everything random from the generator that it is given. So neither the number of workers nor where a run was resumed
changes a batch.
"""

import ctypes
import mmap
import multiprocessing
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.util import Finalize

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from common.errors import BadFile, BadInput, LostWorker
from common.files import cores

Sample = Callable[[int, torch.Generator], tuple[Tensor, ...]]  # (index, generator) -> the tensors of one sample
STOPS = (signal.SIGINT, signal.SIGTERM)
PR_SET_PDEATHSIG = 1


def count() -> int:
    """Workers for each process of this machine: the CPU cores it may use, shared among the processes."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE") or 1))


class Reader:
    """Worker processes that read samples, from now on until `close`.

    Have them before training begins: they are forked, and a child that is forked while one of autograd's threads takes a lock of
    the interpreter never wakes up (Python 3.11).

    Args:
        workers: by default `count()`; 0 reads in this process.
        pin: into page-locked memory, from where a copy to the GPU need not be waited for.
    """

    def __init__(self, sample: Sample, *, workers: int | None = None, pin: bool = False) -> None:
        workers = count() if workers is None else workers
        if len(os.fsencode(tempfile.gettempdir())) > 60 and os.access("/tmp", os.W_OK):
            tempfile.tempdir = "/tmp"  # workers send through sockets there, whose paths have 108 bytes at most
        work, self.batches = Work(sample), ()
        self.loader = DataLoader(
            work, batch_size=None, sampler=self, num_workers=workers, collate_fn=lambda batch: batch, pin_memory=pin,
            persistent_workers=workers > 0, multiprocessing_context="fork" if workers else None, worker_init_fn=work.begin,
            generator=torch.Generator(),  # else it draws from the default one, which is the training's
        )  # fmt: skip
        self.closing = Finalize(None, work.close, exitpriority=0)  # at the latest when the process ends
        handler = signal.getsignal(signal.SIGCHLD)
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # until a worker has its own handlers
        try:
            multiprocessing.Lock()  # lies in /dev/shm, as what a loader makes, which leaves a traceback behind where it cannot
            iter(self.loader)
        except OSError as error:
            raise lost(error) from error
        finally:
            signal.signal(signal.SIGCHLD, handler)  # torch's raises wherever this process is, in the midst of a checkpoint
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """What the loader asks for."""
        return iter(self.batches)

    def read(self, batches: Iterable[list[tuple[int, int]]]) -> Iterator[tuple[Tensor, ...]]:
        """The samples of each batch stacked, in order: (B, ...) for every tensor of a sample. One `read` at a time.

        Args:
            batches: lists of (index, seed of its generator); asked for two batches ahead for each worker.

        Raises:
            BadFile: what a sample refused with BadInput. Any other exception in a sample arrives with its traceback.
            LostWorker: a worker is dead.
        """
        self.batches = batches
        try:
            for batch in self.loader:
                if isinstance(batch, BadFile):
                    raise batch
                yield batch
        except (RuntimeError, OSError, EOFError) as error:
            broke = not isinstance(error, RuntimeError) and self.loader.num_workers and not str(error).startswith("Caught ")
            if broke or re.search("^(DataLoader worker|Pin memory thread)|shared memory", str(error)):
                raise lost(error) from error
            raise

    def close(self) -> None:
        """Ends the workers, without waiting for the batches that they are at. Closing again does nothing."""
        self.closing()
        self.loader = None


def lost(error: Exception) -> LostWorker:
    said = " ".join(str(error).split())[-200:] or type(error).__name__
    return LostWorker(
        f"a process that reads the data died ({said}): out of memory, or of shared memory (/dev/shm; docker --shm-size)? "
        "The same command goes on from the last checkpoint; under taskset -c 0-3 it starts 4 such processes"
    )


class Work:
    """What a worker does. It ends when its parent says so, or dies; what is sent to the whole group concerns the parent alone."""

    def __init__(self, sample: Sample) -> None:
        self.sample, self.parent = sample, os.getpid()
        self.closed = mmap.mmap(-1, 1)  # a byte that all processes share

    def close(self) -> None:
        self.closed[0] = 1

    def begin(self, worker: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if self.closed[0] else None)  # multiprocessing ends workers with it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # they hold the parent's sockets open
        if os.getppid() != self.parent:
            os._exit(0)

    def __getitem__(self, batch: list[tuple[int, int]]) -> tuple[Tensor, ...] | BadFile:
        samples = []
        for index, seed in batch:
            if self.closed[0]:
                return ()  # nobody wants the rest
            try:
                samples.append(self.sample(index, torch.Generator().manual_seed(seed)))
            except BadInput as error:
                return BadFile(str(error))
        return tuple(default_collate(samples))
