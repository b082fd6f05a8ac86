"""Where a run's lines go: metrics.jsonl, its view in Weights & Biases or TensorBoard, and the terminal. It changes no number."""

import contextlib
import importlib.util
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from common.claims import Claim, Record, measured
from common.files import Metrics, Row
from common.words import number

PROJECT = "paper-reproductions"
TIMEOUT = 15  # seconds that W&B may take to answer before the run goes on offline
FINISH_TIMEOUT = 30  # seconds that the last upload may take
USERS = {"project": "WANDB_PROJECT", "name": "WANDB_NAME", "group": "WANDB_RUN_GROUP", "job_type": "WANDB_JOB_TYPE"}  # come first
PLAIN = 10.0  # seconds between two progress lines where there is no terminal


class Track:
    """metrics.jsonl, W&B and the live line of one run, from `begin` on; nothing at all on other processes than the main one."""

    def __init__(self, main: bool) -> None:
        self.main, self.open, self.bar, self.printed = main, False, None, -math.inf

    def begin(self, view: str, directory: Path, step: int, settings: dict[str, Any], claims: Sequence[Claim]) -> None:
        if self.main:
            self.metrics, self.claims = Metrics(directory / "metrics.jsonl", step), claims
            rows = [row | flat(claims) for row in self.metrics.rows]
            show = TensorBoard if view == "tensorboard" else WandB
            self.view, self.open = show(directory, settings, rows, self.say), True

    def __enter__(self) -> "Track":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        self.end_line()
        if self.open:
            self.view.finish(None, exit_code=0 if kind is None else 1)
            self.metrics.file.close()

    def write(self, row: Row) -> None:
        if self.main:
            self.metrics.write(row)
            self.view.log(row | flat(self.claims))

    def finish(self, record: Record) -> None:
        if self.main:
            self.view.finish(summary(self.claims, record))

    def say(self, text: str) -> None:
        """A line of its own, above the live line."""
        if self.bar is not None:
            self.bar.clear()
        if self.main:
            speak(text)

    def show(self, step: int, total: int, values: Row, seconds_per_step: float, last: bool) -> None:
        """One live line on a terminal, a plain line now and then elsewhere."""
        text = "  ".join(f"{k} {number(v)}" for k, v in values.items())
        if self.main and sys.stderr.isatty():
            if self.bar is None:
                from tqdm import tqdm

                layout = "{percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt}{postfix}  {elapsed}, ETA {remaining}"
                self.bar = tqdm(total=total, initial=step, bar_format=layout, dynamic_ncols=True, mininterval=0)
            self.bar.n, self.bar.total = step, total
            with contextlib.suppress(OSError, ValueError):  # of a terminal that is gone
                self.bar.set_postfix_str(text)
                if last:
                    self.end_line()
        elif last or time.monotonic() - self.printed >= PLAIN:
            self.printed = time.monotonic()
            self.say(f"step {step:,}/{total:,}  {text}  ETA {timedelta(seconds=round((total - step) * seconds_per_step))}")

    def end_line(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def speak(text: str, to: TextIO | None = None) -> None:
    """A line, as long as anyone listens: a closed pipe or terminal ends nothing."""
    try:
        print(text, file=to or sys.stdout, flush=True)
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):  # what is left in its buffer goes nowhere, when the interpreter ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), (to or sys.stdout).fileno())


def flat(claims: Sequence[Claim]) -> dict[str, float]:
    """The paper's values, lines beside the curves."""
    return {f"claims/{claim.key}/paper": claim.value for claim in claims}


def summary(claims: Sequence[Claim], record: Record) -> dict[str, Any]:
    """A record's metrics, and of each claim the paper's value, ours and the difference."""
    found = {}
    for claim in claims:
        if math.isfinite(value := measured(claim, record)):
            found |= {f"claims/{claim.key}/ours": value, f"claims/{claim.key}/difference": value - claim.value}
    return record["metrics"] | flat(claims) | found


class WandB:
    """One W&B run for one run directory, whatever happens to the network; no method raises or blocks for long."""

    def __init__(self, directory: Path, settings: dict[str, Any], rows: list[Row], say: Callable[[str], None]) -> None:
        """settings: wandb.init's id, group, job_type, name, config. rows: what metrics.jsonl holds already."""
        self.run, self.say = None, say
        self.known = -1  # the last step that the server has
        mode = os.environ.get("WANDB_MODE", "")
        if mode == "disabled" or os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1"):
            return
        if importlib.util.find_spec("wandb") is None:
            return say("wandb is not installed: metrics go to metrics.jsonl alone")
        if not mode:
            os.environ.pop("WANDB_MODE", None)  # wandb refuses the empty string
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # without a network its reports hold up the exit by 20 s
        import wandb

        earlier = lambda: {path.resolve() for path in directory.glob(f"wandb/*run-*-{settings['id']}*")}  # one for each start
        before = earlier()
        if mode not in ("offline", "dryrun"):
            try:
                wandb.setup(wandb.Settings(silent=True))
                if wandb.login(prompt=False, verify=False):  # silently: it asks neither the user nor the server
                    self.start("online", directory, settings)
                    say(f"W&B shows this run at {self.run.url}")
            except Exception as error:  # wandb raises types of its own, of requests and of its service
                self.give_up(f"W&B cannot be reached ({reason(error)})")
        with self.harmless():
            if self.run is None:
                self.start("offline", directory, settings)
                say(f"W&B is offline; to upload this run later: wandb sync {self.files}")
            self.run.define_metric("step", hidden=True)
            self.run.define_metric("*", step_metric="step")
            if self.run.resumed:
                self.known = self.run.summary.get("step", -1)
            for row in rows:
                self.log(row)
            # What an attempt to go online left, and older offline runs, replayed now: wandb loses rows that it had not
            # flushed when it was killed, metrics.jsonl does not.
            for path in earlier() - {self.files}:
                if path not in before or path.name.startswith("offline-"):
                    shutil.rmtree(path, ignore_errors=True)

    def start(self, mode: str, directory: Path, settings: dict[str, Any]) -> None:
        import wandb

        times = {"init_timeout": TIMEOUT, "finish_timeout": FINISH_TIMEOUT, "finish_timeout_raises": True}
        ours = {"mode": mode, "project": PROJECT, "dir": directory, "resume": "allow" if mode == "online" else None, **settings}
        self.run = wandb.init(
            **{name: value for name, value in ours.items() if name in ("mode", "id") or not os.environ.get(USERS.get(name, ""))},
            settings=wandb.Settings(console="off", silent=True, **times),
        )
        self.files = Path(self.run.dir).resolve().parent

    def give_up(self, why: str) -> None:
        """End wandb's service, so that nothing of a failed run is left to wait for at exit."""
        import wandb

        self.run = None
        self.say(why)
        with contextlib.suppress(Exception):
            wandb.teardown()

    @contextlib.contextmanager
    def harmless(self) -> Iterator[None]:
        """W&B is a view: when it fails, a line says so and the run goes on without it."""
        try:
            yield
        except Exception as error:
            sync = "" if self.run is None else f"; to upload what W&B has missed: wandb sync {self.files}"
            self.give_up(f"W&B stopped ({reason(error)}): metrics go to metrics.jsonl all the same{sync}")

    def log(self, row: Row) -> None:
        if self.run is not None and row["step"] > self.known:
            with self.harmless():
                self.run.log({k: v for k, v in row.items() if k != "time"})

    def figure(self, name: str, path: Path) -> None:
        if self.run is not None:
            import wandb

            with self.harmless():
                self.run.log({f"figures/{name}": wandb.Image(str(path))})

    def finish(self, summary: dict[str, Any] | None, exit_code: int = 0) -> None:
        """summary: of a record; None where a run ends without one."""
        if self.run is not None:
            with self.harmless():
                self.run.summary.update(summary or {})
                self.run.finish(exit_code=exit_code)
            self.run = None


class TensorBoard:
    """The same for TensorBoard, in the run's folder tensorboard/, which each start writes anew."""

    def __init__(self, directory: Path, settings: dict[str, Any], rows: list[Row], say: Callable[[str], None]) -> None:
        from accelerate.tracking import TensorBoardTracker

        shutil.rmtree(directory / "tensorboard", ignore_errors=True)
        self.tracker, self.step = TensorBoardTracker("tensorboard", directory), 0
        self.tracker.start()
        self.tracker.writer.add_text(settings["name"], str(settings["config"]))
        for row in rows:
            self.log(row)
        say(f"tensorboard --logdir {directory} shows this run")

    def log(self, row: Row) -> None:
        self.step = row["step"]
        self.tracker.log({name: value for name, value in row.items() if name not in ("step", "time")}, self.step)

    def figure(self, name: str, path: Path) -> None:
        from matplotlib.image import imread

        self.tracker.writer.add_image(f"figures/{name}", imread(path), dataformats="HWC")

    def finish(self, summary: dict[str, Any] | None, exit_code: int = 0) -> None:
        self.tracker.log({f"result/{name}": value for name, value in (summary or {}).items()}, self.step)
        self.tracker.finish()


def reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
