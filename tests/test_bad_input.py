"""Bad input gets one clear line, an exit code, and loses nothing. Run once, on the toy paper."""

import builtins
import errno
import json
import shutil

import pytest
import torch

from common import directory as run_directory
from tests.start import Started, here, newest, processes, record, rows, until

TOY = "tests.toy.train"
END = "toy smoke seed 0: kind smoke"


@pytest.fixture
def stopped(tmp_path):
    """A run directory as a failure at update 20 of 40 leaves it: checkpoints of 15 and 20, no result."""
    code, output = here(TOY, "smoke", "--out", tmp_path, "--nan-at", 22)
    assert code == 1, output
    directory = tmp_path / "toy/smoke/seed0"
    settings = json.loads((directory / "config.json").read_text())
    settings["config"]["nan_at"] = -1
    (directory / "config.json").write_text(json.dumps(settings, indent=1))
    assert [path.name for path in run_directory.checkpoints(directory)] == ["step20.pt", "step15.pt"]
    return directory


def content(directory):
    """Every file's bytes."""
    return {path.relative_to(directory): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def refused(code, output, *words, expected=2):
    """One line with these words, and the exit code."""
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert code == expected, output
    assert len(lines) == 1 and "Traceback" not in output, output
    for word in words:
        assert str(word) in lines[0], lines[0]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nonsense"], ["nonsense", "headline", "smoke"]),
        ([], ["headline", "smoke"]),
        (["--seed", "1"], ["headline", "smoke"]),
        (["smoke", "--nonsense", "1"], ["--nonsense"]),
        (["smoke", "--lr", "fast"], ["--lr", "fast"]),
        (["smoke", "--lr", "-1"], ["--lr must be positive, got -1.0"]),
        (["smoke", "--seed", "-1"], ["--seed must not be negative, got -1"]),
        (["smoke", "--micro-batch", "0"], ["--micro-batch must be at least 1, got 0"]),
        (["smoke", "--precision", "fp8"], ["fp8", "bf16"]),
    ],
)
def test_command_line(argv, words, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output = here(TOY, *argv)
    output += "".join(capfd.readouterr())
    assert code == 2
    assert "Traceback" not in output
    for word in words:
        assert word in output
    assert not list(tmp_path.iterdir()), "refused before anything is made"


def test_tf32_needs_a_gpu(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    refused(*here(TOY, "smoke", "--out", tmp_path, "--precision", "tf32"), "tf32", "GPU")


def test_missing_data(tmp_path, toy_data):
    refused(
        *here(TOY, "headline", "--out", tmp_path / "o", "--data-dir", tmp_path / "no"),
        tmp_path / "no/toy/train.pt",
        "is missing or empty: get it from tests/toy",
    )
    (tmp_path / "empty").mkdir()
    code, output = here(TOY, "headline", "--out", tmp_path / "o", "--data-dir", tmp_path / "empty")
    refused(code, output, "toy/train.pt is missing or empty", "--data-dir", "make smoke")
    (toy_data / "toy" / "train.pt").write_bytes(b"")
    refused(*here(TOY, "headline", "--out", tmp_path / "o", "--data-dir", toy_data), "toy/train.pt is missing or empty")
    assert not list(tmp_path.rglob("result.json"))


def test_batch_smaller_than_the_number_of_processes(tmp_path):
    runs = processes(2, tmp_path / "log", TOY, "smoke", "--out", tmp_path / "o", "--batch-size", 1)
    assert [run.wait() for run in runs] == [2, 2]
    refused(2, runs[0].output(), "a batch of 1 cannot be split among 2 processes")
    assert "error" not in runs[1].output(), "only the main process speaks"


def test_out_is_not_a_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    refused(*here(TOY, "smoke", "--out", tmp_path / "file" / "runs"), "cannot write to", "Not a directory", "--out")
    assert (tmp_path / "file").read_text() == "mine"


def disk_full(monkeypatch, suffix):
    """Writing to files with this suffix fails half way, as on a full disk."""
    real = builtins.open

    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, data):
            self.file.write(bytes(data)[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(
        builtins, "open", lambda path, *a, **k: Full(real(path, *a, **k)) if str(path).endswith(suffix) else real(path, *a, **k)
    )


@pytest.mark.parametrize("suffix", ["step25.pt.tmp", "metrics.jsonl", "result.json.tmp"])
def test_disk_full(suffix, stopped, tmp_path):
    """Nothing is lost: the checkpoints from before are there, nothing is half written, and with room again the run goes on."""
    with pytest.MonkeyPatch.context() as patch:
        disk_full(patch, suffix)
        refused(
            *here(TOY, "smoke", "--out", tmp_path),
            "cannot write",
            "No space left on device",
            "run the same command again",
            expected=1,
        )
    assert not list(stopped.rglob("*.tmp"))
    assert newest(stopped)["step"] == (40 if "result" in suffix else 20)
    code, output = here(TOY, "smoke", "--out", tmp_path)
    assert code == 0 and END in output
    assert [row["step"] for row in rows(stopped)] == list(range(5, 41, 5))


def test_truncated_checkpoint_is_reported_and_the_one_before_used(stopped, tmp_path):
    last = stopped / "checkpoint/step20.pt"
    last.write_bytes(last.read_bytes()[:-500])
    half = stopped / "checkpoint/step25.pt.tmp"
    half.write_bytes(b"killed while writing")
    code, output = here(TOY, "smoke", "--out", tmp_path)
    assert code == 0, output
    assert f"{last} is damaged" in output and "from step 15" in output
    assert not half.exists()
    assert [row["step"] for row in rows(stopped)] == list(range(5, 41, 5))


def test_no_readable_checkpoint(stopped, tmp_path):
    for path in (stopped / "checkpoint").iterdir():
        path.write_bytes(b"not a checkpoint")
    before = content(stopped)
    refused(*here(TOY, "smoke", "--out", tmp_path), "no checkpoint in", "can be read", "--restart")
    assert content(stopped) == before


def test_foreign_checkpoint(stopped, tmp_path):
    other, path = tmp_path / "toy/smoke/seed7", stopped / "checkpoint/step20.pt"
    shutil.copytree(stopped, other)
    before = content(other)
    refused(*here(TOY, "smoke", "--out", tmp_path, "--seed", 7), "is a checkpoint of toy/smoke/0, not of toy/smoke/7", "--restart")
    assert content(other) == before
    torch.save({"weight": torch.zeros(3)}, path)
    refused(*here(TOY, "smoke", "--out", tmp_path), "is a checkpoint of something else")


def test_checkpoint_of_another_model(stopped, tmp_path):
    path = stopped / "checkpoint/step20.pt"
    state = torch.load(path, weights_only=True)
    del state["objects"]["model"]["output.bias"]
    torch.save(state, path)
    refused(*here(TOY, "smoke", "--out", tmp_path), "does not fit this model", "output.bias", "--restart")


def test_other_hyper_parameters(stopped, tmp_path):
    before = content(stopped)
    refused(*here(TOY, "smoke", "--out", tmp_path, "--lr", 0.01), "lr 0.02 -> 0.01", "--restart", "--allow-changes")
    refused(*here(TOY, "smoke", "--out", tmp_path, "--precision", "bf16"), "--precision fp32 -> bf16")
    assert content(stopped) == before
    code, output = here(TOY, "smoke", "--out", tmp_path, "--lr", 0.01, "--allow-changes")
    assert code == 0, output
    assert record(stopped)["changes"] == [{"after": "step20", "what": "lr 0.02 -> 0.01"}]
    assert record(stopped)["config"]["lr"] == 0.01

    before = content(stopped)
    refused(*here(TOY, "smoke", "--out", tmp_path), "holds a finished run with other hyper-parameters", "lr 0.01 -> 0.02")
    assert content(stopped) == before


def test_other_code(stopped, tmp_path):
    settings = json.loads((stopped / "config.json").read_text())
    settings["code"] = "sha256 0"
    (stopped / "config.json").write_text(json.dumps(settings))
    refused(*here(TOY, "smoke", "--out", tmp_path), "other code", "--allow-changes")
    code, output = here(TOY, "smoke", "--out", tmp_path, "--allow-changes")
    assert code == 0, output
    assert record(stopped)["changes"] == [{"after": "step20", "what": "other code"}]


def test_non_finite_loss(tmp_path):
    code, output = here(TOY, "smoke", "--out", tmp_path, "--nan-at", 22)
    words = ("train_loss is not finite at step 25", "lr 0.008", "last values: lr 0.0115, train_loss", "step 20 is kept")
    refused(code, output, *words, expected=1)
    directory = tmp_path / "toy/smoke/seed0"
    assert newest(directory)["step"] == 20
    assert [row["step"] for row in rows(directory)] == [5, 10, 15, 20]


def test_non_finite_weight_is_not_saved(tmp_path):
    """The loss of the last update before a checkpoint was finite, but what it made of the weights is not."""
    code, output = here(TOY, "smoke", "--out", tmp_path, "--overflow-at", 24)
    refused(code, output, "a weight of model is not finite at step 25", "step 20 is kept", expected=1)
    assert newest(tmp_path / "toy/smoke/seed0")["step"] == 20


def test_two_runs_in_one_directory(tmp_path):
    first = Started(tmp_path / "log", TOY, "smoke", "--out", tmp_path / "o", "--steps", 100_000)
    directory = tmp_path / "o/toy/smoke/seed0"
    until(lambda: list(directory.glob("checkpoint/*.pt")))
    refused(*here(TOY, "smoke", "--out", tmp_path / "o", "--steps", 100_000), "another run is at work in", directory)
    assert first.alive
    first.kill(9)
    first.wait()
    assert newest(directory)["step"] > 0, "the kernel has released the lock of the killed run"
    code, output = here(TOY, "smoke", "--out", tmp_path / "o", "--restart")
    assert code == 0 and END in output


def test_a_finished_run_is_not_run_again(tmp_path):
    assert here(TOY, "smoke", "--out", tmp_path)[0] == 0
    directory = tmp_path / "toy/smoke/seed0"
    before = content(directory)
    code, output = here(TOY, "smoke", "--out", tmp_path)
    assert code == 0 and END in output and "test_error" in output
    assert content(directory) == before
    code, output = here(TOY, "smoke", "--out", tmp_path, "--restart", "--lr", 0.01)
    assert code == 0 and record(directory)["config"]["lr"] == 0.01
    assert "not the published recipe: lr 0.02 -> 0.01" in output


@pytest.mark.parametrize(("signum", "expected"), [(15, 143), (2, 130)])
def test_signals(signum, expected, tmp_path):
    """SIGTERM and SIGINT, sent twice: a checkpoint, a line that says how to go on, the exit code."""
    flags = [TOY, "smoke", "--out", tmp_path / "o", "--steps", 100_000]
    directory = tmp_path / "o/toy/smoke/seed0"
    run = Started(tmp_path / "log", *flags)
    until(lambda: list(directory.glob("checkpoint/*.pt")))
    run.kill(signum)
    run.kill(signum)
    assert run.wait() == expected
    assert "the same command goes on from there" in run.output() and "Traceback" not in run.output()
    step = newest(directory)["step"]
    assert f"checkpoint of step {step:,} kept" in run.output()
    assert rows(directory)[-1]["step"] == step
    again = Started(tmp_path / "again", *flags)
    until(lambda: f"from step {step:,}" in again.output())
    again.kill(signum)
    assert again.wait() == expected


def test_processes_agree_on_the_step_at_which_to_stop(tmp_path):
    flags = [TOY, "smoke", "--out", tmp_path / "o", "--steps", 100_000]
    runs = processes(2, tmp_path / "log", *flags)
    until(lambda: list((tmp_path / "o").glob("toy/smoke/seed0/checkpoint/*.pt")))
    runs[1].kill(15)  # one rank alone is told
    assert [run.wait() for run in runs] == [143, 143]
    assert newest(tmp_path / "o/toy/smoke/seed0")["step"] % 5 == 0
