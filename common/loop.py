"""The loop's clock: what comes between two updates, and what a run measures of itself between two lines of metrics.jsonl."""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from common import processes
from common.data.order import mix
from common.data.workers import Reader
from common.errors import BadInput, Failed
from common.processes import bare
from common.signals import Interrupted
from common.words import number

EARLY = (1, 10)  # updates after which a line is written besides, where lines are far apart: soon seen, and soon replayed

Pieces = tuple[Tensor, ...]
Draw = Callable[[int], Tensor]  # step -> the numbers of the samples of the global batch, (B,) on the CPU: a pure function


class Meter:
    """Sums of what the loop logs since the last line; samples, and seconds in and outside the loop, over all sittings.

    waited: seconds for data since the last line, on this process; None where nothing is loaded.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor | float] = {}
        self.samples, self.loop_s, self.waited = 0, 0.0, None
        self._step = self._samples = 0
        self._since = self._started = time.monotonic()

    def clock(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"samples": self.samples, "loop_s": self.loop_s, "wall_s": time.monotonic() - self._started}

    def record(self) -> dict[str, float]:
        """For the record: samples_per_s in the loop."""
        wall_s, speed = time.monotonic() - self._started, self.samples / max(self.loop_s, 1e-9)
        return {"wall_s": round(wall_s, 1), "samples_per_s": round(speed, 1)}

    def restore(self, clock: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.samples, self.loop_s = clock["samples"], clock["loop_s"]
        self._started -= clock["wall_s"]

    def start(self, step: int) -> None:
        """From here on, after this many updates, counts what belongs to the next line."""
        self.sums, self._step, self._samples, self._since = {}, step, self.samples, time.monotonic()

    def means(self, totals: list[float], step: int, processes: int) -> dict[str, float]:
        """Over the updates since the last line and over processes; totals: `sums`, added up over the processes."""
        return {name: total / (step - self._step) / processes for name, total in zip(self.sums, totals, strict=True)}

    def lap(self, step: int) -> tuple[dict[str, float], float]:
        """(samples_per_s, and data_wait, % of the time: of the updates since the last line; seconds for one of them)."""
        took, samples = time.monotonic() - self._since, self.samples - self._samples
        self.loop_s += took
        speed = {"samples_per_s": round(samples / took, 1)} if samples else {}
        if self.waited is not None:
            speed["data_wait"], self.waited = round(100 * self.waited / took, 1), 0.0
        return speed, took / (step - self._step)


class Loop:
    """The loop of a run (common.run.Run, whose methods of these names say what they are for).

    step: finished updates.  saved_step: of the newest checkpoint.  ended: whether the criterion is met.
    save: writes a checkpoint of the step just finished.
    """

    def __init__(self, run: Any, save: Callable[[dict[str, Any]], None]) -> None:
        self.run, self.save, self.meter = run, save, Meter()
        self.step = self.saved_step = self.total = 0
        self.ended = self.under_way = False
        self.now: dict[str, float] = {}  # what was reported, for the next line
        self.latest: dict[str, float] = {}  # what the last line said

    def restore(self, clock: dict[str, Any]) -> None:
        self.step = self.saved_step = clock["step"]
        self.ended = clock["ended"]
        self.meter.restore(clock)

    def steps(self, total: int, samples: int) -> Iterator[int]:
        run, interrupt = self.run, self.run.interrupt
        self.total, self.saved_at = total, time.monotonic()
        self.meter.start(self.step)
        self.under_way = interrupt.deferred = True
        try:
            while self.step < total and not self.ended:
                run.seed_all(self.step, run.rank)
                yield self.step
                self.step += 1
                self.meter.samples += samples
                if self.step % run.experiment.log_every == 0 or self.step == total or self.ended or self.now:
                    self._end_of_interval()
                elif self.step in EARLY and 20 * self.step <= run.experiment.log_every and self.meter.sums:
                    self.write(self._means(processes.summed(run.accelerator, *self.meter.sums.values())))
        finally:
            self.under_way = interrupt.deferred = False
        if interrupt.signum:  # it came in the last interval, whose checkpoint is written
            raise Interrupted(interrupt.signum)

    def _end_of_interval(self) -> None:
        """One synchronisation: means over processes, and what to do now, agreed by all."""
        run, interrupt = self.run, self.run.interrupt
        due = run.main and time.monotonic() - self.saved_at >= run.experiment.checkpoint_every
        flags = float(interrupt.signum), float(due)
        *totals, signum, due = processes.summed(run.accelerator, *self.meter.sums.values(), *flags)
        values = {**self._means(totals), **self.now}
        speed, seconds = self.meter.lap(self.step)
        if bad := next((name for name, value in values.items() if not math.isfinite(value)), None):
            raise self.not_finite(bad)
        self.write({**values, **speed})
        self.latest, self.now, last = values, {}, self.step == self.total or self.ended
        run.track.progress.show(self.step, self.total, {**values, **speed}, seconds, last)
        if signum or due or last:
            self._save()
        self.meter.start(self.step)
        if signum:
            # Ranks that got no signal end as those that did.
            raise Interrupted(interrupt.signum or signal.SIGTERM)

    def _means(self, totals: list[float]) -> dict[str, float]:
        return self.meter.means(totals, self.step, self.run.processes)

    def _save(self) -> None:
        for name, thing in self.run.objects.items():
            if isinstance(thing, nn.Module) and not all(torch.isfinite(p).all() for p in thing.parameters()):
                raise self.not_finite(f"a weight of {name}")
        if self.run.main:
            objects = {name: bare(thing).state_dict() for name, thing in self.run.objects.items()}
            self.save({"step": self.step, "ended": self.ended, **self.meter.clock(), "objects": objects})
        self.saved_step, self.saved_at = self.step, time.monotonic()

    def not_finite(self, what: str) -> Failed:
        groups = [group for thing in self.run.objects.values() for group in getattr(thing, "param_groups", [])[:1]]
        lr = f", lr {', '.join(number(float(group['lr'])) for group in groups)}" if groups else ""
        values = ", ".join(f"{k} {number(v)}" for k, v in self.latest.items())
        kept = f"the checkpoint of step {self.saved_step:,} is kept in {self.run.dir / 'checkpoint'}"
        last = f"last values: {values or 'none'}"
        return Failed(f"{what} is not finite at step {self.step:,}{lr}; {last}; {kept}: lower the rate or look at the data")

    def indices(self, draw: Draw, steps: int, smallest: int | None) -> Iterator[tuple[int, Tensor]]:
        self._announce(draw, smallest)
        for step in self.run.steps(steps):
            index = draw(step)
            self.meter.samples += len(index)
            yield step, index[self.run.share(len(index))]

    def loaded(self, reader: Reader, draw: Draw, steps: int) -> Iterator[tuple[int, Pieces]]:
        run, meter, batch_size = self.run, self.meter, self._announce(draw)
        mine = run.share(batch_size)

        def wanted() -> Iterator[list[tuple[int, int]]]:
            for step in range(self.step, steps):
                yield [(i, mix(run.seed, "sample", step, at)) for at, i in enumerate(draw(step)[mine].tolist(), mine.start)]

        batches, meter.waited = reader.read(wanted()), 0.0
        for step in run.steps(steps, samples=batch_size):
            asked = time.monotonic()
            batch = next(batches)
            meter.waited += time.monotonic() - asked
            yield step, tuple(t.to(run.device, non_blocking=True) for t in batch)
        meter.waited = None

    def _announce(self, draw: Draw, smallest: int | None = None) -> int:
        """Say what the global batch is, and return its size. Raises BadInput: it has fewer samples than there are processes."""
        run, size = self.run, smallest or len(draw(self.step))
        if size < run.processes:
            few = f"a batch of {size} cannot be split among {run.processes} processes"
            raise BadInput(f"{few}: use fewer processes, or a larger --batch-size")
        batch, paper = (getattr(config, "batch_size", size) for config in (run.config, run.experiment.config))
        unit = "" if smallest is None else f" tokens, {smallest} sequences or more"
        on = f"on {run.processes} process{'es' * (run.processes > 1)}"
        run.say(f"global batch {batch}{unit} (the paper's: {paper}), {on}")
        return size

    def micro_batches(
        self, batch: Pieces, model: nn.Module, of: int | None, count: Callable[..., Tensor] | None, size: int
    ) -> Iterator[tuple[Pieces, Any]]:
        run = self.run
        pieces = list(zip(*(t.split(size) for t in batch), strict=True))
        if count is None:
            weights = [len(piece[0]) * run.processes / of for piece in pieces]
        else:
            counts = torch.stack([count(*piece) for piece in pieces]).float()
            weights = counts * run.processes / run.accelerator.reduce(counts.sum(), "sum")
        for i, (piece, weight) in enumerate(zip(pieces, weights, strict=True)):
            with run.accelerator.no_sync(model) if i < len(pieces) - 1 else contextlib.nullcontext():
                yield piece, weight

    def log(self, values: dict[str, Tensor | float]) -> None:
        sums = self.meter.sums
        for name, value in values.items():
            value = value.detach() if isinstance(value, Tensor) else value
            sums[name] = sums[name] + value if name in sums else value

    def report(self, values: dict[str, float]) -> None:
        self.now |= values
        if not self.under_way:  # no end of an update to wait for
            self.write(self.now)
            self.now = {}

    def write(self, values: dict[str, float]) -> None:
        self.run.track.write({"step": self.step, "time": time.time(), **values})
