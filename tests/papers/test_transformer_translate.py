"""`python -m papers.transformer.translate RUN < text`."""

import io
import shutil

import pytest

from papers.transformer import sentences, translate
from tests.start import here


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a smoke run with learned positions, which end."""
    out = tmp_path_factory.mktemp("run")
    code, output = here("papers.transformer.train", "smoke", "--precision", "fp32", "--learned-positions", "--out", out)
    assert code == 0, output
    return out / "transformer/smoke/seed0"


@pytest.fixture
def command(monkeypatch, capsys):
    """(arguments, what is typed) -> exit code, output, errors."""

    def call(*argv, typed=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        code = translate.main([str(each) for each in argv])
        return code, *capsys.readouterr()

    return call


def test_lines_are_those_that_the_run_translated(run, command):
    """The test set of the run by its averaged weights; empty lines stay where they are."""
    texts = sentences.made_up(20, 2).source
    expected = (run / "test_avg2_beam4.txt").read_text()
    assert len(set(expected.split("\n"))) > 5, "one answer to everything"
    assert command(run, typed="\n".join(texts)) == (0, expected, "")
    first, second = expected.split("\n")[:2]
    assert command(run, typed=f"\n{texts[0]}\n  \n{texts[1]}\r\n") == (0, f"\n{first}\n\n{second}\n", "")
    assert command(run, typed="") == (0, "", "")
    assert command(run, "--beam", 1, typed=texts[0])[0] == 0


def test_bad_input(run, command, tmp_path):
    def refused(said, *argv, typed="ban"):
        code, output, errors = command(*argv, typed=typed)
        assert code == 2 and not output and errors.count("\n") == 1 and errors.startswith("error: ") and said in errors, errors

    refused("--beam must be at least 1", run, "--beam", 0)
    refused("line 2 has ", run, typed="ban\n" + "ban " * 60)
    refused("is no folder of a run", tmp_path)
    copied = tmp_path / "copied"
    shutil.copytree(run, copied)
    (copied / "vocabulary.json").unlink()
    refused("cannot read the vocabulary", copied)
    shutil.rmtree(copied / "checkpoint")
    refused("has no checkpoint yet", copied)
