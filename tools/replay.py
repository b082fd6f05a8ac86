"""`make replay-<paper>`: does a published number still hold? The first lines of its curve, run again at today's code.

The same seed gives the same losses for some hundreds of updates on every machine, and parts only later, when rounding has grown.
So the beginning of a curve is a fingerprint of its recipe: each record's experiment is started from nothing, with its
configuration, seed and precision, in a folder that is thrown away, and its metrics.jsonl is compared with the published curve.

Where the two are further apart than rounding was seen to move them, the record's own commit is run beside today's code on this
machine: if they agree to the last digit, the code has not changed, and the machine's rounding has parted them.
"""

import dataclasses
import io
import os
import runpy
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from pathlib import Path

from common import provenance
from common.claims import Record
from common.files import CLOCK, Row, cores, read_rows, write_atomic
from common.options import differences
from common.provenance import ROOT
from common.words import columns, duration
from tools.repository import experiments, known, papers, records, refuse, told

LINES, SECONDS = 3, 120.0


@dataclasses.dataclass(frozen=True)
class Bound:
    """What rounding may move, relatively: in lines up to so many updates (in the first in any case)."""

    tolerance: float = 1e-4
    updates: float = float("inf")


# Of papers, or experiments. Measured: records of an AMD EPYC on an Intel Xeon, or the reverse. Beside each the largest deviation.
BOUNDS = {
    "backprop": Bound(1e-4, 200),  # 2e-9, in double precision; 2e-4 after 300
    **dict.fromkeys(("he-22", "he-30"), Bound(1e-4, 1)),  # of glorot: 2e-2 after 50
    "gpt": Bound(1e-4, 100),  # 2.6e-5
    "lenet": Bound(1e-5, 1000),  # 2.2e-7; 6e-3 after 7,000 updates
    "lstm": Bound(1e-6, 1000),  # 0 in double precision, 6e-8 in single; at the highest rates of 1, 7e-2 after 5,000
    "resnet": Bound(1e-3, 100),  # 3.3e-2 at its first line: its own commit decides
    "transformer": Bound(2e-4, 40),  # 5.3e-5; 2e-3 after 60
    "vae": Bound(1e-3, 500),  # 4.5e-4
}


@dataclasses.dataclass
class Replay:
    """A record, and what came of its beginning."""

    record: Record
    expected: list[Row]  # the first lines of its published curve
    bound: Bound = Bound()
    lines: int = 0  # of these, compared
    step: int = 0  # of the last one
    deviation: float = 0.0  # the largest so far
    more: frozenset[str] = frozenset()  # what today's code logs besides
    result: str = ""  # same ... | parted at step n ... | not replayed: why

    same = property(lambda self: self.result.startswith("same"))
    parted = property(lambda self: self.result.startswith("parted"))

    def cost(self) -> float:
        """Seconds, by the record's own speed."""
        return self.expected[-1]["step"] * self.record["wall_s"] / max(self.record["steps"], 1) if self.expected else 0.0

    def compare(self, rows: Sequence[Row]) -> None:
        """With the lines that there are so far; sets `result` when there is one."""
        here = {row["step"]: row for row in reversed(rows)}
        for row in self.expected[self.lines :]:
            if row["step"] not in here:
                if rows and rows[-1]["step"] > row["step"]:
                    self.result = f"parted at step {row['step']:,}: no line there today"
                return
            if reason := self.apart(row, here[row["step"]]):
                self.result = f"parted at step {row['step']:,}: {reason}"
                return
            self.lines, self.step = self.lines + 1, row["step"]
        self.result = "same"

    def apart(self, before: Row, now: Row) -> str | None:
        """What is other in two lines of one step, or None."""
        self.more |= {*now} - {*before} - {*CLOCK}
        for name in sorted({*before} - {*CLOCK}):
            if name not in now:
                return f"no {name} today"
            old, new = before[name], now[name]
            off = abs(new - old) / max(abs(old), abs(new), 1e-9)
            self.deviation = max(self.deviation, off)
            if not off <= self.bound.tolerance:
                return f"{name} {old:.6g} -> {new:.6g}"
        return None


def beginnings(paper: str, experiment: str, seeds: Sequence[int], lines: int) -> list[Replay]:
    """One for each published record that is asked for. Raises BadInput: no such paper; nothing is published of it."""
    known(paper)
    table, found = experiments(paper), []
    for record in records(paper):
        name, seed = record["experiment"], record["seed"]
        bound = BOUNDS.get(name, BOUNDS.get(paper, Bound()))
        if (experiment and name != experiment) or (seeds and seed not in seeds):
            continue
        rows = read_rows(ROOT / "papers" / paper / "curves" / f"{name}-seed{seed}.jsonl")[:lines]
        found.append(Replay(record, rows[:1] + [row for row in rows[1:] if row["step"] <= bound.updates], bound))
        if not rows:
            found[-1].result = "not replayed: it has no published curve"
        elif name not in table or differences(record["config"], table[name].config):
            found[-1].result = "parted at step 0: its configuration is no longer that of train.py"
    asked = experiment or seeds
    refuse(asked and not found, f"{paper} has no published record of {experiment or 'any experiment'}, seeds {seeds or 'any'}")
    return found


def _child(argv: list[str], folder: str) -> None:
    """What `python -m` does, forked where torch is imported already."""
    log = os.open(f"{folder}/log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(ROOT)
    sys.argv = argv
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


def command(record: Record, folder: str, more: Sequence[str]) -> list[str]:
    """The module and the arguments that make the record again."""
    module = f"papers.{record['paper']}.{'pretrained' if record['kind'] == 'weights' else 'train'}"
    options = ["--seed", str(record["seed"]), "--out", folder, "--precision", record["precision"]]
    return [module, record["experiment"], *options, *more]


def rows_until(enough: Callable[[list[Row]], bool], folder: str, alive: Callable[[], bool], end: float) -> list[Row]:
    """The rows of the one metrics.jsonl there, when they are enough, or its writer has ended, or the time is over."""
    while True:
        path = next(Path(folder).glob("*/*/seed*/metrics.jsonl"), Path(folder, "none"))
        last = not alive() or time.monotonic() >= end
        if enough(rows := read_rows(path)) or last:
            return rows
        time.sleep(0.05)


def of_its_commit(replay: Replay, today: Sequence[Row], more: Sequence[str], seconds: float) -> bool | None:
    """Whether the record's own commit, run on this machine, gives today's lines to the last digit, up to the one that parted.

    None: it did not get so far in the time that there was.
    """
    archive, until = provenance.git("archive", replay.record["commit"] or ""), replay.expected[replay.lines]["step"]
    if archive is None:
        return False
    there = lambda rows: bool(rows) and rows[-1]["step"] >= until
    with tempfile.TemporaryDirectory(prefix="replay-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tree:
            tree.extractall(f"{folder}/code", filter="data")
        process = subprocess.Popen(
            [sys.executable, "-m", *command(replay.record, f"{folder}/runs", more)], cwd=f"{folder}/code",
            env=os.environ | {"DATA_DIR": str(Path(os.environ.get("DATA_DIR", "data")).absolute())},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        rows = rows_until(there, f"{folder}/runs", lambda: process.poll() is None, time.monotonic() + seconds)
        over = process.poll() is None and not there(rows)
        process.kill()
        process.wait()
    steps = {row["step"] for row in replay.expected} & {row["step"] for row in today}
    twin = Replay(replay.record, [row for row in rows if row["step"] in steps and row["step"] <= until], Bound(1e-9))
    twin.compare(today)
    return None if over else twin.same and twin.step == until


def ended(replay: Replay, folder: Path, code: int | None) -> str:
    """Why there are no more lines: a process that has ended with this exit code, or time that is over (None)."""
    if code is None:
        return f"not replayed: {replay.lines} of {len(replay.expected)} lines in the time that there was"
    output = (folder / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = next((line for line in reversed(output) if line.startswith("error: ")), output[-1] if output else "")[:157]
    return f"not replayed: {last.removeprefix('error: ')}" if code == 2 else f"parted at step {replay.step:,}: it ends: {last}"


def finish(replay: Replay, more: Sequence[str], changed: Sequence[str], seconds: float, end: float) -> Replay:
    """Start the record's experiment and compare, until there is a result."""
    if time.monotonic() >= end:
        replay.result = "not replayed: MINUTES are over"
        return replay
    with tempfile.TemporaryDirectory(prefix="replay-") as folder:
        argv = command(replay.record, folder, [*more, *changed])
        process = get_context("forkserver").Process(target=_child, args=(argv, folder), daemon=True)
        process.start()
        enough = lambda rows: bool(replay.compare(rows) or replay.result)
        rows = rows_until(enough, folder, process.is_alive, min(end, time.monotonic() + seconds))
        replay.result = replay.result or ended(replay, Path(folder), None if process.is_alive() else process.exitcode)
        process.kill()
        process.join()
    if replay.parted and "->" in replay.result and (same := of_its_commit(replay, rows, more, 2 * seconds)) is not False:
        decided = "same as its commit here; rounding has" if same else "not replayed: its commit is too slow here;"
        replay.result = f"{decided} {replay.result}"
    return replay


def run(
    replays: Sequence[Replay], more: Sequence[str] = (), seconds: float = SECONDS, minutes: float = 0, changed: Sequence[str] = ()
) -> Iterator[Replay]:
    """Each when it is compared, the cheapest first, as many side by side as there are cores (on a GPU one).

    Args:
        more: options for train.py.    seconds: for one record.    minutes: for all; 0: no limit.
        changed: options that make today's recipe another one, for tests.
    """
    import torch

    os.environ |= {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", "TORCH_COMPILE_DISABLE": "1"}
    get_context("forkserver").set_forkserver_preload(["torch", "torch._dynamo", "accelerate", "tyro", "common.command"])  # once
    workers = 1 if torch.cuda.is_available() else cores()
    end = time.monotonic() + 60 * minutes if minutes else float("inf")
    yield from (replay for replay in replays if replay.result)
    waiting = sorted((replay for replay in replays if not replay.result), key=Replay.cost)
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(finish, replay, more, changed, seconds, end) for replay in waiting]
        try:
            yield from (future.result() for future in as_completed(futures))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                process.kill()


HEAD = ["paper", "experiment", "seed", "lines", "updates", "deviation", "commit", "result"]


def row(replay: Replay) -> list[str]:
    """Of the table."""
    record, more = replay.record, ", ".join(sorted(replay.more))
    said = replay.result + (f"; logs {more} besides" if replay.same and more else "")
    off = f"{replay.deviation:.1e}" if replay.lines or replay.parted else "–"
    where = [record["paper"], record["experiment"], str(record["seed"]), str(replay.lines), f"{replay.step:,}"]
    return [*where, off, record["commit"][:10], said]


def mark_stale(replays: Sequence[Replay]) -> None:
    """Write into the records of parted curves that they are stale, and since when that is known; take it from those that hold."""
    from tools.publish import text

    at = f"at commit {(provenance.commit() or 'unknown')[:10]}"
    for paper in {replay.record["paper"] for replay in replays}:
        found = {(r.record["experiment"], r.record["seed"]): r for r in replays if r.record["paper"] == paper}
        for record in (kept := records(paper)):
            if (replay := found.get((record["experiment"], record["seed"]))) and replay.parted:
                record["stale"] = f"{replay.result}, {at}"
            elif replay and replay.same:
                record.pop("stale", None)
        write_atomic(ROOT / "papers" / paper / "results.json", text(kept).encode())


def main(
    paper: str = "", experiment: str = "", seeds: tuple[int, ...] = (), lines: int = LINES, seconds: float = SECONDS,
    minutes: float = 0.0, mark: bool = False, args: tuple[str, ...] = (),
) -> int:  # fmt: skip
    """Prints a line for each record, and the table. Exit code 1 where one has parted.

    Args:
        paper: by default all, as all experiments and seeds that are published.
        lines: of each curve.
        seconds: for one record.
        minutes: for all together; 0: no limit.
        mark: what has parted, in results.json.
        args: everything else for train.py.

    Raises:
        BadInput: as `beginnings` does.
    """
    replays = [one for each in ([paper] if paper else papers()) for one in beginnings(each, experiment, seeds, lines)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and so end what was started
    begun, done = time.monotonic(), []
    for replay in run(replays, args, seconds, minutes):
        done.append(replay)
        took, (of, name, seed, *_, said) = duration(time.monotonic() - begun), row(replay)
        print(f"{len(done):3}/{len(replays)}  {took:>6}  {of} {name} seed {seed}: {said}", flush=True)
    if mark:
        mark_stale(done)
    print("", *columns([HEAD, *map(row, replays)]), "", sep="\n")
    same, parted = sum(replay.same for replay in done), sum(replay.parted for replay in done)
    print(f"{same} of {len(done)} published curves begin the same today, {parted} parted, {len(done) - same - parted} not replayed")
    return 1 if parted else 0


if __name__ == "__main__":
    import tyro

    sys.exit(told(tyro.cli, main))
