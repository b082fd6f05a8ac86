"""What a person types: make and its variables, torchrun and accelerate, Ctrl-C, and the setup of a fresh machine."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import command
from common.provenance import ROOT
from common.signals import signals
from common.words import label, paper_value
from tests import lacking
from tests.start import record, until
from tools import launch, tables
from tools.launch import run_all
from tools.repository import experiments, papers

MAKE = shutil.which("make")
VERBS = ["help", "setup", "reproduce-", "smoke", "smoke-", "replay", "replay-", "evaluate-", "benchmark-", "publish-", "tables"]
VERBS += ["list", "test"]
VARIABLES = ["EXPERIMENT", "SEEDS", "GPUS", "NODES", "NODE_RANK", "MASTER", "ARGS"]
OF_MAKE = [*VARIABLES, "PY", "OUT", "BASE_PYTHON", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"]
TWO = [sys.executable, "-m", "tools.torchrun", "--nproc-per-node=2", "--standalone", "--local-addr=127.0.0.1"]
SHORT = "--trials 1 --max-sequences 20"  # of the smoke experiment of LSTM
NEW = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}


def clean() -> dict[str, str]:
    """The environment without what a make above these tests has put there."""
    return {name: value for name, value in os.environ.items() if name not in OF_MAKE} | {"LC_ALL": "C"}


def run(*command, cwd=ROOT, **environment) -> tuple[int, list[str]]:
    """Exit code and lines, make's own left out."""
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=clean() | environment, **NEW, check=False, timeout=300)
    return done.returncode, [line for line in done.stdout.splitlines() if not line.startswith("make:")]


def make(*arguments, **options):
    return run(MAKE, f"PY={sys.executable}", *arguments, **options)


# Make.


@pytest.mark.slow
def test_smoke_starts_over_each_time(tmp_path):
    result = tmp_path / "lstm/smoke/seed0/result.json"
    for _ in range(2):
        code, lines = make("smoke-lstm", f"OUT={tmp_path}")
        assert code == 0, lines
        assert "from the start" in lines[0]
        assert re.fullmatch(r"lstm smoke seed 0: kind smoke, in \d+ s", lines[-1])
        assert json.loads(result.read_text())["kind"] == "smoke"
        result.write_text("{}")  # as nothing that a run would print


@pytest.mark.slow
def test_list():
    code, (head, rule, *rows) = make("list")
    assert code == 0
    starts = [match.start() for match in re.finditer(r"-+", rule)]
    cells = [[row[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)] for row in [head, *rows]]
    assert cells.pop(0) == ["paper", "experiment", "kind", "claim", "paper's", "ours", "verdict so far", "expected cost"]
    for paper in papers():
        for name, experiment in experiments(paper).items():
            first = next((row for row in tables.claim_rows(paper) if row.name == name), None)
            cell = [*first.cells()] if first else ["–"] * 4
            assert [paper, name, experiment.kind, *cell, experiment.cost] in cells
            assert all(any(row[3:5] == [label(claim), paper_value(claim)] for row in cells) for claim in experiment.claims)


def test_list_of_one_paper():
    code, lines = make("list", "PAPER=lenet")
    assert code == 0 and all(line.startswith(("lenet ", " ")) for line in lines[2:])
    assert make("list", "PAPER=nonsense")[0] == 2


def test_help():
    for arguments in ([], ["help"]):
        code, lines = make(*arguments)
        assert code == 0
        text = "\n".join(lines)
        for verb in VERBS:
            assert re.search(rf"^  make {verb}{'<paper>' * verb.endswith('-')} +\S+", text, re.MULTILINE), verb
        assert all(f"{name}=" in text for name in VARIABLES)


def test_no_official_weights():
    assert make("evaluate-adam") == (0, ["adam: there are no official weights, so nothing to evaluate"])


def test_evaluation_gets_the_weights_and_its_options(tmp_path):
    """The first word of ARGS, quoted where it has a space, reaches pretrained.py; what it says is the paper's own."""
    folder = tmp_path / "no weights"
    folder.mkdir()
    code, lines = make("evaluate-gpt", f"ARGS='{folder}' --data-dir {tmp_path}", f"OUT={tmp_path / 'runs'}")
    assert code == 2 and lines[-1].startswith(f"error: cannot load {folder} (ValueError: it has no "), lines
    assert not any("Unrecognized" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["reproduce-nope"], "no paper 'nope': there are "),
        (["evaluate-nope"], "no paper 'nope': there are "),
        (["benchmark-nope"], "no paper 'nope': there are "),
        (["reproduce-lstm", "EXPERIMENT=nope"], "lstm has no experiment 'nope': there are temporal-order-6a, "),
        (["reproduce-lstm", "SEEDS=x"], 'SEEDS="x" is not a list of numbers'),
        (["reproduce-lstm", "SEEDS="], 'SEEDS="" is not a list of numbers'),
        (["reproduce-lstm", "GPUS=x"], "GPUS=x is not a number"),
        (["reproduce-lstm", "NODES=2", "MASTER=here"], "lstm updates after every sample and cannot be split among 2 machines"),
        (["reproduce-lstm", "NODES=2"], "NODES needs MASTER=host"),
        (["reproduce-lstm", "NODES=2", "MASTER=here", "NODE_RANK=2"], "NODE_RANK=2 is not below NODES=2"),
        (["reproduce-lstm", "ARGS=--lr '3"], "ARGS cannot be read (No closing quotation)"),
    ],
)
def test_refused_in_one_line(arguments, reason, tmp_path):
    code, lines = make(*arguments, f"OUT={tmp_path}")
    assert code == 2
    assert len(lines) == 1 and lines[0].startswith(f"error: {reason}"), lines
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_seeds_one_after_the_other_with_arguments(tmp_path):
    out = tmp_path / "two words"
    given = f'ARGS={SHORT} --lr 0.3 --data-dir "{tmp_path}/more words"'
    code, lines = make("reproduce-lstm", "EXPERIMENT=smoke", "SEEDS=0 1", f"OUT={out}", given)
    assert code == 0, lines
    text = "\n".join(lines)
    assert text.index("lstm smoke seed 0: kind") < text.index("lstm smoke seed 1, fp64") < text.index("lstm smoke seed 1: kind")
    for seed in (0, 1):
        config = record(out / f"lstm/smoke/seed{seed}")["config"]
        assert (config["lr"], config["trials"]) == (0.3, 1)


@pytest.mark.slow
def test_unknown_argument(tmp_path):
    code, lines = make("reproduce-lstm", f"OUT={tmp_path}", "ARGS=--nope 1")
    assert code == 2
    assert "--nope" in "".join(lines) and "Traceback" not in "".join(lines)


# Several processes.


@pytest.mark.parametrize(
    ("options", "processes", "group"),
    [
        ({}, 1, []),
        ({}, 8, ["--nproc-per-node=8", "--nnodes=1", "--standalone", "--local-addr=127.0.0.1"]),
        (
            {"nodes": 2, "node_rank": 1, "master": "a.b"},
            8,
            ["--nproc-per-node=8", "--nnodes=2", "--node-rank=1", "--master-addr=a.b", "--master-port=29500"],
        ),
        (
            {"nodes": 2, "master": "10.0.0.1:1234"},
            1,
            ["--nproc-per-node=1", "--nnodes=2", "--node-rank=0", "--master-addr=10.0.0.1", "--master-port=1234"],
        ),
    ],
)
def test_torchrun_where_there_are_several_processes(options, processes, group):
    start = [sys.executable, *(["-m", "tools.torchrun"] if group else []), *group]
    assert launch.python(processes, **options) == start


@pytest.mark.parametrize(
    ("launcher", "processes"),
    [
        ("torch.distributed.run --standalone --nproc-per-node=2", 2),
        ("accelerate.commands.launch --cpu --num_processes 1", 1),
    ],
)
@pytest.mark.slow
def test_other_launchers(launcher, processes, tmp_path):
    command = [sys.executable, "-m", *launcher.split(), "-m", "tests.toy.train", "smoke", "--out", tmp_path / "out"]
    code, lines = run(*command, HF_HOME=str(tmp_path))
    assert code == 0, lines
    assert sum("toy smoke seed 0: kind smoke" in line for line in lines) == 1
    assert record(tmp_path / "out/toy/smoke/seed0")["processes"] == processes


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--deadly", "3"], 1, "error: a process that reads the data died"),
        (["--bad", "3"], 2, "error: sample 3 cannot be read"),
        (["--dies-at", "4"], 128 + signal.SIGKILL, "error: process 1 was ended by SIGKILL; the same command goes on"),
    ],
)
def test_several_processes_end_as_the_first_that_failed(flags, code, said, tmp_path):
    ended, lines = run(*TWO, "-m", "tests.loading", "smoke", "--out", tmp_path, *flags)
    assert ended == code, lines
    assert sum(line.startswith(said) for line in lines) == 1 and not any("Traceback" in line for line in lines), lines


def test_several_processes_refuse_an_unknown_experiment_once():
    code, lines = run(*TWO, "-m", "tests.toy.train", "nothing")
    assert code == 2 and sum("Unrecognized options: nothing" in line for line in lines) == 1, lines
    assert not any("Traceback" in line or "stopped by" in line for line in lines), lines


def test_who_lost_the_others_waits_for_their_end(monkeypatch):
    """Else torchrun sees both ends at once, and takes the exit code of either."""
    with signals() as interrupt:
        monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
        assert not command.waited(interrupt)  # nobody would end it
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
        monkeypatch.setattr(command.time, "sleep", lambda seconds: None)
        assert command.waited(interrupt)  # nobody did
        interrupt.deferred = True  # as a loop leaves it
        monkeypatch.setattr(command.time, "sleep", lambda seconds: os.kill(os.getpid(), signal.SIGTERM))
        assert not command.waited(interrupt)
        assert not command.waited(interrupt)  # it was ended before


def test_none_is_started_after_a_failure(capfd):
    jobs = [["sh", "-c", f"echo {code}; exit {code}"] for code in (0, 3, 0)]
    assert run_all(jobs) == 3 and capfd.readouterr().out == "0\n3\n"
    assert run_all([["sh", "-c", "kill -9 $$"]]) == 128 + signal.SIGKILL


# Signals.


def test_signal_while_a_run_is_being_started(monkeypatch):
    popen = subprocess.Popen

    def signalled(*arguments, **options):
        child = popen(*arguments, **options)
        signal.raise_signal(signal.SIGTERM)
        return child

    monkeypatch.setattr(launch.subprocess, "Popen", signalled)
    began, before = time.monotonic(), [(signum, signal.getsignal(signum)) for signum in (signal.SIGTERM, signal.SIGINT)]
    try:
        assert run_all([["sleep", "60"]] * 5) == 143 and time.monotonic() - began < 30
    finally:
        for signum, handler in before:
            signal.signal(signum, handler)


class Launched:
    """`python -m tools.launch` in a group of its own, as a terminal starts it."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "tools.launch", "--paper", "lstm", "--experiment", "temporal-order-6a", *options]
        self.process = subprocess.Popen(command, cwd=ROOT, **NEW)

    def trains(self, directory: Path, lines: int = 1) -> None:
        """Wait until metrics.jsonl has so many lines."""
        path = directory / "metrics.jsonl"
        until(lambda: self.process.poll() is not None or (path.exists() and path.read_bytes().count(b"\n") >= lines), 120)
        assert self.process.poll() is None, self.process.stdout.read()

    def end(self) -> tuple[int, str]:
        """Exit code and output, once it and all its children are gone."""
        output, _ = self.process.communicate(timeout=60)
        with pytest.raises(ProcessLookupError):
            os.killpg(self.process.pid, 0)
        return self.process.returncode, output


@pytest.fixture
def launched():
    started = []
    yield lambda *options: started.append(Launched(*options)) or started[-1]
    for each in started:
        if each.process.returncode is None:
            os.killpg(each.process.pid, signal.SIGKILL)
            each.process.communicate()


def test_signals_stop_a_run_and_the_same_command_goes_on(launched, tmp_path):
    directory, options = tmp_path / "lstm/temporal-order-6a/seed0", ("--out", str(tmp_path), "--seeds", "0 1")
    first = launched(*options)
    first.trains(directory)
    first.process.send_signal(signal.SIGTERM)
    first.process.send_signal(signal.SIGTERM)
    code, output = first.end()
    step = max(int(path.stem.removeprefix("step")) for path in directory.glob("checkpoint/step*.pt"))
    assert code == 143 and f"stopped by SIGTERM: checkpoint of step {step:,} kept" in output and "Traceback" not in output

    second = launched(*options)
    second.trains(directory, lines=step // 100 + 2)  # one of them is early
    for _ in range(2):  # Ctrl-C, by an impatient person: the terminal tells the launcher and the run
        os.killpg(second.process.pid, signal.SIGINT)
    code, output = second.end()
    assert code == 130 and f"from step {step:,}, in" in output and "stopped by SIGINT: checkpoint of step" in output
    assert "Traceback" not in output
    assert not (directory.parent / "seed1").exists(), "no other seed is started after a signal"


# A fresh machine.


@pytest.fixture
def fresh(tmp_path):
    """A folder with the Makefile and empty requirements."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("requirements.txt", "constraints.txt"):
        (folder / name).touch()
    return folder


def fake(path: Path, script: str) -> Path:
    """An interpreter that answers as the script says, and otherwise succeeds."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            'case "$*" in *version_info*) exit 1;; --version) echo Python 3.8.1;; esac',
            "Python 3.8.1 is too old: install Python 3.11",
        ),
        ('case "$*" in *"import venv"*) echo no >&2; exit 1;; esac', "python3 has no venv module: install it"),
        (None, "no python3 here: install Python 3.11 or newer"),
    ],
)
def test_setup_without_a_python_that_will_do(script, reason, fresh, tmp_path):
    (tmp_path / "bin").mkdir()
    if script:
        fake(tmp_path / "bin/python3", script)
    for words in (["setup"], ["list"]):
        code, lines = run(MAKE, *words, cwd=fresh, PATH=f"{tmp_path / 'bin'}")
        assert code == 2
        assert len(lines) == 1 and lines[0].startswith(f"error: {reason}"), lines
    assert not (fresh / ".venv").exists()


def test_setup_is_done_when_needed_and_only_then(fresh, tmp_path):
    """The interpreter of the new .venv is a script that notes each installation, and takes its time for the first."""
    note = tmp_path / "note"
    pip = f"[ -e {note} ] || {{ echo install >> {note}; exec sleep 60; }}; echo install >> {note}"
    venv = f"mkdir -p .venv/bin; printf '#!/bin/sh\\n%s\\n' '{pip}' > .venv/bin/python; chmod +x .venv/bin/python"
    base = fake(tmp_path / "bin/python", f'case "$*" in *"-m venv"*) rm -rf .venv; {venv};; esac')
    command, stamp = [MAKE, "setup", f"BASE_PYTHON={base}"], fresh / ".venv/stamp"

    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    interrupted = subprocess.Popen(command, cwd=fresh, env=clean(), preexec_fn=heard, **NEW)
    until(note.exists, 120)
    os.killpg(interrupted.pid, signal.SIGINT)
    interrupted.communicate(timeout=20)
    assert interrupted.returncode != 0 and not stamp.exists()

    for expected, edited in [(2, None), (2, None), (3, "requirements.txt"), (4, "constraints.txt"), (4, None)]:
        if edited:
            (fresh / edited).write_text("# changed\n")
        code, lines = run(*command, cwd=fresh)
        assert code == 0 and stamp.exists(), lines
        assert note.read_text().count("install") == expected


@pytest.mark.slow
def test_setup_builds_a_venv(fresh):
    code, lines = run(MAKE, "setup", f"BASE_PYTHON={sys.executable}", cwd=fresh)
    assert code == 0 and (fresh / ".venv/stamp").exists(), lines
    prefix = subprocess.run([fresh / ".venv/bin/python", "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True)
    assert prefix.stdout.strip() == str(fresh / ".venv")


def test_a_given_interpreter_is_used_as_it_is(fresh, tmp_path):
    python = fake(tmp_path / "bin/python", "printf '<%s>' \"$@\"")
    assert run(MAKE, "setup", f"PY={python}", cwd=fresh)[0] == 0
    _, (line,) = run(MAKE, "reproduce-vit", f"PY={python}", cwd=fresh)
    assert line.startswith("<-m><tools.launch><--paper><vit><--experiment><><--seeds><0>") and "<--out><runs><--args=>" in line
    assert not (fresh / ".venv").exists()


# What is written about make.


def test_commands_of_the_readme_exist():
    if not (ROOT / "README.md").exists():
        pytest.skip("no README.md yet")
    text = (ROOT / "README.md").read_text()
    blocks = "\n".join(re.findall(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    named = re.findall(r"^\s*(?:\$ )?make +([a-z][\w<>-]*)", blocks, re.MULTILINE) + re.findall(r"`make +([a-z][\w<>-]*)", text)
    assert named
    for target in set(named):
        target = target.replace("<paper>", "lstm")
        code, lines = make("-n", target)
        assert code == 0, (target, lines)
        paper = target.partition("-")[2]
        assert not paper or paper in papers(), target


# A new paper.


def test_what_a_folder_lacks_is_said_with_what_to_add(tmp_path):
    table = dict(experiments("lenet"))
    page = (ROOT / "papers/lenet/README.md").read_text()
    model = (ROOT / "papers/lenet/model.py").read_text()

    def said(page=page, model=model, table=table):
        for name, text in (("README.md", page), ("model.py", model)):
            (tmp_path / name).unlink(missing_ok=True)
            if text:
                (tmp_path / name).write_text(text)
        return lacking.lacking(tmp_path, table)

    assert said() == []
    assert said(page="") == [
        line for line in said(page="") if line.startswith("README.md: # NAME (YEAR), the paper in a paragraph")
    ]
    assert said(page=page.replace("## Deviations", "## Differences")) == ["README.md: a section ## Deviations"]
    (mark,) = said(page=page.replace("<!-- generated: claims", "<!-- claims"))
    assert mark.startswith("README.md: <!-- generated: claims, by make tables --> and <!-- end -->")
    two = said(page=page.replace("## Deviations", "## x").replace("## Run it", "## Deviations").replace("## x", "## Run it"))
    assert two and two[0].startswith("README.md: the order ## What was found")
    assert said(model="")[0].startswith("model.py,") and said(model=model.replace("MIT", "no"))[0].startswith("model.py: ")
    without = {name: each for name, each in table.items() if name != "smoke"}
    assert said(table=without) == ["train.py: an experiment `smoke` of kind smoke in EXPERIMENTS, seconds long, on stand-in data"]
    assert said(table={"smoke": table["smoke"]}) == ["train.py: the paper's headline, of kind paper, as the first of EXPERIMENTS"]
