"""`make reproduce-<paper>`: as many processes as there are GPUs, one seed after the other, on one machine or several.

With one process for each seed (a paper that updates after every sample) and several GPUs, seeds run side by side instead.
"""

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from common.provenance import ROOT
from tools.repository import experiments, papers


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


def commands(launch: Launch, processes: int, per_sample: bool, experiment: str) -> Iterator[list[str]]:
    """One command for each seed."""
    python = [sys.executable]
    if not per_sample and (processes > 1 or launch.nodes > 1):
        python += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--nnodes={launch.nodes}"]
        if launch.nodes > 1:
            host, _, port = launch.master.partition(":")
            python += [f"--node-rank={launch.node_rank}", f"--master-addr={host}", f"--master-port={port or 29500}"]
        else:
            python += ["--standalone"]
    for seed in launch.seeds.split():
        yield [*python, "-m", f"papers.{launch.paper}.train", experiment, "--seed", seed, *shlex.split(launch.args)]


class Children:
    """The running commands. The first signal goes on to all of them; after it, or after a failure, no other is started.

    Runs end by themselves, each with its checkpoint: whoever started them waits.
    """

    def __init__(self) -> None:
        self.signum, self.failed = 0, False
        self.running: list[subprocess.Popen] = []

    def __call__(self, signum: int, _: object) -> None:
        if not self.signum:
            self.signum = signum
            for child in self.running:
                child.send_signal(signum)

    def start(self, job: list[str], **options: Any) -> subprocess.Popen | None:
        if self.signum or self.failed:
            return None
        child = subprocess.Popen(job, cwd=ROOT, **options)
        self.running.append(child)
        if self.signum:  # it came when the child was not yet among the running
            child.send_signal(self.signum)
        return child


def run_all(jobs: list[list[str]], gpus: list[str], children: Children) -> list[int]:
    """Exit codes of the commands that were started, as many at a time as there are `gpus`.

    Several at a time have one GPU each, and their lines come with the seed in front.
    """
    free = list(gpus)
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}

    def work(job: list[str]) -> int | None:
        gpu, code = free.pop(0), None
        alone = {**os.environ, "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": gpu}
        if child := children.start(job, **({"env": alone, **pipe} if len(gpus) > 1 else {})):
            with child:
                for line in child.stdout or ():
                    print(f"seed {job[job.index('--seed') + 1]} | {line}", end="", flush=True)
            code = child.returncode
            children.failed |= code != 0
        free.append(gpu)
        return code

    with ThreadPoolExecutor(len(gpus)) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        while wait(futures, timeout=1).not_done:  # not for ever: a signal that another thread received is handled in between
            pass
    return [code for future in futures if (code := future.result()) is not None]


def main(launch: Launch) -> int:
    """Returns the exit code: of the first run that did not end well, or that of a signal."""
    if launch.paper not in papers():
        return refuse(f"no paper '{launch.paper}': there are {', '.join(papers())}")
    if launch.gpus and not launch.gpus.isdecimal():
        return refuse(f"GPUS={launch.gpus} is not a number")
    if not launch.seeds.split() or not all(seed.isdecimal() for seed in launch.seeds.split()):
        return refuse(f'SEEDS="{launch.seeds}" is not a list of numbers, as SEEDS="0 1 2" is')
    if launch.nodes > 1 and not launch.master:
        return refuse("NODES needs MASTER=host[:port], the address of the first machine, and NODE_RANK")
    if not 0 <= launch.node_rank < launch.nodes:
        return refuse(f"NODE_RANK={launch.node_rank} is not below NODES={launch.nodes}; the first machine is 0")
    try:
        shlex.split(launch.args)
    except ValueError as error:
        return refuse(f"ARGS cannot be read ({error}): {launch.args}")

    if launch.gpus and int(launch.gpus) == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch  # late, as train.py's import of it: the lines above answer at once

    table = experiments(launch.paper)
    experiment = launch.experiment or next(iter(table))
    if experiment not in table:
        return refuse(f"{launch.paper} has no experiment '{experiment}': there are {', '.join(table)}")
    if table[experiment].kind == "weights":
        weights = experiment.removeprefix("weights-")
        return refuse(f"{experiment} is evaluated, not trained: make evaluate-{launch.paper} ARGS={weights}")
    per_sample, there = table[experiment].per_sample, torch.cuda.device_count()
    processes = max(1, int(launch.gpus or there))
    if launch.nodes > 1 and per_sample:
        return refuse(f"{launch.paper} updates after every sample and cannot be split among {launch.nodes} machines")
    if there and processes > there:
        return refuse(f"GPUS={processes}, and there are {there} here")

    jobs = list(commands(launch, processes, per_sample, experiment))
    children = Children()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, children)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")  # seconds from a signal to torchrun's SIGKILL, else 30
    width = min(processes, len(jobs)) if per_sample else 1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(width)))
    codes = run_all(jobs, visible.split(",")[:width] if there else [""] * width, children)
    if children.signum and codes != [0] * len(jobs):
        return 128 + children.signum
    failed = next((code for code in codes if code), 0)
    return 128 - failed if failed < 0 else failed


def refuse(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback from Ctrl-C before there is a run
    import tyro

    sys.exit(main(tyro.cli(Launch)))
