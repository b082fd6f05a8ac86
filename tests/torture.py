"""`make torture MINUTES=3`: the smoke run of every paper, killed again and again at random, ends as one that was left alone.

Each round takes the next paper, starts its smoke run, stops it at a random moment of its life (SIGKILL, or a signal that it obeys),
starts the same command again, and so on until one start reaches the end. Metrics, weights, optimizers and the record have to be
those of a run that nobody disturbed, bit for bit.
"""

import argparse
import itertools
import random
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tests.conftest  # noqa: F401, the tests' environment
from tests.start import Started, newest, record, rows
from tools.repository import papers

SCRIPTS = [*(f"papers.{paper}.train" for paper in papers()), "tests.toy.train"]
SIGNALS = [signal.SIGKILL] * 3 + [signal.SIGTERM, signal.SIGINT]
ENDS = {0, *(-signum for signum in SIGNALS), *(128 + signum for signum in SIGNALS)}  # 0: it was quicker
STARTS = 12  # the last one is left alone, for a run that never gets far


def started(script: str, folder: Path) -> Started:
    folder.mkdir(exist_ok=True)
    return Started(folder / "log", script, "smoke", "--out", folder)


def result(folder: Path) -> tuple:
    """What two runs must agree in."""
    directory = next(folder.glob("*/smoke/seed0"))
    return rows(directory), record(directory)["metrics"], record(directory)["steps"], newest(directory)["objects"]


def undisturbed(script: str, folder: Path) -> tuple[float, tuple]:
    """(seconds that a smoke run takes, its result)."""
    begun = time.monotonic()
    run = started(script, folder)
    if run.wait():
        raise RuntimeError(run.output())
    return time.monotonic() - begun, result(folder)


def tortured(script: str, seconds: float, folder: Path, chance: random.Random) -> tuple[int, tuple]:
    """(how many starts were stopped, the result in the end)."""
    for kills in range(STARTS):
        run, end = started(script, folder), time.monotonic() + chance.uniform(0, 1.1 * seconds)
        said = len(run.output())
        while kills < STARTS - 1 and run.alive and time.monotonic() < end:
            time.sleep(0.005)
        signum = chance.choice(SIGNALS)
        if kills < STARTS - 1 and run.alive:
            run.kill(signum)
        code = run.wait()
        early = len(run.output()) == said or run.output().endswith("KeyboardInterrupt\n")  # while it imports, Python itself answers
        if code not in ENDS and not early:
            raise RuntimeError(f"exit code {code} after {signum.name}:\n{run.output()}")
        if code == 0:
            return kills, result(folder)
    raise RuntimeError(f"no end after {STARTS} starts:\n{run.output()}")


def same(a: object, b: object) -> bool:
    from tests.test_standing import assert_equal

    try:
        assert_equal(a, b)
    except AssertionError:
        return False
    return True


def main(minutes: float, seed: int) -> int:
    """Prints a line for each run. Exit code 1 where one ended otherwise, or not at all."""
    faults = kills = runs = 0
    with tempfile.TemporaryDirectory(prefix="torture-") as folder, ThreadPoolExecutor(2) as pool:
        straight = dict(zip(SCRIPTS, pool.map(lambda s: undisturbed(s, Path(folder, s)), SCRIPTS), strict=True))

        end = time.monotonic() + 60 * minutes

        def one(number: int, script: str) -> str | None:
            nonlocal faults, kills, runs
            if time.monotonic() > end:
                return None
            seconds, expected = straight[script]
            try:
                n, found = tortured(script, seconds, Path(folder, str(number)), random.Random(f"{seed} {number}"))
            except (RuntimeError, TimeoutError) as error:
                faults += 1
                return f"{script}: {error}"
            kills, runs, differs = kills + n, runs + 1, not same(found, expected)
            faults += differs
            return f"{script}: {n} kills, {'ENDS OTHERWISE' if differs else 'the same end'}"

        order = enumerate(itertools.cycle(SCRIPTS))
        while time.monotonic() < end:
            for line in pool.map(lambda job: one(*job), list(itertools.islice(order, len(SCRIPTS)))):
                if line:
                    print(line, flush=True)
    print(f"{runs} runs of {len(SCRIPTS)} scripts, {kills} kills, {faults} differences (seed {seed})")
    return 1 if faults or not kills else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    sys.exit(main(arguments.minutes, arguments.seed))
