"""The life of one run, from its directory to the record.

`train(run)` writes its loop out and calls back here for what every paper needs: `prepare` (devices, processes, checkpoints),
`indices`, `loaded` or `steps` (the loop's clock), `micro_batches` and `backward` (one global batch on any number of processes),
`log` and `report` (metrics), `evaluating`, `share`, `examples` and `gather` (exact evaluation), `save_figure`. It returns the
metrics of the record.

A run may be killed at any moment. Everything random is seeded from (seed, step, rank), so that weights, optimizer and step are
all there is to restore.
"""

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from common import directory, figures, processes, provenance
from common.claims import C, Experiment, Record
from common.data.order import mix, share
from common.data.workers import Reader, Sample
from common.errors import BadInput, Compared, OtherData
from common.files import read_rows, write_atomic
from common.loop import Draw, Loop, Pieces
from common.options import Options, config_dict
from common.processes import bare
from common.signals import Interrupt
from common.track import Track

T = TypeVar("T")


class Run(Generic[C]):
    """One run of one experiment with one seed, seen from one of its processes.

    config, seed, data_dir: what the command line says.       device: where tensors go.
    rank, processes, main: this process among all.            step: finished updates so far.
    dir: OUT/<paper>/<experiment>/seed<N>.                    finished: the record, once there is one.
    """

    config: C

    def __init__(
        self, script: Path, name: str, experiment: Experiment[C], config: C, options: Options, interrupt: Interrupt
    ) -> None:
        self.paper, self.name, self.experiment, self.config = script.parent.name, name, experiment, config
        self.options, self.seed, self.data_dir = options, options.seed, options.data_dir
        self.dir = options.out / self.paper / name / f"seed{options.seed}"
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision = options.precision or experiment.precision[self.device.type]
        processes.check(self.paper, self.device, self.precision, per_sample=experiment.per_sample)
        self.rank, self.processes, self.main = 0, 1, True
        self.finished: Record | None = None
        self.script, self.interrupt = script, interrupt
        self.identity = {"paper": self.paper, "experiment": name, "seed": options.seed}
        self.objects: dict[str, Any] = {}  # what training changes, by the names that `prepare` was given
        self.loop = Loop(self, lambda state: directory.save(self.dir, state["step"], {"run": self.identity, **state}))
        self._data: dict[str, Any] = {}
        self._held = contextlib.ExitStack()  # what has to be let go of in the end

    # Beginning and end.

    def __enter__(self) -> "Run[C]":
        try:
            self._begin()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def _begin(self) -> None:
        one_thread = self.experiment.per_sample and self.device.type == "cpu"  # a sample is too little for several, which wait
        self._held.callback(processes.stop)
        self.accelerator = processes.start(self.device, self.precision, one_thread=one_thread)
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        self.seed_all("start")  # the same on all ranks: initial weights
        self.track = Track(self.main)
        self._about, self.finished, self._state = self.on_main(self._open)
        self._held.enter_context(self.track)
        self.code, self.commit = self._about["code"], self._about["commit"]
        if self._state is not None:
            self.loop.restore(self._state)
        if self.finished is None:
            config = config_dict(self.config) | {"precision": self.precision, "code": self.code}
            self.track.begin(self.dir, self.step, self._about["wandb_id"], self.identity, config, self.experiment.claims)
            where = f"from step {self.step:,}" if self.step else "from the start"
            hardware = provenance.hardware(self.processes)
            self.say(f"{self.paper} {self.name} seed {self.seed}, {self.precision}, {hardware}: {where}, in {self.dir}")

    def _open(self) -> tuple[dict[str, Any], Record | None, dict[str, Any] | None]:
        self._held.enter_context(directory.take(self.dir, restart=self.options.restart))
        return directory.begin(
            self.dir, self.identity, self.config, self.precision, self.script,
            allow_changes=self.options.allow_changes, say=self.say,
        )  # fmt: skip

    def __exit__(self, *error: Any) -> None:
        self.interrupt.deferred = True
        self._held.__exit__(*error)

    def on_main(self, function: Callable[[], T]) -> T:
        """What `function` returns or refuses on the main process, on every process."""
        return processes.on_main(self.accelerator, function)

    def seed_all(self, *parts: Any) -> None:
        """Seed torch's default generators. Not torch.manual_seed, which queues a call for each GPU where there is none."""
        seed = mix(self.seed, *parts)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def say(self, text: str) -> None:
        """A line for the person who looks on; from the main process only."""
        self.track.say(text)

    # Devices, processes, checkpoints.

    def prepare(self, **objects: Any) -> tuple[Any, ...]:
        """Put models and optimizers where they train, and restore them from the checkpoint if there is one.

        Call it once, with everything that training changes: modules, optimizers, anything with state_dict and
        load_state_dict. Their names are the checkpoint's. Returns them in the same order, models wrapped for several
        processes.

        Raises:
            BadInput: the checkpoint does not fit them, strictly.
        """
        self.objects = {name: processes.prepared(self.accelerator, thing) for name, thing in objects.items()}
        if self._state is not None:
            directory.restore(self.dir, self._state["objects"], {name: bare(thing) for name, thing in self.objects.items()})
            self._state = None
        return tuple(self.objects.values())

    def compile(self, function: T, *, dynamic: bool | None = None) -> T:
        """torch.compile, or the function as it is, with one line, on a machine without the compiler or headers that it needs.

        dynamic: as torch.compile has it; True where shapes differ from batch to batch.
        """
        return processes.compiled(function, self.device, dynamic, self.say)

    def autocast(self) -> torch.autocast:
        """bf16 where --precision says so."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    # The loop.

    def steps(self, total: int, samples: int = 0) -> Iterator[int]:
        """The numbers of the updates that are still to do, of `total`; `samples` is how many each takes, of all processes.

        Before each update all random generators are seeded from (seed, step, rank). After it come, where they are due: the
        log line, the check for non-finite values, the checkpoint, the stop that a signal asked for.
        """
        self._check_described()
        return self.loop.steps(total, samples)

    @property
    def step(self) -> int:
        """Finished updates so far."""
        return self.loop.step

    @property
    def log_step(self) -> bool:
        """Whether the update under way ends with a log line."""
        return (self.step + 1) % self.experiment.log_every == 0 or self.step + 1 == self.loop.total

    def end_loop(self) -> None:
        """End the training after this update: the criterion is met."""
        self.loop.ended = True

    def indices(self, draw: Draw, *, steps: int, smallest: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """(step, the numbers of this process's samples, on the CPU), `steps` updates in all.

        Args:
            draw: the numbers of the global batch, a pure function of the step: `shuffled` of common.data.order, `Bucketed.batch`.
            smallest: the size of the smallest batch, where they differ.

        Raises:
            BadInput: fewer samples in a batch than processes.
        """
        return self.loop.indices(draw, steps, smallest)

    def reader(self, sample: Sample) -> Reader:
        """Worker processes for `loaded` or `examples`: sample(index, generator) -> tensors. Ask for them before training begins."""
        reader = Reader(sample, pin=self.device.type == "cuda")
        self._held.callback(reader.close)
        return reader

    def loaded(self, reader: Reader, draw: Draw, *, steps: int) -> Iterator[tuple[int, Pieces]]:
        """(step, this process's part of the global batch, on its device), as worker processes read it.

        Raises:
            BadInput: fewer samples in a batch than processes; what `sample` refuses.
            Failed: a worker died.
        """
        return self.loop.loaded(reader, draw, steps)

    def micro_batches(
        self, batch: Pieces, model: nn.Module, *, of: int | None = None, count: Callable[..., Tensor] | None = None, width: int = 1
    ) -> Iterator[tuple[Pieces, Any]]:
        """(piece, weight) for every micro-batch of this process's batch, on which `model` learns.

        A loss that is a mean, times the weight, adds up over micro-batches and averages over processes to the mean over the
        global batch, exactly. Gradients are exchanged after the last piece only.

        Args:
            of: the samples of the global batch, where the loss is a mean over samples.
            count: count(*piece) -> how many things the loss is a mean over, where these are not samples (tokens).
            width: how many tokens a sample has, where --micro-batch counts tokens.
        """
        size = max(1, (self.options.micro_batch or width * len(batch[0])) // width)
        return self.loop.micro_batches(batch, model, of, count, size)

    # Metrics.

    def log(self, **values: Tensor | float) -> None:
        """Add to this update's values. A line of metrics.jsonl is their mean over updates and processes since the last line.

        Values of micro-batches add up, so give them weighted. Nothing synchronises with the device before the line is due.
        """
        self.loop.log(values)

    def report(self, **values: float) -> None:
        """Values of this moment, the same on all processes: an evaluation, a count."""
        self.loop.report(values)

    # Evaluation.

    @contextlib.contextmanager
    def evaluating(self, model: nn.Module) -> Iterator[nn.Module]:
        """The bare model in eval mode without gradients, with the main process's buffers (batch-norm statistics) on all ranks."""
        self._check_described()
        with processes.evaluating(self.accelerator, model) as module, self.autocast():
            yield module

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

        Raises ValueError: this process does not bring exactly its share, so that an example would be missing or count twice.
        """
        return processes.gather(self.accelerator, values, n)

    # The result.

    def describe_data(self, *, name: str, train: int | str, test: int | str, stand_in: bool, **more: Any) -> None:
        """What the record says of the data, and of given weights. Call it first: they are part of what the run is.

        train, test: how many samples. stand_in: made up for tests, in place of the paper's.
        more: `sha256` of the files, or the `generator` and `seed` of generated data; `weights_sha256` of weights; other facts.

        Raises:
            BadInput: the directory holds a run on other data, or with other weights.
        """
        self._data = {"name": name, "train": train, "test": test, "stand_in": stand_in, **more}
        self._same_data(**self._data)
        if self.finished is not None:
            raise Compared
        self._remember(data=self._data)

    def _same_data(self, **facts: Any) -> None:
        """Raises BadInput: these facts are not those of the data that the run began with, as far as it had them."""
        facts = json.loads(json.dumps(facts))
        changed = directory.other_data(self._about["data"], facts)
        if changed and self.finished is not None:
            raise OtherData(f"{self.dir} holds a finished run on other data ({changed}): {directory.AGAIN}")
        if changed and not self.options.allow_changes:
            raise BadInput(f"{self.dir} was begun on other data ({changed}): {directory.GO_ON}")
        if changed:
            changes = [*self._about["changes"], {"after": f"step{self.step}", "what": f"other data: {changed}"}]
            self._remember(data=facts, changes=changes)

    def _remember(self, **facts: Any) -> None:
        self._about |= facts
        self.on_main(lambda: directory.remember(self.dir, self._about))

    def _check_described(self) -> None:
        if not self._data:  # the record needs it, and the run's identity
            raise ValueError("train() has to call run.describe_data before it trains or evaluates")

    def curves(self, *names: str) -> dict[str, list[float]]:
        """The lines of metrics.jsonl that have all of these metrics, metric by metric. For all processes at once."""
        rows = self.on_main(lambda: [row for row in read_rows(self.dir / "metrics.jsonl") if all(name in row for name in names)])
        return {name: [row[name] for row in rows] for name in names}

    def save_figure(self, figure: Any, name: str) -> None:
        """figures/<name>.png of a matplotlib figure, or of pixels (3, H, W) in [0, 1]; its metadata say which run drew it."""
        if self.main:
            path = self.dir / "figures" / f"{name}.png"
            figures.save(figure, path, name, f"{self.paper} {self.name} seed {self.seed}, commit {self.commit}, {self.code}")
            self.track.wandb.figure(name, path)

    def finish(self, metrics: dict[str, float]) -> None:
        """Write the record."""
        missing = [claim.metric for claim in self.experiment.claims if claim.at is None and claim.metric not in metrics]
        if missing and self.config == self.experiment.config:  # a changed recipe may measure something else, by another name
            self.say(f"train() did not return {', '.join(missing)}, which claims name: not measurable in this record")
        if undrawn := [name for name in self.experiment.figures if not (self.dir / "figures" / f"{name}.png").exists()]:
            self.say(f"train() did not draw {', '.join(undrawn)}: this run cannot be published")
        metrics = dict.fromkeys(missing, math.nan) | metrics
        curves = self.curves(*self.experiment.curves) if self.experiment.curves else {}
        more = {"curves": curves if any(curves.values()) else None, "changes": self._about["changes"]}
        self.finished = {
            **self.identity,
            "kind": self.experiment.kind,
            "metrics": {name: value if math.isfinite(value) else None for name, value in metrics.items()},
            "data": self._data,
            "config": config_dict(self.config),
            "steps": self.step,
            **self.loop.meter.record(),
            **{name: self._about[name] for name in ("commit", "files", "code")},
            **provenance.machine(self.processes, self.precision),
            **{name: value for name, value in more.items() if value},
        }
        self.track.finish(self.finished)
        if self.main:
            write_atomic(self.dir / "result.json", json.dumps(self.finished, indent=1).encode())
