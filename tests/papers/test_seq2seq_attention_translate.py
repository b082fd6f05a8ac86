"""`python -m papers.seq2seq_attention.translate RUN < text`."""

import io
import json
import shutil

import pytest
import torch
from PIL import Image

from papers.seq2seq_attention import sentences, translate
from papers.seq2seq_attention.model import beam_search
from papers.seq2seq_attention.sentences import END, UNKNOWN
from tests.start import here

SCRIPT = "papers.seq2seq_attention.train"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a smoke run."""
    out = tmp_path_factory.mktemp("run")
    code, output = here(SCRIPT, "smoke", "--precision", "fp32", "--out", out)
    assert code == 0, output
    return out / "seq2seq_attention/smoke/seed0"


@pytest.fixture
def command(monkeypatch, capsys):
    """(arguments, what is typed) -> exit code, output, errors."""

    def call(*argv, typed=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        code = translate.main([str(each) for each in argv])
        return code, *capsys.readouterr()

    return call


def test_lines_are_those_that_the_run_translated(run, command):
    """The test set of the run, by the weights that it tested, greedy and with beams, of both networks."""
    texts = sentences.made_up(20, 2).source
    for name in ("search", "encdec"):
        for K, how in ((1, "greedy"), (3, "beam3")):
            code, output, errors = command(run, "--network", name, "--beam", K, typed="\n".join(texts))
            assert code == 0 and not errors.count("error")
            assert output == (run / f"test_{name}_{how}.txt").read_text()
    assert command(run, typed=texts[0])[1] == (run / "test_search_beam3.txt").read_text().split("\n")[0] + "\n", (
        "RNNsearch, its beams"
    )


def test_without_unknown_words(run, command):
    it = translate.load(run)
    with torch.no_grad():
        it.net.W_o.bias[UNKNOWN] += 100
    text = sentences.made_up(1, 2).source
    with torch.no_grad():
        assert "[UNK]" in translate.translated(it, text, 2)[0][0]
        assert "[UNK]" not in translate.translated(it, text, 2, (UNKNOWN,))[0][0]
    assert "[UNK]" not in command(run, "--no-unk", typed=text[0])[1]


def test_odd_input(run, command):
    """Empty lines stay where they are; unknown words alone, or many, are translated, and said to be."""
    known = sentences.made_up(1, 2).source[0]
    code, output, errors = command(run, typed=f"\n{known}\n   \nwhat is this\n{' '.join([known] * 40)}\r\n")
    lines = output.split("\n")
    assert (
        code == 0
        and len(lines) == 6
        and lines[0] == lines[2] == lines[5] == ""
        and lines[1] == command(run, typed=known)[1].strip()
    )
    said = errors.strip().split("\n")
    assert len(said) == 2 and said[0].startswith("warning: line 4: none of its words is known")
    assert said[1].startswith("warning: line 5: it has ") and said[1].endswith("words, and the run learned from 50 at most")
    it = translate.load(run)
    x = torch.tensor([[UNKNOWN, UNKNOWN, UNKNOWN, END]])
    assert lines[3] == it.words[1].decode(beam_search(it.net, x, end=END, K=3)[0])[0]
    assert command(run, typed="") == (0, "", "") and command(run, typed="\n")[0] == 0


def test_alignments_are_drawn(run, command, tmp_path):
    code, _, errors = command(run, "--alignments", tmp_path / "new/a.png", typed="\n".join(sentences.made_up(5, 2).source))
    assert code == 0, errors
    with Image.open(tmp_path / "new/a.png") as picture:
        assert picture.width > 3 * picture.height


@pytest.mark.parametrize(
    ("argv", "typed", "said"),
    [
        (["--beam", "0"], "ban", "--beam must be at least 1"),
        (["--network", "other"], "ban", "has no network other: name search or encdec"),
        (["--network", "encdec", "--alignments", "a.png"], "ban", "--alignments: RNNencdec has none"),
        (["--alignments", "a.png"], "\n", "there is no sentence to draw"),
        (["--alignments", "/proc/a.png"], "ban", "cannot draw /proc/a.png"),
        (["--alignments", "{}/a.what"], "ban", "name a .png file"),
    ],
)
def test_bad_input(run, command, tmp_path, argv, typed, said):
    code, _, errors = command(run, *(each.format(tmp_path) for each in argv), typed=typed)
    assert code == 2 and errors.count("error: ") == 1 and said in errors.strip().split("\n")[-1]


def test_what_is_no_run_is_refused(run, command, tmp_path):
    code, _, errors = command(tmp_path, typed="ban")
    assert code == 2 and "is no folder of a run" in errors and errors.count("\n") == 1
    copied = tmp_path / "copied"
    shutil.copytree(run, copied)
    shutil.rmtree(copied / "checkpoint")
    code, _, errors = command(copied, typed="ban")
    assert code == 2 and "has no checkpoint yet" in errors
    about = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(about | {"config": {"d_model": 3}}))
    code, _, errors = command(copied, typed="ban")
    assert code == 2 and "is no folder of a run" in errors and errors.count("\n") == 1
