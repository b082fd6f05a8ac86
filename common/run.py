"""The life of one run, from its directory to the record.

`train(run)` writes its loop out and calls back here for what every
paper needs: `prepare` (devices, processes, checkpoints), `steps`, `batches` or `loaded` (the loop's clock), `micro_batches` and
`backward` (one global batch on any number of processes), `log` and `report` (metrics), `evaluating`, `share`, `examples` and
`gather` (exact evaluation), `save_figure`. It returns the metrics of the record.

A run may be killed at any moment. Everything random is seeded from (seed, step, rank), so that weights, optimizer and step are
all there is to restore.
"""

import contextlib
import datetime
import fcntl
import functools
import json
import logging
import math
import os
import resource
import secrets
import shutil
import signal
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from common import checkpoint, provenance
from common.claims import C, Experiment, Record
from common.data.order import mix, permuted, share
from common.data.ragged import Bucketed
from common.data.workers import Reader, Sample
from common.errors import BadInput, Failed
from common.files import Metrics, read_rows, write_atomic
from common.options import Options, config_dict, differences
from common.signals import Interrupt, Interrupted
from common.track import Progress, WandB
from common.words import number

EARLY = (1, 10)  # updates after which a line is written besides, where lines are far apart: soon seen, and soon replayed

T = TypeVar("T")
Pieces = tuple[Tensor, ...]


class Compared(Exception):
    """A finished run's data and weights are those that the command names; nothing more is to be done."""


class OtherData(BadInput):
    """They are not."""


class Run(Generic[C]):
    """One run of one experiment with one seed, seen from one of its processes.

    config, seed, data_dir: what the command line says.       device: where tensors go.
    rank, processes, main: this process among all.            step: finished updates so far.
    dir: RUNS_DIR/<paper>/<experiment>/seed<N>.               log_step: whether the update under way ends with a log line.
    """

    config: C

    def __init__(
        self, script: Path, name: str, experiment: Experiment[C], config: C, options: Options, interrupt: Interrupt
    ) -> None:
        self.paper, self.name, self.experiment, self.config = script.parent.name, name, experiment, config
        self.script = script
        self.options, self.seed, self.data_dir = options, options.seed, options.data_dir
        self.dir = options.out / self.paper / name / f"seed{options.seed}"
        self.identity = {"paper": self.paper, "experiment": name, "seed": options.seed}
        self.interrupt = interrupt
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision = options.precision or experiment.precision[self.device.type]
        self.world = int(os.environ.get("WORLD_SIZE", 1))
        if self.precision == "tf32" and self.device.type == "cpu":
            raise BadInput("--precision tf32 needs a GPU; there is none here: use fp32 or bf16")
        if experiment.per_sample and self.world > 1:
            raise BadInput(
                f"{self.paper} updates after every sample and cannot be split among {self.world} processes: "
                'start one process for each seed (make does, with SEEDS="0 1 2")'
            )
        self.rank, self.processes, self.main = 0, 1, True
        self.progress = Progress(False)
        self.wandb: WandB | None = None
        self.metrics: Metrics | None = None
        self.lock: Any = None
        self.finished: Record | None = None
        self.started = time.monotonic()
        self.step = self.saved_step = 0
        self.data: dict[str, Any] = {}
        self.objects: dict[str, Any] = {}
        self.state: dict[str, Any] | None = None
        self.ended = self.in_loop = False
        self.sums: dict[str, Any] = {}
        self.now: dict[str, float] = {}
        self.samples_per_step = self.samples = 0
        self.readers: list[Reader] = []
        self.waited: float | None = None  # seconds for data, since the last log line; None where nothing is loaded
        self.wall_before = self.loop_before = self.loop_s = 0.0

    # Beginning and end.

    def __enter__(self) -> "Run[C]":
        try:
            self._begin()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def _begin(self) -> None:
        import accelerate.optimizer
        from accelerate import Accelerator, InitProcessGroupKwargs

        # Every optimizer step asks twice whether a package is installed, and looks through the disk: 0.2 ms.
        accelerate.optimizer.is_lomo_available = functools.cache(accelerate.optimizer.is_lomo_available)

        self.accelerator = Accelerator(
            cpu=self.device.type == "cpu",  # without it plain torchrun on a CPU starts separate runs in one directory
            mixed_precision="no",  # autocast() is written out in the loop
            kwargs_handlers=[InitProcessGroupKwargs(timeout=datetime.timedelta(hours=2))],
        )
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        if self.processes != self.world:
            raise Failed(f"accelerate sees {self.processes} processes, WORLD_SIZE is {self.world}: launch with torchrun or make")
        torch.set_default_dtype(torch.float64 if self.precision == "fp64" else torch.float32)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.precision in ("tf32", "bf16")
        if self.experiment.per_sample and self.device.type == "cpu":
            torch.set_num_threads(1)  # one sample is too little to share, and waiting threads slow runs side by side
        self.seed_all("start")  # the same on all ranks: initial weights
        self.progress = Progress(self.main)
        begun = self.on_main(self._open_directory)
        self.begun, self.finished = begun, begun["finished"]
        self.code, self.commit = begun["code"], begun["commit"]
        if self.finished is None:
            self.state = begun["state"]
            self._restore_clock()
            if self.main:
                self.metrics = Metrics(self.dir / "metrics.jsonl", self.step)
                about = {"id": begun["wandb_id"], "group": self.paper, "job_type": self.name}
                about["name"] = f"{self.paper}/{self.name}/seed{self.seed}"
                about["config"] = {**config_dict(self.config), "seed": self.seed, "precision": self.precision, "code": self.code}
                self.wandb = WandB(self.dir, about, list(self.experiment.claims), self.metrics.rows, self.say)
                where = f"from step {self.step:,}" if self.step else "from the start"
                hardware = provenance.hardware(self.processes)
                self.say(f"{self.paper} {self.name} seed {self.seed}, {self.precision}, {hardware}: {where}, in {self.dir}")

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        self.interrupt.deferred = True
        for reader in self.readers:
            reader.close()
        self.progress.close()
        if self.wandb is not None:
            self.wandb.finish(None, exit_code=0 if kind is None else 1)
        if self.metrics is not None:
            self.metrics.file.close()
        if self.lock is not None:
            self.lock.close()
        torch.set_default_dtype(torch.float32)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def on_main(self, function: Callable[[], T]) -> T:
        """What `function` returns or refuses on the main process, on every process."""
        result: list[Any] = [None, None]
        if self.main:
            try:
                result[0] = function()
            except (BadInput, Failed) as error:
                result[1] = error
        if self.processes > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(result)
        if result[1] is not None:
            raise result[1]
        return result[0]

    def _open_directory(self) -> dict[str, Any]:
        """Take the run directory, one run at a time and only the run that it belongs to, and load its newest checkpoint."""
        try:
            self.dir.mkdir(parents=True, exist_ok=True)
            self.lock = open(self.dir / "lock", "ab")  # noqa: SIM115, held until the end
        except OSError as error:
            raise BadInput(f"cannot write to {self.dir}: {error.strerror}; name another folder with --out") from error
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadInput(f"another run is at work in {self.dir}: wait for it, or name another folder with --out") from error
        os.register_at_fork(after_in_child=self.lock.close)  # a worker must not hold it any longer than the run lives
        if self.options.restart:
            for path in self.dir.iterdir():
                if path.name != "lock":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

        for path in self.dir.rglob("*.tmp"):
            path.unlink()  # a file that was being written when an earlier run was killed
        config_path, result_path = self.dir / "config.json", self.dir / "result.json"
        config = config_dict(self.config) | {"--precision": self.precision}
        files = provenance.files_of(self.script)
        code = provenance.code_hash(files)
        begun = {**self.identity, "config": config, "files": files, "code": code, "commit": provenance.commit()}
        begun |= {"wandb_id": secrets.token_hex(4), "changes": [], "data": {}}
        if config_path.exists():
            before = json.loads(config_path.read_text())
            begun |= {"wandb_id": before["wandb_id"], "changes": before["changes"], "data": before.get("data", {})}
            changed = differences(before["config"], self.config, **{"--precision": self.precision})
            if result_path.exists():
                if changed:
                    what = f"{self.dir} holds a finished run with other hyper-parameters ({', '.join(changed)})"
                    raise BadInput(f"{what}: --restart starts over, --out names another folder")
                finished = json.loads(result_path.read_text())
                return {**begun, "data": finished["data"], "finished": finished}
            saved = checkpoint.checkpoints(self.dir / "checkpoint")
            if saved and (changed or before["code"] != code):
                what = ", ".join(changed + ["other code"] * (before["code"] != code))
                if not self.options.allow_changes:
                    advice = "--restart starts over, --allow-changes goes on and records it"
                    raise BadInput(f"{self.dir} was begun otherwise ({what}): {advice}")
                begun["changes"] = [*begun["changes"], {"after": saved[0].stem, "what": what}]
        state = checkpoint.load(self.dir / "checkpoint", self.identity, self.say)
        if state is None:
            begun["data"] = {}  # nothing has been learned from it yet
        write_atomic(config_path, json.dumps(begun, indent=1).encode())
        return {**begun, "finished": None, "state": state}

    def seed_all(self, *parts: Any) -> None:
        """Seed torch's default generators. Not torch.manual_seed, which queues a call for each GPU where there is none."""
        seed = mix(self.seed, *parts)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _restore_clock(self) -> None:
        if self.state is not None:
            self.step = self.saved_step = self.state["step"]
            self.ended, self.samples = self.state["ended"], self.state["samples"]
            self.wall_before, self.loop_before = self.state["wall_s"], self.state["loop_s"]

    def say(self, text: str) -> None:
        """A line for the person who looks on; from the main process only."""
        self.progress.say(text)

    # Devices, processes, checkpoints.

    def prepare(self, **objects: Any) -> tuple[Any, ...]:
        """Put models and optimizers where they train, and restore them from the checkpoint if there is one.

        Call it once, with everything that training changes: modules, optimizers, anything with state_dict and
        load_state_dict. Their names are the checkpoint's. Returns them in the same order, models wrapped for several
        processes.

        Raises:
            BadInput: the checkpoint does not fit them, strictly.
        """
        trains = {name: thing for name, thing in objects.items() if trainable(thing)}
        prepared = self.accelerator.prepare(*trains.values()) if trains else ()
        moved = dict(zip(trains, prepared if isinstance(prepared, tuple) else (prepared,), strict=True))
        for name, thing in objects.items():
            if name not in moved:
                moved[name] = thing.to(self.device) if isinstance(thing, nn.Module) else thing
        self.objects = {name: moved[name] for name in objects}
        if self.state is not None:
            saved, again = self.state["objects"], "--restart starts over"
            if saved.keys() != objects.keys():
                raise BadInput(f"the checkpoint in {self.dir} holds {', '.join(saved)}, not {', '.join(objects)}: {again}")
            for name, thing in self.objects.items():
                try:
                    bare(thing).load_state_dict(saved[name])
                except (RuntimeError, ValueError, KeyError) as error:
                    reason = " ".join(str(error).split())
                    raise BadInput(f"the checkpoint in {self.dir} does not fit this {name}: {reason}; {again}") from error
            self.state = None
        return tuple(self.objects.values())

    def compile(self, function: T, *, dynamic: bool | None = None) -> T:
        """torch.compile, or the function as it is, with one line, on a machine without the compiler or headers that it needs.

        dynamic: as torch.compile has it; True where shapes differ from batch to batch.
        """
        cpu = self.device.type == "cpu"
        names = (os.environ.get("CXX"), "g++", "clang++") if cpu else (os.environ.get("CC"), "gcc", "clang")
        if not any(name and shutil.which(name) for name in names):
            self.say(f"no {'C++' if cpu else 'C'} compiler here: running without torch.compile")
            return function
        if not Path(sysconfig.get_path("include"), "Python.h").exists():
            self.say("no Python.h here (Debian: apt install python3-dev): running without torch.compile")
            return function
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of a missing GPU
        return torch.compile(function, dynamic=dynamic)

    def autocast(self) -> torch.autocast:
        """bf16 where --precision says so."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def _save(self) -> None:
        """Write a checkpoint of the step just finished."""
        for name, thing in self.objects.items():
            if isinstance(thing, nn.Module) and not all(torch.isfinite(p).all() for p in thing.parameters()):
                raise self._not_finite(f"a weight of {name}")
        if self.main:
            objects = {name: bare(thing).state_dict() for name, thing in self.objects.items()}
            clock = {"step": self.step, "ended": self.ended, "samples": self.samples}
            clock |= {"wall_s": self._wall(), "loop_s": self.loop_before + self.loop_s}
            checkpoint.save(self.dir / "checkpoint", self.step, {"run": self.identity, **clock, "objects": objects})
        self.saved_step = self.step
        self.saved_at = time.monotonic()

    def _wall(self) -> float:
        return self.wall_before + time.monotonic() - self.started

    # The loop.

    def steps(self, total: int, samples: int = 0) -> Iterator[int]:
        """The numbers of the updates that are still to do, of `total`; `samples` is how many each takes, of all processes.

        Before each update all random generators are seeded from (seed, step, rank). After it come, where they are due: the
        log line, the check for non-finite values, the checkpoint, the stop that a signal asked for.
        """
        self.total, self.samples_per_step = total, samples
        self._check_described()
        self.saved_at = self.logged_at = time.monotonic()
        self.logged_step, self.logged_samples = self.step, self.samples
        self.in_loop = self.interrupt.deferred = True
        try:
            while self.step < total and not self.ended:
                self.seed_all(self.step, self.rank)
                yield self.step
                self.step += 1
                self.samples += self.samples_per_step
                if self.step % self.experiment.log_every == 0 or self.step == total or self.ended or self.now:
                    self._end_of_interval()
                elif self.step in EARLY and 20 * self.step <= self.experiment.log_every and self.sums:
                    self._write(self._means(*self._reduced(*self.sums.values())))
        finally:
            self.in_loop = self.interrupt.deferred = False
        if self.interrupt.signum:  # it came in the last interval, whose checkpoint is written
            raise Interrupted(self.interrupt.signum)

    @property
    def log_step(self) -> bool:
        return (self.step + 1) % self.experiment.log_every == 0 or self.step + 1 == self.total

    def end_loop(self) -> None:
        """End the training after this update: the criterion is met."""
        self.ended = True

    def part(self, batch_size: int) -> slice:
        """This process's part of a global batch, which is announced."""
        self._announce(batch_size, batch_size, "")
        return share(batch_size, self.rank, self.processes)

    def _announce(self, batch_size: int, samples: int, unit: str) -> None:
        """Say what the global batch is. Raises BadInput: it has fewer samples than there are processes."""
        if samples < self.processes:
            few = f"a batch of {samples} cannot be split among {self.processes} processes"
            raise BadInput(f"{few}: use fewer processes, or a larger --batch-size")
        paper = getattr(self.experiment.config, "batch_size", batch_size)
        on = f"on {self.processes} process{'es' * (self.processes > 1)}"
        self.say(f"global batch {batch_size}{unit} (the paper's: {paper}), {on}")

    def batches(self, tensors: Pieces, batch_size: int, *, steps: int) -> Iterator[tuple[int, Pieces]]:
        """(step, this process's share of the global batch) for tensors of one length, which stay where they are.

        Raises:
            BadInput: fewer samples in a batch than processes.
        """
        mine = self.part(batch_size)
        for step in self.steps(steps, samples=batch_size):
            index = permuted(len(tensors[0]), self.seed, step * batch_size, (step + 1) * batch_size)[mine]
            index = index.to(tensors[0].device, non_blocking=True)
            yield step, tuple(t[index] for t in tensors)

    def bucketed(self, buckets: Bucketed, *, steps: int) -> Iterator[tuple[int, Tensor]]:
        """(step, the numbers of this process's samples, on the CPU) for batches of texts of about one length.

        Raises:
            BadInput: fewer samples in a batch than processes.
        """
        self._announce(buckets.tokens, buckets.smallest, f" tokens, {buckets.smallest} sequences or more")
        for step in self.steps(steps):
            rows = buckets.batch(step)
            self.samples_per_step = len(rows)
            yield step, rows[self.share(len(rows))]

    def reader(self, sample: Sample) -> Reader:
        """Worker processes for `loaded` or `examples`: sample(index, generator) -> tensors. Ask for them before training begins."""
        self.readers.append(Reader(sample, pin=self.device.type == "cuda"))
        return self.readers[-1]

    def loaded(self, reader: Reader, n: int, batch_size: int, *, steps: int) -> Iterator[tuple[int, Pieces]]:
        """The same as `batches` for samples that worker processes read, indices from range(n).

        Raises:
            BadInput: fewer samples in a batch than processes; what `sample` refuses.
            Failed: a worker died.
        """
        mine = self.part(batch_size)

        def wanted() -> Iterator[list[tuple[int, int]]]:
            for step in range(self.step, steps):
                index = permuted(n, self.seed, step * batch_size, (step + 1) * batch_size)[mine].tolist()
                yield [(i, mix(self.seed, "sample", step, at)) for at, i in enumerate(index, mine.start)]

        batches, self.waited = reader.read(wanted()), 0.0
        for step in self.steps(steps, samples=batch_size):
            asked = time.monotonic()
            batch = next(batches)
            self.waited += time.monotonic() - asked
            yield step, tuple(t.to(self.device, non_blocking=True) for t in batch)
        self.waited = None

    def micro_batches(
        self, batch: Pieces, count: Callable[..., Tensor] | None = None, width: int = 1
    ) -> Iterator[tuple[Pieces, Any]]:
        """(piece, weight) for every micro-batch of this process's batch, whose samples are of `width` tokens each.

        A loss that is a mean over what `count` counts (samples, or for instance tokens: count(*piece) -> number), times the
        weight, adds up over micro-batches and averages over processes to the mean over the global batch, exactly.
        """
        size = max(1, (self.options.micro_batch or width * len(batch[0])) // width)
        pieces = list(zip(*(t.split(size) for t in batch), strict=True))
        if count is None:
            weights = [len(piece[0]) * self.processes / self.samples_per_step for piece in pieces]
        else:
            counts = torch.stack([count(*piece) for piece in pieces]).float()
            weights = counts * self.processes / self.accelerator.reduce(counts.sum(), "sum")
        for i, (piece, weight) in enumerate(zip(pieces, weights, strict=True)):
            for thing in self.objects.values():
                if isinstance(thing, nn.parallel.DistributedDataParallel):
                    thing.require_backward_grad_sync = i == len(pieces) - 1
            yield piece, weight

    # Metrics.

    def log(self, **values: Tensor | float) -> None:
        """Add to this update's values. A line of metrics.jsonl is their mean over updates and processes since the last line.

        Values of micro-batches add up, so give them weighted. Nothing synchronises with the device before the line is due.
        """
        for name, value in values.items():
            value = value.detach() if isinstance(value, Tensor) else value
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def report(self, **values: float) -> None:
        """Values of this moment, the same on all processes: an evaluation, a count."""
        self.now |= values
        if not self.in_loop:  # no end of an update to wait for
            self._write(self.now)
            self.now = {}

    def _write(self, values: dict[str, float]) -> None:
        if self.main:
            row = {"step": self.step, "time": time.time(), **values}
            self.metrics.write(row)
            self.wandb.log(row)

    def _end_of_interval(self) -> None:
        """One synchronisation: means over processes, and what to do now, agreed by all."""
        now, updates = time.monotonic(), self.step - self.logged_step
        due = self.main and now - self.saved_at >= self.experiment.checkpoint_every
        *sums, signum, due = self._reduced(*self.sums.values(), float(self.interrupt.signum), float(due))
        means = self._means(*sums)
        last = self.step == self.total or self.ended

        took = time.monotonic() - self.logged_at
        self.loop_s += took
        samples = self.samples - self.logged_samples
        speed = {"samples_per_s": round(samples / took, 1)} if samples else {}
        if self.waited is not None:
            speed["data_wait"] = round(100 * self.waited / took, 1)  # %, of the main process's time
            self.waited = 0.0
        bad = next((name for name, value in {**means, **self.now}.items() if not math.isfinite(value)), None)
        if bad is not None:
            raise self._not_finite(bad)
        self._write({**means, **self.now, **speed})
        self.latest = {**means, **self.now}
        self.progress.show(self.step, self.total, {**self.latest, **speed}, took / updates, last)
        self.sums, self.now = {}, {}
        self.logged_step, self.logged_samples = self.step, self.samples
        if signum or due or last:
            self._save()
        self.logged_at = time.monotonic()
        if signum:
            # Ranks that got no signal end as those that did.
            raise Interrupted(self.interrupt.signum or signal.SIGTERM)

    def _reduced(self, *values: Tensor | float) -> list[float]:
        """Their sums over all processes: one synchronisation."""
        together = torch.stack([torch.as_tensor(v, dtype=torch.float32, device=self.device) for v in values])
        return (self.accelerator.reduce(together, "sum") if self.processes > 1 else together).tolist()

    def _means(self, *sums: float) -> dict[str, float]:
        """Of what `log` added up, over the updates since the last line and over the processes."""
        return {k: total / (self.step - self.logged_step) / self.processes for k, total in zip(self.sums, sums, strict=True)}

    def _check_described(self) -> None:
        """Raises ValueError: train() has not said yet what it learns from, which the record needs, and the run's identity."""
        if not self.data:
            raise ValueError("train() has to call run.describe_data before it trains or evaluates")

    def _not_finite(self, what: str) -> Failed:
        rates = [group["lr"] for x in self.objects.values() if hasattr(x, "param_groups") for group in x.param_groups[:1]]
        lr = f", lr {', '.join(number(float(rate)) for rate in rates)}" if rates else ""
        values = ", ".join(f"{k} {number(v)}" for k, v in getattr(self, "latest", {}).items())
        return Failed(
            f"{what} is not finite at step {self.step:,}{lr}; last values: {values or 'none'}; "
            f"the checkpoint of step {self.saved_step:,} is kept in {self.dir / 'checkpoint'}: lower the rate or look at the data"
        )

    # Evaluation.

    @contextlib.contextmanager
    def evaluating(self, model: nn.Module) -> Iterator[nn.Module]:
        """The bare model in eval mode without gradients, with the main process's buffers (batch-norm statistics) on all ranks."""
        module = bare(model)
        self._check_described()
        if self.processes > 1:
            for buffer in module.buffers():
                torch.distributed.broadcast(buffer, 0)
        training = module.training
        module.eval()
        with torch.no_grad(), self.autocast():
            yield module
        module.train(training)

    def share(self, n: int) -> slice:
        """The part of n examples that this process evaluates."""
        return share(n, self.rank, self.processes)

    def examples(self, reader: Reader, n: int, batch_size: int, first: int = 0) -> Iterator[Pieces]:
        """This process's share of the n examples from `first` on that worker processes read, in order, in batches on its device.

        Raises:
            BadInput: what `sample` refuses.
            Failed: a worker died.
        """
        mine = self.share(n)
        wanted = ([(first + i, 0) for i in range(mine.stop)[at : at + batch_size]] for at in range(n)[mine][::batch_size])
        for batch in reader.read(wanted):
            yield tuple(t.to(self.device, non_blocking=True) for t in batch)

    def gather(self, values: Tensor, n: int) -> Tensor:
        """One value for each of n examples from all processes, in order: (own share, ...) -> (n, ...).

        Raises:
            ValueError: this process does not bring exactly its share, so that an example would be missing or count twice.
        """
        shares = [share(n, rank, self.processes) for rank in range(self.processes)]
        sizes = [s.stop - s.start for s in shares]
        if len(values) != sizes[self.rank]:
            raise ValueError(f"process {self.rank} has {len(values)} values for its share of {sizes[self.rank]} of {n} examples")
        if self.processes == 1:
            return values
        padded = torch.cat([values, values.new_zeros(max(sizes) - len(values), *values.shape[1:])])
        gathered = self.accelerator.gather(padded).unflatten(0, (self.processes, max(sizes)))
        return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])

    # The result.

    def describe_data(self, *, name: str, train: int | str, test: int | str, stand_in: bool, **more: Any) -> None:
        """What the record says of the data, and of given weights. Call it before anything is made of them: they are part of what
        the run is.

        train, test: how many samples. stand_in: made up for tests, in place of the paper's.
        more: `sha256` of the files, or the `generator` and `seed` of generated data; `weights_sha256` of weights; other facts.

        Raises:
            BadInput: the directory holds a run on other data, or with other weights.
        """
        self.data = {"name": name, "train": train, "test": test, "stand_in": stand_in, **more}
        self.same_data(**self.data)
        if self.finished is not None:
            raise Compared
        self._remember(data=self.data)

    def same_data(self, **facts: Any) -> None:
        """Refuse to go on where these facts are not those of the data that the run began with, as far as it had them.

        Raises:
            BadInput: they are not; says which, before and now.
        """
        before, facts = self.begun["data"], json.loads(json.dumps(facts))
        changed = ", ".join(f"{k} {shown(before[k])} -> {shown(facts[k])}" for k in facts if before.get(k, facts[k]) != facts[k])
        if not changed:
            return
        if self.finished is not None:
            raise OtherData(
                f"{self.dir} holds a finished run on other data ({changed}): --restart starts over, --out names another folder"
            )
        if not self.options.allow_changes:
            advice = "--restart starts over, --allow-changes goes on and records it"
            raise BadInput(f"{self.dir} was begun on other data ({changed}): {advice}")
        changes = [*self.begun["changes"], {"after": f"step{self.step}", "what": f"other data: {changed}"}]
        self._remember(data=facts, changes=changes)

    def _remember(self, **facts: Any) -> None:
        """Add to config.json, which says what the run is."""
        self.begun |= facts
        kept = {key: value for key, value in self.begun.items() if key not in ("state", "finished")}
        self.on_main(lambda: write_atomic(self.dir / "config.json", json.dumps(kept, indent=1).encode()))

    def compare_with_finished(self, train: Callable[["Run"], Any]) -> None:
        """Whether the data and weights of the finished run here are still those that the command names, as far as they are there.

        Raises:
            BadInput: they are others.
        """
        try:
            train(self)
        except Compared:
            about = "the data is the same"
        except OtherData:
            raise
        except (BadInput, Failed) as error:
            about = f"the data cannot be compared: {error}"
        self.say(f"finished before, at {self.finished['finished']}; nothing was run now; {about}")

    def curves(self, *names: str) -> dict[str, list[float]]:
        """The lines of metrics.jsonl that have all of these metrics, those before a restart among them, metric by metric.

        For all processes at once.
        """
        rows = self.on_main(lambda: [row for row in read_rows(self.dir / "metrics.jsonl") if all(name in row for name in names)])
        return {name: [row[name] for row in rows] for name in names}

    def save_figure(self, figure: Any, name: str) -> None:
        """figures/<name>.png, with experiment, seed and commit in its metadata."""
        if self.main:
            path = self.dir / "figures" / f"{name}.png"
            path.parent.mkdir(exist_ok=True)
            about = f"{self.paper} {self.name} seed {self.seed}, commit {self.commit}, {self.code}"
            figure.savefig(path, dpi=150, bbox_inches="tight", metadata={"Title": name, "Description": about})
            self.wandb.figure(name, path)

    def finish(self, metrics: dict[str, float]) -> None:
        """Write the record."""
        missing = [claim.metric for claim in self.experiment.claims if claim.at is None and claim.metric not in metrics]
        if missing and self.config == self.experiment.config:  # a changed recipe may measure something else, by another name
            self.say(f"train() did not return {', '.join(missing)}, which claims name: not measurable in this record")
        if undrawn := [name for name in self.experiment.figures if not (self.dir / "figures" / f"{name}.png").exists()]:
            self.say(f"train() did not draw {', '.join(undrawn)}: this run cannot be published")
        metrics = dict.fromkeys(missing, math.nan) | metrics
        curves = self.curves(*names) if (names := self.experiment.curves) else {}
        metrics = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated()
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        loop_s = self.loop_before + self.loop_s
        self.finished = {
            "paper": self.paper,
            "experiment": self.name,
            "kind": self.experiment.kind,
            "seed": self.seed,
            "metrics": metrics,
            **({"curves": curves} if any(curves.values()) else {}),
            "data": self.data,
            "config": config_dict(self.config),
            "steps": self.step,
            "wall_s": round(self._wall(), 1),
            "samples_per_s": round(self.samples / max(loop_s, 1e-9), 1),
            "peak_memory_mb": round(peak / 2**20),
            "hardware": provenance.hardware(self.processes),
            "processes": self.processes,
            "precision": self.precision,
            "versions": provenance.versions(),
            "commit": self.commit,
            "files": self.begun["files"],
            "code": self.code,
            **({"changes": self.begun["changes"]} if self.begun["changes"] else {}),
            "finished": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        if self.main:
            self.wandb.finish(self.finished)
            write_atomic(self.dir / "result.json", json.dumps(self.finished, indent=1).encode())


def shown(fact: Any) -> str:
    """A fact of the data in a line: hashes by their beginning."""
    text = str(fact)
    return text if len(text) <= 24 else f"{text[:12]}..."


def bare(thing: Any) -> Any:
    """A module as it was before DistributedDataParallel and torch.compile; an optimizer as it was before accelerate."""
    while isinstance(thing, nn.parallel.DistributedDataParallel) or hasattr(thing, "_orig_mod"):
        thing = thing.module if isinstance(thing, nn.parallel.DistributedDataParallel) else thing._orig_mod
    return thing if isinstance(thing, nn.Module) else getattr(thing, "optimizer", thing)


def trainable(thing: Any) -> bool:
    """Whether accelerate has to know of it: an optimizer, or a module with parameters that learn."""
    if isinstance(thing, nn.Module):
        return any(p.requires_grad for p in thing.parameters())
    return isinstance(thing, torch.optim.Optimizer)
