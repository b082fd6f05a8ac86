"""What a run tells the world while it goes on: metrics.jsonl (the truth), Weights & Biases (a view of it), a progress line."""

import contextlib
import importlib.util
import json
import netrc
import os
import shutil
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common.checkpoint import write_atomic
from common.claims import Claim, number
from common.errors import Failed

PROJECT = "paper-reproductions"
TIMEOUT = 15  # seconds that W&B may take to answer before the run goes on offline

Row = dict[str, Any]


class Metrics:
    """metrics.jsonl: flat lines {"step": ..., "time": ..., name: value}. Opening cuts it back to `step`, a torn line included."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.rows: list[Row] = [row for row in read(path) if row["step"] <= step]
        write_atomic(path, b"".join(_line(row) for row in self.rows))
        self.file = open(path, "ab", buffering=0)  # noqa: SIM115, held until the end

    def write(self, row: Row) -> None:
        try:
            self.file.write(_line(row))
        except OSError as error:
            raise Failed(f"cannot write {self.path}: {error.strerror}; make room and run the same command again") from error


def _line(row: Row) -> bytes:
    return json.dumps(row).encode() + b"\n"


def read(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl up to the first line that is not whole."""
    rows = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
        if not line.endswith(b"\n"):
            rows.pop()
    return rows


def credentials() -> bool:
    """Whether W&B can log in without asking: by $WANDB_API_KEY, $WANDB_IDENTITY_TOKEN_FILE or the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    for path in [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]:
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(os.path.expanduser(path)).authenticators(host):
                return True
    return False


class WandB:
    """One W&B run for one run directory, whatever happens to the network; every method is harmless where there is none.

    Each claim's value is drawn as a flat line, `claims/<metric>/paper`, beside the metric's curve.
    """

    def __init__(self, directory: Path, settings: dict[str, Any], claims: list[Claim], rows: list[Row], say=print) -> None:
        """settings: id, group, job_type, name, config. rows: what metrics.jsonl holds already."""
        self.run = None
        self.paper = {f"claims/{claim.metric}/paper": claim.value for claim in claims}
        mode = os.environ.get("WANDB_MODE", "")
        if mode == "disabled":
            return
        if importlib.util.find_spec("wandb") is None:
            say("wandb is not installed: metrics go to metrics.jsonl alone")
            return
        import wandb

        common = {
            "project": PROJECT,
            "dir": directory,
            "resume": "allow",
            "settings": wandb.Settings(init_timeout=TIMEOUT, login_timeout=TIMEOUT, console="off", silent=True),
            **settings,
        }
        older = list(directory.glob(f"wandb/offline-run-*-{settings['id']}"))
        online = mode not in ("offline", "dryrun") and credentials()
        if online:
            try:
                self.run = wandb.init(mode="online", **common)
            except Exception as error:  # wandb raises types of its own, of requests and of its service
                say(f"W&B cannot be reached ({str(error).splitlines()[0] if str(error) else type(error).__name__})")
                with contextlib.suppress(Exception):
                    wandb.teardown()
        if self.run is None:
            self.run = wandb.init(mode="offline", **{**common, "resume": None})
            # wandb loses rows that it had not flushed when it was killed; metrics.jsonl did not.
            for path in older:
                shutil.rmtree(path, ignore_errors=True)
            say(f"W&B is offline; to upload this run later: wandb sync {Path(self.run.dir).parent}")
        self.run.define_metric("step", hidden=True)
        self.run.define_metric("*", step_metric="step")
        known = self.run.summary.get("step", -1) if self.run.resumed else -1
        for row in rows:
            if row["step"] > known:
                self.log(row)

    def log(self, row: Row) -> None:
        if self.run is not None:
            self.run.log({**{k: v for k, v in row.items() if k != "time"}, **self.paper})

    def figure(self, name: str, path: Path) -> None:
        if self.run is not None:
            import wandb

            self.run.log({f"figures/{name}": wandb.Image(str(path))})

    def finish(self, claims: list[Claim] = (), metrics: dict[str, float] = {}, exit_code: int = 0) -> None:  # noqa: B006
        if self.run is None:
            return
        for name, value in metrics.items():
            self.run.summary[name] = value
        for claim in claims:
            if (ours := metrics.get(claim.metric)) is not None:
                self.run.summary[f"claims/{claim.metric}/paper"] = claim.value
                self.run.summary[f"claims/{claim.metric}/ours"] = ours
                self.run.summary[f"claims/{claim.metric}/difference"] = ours - claim.value
        self.run.finish(exit_code=exit_code)
        self.run = None


class Progress:
    """One live line on a terminal, a plain line now and then elsewhere; only the main process has one."""

    def __init__(self, enabled: bool, every: float = 10.0) -> None:
        self.enabled, self.every = enabled, every
        self.bar = None
        self.printed = float("-inf")

    def say(self, text: str, file=None) -> None:
        """A line of its own, above the live line."""
        if self.enabled:
            if self.bar is not None:
                self.bar.clear()
            print(text, file=file, flush=True)

    def show(self, step: int, total: int, values: Row, seconds_per_step: float, last: bool) -> None:
        if not self.enabled:
            return
        text = "  ".join(f"{k} {number(v)}" for k, v in values.items() if isinstance(v, int | float))
        if sys.stderr.isatty():
            if self.bar is None:
                from tqdm import tqdm

                layout = "{percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt}  {postfix}  {elapsed}, ETA {remaining}"
                self.bar = tqdm(total=total, initial=step, bar_format=layout, dynamic_ncols=True, mininterval=0)
            self.bar.n, self.bar.total = step, total
            self.bar.set_postfix_str(text)
            if last:
                self.close()
        elif last or time.monotonic() - self.printed >= self.every:
            self.printed = time.monotonic()
            eta = timedelta(seconds=round((total - step) * seconds_per_step))
            print(f"step {step:,}/{total:,}  {text}  ETA {eta}", flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
