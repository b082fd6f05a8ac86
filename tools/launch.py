"""`make reproduce-<paper>`: as many processes as there are GPUs, one seed after the other, on one machine or several."""

import dataclasses
import os
import shlex
import signal
import subprocess
import sys

from common.errors import BadInput
from common.provenance import ROOT
from tools.repository import experiments, known, refuse, told


@dataclasses.dataclass(frozen=True)
class Launch:
    """What the variables of make say."""

    paper: str
    experiment: str = ""
    """Default: the paper's headline, the first of its experiments."""
    seeds: str = "0"
    gpus: str = ""
    """Processes on this machine; default: the GPUs that there are, one process without any. 0: one process without a GPU."""
    nodes: int = 1
    node_rank: int = 0
    master: str = ""
    """host[:port] of the first machine."""
    args: str = ""
    """Everything else for train.py."""


def python(launch: Launch, processes: int) -> list[str]:
    """The interpreter, under torchrun where there is more than one process."""
    if processes == launch.nodes == 1:
        return [sys.executable]
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--nnodes={launch.nodes}"]
    if launch.nodes == 1:
        return [*torchrun, "--standalone"]
    host, _, port = launch.master.partition(":")
    return [*torchrun, f"--node-rank={launch.node_rank}", f"--master-addr={host}", f"--master-port={port or 29500}"]


def run_all(jobs: list[list[str]]) -> int:
    """The commands one after the other, until one fails: its exit code. The first signal goes on to the one that is running.

    That ends by itself, with its checkpoint: whoever started it waits, and starts no other.
    """
    running: list[subprocess.Popen] = []
    signals: list[int] = []

    def pass_on(signum: int, _: object) -> None:
        signals.append(signum)
        if running and len(signals) == 1:
            running[-1].send_signal(signum)

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, pass_on)
    for job in jobs:
        if signals:
            return 128 + signals[0]
        running.append(subprocess.Popen(job, cwd=ROOT))
        if signals:  # it came before the child was among the running
            running[-1].send_signal(signals[0])
        if code := running[-1].wait():
            return 128 + signals[0] if signals else 128 - code if code < 0 else code
    return 0


def main(launch: Launch) -> int:
    """Returns the exit code: of the first run that did not end well, or that of a signal. Raises BadInput."""
    known(launch.paper)
    seeds, nodes = launch.seeds.split(), launch.nodes
    refuse(launch.gpus and not launch.gpus.isdecimal(), f"GPUS={launch.gpus} is not a number")
    numbers = seeds and all(map(str.isdecimal, seeds))
    refuse(not numbers, f'SEEDS="{launch.seeds}" is not a list of numbers, as SEEDS="0 1 2" is')
    refuse(nodes > 1 and not launch.master, "NODES needs MASTER=host[:port], the address of the first machine, and NODE_RANK")
    outside = not 0 <= launch.node_rank < nodes
    refuse(outside, f"NODE_RANK={launch.node_rank} is not below NODES={nodes}; the first machine is 0")
    try:
        args = shlex.split(launch.args)
    except ValueError as error:
        raise BadInput(f"ARGS cannot be read ({error}): {launch.args}") from error

    if launch.gpus and int(launch.gpus) == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch  # late, as train.py's import of it: the lines above answer at once

    table, there = experiments(launch.paper), torch.cuda.device_count()
    name, processes = launch.experiment or next(iter(table)), max(1, int(launch.gpus or there))
    refuse(name not in table, f"{launch.paper} has no experiment '{name}': there are {', '.join(table)}")
    evaluated = f"make evaluate-{launch.paper} ARGS={name.removeprefix('weights-')}"
    refuse(table[name].kind == "weights", f"{name} is evaluated, not trained: {evaluated}")
    refuse(there and processes > there, f"GPUS={processes}, and there are {there} here")
    if table[name].per_sample:
        refuse(nodes > 1, f"{launch.paper} updates after every sample and cannot be split among {nodes} machines")
        processes = 1

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")  # seconds from a signal to torchrun's SIGKILL, else 30
    script = ["-m", f"papers.{launch.paper}.train", name]
    return run_all([[*python(launch, processes), *script, "--seed", seed, *args] for seed in seeds])


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback from Ctrl-C before there is a run
    import tyro

    sys.exit(told(main, tyro.cli(Launch)))
