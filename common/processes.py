"""Several processes as one: devices and wrapping by accelerate, and what is exact over any number of them."""

import contextlib
import datetime
import getpass
import logging
import os
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from common import provenance
from common.data.order import share
from common.errors import BadInput, Failed
from common.files import cores
from common.track import Track

T = TypeVar("T")


class Processes:
    """One process of those that work as one.

    device: where tensors go.    precision: fp64, fp32, tf32 or bf16.    rank, processes, main: this process among all.

    Raises:
        BadInput: this device has no such precision.
    """

    def __init__(self, precision: str | None, default: Mapping[str, str]) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision = precision or default[self.device.type]
        self.emulated = precision is None and self.precision == "bf16" and self.device.type == "cpu" and not provenance.has_bf16()
        if self.emulated:
            self.precision = "fp32"
        self.rank, self.processes, self.main = 0, 1, True
        if self.precision == "tf32" and self.device.type == "cpu":
            raise BadInput("--precision tf32 needs a GPU; there is none here: use fp32 or bf16")

    def _join(self) -> None:
        """Join the others, and set what torch computes with. Raises Failed: they are not as many as the launcher started."""
        from accelerate import Accelerator, InitProcessGroupKwargs

        self.accelerator = Accelerator(
            cpu=self.device.type == "cpu",  # without it plain torchrun on a CPU starts separate runs in one directory
            mixed_precision="no",  # autocast() is written out in the loop
            kwargs_handlers=[InitProcessGroupKwargs(timeout=datetime.timedelta(hours=2))],
        )
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        self.track = Track(self.main)
        if self.emulated:
            self.say("this processor has no bf16 instructions: fp32, where published runs have bf16; --precision bf16 is slow here")
        if self.device.type == "cpu" and (own := cores()) < torch.get_num_threads():
            torch.set_num_threads(own)  # a container's share, not all cores of its host
        if self.processes != (world := int(os.environ.get("WORLD_SIZE", 1))):
            raise Failed(f"accelerate sees {self.processes} processes, WORLD_SIZE is {world}: launch with torchrun or make")
        torch.set_default_dtype(torch.float64 if self.precision == "fp64" else torch.float32)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.precision in ("tf32", "bf16")

    @staticmethod
    def _leave() -> None:
        torch.set_default_dtype(torch.float32)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def say(self, text: str) -> None:
        """A line for the person who looks on; from the main process only."""
        self.track.say(text)

    def on_main(self, function: Callable[[], T]) -> T:
        """What `function` returns or refuses on the main process, on every process."""
        result: list[Any] = [None, None]
        if self.main:
            try:
                result[0] = function()
            except (BadInput, Failed) as error:
                result[1] = error
        if self.processes > 1:
            torch.distributed.broadcast_object_list(result, device=self.device)
        if result[1] is not None:
            raise result[1]
        return result[0]

    def compile(self, function: T, *, dynamic: bool | None = None) -> T:
        """torch.compile, or the function as it is, with one line, on a machine without the compiler or headers that it needs.

        dynamic: as torch.compile has it; True where shapes differ from batch to batch.
        """
        language, names = ("C++", ("CXX", "g++", "clang++")) if self.device.type == "cpu" else ("C", ("CC", "gcc", "clang"))
        found = shutil.which(os.environ.get(names[0], "")) or any(map(shutil.which, names[1:]))
        missing = "" if found else f"{language} compiler here"
        if not Path(sysconfig.get_path("include"), "Python.h").exists():
            missing = "Python.h here (Debian: apt install python3-dev)"
        if missing:
            self.say(f"no {missing}: running without torch.compile")
        if missing or os.environ.get("TORCH_COMPILE_DISABLE") == "1":
            return function  # torch.compile would do the same, after seconds of imports
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of a missing GPU
        self.on_main(mend_cache)
        return torch.compile(function, dynamic=dynamic)

    def autocast(self) -> torch.autocast:
        """bf16 where --precision says so."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def share(self, n: int) -> slice:
        """The part of n examples that this process evaluates."""
        return share(n, self.rank, self.processes)

    def gather(self, values: Tensor, n: int) -> Tensor:
        """One value for each of n examples from all processes, in order: (own share, ...) -> (n, ...).

        Raises:
            ValueError: this process does not bring exactly its share, so that an example would be missing or count twice.
        """
        sizes = [len(range(n)[share(n, rank, self.processes)]) for rank in range(self.processes)]
        if len(values) != sizes[self.rank]:
            raise ValueError(f"process {self.rank} has {len(values)} values for its share of {sizes[self.rank]} of {n} examples")
        if self.processes == 1:
            return values
        padded = torch.cat([values, values.new_zeros(max(sizes) - len(values), *values.shape[1:])])
        gathered = self.accelerator.gather(padded).unflatten(0, (self.processes, max(sizes)))
        return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])

    def _summed(self, *values: Tensor | float) -> list[float]:
        """The sums of these numbers over all processes: one synchronisation."""
        together = torch.stack([torch.as_tensor(v, dtype=torch.float32, device=self.device) for v in values])
        return (self.accelerator.reduce(together, "sum") if self.processes > 1 else together).tolist()

    def _prepared(self, thing: Any) -> Any:
        """A module on its device, wrapped for several processes if anything in it learns; whatever else as it is."""
        if not isinstance(thing, nn.Module):
            return thing
        learns = any(p.requires_grad for p in thing.parameters())
        return self.accelerator.prepare(thing) if learns else thing.to(self.device)


def mend_cache() -> None:
    """Take what a run that was killed while it compiled has left empty out of torch's cache, which would load it for ever."""
    cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or Path(tempfile.gettempdir(), f"torchinductor_{getpass.getuser()}")
    for path in Path(cache).rglob("*.so"):
        with contextlib.suppress(OSError):  # another run may be about it
            if (about := path.stat()).st_size == 0 and time.time() - about.st_mtime > 5:
                path.unlink()


def bare(thing: Any) -> Any:
    """A module as it was before DistributedDataParallel and torch.compile, in whatever order; anything else as it is."""
    while isinstance(thing, nn.parallel.DistributedDataParallel) or hasattr(thing, "_orig_mod"):
        thing = thing.module if isinstance(thing, nn.parallel.DistributedDataParallel) else thing._orig_mod
    return thing
