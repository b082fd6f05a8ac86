"""`make reproduce-<paper>`: as many processes as there are GPUs, one seed after the other, on one machine or several."""

import os
import re
import shlex
import signal
import subprocess
import sys

from common.errors import BadInput
from common.provenance import ROOT
from tools.repository import experiments, known, refuse, told


def python(processes: int, nodes: int = 1, node_rank: int = 0, master: str = "") -> list[str]:
    """The interpreter, under torchrun where there is more than one process."""
    if processes == nodes == 1:
        return [sys.executable]
    torchrun = [sys.executable, "-m", "tools.torchrun", f"--nproc-per-node={processes}", f"--nnodes={nodes}"]
    if nodes == 1:
        return [*torchrun, "--standalone", "--local-addr=127.0.0.1"]  # whatever this machine's name resolves to
    host, port = address(master)
    return [*torchrun, f"--node-rank={node_rank}", f"--master-addr={host}", f"--master-port={port}"]


def address(master: str) -> tuple[str, str]:
    """host, host:port, [IPv6] or [IPv6]:port -> host, port. Raises BadInput: it is none of these."""
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^\[\]:]+))(?::(\d+))?", master)
    refuse(not found, f"MASTER={master} is no host[:port], nor [IPv6 address][:port]")
    return found[1] or found[2], found[3] or "29500"


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


def main(
    paper: str, experiment: str = "", seeds: str = "0", gpus: str = "",
    nodes: int = 1, node_rank: int = 0, master: str = "", out: str = "runs", args: str = "",
) -> int:  # fmt: skip
    """What the variables of make say. The exit code: of the first run that did not end well, or that of a signal.

    Args:
        experiment: by default the paper's headline, the first of its experiments.
        gpus: processes on this machine; by default the GPUs that there are, one process without any. 0: one process without a GPU.
        master: host[:port] of the first machine.
        out, args: the folder of the runs, and everything else for train.py.

    Raises:
        BadInput: they say what cannot be.
    """
    known(paper)
    refuse(gpus and not gpus.isdecimal(), f"GPUS={gpus} is not a number")
    numbers = seeds.split() and all(map(str.isdecimal, seeds.split()))
    refuse(not numbers, f'SEEDS="{seeds}" is not a list of numbers, as SEEDS="0 1 2" is')
    refuse(nodes > 1 and not master, "NODES needs MASTER=host[:port], the address of the first machine, and NODE_RANK")
    refuse(not 0 <= node_rank < nodes, f"NODE_RANK={node_rank} is not below NODES={nodes}; the first machine is 0")
    try:
        more = ["--out", out, *shlex.split(args)]
    except ValueError as error:
        raise BadInput(f"ARGS cannot be read ({error}): {args}") from error

    if gpus and int(gpus) == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch  # late, as train.py's import of it: the lines above answer at once

    table, there = experiments(paper), torch.cuda.device_count()
    name, processes = experiment or next(iter(table)), max(1, int(gpus or there))
    refuse(name not in table, f"{paper} has no experiment '{name}': there are {', '.join(table)}")
    evaluated = f"make evaluate-{paper} ARGS={name.removeprefix('weights-')}"
    refuse(table[name].kind == "weights", f"{name} is evaluated, not trained: {evaluated}")
    refuse(there and processes > there, f"GPUS={processes}, and there are {there} here")
    if table[name].per_sample:
        refuse(nodes > 1, f"{paper} updates after every sample and cannot be split among {nodes} machines")
        processes = 1

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")  # seconds from a signal to torchrun's SIGKILL, else 30
    start = python(processes, nodes, node_rank, master)
    script = ["-m", f"papers.{paper}.train", name]
    return run_all([[*start, *script, "--seed", seed, *more] for seed in seeds.split()])


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback from Ctrl-C before there is a run
    import tyro

    sys.exit(told(tyro.cli, main))
