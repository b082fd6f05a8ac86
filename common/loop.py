"""What comes between two updates: the loop's clock, batches and micro-batches, lines of metrics.jsonl, checkpoints."""

import contextlib
import math
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic

import torch
from torch import Tensor, nn

from common import directory
from common.claims import C, Experiment
from common.data.order import mix
from common.data.workers import Reader, Sample
from common.errors import BadInput, Failed
from common.options import Options, changed
from common.processes import Processes, bare
from common.signals import Interrupt, Interrupted
from common.words import number

EARLY = (1, 10)  # updates after which a line is written besides, where lines are far apart: soon seen, and soon replayed

Pieces = tuple[Tensor, ...]
Draw = Callable[[int], Tensor]  # step -> the numbers of the samples of the global batch, (B,) on the CPU: a pure function


class Loop(Processes, Generic[C]):
    """A run while it trains and evaluates.

    config, seed, data_dir: what the command line says.    step: finished updates so far.
    dir: OUT/<paper>/<experiment>/seed<N>.    title: seed<N>, and changed hyper-parameters.
    """

    def __init__(
        self, script: Path, name: str, experiment: Experiment[C], config: C, options: Options, interrupt: Interrupt
    ) -> None:
        super().__init__(options.precision, experiment.precision)
        self.script, self.paper, self.name, self.experiment, self.config = script, script.parent.name, name, experiment, config
        self.options, self.seed, self.data_dir, self.interrupt = options, options.seed, options.data_dir, interrupt
        self.identity = {"paper": self.paper, "experiment": name, "seed": options.seed}
        self.title = f"seed{options.seed} {changed(experiment.config, config)}".strip()
        folder = re.sub(r"[^\w.,=+-]+", "-", self.title)[:120] if options.beside else f"seed{options.seed}"
        self.dir = options.out / self.paper / name / folder
        self._data: dict[str, Any] = {}  # what the record says of it
        self.objects: dict[str, Any] = {}  # what training changes, by the names that `prepare` was given
        self.step = self._saved_step = self._total = 0
        self._ended = self._under_way = False
        self._held = contextlib.ExitStack()  # what has to be let go of in the end
        self._sums: dict[str, Tensor | float] = {}  # of what was logged since the last line
        self._now: dict[str, float] = {}  # what was reported, for the next line
        self._latest: dict[str, float] = {}  # what the last line said
        self._samples, self._loop_s, self._started = 0, 0.0, time.monotonic()  # over all sittings
        self._waited: float | None = None  # seconds for data since the last line, on this process, where any is loaded

    def seed_all(self, *parts: Any) -> None:
        """Seed torch's default generators. Not torch.manual_seed, which queues a call for each GPU where there is none."""
        seed = mix(self.seed, *parts)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def steps(self, total: int, samples: int = 0) -> Iterator[int]:
        """The numbers of the updates that are still to do, of `total`; `samples` is how many each takes, of all processes.

        Before each update all random generators are seeded from (seed, step, rank). After it come, where they are due: the
        log line, the check for non-finite values, the checkpoint, the stop that a signal asked for.
        """
        self._check_described()
        self._total, self._saved_at, every = total, time.monotonic(), self.experiment.log_every
        self._start_line()
        self._under_way = self.interrupt.deferred = True
        try:
            while self.step < total and not self._ended:
                self.seed_all(self.step, self.rank)
                yield self.step
                self.step += 1
                self._samples += samples
                if self.step % every == 0 or self.step == total or self._ended or self._now:
                    self._end_of_interval()
                elif self.step in EARLY and 20 * self.step <= every and self._sums:
                    self._write(self._means(self._summed(*self._sums.values())))
        finally:
            self._under_way = self.interrupt.deferred = False
        if self.interrupt.signum:  # it came in the last interval, whose checkpoint is written
            raise Interrupted(self.interrupt.signum)

    @property
    def log_step(self) -> bool:
        """Whether the update under way ends with a log line."""
        return (self.step + 1) % self.experiment.log_every == 0 or self.step + 1 == self._total

    def end_loop(self) -> None:
        """End the training after this update: the criterion is met."""
        self._ended = True

    def _start_line(self) -> None:
        self._sums, self._line = {}, (self.step, self._samples, time.monotonic())

    def _means(self, totals: list[float]) -> dict[str, float]:
        """Over the updates since the last line and over processes; totals: `_sums`, added up over the processes."""
        updates = self.step - self._line[0]
        return {name: total / updates / self.processes for name, total in zip(self._sums, totals, strict=True)}

    def _end_of_interval(self) -> None:
        """One synchronisation: means over processes, and what to do now, agreed by all."""
        due = self.main and time.monotonic() - self._saved_at >= self.experiment.checkpoint_every
        flags = float(self.interrupt.signum), float(due)
        *totals, signum, due = self._summed(*self._sums.values(), *flags)
        values = {**self._means(totals), **self._now}
        step, samples, since = self._line
        took = time.monotonic() - since
        speed = {"samples_per_s": round((self._samples - samples) / took, 1)} if self._samples > samples else {}
        self._loop_s += took
        if self._waited is not None:  # % of the time
            speed["data_wait"], self._waited = round(100 * self._waited / took, 1), 0.0
        for name, value in values.items():
            if not math.isfinite(value):
                raise self._not_finite(name)
        self._write({**values, **speed})
        self._latest, self._now, last = values, {}, self.step == self._total or self._ended
        if signum or due or last:
            self._save()
        self.track.show(self.step, self._total, {**values, **speed}, took / (self.step - step), last)
        self._start_line()
        if signum:
            # Ranks that got no signal end as those that did.
            raise Interrupted(self.interrupt.signum or signal.SIGTERM)

    def _save(self) -> None:
        for name, thing in self.objects.items():
            if isinstance(thing, nn.Module) and not all(torch.isfinite(p).all() for p in thing.parameters()):
                raise self._not_finite(f"a weight of {name}")
        if self.main:
            objects = {name: bare(thing).state_dict() for name, thing in self.objects.items()}
            state = {"run": self.identity, "step": self.step, "ended": self._ended, **self._clock(), "objects": objects}
            directory.save(self.dir, state)
        self._saved_step, self._saved_at = self.step, time.monotonic()

    def _clock(self) -> dict[str, Any]:
        return {"samples": self._samples, "loop_s": self._loop_s, "wall_s": time.monotonic() - self._started}

    def _restore(self, state: dict[str, Any]) -> None:
        self.step = self._saved_step = state["step"]
        self._ended, self._samples, self._loop_s = state["ended"], state["samples"], state["loop_s"]
        self._started -= state["wall_s"]

    def _not_finite(self, what: str) -> Failed:
        groups = [group for thing in self.objects.values() for group in getattr(thing, "param_groups", [])[:1]]
        lr = f", lr {', '.join(number(float(group['lr'])) for group in groups)}" if groups else ""
        values = ", ".join(f"{k} {number(v)}" for k, v in self._latest.items())
        kept = f"the checkpoint of step {self._saved_step:,} is kept in {self.dir / 'checkpoint'}"
        last = f"last values: {values or 'none'}"
        return Failed(f"{what} is not finite at step {self.step:,}{lr}; {last}; {kept}: lower the rate or look at the data")

    def indices(self, draw: Draw, *, steps: int, smallest: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """(step, the numbers of this process's samples, on the CPU), `steps` updates in all.

        Args:
            draw: the numbers of the global batch, a pure function of the step: `shuffled` of common.data.order, `Bucketed.batch`.
            smallest: the size of the smallest batch, where they differ.

        Raises:
            BadInput: fewer samples in a batch than processes.
        """
        self._announce(draw, smallest)
        for step in self.steps(steps):
            index = draw(step)
            self._samples += len(index)
            yield step, index[self.share(len(index))]

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
        mine = self.share(batch_size := self._announce(draw))

        def wanted() -> Iterator[list[tuple[int, int]]]:
            for step in range(self.step, steps):
                yield [(i, mix(self.seed, "sample", step, at)) for at, i in enumerate(draw(step)[mine].tolist(), mine.start)]

        batches, self._waited = self._moved(reader.read(wanted())), 0.0
        for step in self.steps(steps, samples=batch_size):
            asked = time.monotonic()
            batch = next(batches)
            self._waited += time.monotonic() - asked
            yield step, batch
        self._waited = None

    def examples(self, reader: Reader, n: int, batch_size: int, first: int = 0) -> Iterator[Pieces]:
        """This process's share of the n examples from `first` on that worker processes read, in order, in batches on its device.

        Raises:
            BadInput: what `sample` refuses.
            Failed: a worker died.
        """
        mine = [(first + i, 0) for i in range(n)[self.share(n)]]
        return self._moved(reader.read(mine[at : at + batch_size] for at in range(0, len(mine), batch_size)))

    def _moved(self, batches: Iterator[Pieces]) -> Iterator[Pieces]:
        while True:
            with self.interrupt.waiting():
                batch = next(batches, None)
            if batch is None:
                return
            yield tuple(t.to(self.device, non_blocking=True) for t in batch)

    def _announce(self, draw: Draw, smallest: int | None = None) -> int:
        """Say what the global batch is, and return its size. Raises BadInput: it has fewer samples than there are processes."""
        size = smallest or len(draw(self.step))
        if size < self.processes:
            few = f"a batch of {size} cannot be split among {self.processes} processes"
            raise BadInput(f"{few}: use fewer processes, or a larger --batch-size")
        batch, paper = (getattr(config, "batch_size", size) for config in (self.config, self.experiment.config))
        unit = "" if smallest is None else f" tokens, {smallest} sequences or more"
        on = f"on {self.processes} process{'es' * (self.processes > 1)}"
        self.say(f"global batch {batch}{unit} (the paper's: {paper}), {on}")
        return size

    @contextlib.contextmanager
    def evaluating(self, model: nn.Module) -> Iterator[nn.Module]:
        """The bare model in eval mode without gradients, with the main process's buffers (batch-norm statistics) on all ranks."""
        self._check_described()
        module = bare(model)
        if self.processes > 1:
            for buffer in module.buffers():
                torch.distributed.broadcast(buffer, 0)
        training = module.training
        module.eval()
        with torch.no_grad(), self.autocast():
            yield module
        module.train(training)

    def _check_described(self) -> None:
        if not self._data:  # the record needs it, and the run's identity
            raise ValueError("train() has to call run.describe_data before it trains or evaluates")

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
        pieces = list(zip(*(t.split(size) for t in batch), strict=True))
        if count is None:
            weights = [len(piece[0]) * self.processes / of for piece in pieces]
        else:
            counts = torch.stack([count(*piece) for piece in pieces]).float()
            weights = counts * self.processes / self.accelerator.reduce(counts.sum(), "sum")
        for i, (piece, weight) in enumerate(zip(pieces, weights, strict=True)):
            with self.accelerator.no_sync(model) if i < len(pieces) - 1 else contextlib.nullcontext():
                yield piece, weight

    def log(self, **values: Tensor | float) -> None:
        """Add to this update's values. A line of metrics.jsonl is their mean over updates and processes since the last line.

        Values of micro-batches add up, so give them weighted. Nothing synchronises with the device before the line is due.
        """
        for name, value in values.items():
            value = value.detach() if isinstance(value, Tensor) else value
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def report(self, **values: float) -> None:
        """Values of this moment, the same on all processes: an evaluation, a count."""
        self._now |= values
        if not self._under_way:  # no end of an update to wait for
            self._write(self._now)
            self._now = {}

    def _write(self, values: dict[str, float]) -> None:
        self.track.write({"step": self.step, "time": time.time(), **values})
