"""Machines and shells as people have them: a container's share, an old processor, what an earlier job left, `~`, pipes, locales."""

import ast
import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import command, directory, files, provenance
from common.processes import Processes, mend_cache
from common.provenance import ROOT
from tests.start import Started, finish, here, record, rows
from tests.test_commands import MAKE, clean, fake

TOY = "tests.toy.train"
GROUP = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


# What the machine has.


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu.max": "1600000 100000\n"}, 8),
        ({}, 8),
    ],
)
def test_cores_are_counted_from_the_quota(contents, expected, tmp_path, monkeypatch):
    for name, text in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(files, "Path", lambda path: tmp_path if path == "/sys/fs/cgroup" else Path(path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert files.cores() == expected


@pytest.mark.parametrize(
    ("flags", "has"), [("avx512f avx512_bf16", True), ("amx_bf16 amx_tile", True), ("asimd bf16", True), ("avx512f avx2", False)]
)
def test_bf16_is_the_default_where_the_processor_has_it(flags, has, monkeypatch):
    monkeypatch.setattr(provenance, "processor", lambda: f"model name : some\nflags : fpu {flags} sse\n")
    default = {"cpu": "bf16", "cuda": "bf16"}
    assert provenance.has_bf16() == has
    assert Processes(None, default).precision == ("bf16" if has else "fp32")
    assert Processes("bf16", default).precision == "bf16" and Processes(None, {"cpu": "fp64"}).precision == "fp64"


def test_a_word_says_that_bf16_was_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "processor", lambda: "flags : sse\n")
    code, output = here("papers.resnet.train", "smoke", "--steps", 1, "--drops", 1, "--evaluate-every", 1, "--out", tmp_path)
    assert code == 0 and "no bf16 instructions: fp32" in output, output
    assert record(tmp_path / "resnet/smoke/seed0")["precision"] == "fp32"


# What a shell or an earlier job left.


@pytest.mark.parametrize(
    "left",
    [
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
        {"LOCAL_RANK": "0"},
        {"RANK": ""},
        {"RANK": "1"},
        {"WORLD_SIZE": "2"},
        {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "WORLD_SIZE": "nonsense"},
    ],
    ids=str,
)
def test_leftovers_of_a_launcher_are_forgotten(left, monkeypatch):
    for name in GROUP:
        monkeypatch.delenv(name, raising=False)
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    command.forget_leftovers()
    assert not GROUP & {*os.environ}


def test_a_group_is_kept_and_waiting_for_it_is_said(monkeypatch, capfd):
    group = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in group.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    command.forget_leftovers()
    assert {name: os.environ[name] for name in group} == group
    assert "waiting for 2 processes at 127.0.0.1" in capfd.readouterr().err


@pytest.mark.parametrize("form", [("--out", "~/runs"), ("--out=~/runs",)])
def test_a_tilde_is_the_home_folder(form, tmp_path, monkeypatch):
    """Where make or a script has quoted it; within a word it is what it is."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    code, output = here(TOY, "smoke", *form)
    assert code == 0, output
    assert (tmp_path / "home/runs/toy/smoke/seed0/result.json").exists() and not (ROOT / "~").exists()
    monkeypatch.setenv("DATA_DIR", "~/sets")
    code, output = here(TOY, "headline", "--out", tmp_path / "a~b")
    assert code == 2 and str(tmp_path / "home/sets") in output
    assert not (ROOT / "~").exists()


# Pipes and signs.


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_pipe_ends_nothing(closed, tmp_path):
    """The record is there, and so are all lines of metrics.jsonl."""
    finish([Started(tmp_path / "log", TOY, "smoke", "--out", tmp_path / "open")])
    read, write = os.pipe()
    os.close(read)
    script = [sys.executable, "-m", TOY, "smoke", "--out", str(tmp_path / "closed")]
    other = {"stdout": "stderr", "stderr": "stdout"}[closed]
    done = subprocess.run(script, cwd=ROOT, env=clean(), **{closed: write, other: subprocess.PIPE}, timeout=120)
    os.close(write)
    said = (done.stderr or b"") + (done.stdout or b"")
    assert done.returncode == 0 and b"Traceback" not in said and b"BrokenPipe" not in said, said
    assert rows(tmp_path / "closed/toy/smoke/seed0") == rows(tmp_path / "open/toy/smoke/seed0")
    assert record(tmp_path / "closed/toy/smoke/seed0")["steps"] == record(tmp_path / "open/toy/smoke/seed0")["steps"]


def test_lists_are_cut_by_head_without_a_word():
    done = subprocess.run(
        f"{sys.executable} -m tools.tables list | head -n 3", shell=True, cwd=ROOT, env=clean(), capture_output=True, timeout=120
    )
    assert done.stdout.count(b"\n") == 3 and not done.stderr, done.stderr


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}], ids=["C"])
def test_lists_in_a_locale_without_their_signs(locale):
    done = subprocess.run(
        [sys.executable, "-m", "tools.tables", "list"], cwd=ROOT, env=clean() | locale, capture_output=True, timeout=120
    )
    assert done.returncode == 0 and done.stdout and not done.stderr, done.stderr


def test_every_text_file_names_its_encoding():
    """In common, tools and papers: read_text and write_text, and open in text mode."""
    for path in [path for part in ("common", "tools", "papers") for path in (ROOT / part).rglob("*.py")]:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or any(keyword.arg in ("encoding", None) for keyword in call.keywords):
                continue
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            mode = next(
                (each.value for each in call.args if isinstance(each, ast.Constant) and each.value in ("r", "w", "a")), None
            )
            text = name in ("read_text", "write_text") or (name == "open" and mode is not None)
            assert not text, f"{path.relative_to(ROOT)}:{call.lineno} names no encoding"


# File systems.


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(error, tmp_path, monkeypatch):
    """It goes on, and says so; another run is something else."""

    def flock(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", flock)
    said = []
    directory.take(tmp_path / "run", restart=False, say=said.append).close()
    assert len(said) == 1 and f"no lock can be had in {tmp_path / 'run'}" in said[0]


def test_what_a_kill_left_in_the_compilers_cache_goes(tmp_path, monkeypatch):
    """Empty files, unless somebody may be writing them at this moment."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    for name, content, age in (("a/empty.so", b"", 60), ("a/whole.so", b"x", 60), ("b/new.so", b"", 0), ("b/other", b"", 60)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    mend_cache()
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["new.so", "other", "whole.so"]


# The environment that make builds.


BUILDER = """
case "$*" in
  *"-m venv"*) echo venv >> calls; for folder; do :; done; mkdir -p "$folder/bin"; cp "$0" "$folder/bin/python";;
  *"-m pip"*) echo pip >> calls; [ ! -e broken ];;
esac
"""


@pytest.fixture
def project(tmp_path):
    """A folder with the Makefile, and an interpreter that builds a .venv of nothing: make(...) -> (exit code, what was called)."""
    for name in ("Makefile", "requirements.txt", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    base = fake(tmp_path / "base/python3", BUILDER)

    def make():
        (tmp_path / "calls").write_text("")
        done = subprocess.run(
            [MAKE, "setup", f"BASE_PYTHON={base}"], cwd=tmp_path, env=clean(), capture_output=True, text=True, timeout=60
        )
        return done.returncode, (tmp_path / "calls").read_text().split(), done.stderr

    make.folder = tmp_path
    return make


def test_the_environment_is_built_once_and_anew_for_other_requirements(project):
    assert project()[:2] == (0, ["venv", "pip"])
    os.utime(project.folder / "requirements.txt")
    assert project()[:2] == (0, []), "newer, with the same lines"
    with open(project.folder / "requirements.txt", "a") as file:
        file.write("more\n")
    assert project()[:2] == (0, ["venv", "pip"])


def test_a_build_that_failed_or_was_killed_is_begun_anew(project):
    (project.folder / "broken").touch()
    code, calls, _ = project()
    assert code != 0 and calls == ["venv", "pip"] and not (project.folder / ".venv/stamp").exists()
    (project.folder / "broken").unlink()
    assert project()[:2] == (0, ["venv", "pip"])


def test_what_make_did_not_build_is_never_cleared(project):
    """A link to a shared environment is used as it is, a folder of one's own is refused."""
    shared = project.folder / "shared"
    (shared / "bin").mkdir(parents=True)
    (shared / "bin/python").symlink_to(sys.executable)
    (shared / "precious").touch()
    (project.folder / ".venv").symlink_to(shared)
    assert project()[:2] == (0, []) and (shared / "precious").exists()
    (project.folder / ".venv").unlink()
    shared.rename(project.folder / ".venv")
    code, calls, said = project()
    assert code != 0 and not calls and "was not built by make" in said and (project.folder / ".venv/precious").exists()
