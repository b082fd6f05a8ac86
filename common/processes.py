"""Several processes as one: devices and wrapping by accelerate, and what is exact over any number of them."""

import contextlib
import datetime
import logging
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from common.data.order import share
from common.errors import BadInput, Failed

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


def check(paper: str, device: torch.device, precision: str, *, per_sample: bool) -> None:
    """Raises BadInput: what was asked for cannot be done on this device, or by so many processes."""
    if precision == "tf32" and device.type == "cpu":
        raise BadInput("--precision tf32 needs a GPU; there is none here: use fp32 or bf16")
    if per_sample and (world := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        raise BadInput(
            f"{paper} updates after every sample and cannot be split among {world} processes: "
            'start one process for each seed (make does, with SEEDS="0 1 2")'
        )


def start(device: torch.device, precision: str, *, one_thread: bool) -> "Accelerator":
    """Join the other processes of this run, and set what torch computes with.

    Raises:
        Failed: accelerate sees another number of processes than the launcher started.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs

    accelerator = Accelerator(
        cpu=device.type == "cpu",  # without it plain torchrun on a CPU starts separate runs in one directory
        mixed_precision="no",  # autocast() is written out in the loop
        kwargs_handlers=[InitProcessGroupKwargs(timeout=datetime.timedelta(hours=2))],
    )
    if accelerator.num_processes != (world := int(os.environ.get("WORLD_SIZE", 1))):
        seen = f"accelerate sees {accelerator.num_processes} processes, WORLD_SIZE is {world}"
        raise Failed(f"{seen}: launch with torchrun or make")
    torch.set_default_dtype(torch.float64 if precision == "fp64" else torch.float32)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision in ("tf32", "bf16")
    if one_thread:
        torch.set_num_threads(1)
    return accelerator


def stop() -> None:
    torch.set_default_dtype(torch.float32)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def on_main(accelerator: "Accelerator", function: Callable[[], T]) -> T:
    """What `function` returns or refuses on the main process, on every process."""
    result: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            result[0] = function()
        except (BadInput, Failed) as error:
            result[1] = error
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(result)
    if result[1] is not None:
        raise result[1]
    return result[0]


def prepared(accelerator: "Accelerator", thing: Any) -> Any:
    """A module on its device, wrapped for several processes if anything in it learns; whatever else as it is."""
    if not isinstance(thing, nn.Module):
        return thing
    learns = any(p.requires_grad for p in thing.parameters())
    return accelerator.prepare(thing) if learns else thing.to(accelerator.device)


def bare(thing: Any) -> Any:
    """A module as it was before DistributedDataParallel and torch.compile, in whatever order; anything else as it is."""
    while isinstance(thing, nn.parallel.DistributedDataParallel) or hasattr(thing, "_orig_mod"):
        thing = thing.module if isinstance(thing, nn.parallel.DistributedDataParallel) else thing._orig_mod
    return thing


def compiled(function: T, device: torch.device, dynamic: bool | None, say: Callable[[str], None]) -> T:
    """torch.compile, or the function as it is, with one line, on a machine without the compiler or headers that it needs."""
    cpu = device.type == "cpu"
    names = (os.environ.get("CXX"), "g++", "clang++") if cpu else (os.environ.get("CC"), "gcc", "clang")
    if not any(name and shutil.which(name) for name in names):
        say(f"no {'C++' if cpu else 'C'} compiler here: running without torch.compile")
        return function
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        say("no Python.h here (Debian: apt install python3-dev): running without torch.compile")
        return function
    if os.environ.get("TORCH_COMPILE_DISABLE") == "1":
        return function  # torch.compile would do the same, after seconds of imports
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of a missing GPU
    return torch.compile(function, dynamic=dynamic)


@contextlib.contextmanager
def evaluating(accelerator: "Accelerator", model: nn.Module) -> Iterator[nn.Module]:
    """The bare model in eval mode without gradients, with the main process's buffers (batch-norm statistics) on all ranks."""
    module = bare(model)
    if accelerator.num_processes > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, 0)
    training = module.training
    module.eval()
    with torch.no_grad():
        yield module
    module.train(training)


def summed(accelerator: "Accelerator", *values: Tensor | float) -> list[float]:
    """The sums of these numbers over all processes: one synchronisation."""
    together = torch.stack([torch.as_tensor(v, dtype=torch.float32, device=accelerator.device) for v in values])
    return (accelerator.reduce(together, "sum") if accelerator.num_processes > 1 else together).tolist()


def gather(accelerator: "Accelerator", values: Tensor, n: int) -> Tensor:
    """One value for each of n examples from all processes, in order: (own share, ...) -> (n, ...).

    Raises:
        ValueError: this process does not bring exactly its share, so that an example would be missing or count twice.
    """
    rank, processes = accelerator.process_index, accelerator.num_processes
    sizes = [(mine := share(n, r, processes)).stop - mine.start for r in range(processes)]
    if len(values) != sizes[rank]:
        raise ValueError(f"process {rank} has {len(values)} values for its share of {sizes[rank]} of {n} examples")
    if processes == 1:
        return values
    padded = torch.cat([values, values.new_zeros(max(sizes) - len(values), *values.shape[1:])])
    gathered = accelerator.gather(padded).unflatten(0, (processes, max(sizes)))
    return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])
