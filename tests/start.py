"""Starting training scripts from tests: in this process, or in new ones that share one import of torch."""

import contextlib
import importlib
import io
import json
import multiprocessing
import os
import runpy
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from common import command
from common.claims import Claim, Kind
from common.command import main
from common.files import CLOCK
from common.provenance import ROOT
from common.words import said

CONTEXT = multiprocessing.get_context("forkserver")
PRELOAD = ["torch", "torch._dynamo", "accelerate", "tyro", "matplotlib.backends.backend_agg", "sacrebleu", "common.command"]
CONTEXT.set_forkserver_preload(PRELOAD)
STARTED: list["Started"] = []  # of the test under way


def judged(claim: Claim, kind: Kind, values: Sequence[float]) -> str:
    """The verdict on these values, in words."""
    return said(claim, claim.verdict(kind, values))


def here(module: str, *argv: str) -> tuple[int, str]:
    """Exit code and output of `python -m module argv`, run in this process."""
    script = importlib.import_module(module)
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            code = main(script.EXPERIMENTS, script.train, [str(a) for a in argv])
        except SystemExit as stop:  # tyro's
            code = stop.code
    return code, output.getvalue()


def refuses(module: str, *argv: str, said: str) -> None:
    """It does not begin: exit code 2, and these words, wherever a console breaks its lines."""
    code, output = here(module, *argv)
    assert code == 2 and said in " ".join(output.split()), output
    assert "Traceback" not in output


@contextlib.contextmanager
def compiling(on: bool = True) -> Iterator[None]:
    """With torch.compile, which tests do without otherwise."""
    with torch._dynamo.config.patch(disable=not on), mock.patch.dict(os.environ, TORCH_COMPILE_DISABLE=str(int(not on))):
        yield


def weights(pretrained, out, monkeypatch, capfd):
    """`python -m papers.<paper>.pretrained ARGV --out OUT` in this process: ARGV -> exit code, lines that are errors."""

    def run(*argv):
        codes = []
        monkeypatch.setattr("sys.argv", ["pretrained", *map(str, argv), "--out", str(out)])
        monkeypatch.setattr(command, "reproduce", lambda known, evaluate, argv: codes.append(main(known, evaluate, argv)))
        command.evaluate_weights(pretrained.WEIGHTS, pretrained.main)
        output = capfd.readouterr().err
        assert "Traceback" not in output
        return codes[0], [line for line in output.splitlines() if line.startswith("error: ")]

    return run


def _child(module: str, argv: tuple[str, ...], environment: dict[str, str], log: str, cpu: Any) -> None:
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    os.environ.update(environment)
    sys.argv, before = [module, *argv], time.process_time()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        cpu.value = time.process_time() - before


class Started:
    """`python -m module argv` as a process of its own, quickly: forked where torch is imported already."""

    def __init__(self, log: Path, module: str, *argv: str, **environment: str) -> None:
        self.log, self.cpu = log, CONTEXT.Value("d", 0.0, lock=False)
        arguments = (module, tuple(map(str, argv)), environment, str(log), self.cpu)
        self.process = CONTEXT.Process(target=_child, args=arguments)
        self.process.start()
        STARTED.append(self)

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    def kill(self, signum: int) -> None:
        """Send it a signal; what it has used of the CPU so far is kept, for SIGKILL leaves it no time to say it."""
        with contextlib.suppress(OSError):
            user, system = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            self.cpu.value = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        os.kill(self.process.pid, signum)

    def wait(self, seconds: float = 120) -> int:
        """The exit code; negative for a signal that killed it."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            raise TimeoutError(f"still running after {seconds} s:\n{self.output()}")
        return self.process.exitcode

    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def processes(n: int, log: Path, module: str, *argv: str, **environment: str) -> list[Started]:
    """The same as n processes of one group, as torchrun starts them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    group = {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **environment}
    return [Started(log.with_suffix(f".{rank}"), module, *argv, **group, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(n)]


def finish(started: list[Started], seconds: float = 120) -> None:
    """Wait for all of them; every one has to end well."""
    codes = [each.wait(seconds) for each in started]
    assert codes == [0] * len(codes), "\n".join(each.output() for each in started)


def until(condition, seconds: float = 120):
    """What condition() returns once that is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)
    return value


def rows(directory: Path) -> list[dict]:
    """metrics.jsonl without what depends on the clock."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCK} for line in lines]


def record(directory: Path) -> dict:
    return json.loads((directory / "result.json").read_text())


def newest(directory: Path) -> dict:
    """The newest checkpoint."""
    from common.directory import checkpoints

    return torch.load(checkpoints(directory)[0], weights_only=True)
