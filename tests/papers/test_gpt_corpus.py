"""GPT's corpora, read from files and from a server that misbehaves, and pre-training on them."""

import contextlib
import dataclasses
import gzip
import hashlib
import json
import math
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from common.data import fetch, standin
from common.data.fetch import File
from common.data.order import mix, share
from common.provenance import ROOT
from papers.gpt import corpus, pretrain, train
from papers.gpt.corpus import Corpus
from papers.gpt.model import GPT, pretraining_rate
from papers.gpt.vocabulary import learn
from tests.serving import FAILURES, Handler, refused, serving
from tests.start import here, newest, record, rows

SCRIPT, OUT = "papers.gpt.train", "gpt/smoke/seed0"
SMOKE = train.EXPERIMENTS["smoke"].config
ODD = [
    "déjà vu, ça alors", "漢字かな交じり文\n", "👩‍👩‍👧 🏳️‍🌈", "a\tb\t\tc", "many      spaces   ", "lines\r\nand\rothers\n\n\n",
    "\x00\x7f\u2028\ufeff", "", " ", "don't 1,000 <unk> </w>",
]  # fmt: skip


def load(folder, data_dir=None, context=16, **settings):
    """A corpus and what is said of it, its tokens in the folder where they are not beside the data."""
    settings = {"corpus": "made-up", "tokens": "bytes", "vocabulary": 300} | settings
    return corpus.load(corpus.Settings(**settings), data_dir or folder, spare=folder, context=context)


def made(folder):
    """The names of what was made of corpora below a folder."""
    return {path.parent.name for path in folder.rglob("tokens.json")}


def texts_of(**splits):
    return {name: lambda text=text: iter([text]) for name, text in splits.items()}


def vocabulary(tokens, size=300, **splits):
    return learn(tokens, size, texts_of(**splits))


def whole(text):
    """All tokens of a corpus."""
    return {name: split.tolist() for name, split in text.splits.items()}


def encoded(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


# Vocabularies


def test_characters():
    """Sorted, of all splits; each its own token, the ends of lines among them."""
    tokenizer = vocabulary("characters", train="to be,\n\nor not", val=" to be? é漢👩‍👧\r\n")
    found = sorted(set("to be,\n\nor not to be? é漢👩‍👧\r\n"))
    assert [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())] == found
    for text in ("to be,\n\nor not\n\n\n", "  \n \r\n\r\n", "é漢👩‍👧é", "b", "\n"):
        ids = encoded(tokenizer, text)
        assert [found[i] for i in ids] == list(text) and tokenizer.decode(ids) == text


@pytest.mark.parametrize("size", [256, 300])
def test_bytes_are_lossless(size):
    tokenizer = vocabulary("bytes", size, train="the other, the others\n" * 50)
    for text in [*ODD, "".join(ODD), made_of_everything()]:
        ids = encoded(tokenizer, text)
        assert tokenizer.decode(ids) == text
        assert len(ids) == len(text.encode()) if size == 256 else len(ids) <= len(text.encode())
    assert len(encoded(tokenizer, "the others")) == (10 if size == 256 else 2)


def made_of_everything():
    generator = torch.Generator().manual_seed(0)
    points = torch.randint(0x110000, (3000,), generator=generator).tolist() + list(range(0x300))
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def test_bytes_are_learned_from_the_training_split_alone():
    def unread():
        raise AssertionError("held-out text has been read")

    texts = {**texts_of(train="abab " * 50), "val": unread, "test": unread}
    tokenizer = learn("bytes", 258, texts)
    assert len(encoded(tokenizer, "abab")) <= 2 and len(encoded(tokenizer, "cdcd")) == 4


# Texts


@pytest.mark.parametrize("size", [1, 2, 7, 50, 1000])
def test_pieces_are_the_text(size, monkeypatch):
    """Cut at the ends of lines alone, none shorter than it has to be, none with a whole line too many."""
    monkeypatch.setattr(corpus, "PIECE", size)
    lengths = torch.randint(30, (100,), generator=torch.Generator().manual_seed(size)).tolist()
    text = "".join("x" * n + ("\n", "\r\n", "\n\n", " \n")[n % 4] for n in lengths)
    lines = text.splitlines(keepends=True)
    for given in ([text], [text + "no end"], [*lines, "z" * 300 + "\n", text], [text] * 2, ["\n" * 60], lines[:1], []):
        found = list(corpus.pieces(given))
        assert "".join(found) == "".join(given) and all(found)
        assert all(len(piece) >= size and piece.endswith("\n") for piece in found[:-1])
        assert all(len("".join(piece.splitlines(keepends=True)[:-1])) < size for piece in found)
    assert list(corpus.pieces(["y" * 500])) == ["y" * 500], "a line is not cut"


def test_words_are_counted_with_ends_of_lines():
    assert corpus.count_words(" = Robert = \n \n He is  here .\nand") == 3 + 1 + 1 + 4 + 1 + 1


def test_made_up_text_and_its_split(tmp_path):
    text, _ = load(tmp_path, tokens="characters")
    given = standin.text(40_000)
    assert len(given) == 40_000 and given == standin.text(40_000)
    assert text.tokenizer.decode(whole(text)["train"]) == given[:36_000]
    assert text.tokenizer.decode(whole(text)["val"]) == given[36_000:]
    assert text.words == {"val": len(given[36_000:].split()) + given[36_000:].count("\n")}


@pytest.mark.skipif(not (ROOT / "data/tinyshakespeare").exists(), reason="no tiny Shakespeare here")
def test_tiny_shakespeare(tmp_path):
    """The 65 characters and the numbers of karpathy/nanoGPT, data/shakespeare_char."""
    (tmp_path / "tinyshakespeare").symlink_to(ROOT / "data/tinyshakespeare")
    text, about = load(tmp_path, corpus="tinyshakespeare", tokens="characters", context=64)
    assert {name: len(split) for name, split in text.splits.items()} == {"train": 1_003_854, "val": 111_540}
    assert text.tokenizer.get_vocab_size() == 65 == about["vocabulary"]
    assert [text.tokenizer.id_to_token(i) for i in (0, 1, 2, 13, 64)] == ["\n", " ", "!", "A", "z"]
    tokens = [token for split in text.splits.values() for token in split.tolist()]
    assert text.tokenizer.decode(tokens) == (ROOT / "data/tinyshakespeare/input.txt").read_text()
    facts = (about["train"], about["test"], about["stand_in"])
    assert facts == ("1,003,854 tokens", "111,540 tokens", False)


@pytest.mark.skipif(not (ROOT / "data/wikitext-2").exists(), reason="no WikiText-2 here")
def test_wikitext_2():
    """245,569 words, as all count them who publish a perplexity of its test text."""
    texts, about = corpus.read("wikitext-2", ROOT / "data")
    assert list(texts) == ["train", "val", "test"] and not about["stand_in"]
    given = "".join(texts["test"]())
    assert given == (ROOT / "data/wikitext-2/test.txt").read_text()
    assert sum(map(corpus.count_words, texts["test"]())) == 245_569
    tokenizer = vocabulary("bytes", 512, train=given[:200_000])
    tokens = [token for each in tokenizer.encode_batch(list(texts["test"]())) for token in each.ids]
    assert tokenizer.decode(tokens) == given and len(tokens) < len(given) / 1.5


# The file


def test_windows_are_a_function_of_seed_and_step():
    tokens = np.arange(100, 120, dtype=np.uint16)
    text = Corpus({"train": tokens, "val": tokens[::-1]}, {}, None)
    starts = torch.stack([text.sampled(step, 3, 6, 5) for step in range(200)])
    assert set(starts.flatten().tolist()) == set(range(15)), "both ends: 15 windows of 5 and the token after them"
    assert starts.flatten().bincount().min() > 40
    assert torch.equal(starts, torch.stack([text.sampled(step, 3, 6, 5) for step in range(200)]))
    assert not torch.equal(starts, torch.stack([text.sampled(step, 4, 6, 5) for step in range(200)]))
    assert len({tuple(row) for row in starts.tolist()}) == 200
    windows = text.windows(torch.tensor([0, 14, 3]), 5)
    assert windows.dtype == torch.int64 and windows.tolist() == [list(range(100 + at, 106 + at)) for at in (0, 14, 3)]
    assert text.windows(torch.tensor([2]), 2, "val").tolist() == [[117, 116, 115]]


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_take_parts_of_one_batch(processes, monkeypatch, trained):
    """What each process of a group would see of its updates, put together, is what one process sees."""
    seen = []

    class Seen(Exception):
        pass

    def windows(self, starts, T, split="train"):
        seen.append(starts.tolist())
        raise Seen

    monkeypatch.setattr(Corpus, "windows", windows)
    text, _ = load(trained)
    monkeypatch.setattr(corpus, "load", lambda *settings, **more: (text, {}))
    for of, rank in [(1, 0), *((processes, rank) for rank in range(processes))]:
        run = SimpleNamespace(
            seed=3, config=SMOKE, device=torch.device("cpu"), compile=lambda f: f,
            prepare=lambda model, optimizer: (model, optimizer),
            indices=lambda draw, steps, of=of, rank=rank: iter([(7, draw(7)[share(8, rank, of)])]), say=print, data_dir=None,
            dir=trained, describe_data=lambda **about: None, on_main=lambda function: None,
        )  # fmt: skip
        with pytest.raises(Seen):
            pretrain.pretrain(run)
    assert len(seen[0]) == 8 and list(chain.from_iterable(seen[1:])) == seen[0] == text.sampled(7, 3, 8, 16).tolist()


@pytest.mark.parametrize(("V", "dtype"), [(1 << 16, "uint16"), ((1 << 16) + 1, "uint32")])
def test_tokens_take_two_bytes_while_they_can(V, dtype, tmp_path, monkeypatch):
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    characters = sorted(set(standin.text(40_000)))
    words = {f"<{i}>": i for i in range(V - len(characters))} | {c: V - 1 - i for i, c in enumerate(characters)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<0>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    monkeypatch.setattr(corpus.vocabulary, "learn", lambda *args: tokenizer)
    text, _ = load(tmp_path)
    assert next(tmp_path.rglob("tokens.bin")).stat().st_size == 40_000 * np.dtype(dtype).itemsize
    assert {split.dtype for split in text.splits.values()} == {np.dtype(dtype)}
    assert [tokenizer.id_to_token(i) for i in whole(text)["val"]] == list(standin.text(40_000)[36_000:])
    assert max(whole(text)["train"]) == V - 1 and text.windows(torch.tensor([5]), 9).tolist() == [whole(text)["train"][5:15]]


def test_the_file_is_made_once_for_the_same_settings_and_text(tmp_path, monkeypatch):
    """Beside the data, whatever run asks; another vocabulary, other tokens and another text are other files."""
    monkeypatch.setattr(corpus, "encode", lambda *given, encode=corpus.encode: calls.append(given) or encode(*given))
    calls = []
    write_books(tmp_path, ".txt")
    ask = lambda run, **changes: load(tmp_path / run, tmp_path, corpus="bookscorpus", context=8, **changes)
    first, about = ask("a")
    again, about_again = ask("b")
    assert whole(again) == whole(first) and about_again == about and len(calls) == 1
    assert {path.parent for path in tmp_path.rglob("bookscorpus-*/")} == {tmp_path / "kept"}
    others = [ask("a", vocabulary=280), ask("a", tokens="characters")]
    assert all(whole(text) != whole(first) and text.tokenizer.to_str() != first.tokenizer.to_str() for text, _ in others)
    assert len({facts["vocabulary_sha256"] for _, facts in (*others, (first, about))}) == 3 and len(calls) == 3
    ask("a", tokens="characters", vocabulary=7)
    assert len(calls) == 3, "characters are as many as there are"
    with (tmp_path / "bookscorpus/a.txt").open("a") as file:
        file.write("one more line\n")
    assert len(whole(ask("a")[0])["train"]) > len(whole(first)["train"]) and len(calls) == 4
    (tmp_path / "bookscorpus/a.txt").write_text("".join(f"{line}\n" for line in LINES[:50]))
    assert whole(ask("c")[0]) == whole(first) and len(calls) == 4 and len(made(tmp_path)) == 4


def test_a_process_whose_disk_is_another_makes_the_file_there(tmp_path):
    """What the main process made cannot be seen from its machine."""
    expected, about = load(tmp_path)
    settings = corpus.Settings("made-up", "bytes", 300)
    elsewhere = {"spare": tmp_path / "other", "context": 16, "on_main": lambda function: tmp_path / "on/the/first"}
    text, facts = corpus.load(settings, tmp_path, **elsewhere)
    assert whole(text) == whole(expected) and facts == about and len(list((tmp_path / "other").rglob("tokens.bin"))) == 1


def test_a_damaged_file_is_refused(tmp_path):
    load(tmp_path)
    path = next(tmp_path.rglob("tokens.bin"))
    path.write_bytes(path.read_bytes()[:-2] + b"!!")
    said = f"{path} is missing or damaged: delete the folder {path.parent}, and run the same command again"
    assert refused(load, tmp_path) == said


def test_a_split_that_is_shorter_than_the_context_is_refused(tmp_path):
    assert "its val split has" in refused(lambda: load(tmp_path, context=1500))
    n = len(load(tmp_path)[0].splits["val"])
    assert f"{n:,} tokens: --context must be lower" in refused(lambda: load(tmp_path, context=n))
    assert load(tmp_path, context=n - 1)


# BooksCorpus

LINES = [line for line in standin.text(6000).split("\n") if line] + ["é 漢字", "", " a  line "]


def write_books(data_dir, suffix):
    """Two books, the second in a folder."""
    for name, lines in (("a", LINES[:50]), ("b/c", LINES[50:])):
        path = data_dir / f"bookscorpus/{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = "".join(f"{line}\n" for line in lines).encode()
        if suffix == ".parquet":
            pq.write_table(pa.table({"title": ["t"] * len(lines), "text": lines}), path, row_group_size=7)
        else:
            path.write_bytes(gzip.compress(content) if suffix == ".txt.gz" else content)
    return data_dir


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".parquet"])
def test_books(suffix, tmp_path):
    """The books in the order of their names, whatever files hold them; held out are the last 0.5 % of the tokens."""
    write_books(tmp_path, suffix)
    (tmp_path / "bookscorpus/README.md").write_text("not a book")
    text, about = load(tmp_path, corpus="bookscorpus", context=8)
    tokens = whole(text)
    given = "".join(f"{line}\n" for line in LINES)
    assert list(tokens) == ["train", "val"] and text.words == {} and about["files"] == 2
    assert text.tokenizer.decode(tokens["train"] + tokens["val"]) == given
    n = len(tokens["train"] + tokens["val"])
    assert len(tokens["val"]) == round(0.005 * n) > 8
    assert text.tokenizer.to_str() == vocabulary("bytes", 300, train=given).to_str()
    assert tokens["train"] + tokens["val"] == encoded(text.tokenizer, given)


def test_folders_with_names_of_books_are_not_books(tmp_path):
    """As some tools write shards: a folder called books.parquet."""
    write_books(tmp_path, ".txt")
    expected = whole(load(tmp_path, corpus="bookscorpus", context=8)[0])
    (tmp_path / "bookscorpus/b").rename(tmp_path / "bookscorpus/b.txt")
    assert whole(load(tmp_path, corpus="bookscorpus", context=8)[0]) == expected


def no_text_column(path):
    pq.write_table(pa.table({"words": LINES}), path)


BAD_BOOKS = {  # file, what stands in it -> what is said
    "nothing": (None, None, "no .txt, .txt.gz or .parquet file in"),
    "another kind": ("a.zip", b"PK", "no .txt, .txt.gz or .parquet file in"),
    "no gzip": ("z.txt.gz", b"plain text", "Not a gzipped file"),
    "cut gzip": ("z.txt.gz", gzip.compress("\n".join(LINES).encode())[:-200], "ended before the end-of-stream"),
    "damaged gzip": ("z.txt.gz", gzip.compress(b"text " * 999)[:20] + b"\xff" * 30, "cannot read"),
    "not UTF-8": ("z.txt", "déjà".encode("latin-1"), "can't decode byte 0xe9"),
    "not UTF-8 in a gzip": ("z.txt.gz", gzip.compress("déjà".encode("latin-1")), "can't decode byte 0xe9"),
    "no parquet": ("z.parquet", b"plain text", "cannot read"),
    "no column text": ("z.parquet", no_text_column, "text"),
    "no text at all": ("a.txt", b"", ""),
}


@pytest.mark.parametrize("case", BAD_BOOKS)
def test_bad_books(case, tmp_path):
    """Exit code 2 and one line, from the command line; nothing that looks like data, also after a good book."""
    name, content, said = BAD_BOOKS[case]
    folder = tmp_path / "bookscorpus"
    if name:
        folder.mkdir()
        if name != "a.zip":
            (folder / "a.txt").write_text("\n".join(LINES))
        content(folder / name) if callable(content) else (folder / name).write_bytes(content)
    flags = ["--tokens", "bytes", "--vocabulary", 300, "--data-dir", tmp_path, "--out", tmp_path / "out"]
    code, output = here(SCRIPT, "bookscorpus", *flags)
    *_, last = output.splitlines()
    assert code == 2 and last.lower().startswith("error: bookscorpus: ") and said in last, output
    assert output.count("error") == 1 and "Traceback" not in output
    assert str(folder if name in (None, "a.zip", "a.txt") else folder / name) in last
    left = {path.name for path in tmp_path.rglob("*")}
    assert not left & {"tokens.bin", "tokens.json", "vocabulary.json", "result.json"}


# Downloads


@pytest.fixture
def server(monkeypatch):
    """Serves a small tiny Shakespeare that counts as the official one."""
    monkeypatch.setenv("no_proxy", "*")
    body = b"Speak, speak.\n" * 500
    with serving(Handler, {"input.txt": body}) as made:
        digest = hashlib.sha256(body).hexdigest()
        made.says = lambda how: monkeypatch.setitem(
            corpus.FILES, "tinyshakespeare/input.txt", File(digest, [f"{made.mirror(how)}input.txt"])
        )
        made.says("good")
        yield made


def names(data_dir):
    return {path.relative_to(data_dir).as_posix() for path in data_dir.rglob("*")} - {".tinyshakespeare-lock"}


def test_download(server, tmp_path):
    data_dir = tmp_path / "new/data"
    text, about = load(tmp_path, data_dir, corpus="tinyshakespeare", tokens="characters")
    files = {name for name in names(data_dir) if not name.startswith("kept")}
    assert files == {"tinyshakespeare", "tinyshakespeare/input.txt"} and len(made(data_dir)) == 1
    assert text.tokenizer.decode(whole(text)["train"] + whole(text)["val"]) == "Speak, speak.\n" * 500
    assert len(text.splits["train"]) == 6300
    assert about["sha256"] == hashlib.sha256(server.files["input.txt"]).hexdigest() and len(server.asked) == 1
    corpus.fetch(data_dir, "tinyshakespeare")
    assert len(server.asked) == 1, "once is enough"
    (data_dir / "tinyshakespeare/input.txt").write_text("mine")
    assert "is not the official file" in refused(corpus.fetch, data_dir, "tinyshakespeare")
    assert (data_dir / "tinyshakespeare/input.txt").read_text() == "mine" and len(server.asked) == 1


@pytest.mark.parametrize("how", ["missing", "wrong", "cut", "silent"])
def test_bad_server(how, server, tmp_path, monkeypatch):
    """It is one line that leaves nothing behind."""
    monkeypatch.setattr(fetch, "TIMEOUT", 0.3)
    server.says(how)
    message = refused(corpus.fetch, tmp_path, "tinyshakespeare")
    where = tmp_path / "tinyshakespeare/input.txt"
    for word in (f"{where} is missing", f"{server.mirror(how)}input.txt", FAILURES[how], "--data-dir", "smoke"):
        assert word in message
    assert names(tmp_path) == set()
    server.says("good")
    corpus.fetch(tmp_path, "tinyshakespeare")
    assert where.read_bytes() == server.files["input.txt"]


def test_no_network_from_the_command_line(server, tmp_path):
    server.says("missing")
    code, output = here(SCRIPT, "tinyshakespeare", "--data-dir", tmp_path, "--out", tmp_path / "out")
    assert code == 2 and output.count("error: tinyshakespeare: ") == 1 and "HTTP Error 404" in output, output
    assert "Traceback" not in output
    left = {path.name for path in tmp_path.rglob("*")}
    assert not left & {"tokens.bin", "tokens.json", "vocabulary.json", "result.json"}


# Pre-training


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A smoke run without dropout in double precision: its directory."""
    out = tmp_path_factory.mktemp("trained")
    code, output = here(SCRIPT, "smoke", "--precision", "fp64", "--dropout", 0, "--out", out)
    assert code == 0, output
    return out / OUT


def heldout(model, tokens, T):
    """Eq. (1) token by token: each sees its window's beginning, the last window being the last T tokens that are predicted."""
    n, nats, counted = len(tokens) - 1, 0.0, []
    for start in range(0, n, T):
        first = min(start, n - T)
        for i in range(start, min(start + T, n)):
            counted.append(i + 1)
            logits = model(torch.tensor([tokens[first : i + 1]]))[0, -1]
            nats -= logits.log_softmax(0)[tokens[i + 1]].item()
    assert counted == list(range(1, n + 1))
    return nats / n


def evaluating_run(rank=0, processes=1, micro_batch=None, gathered=None):
    """A run as far as `heldout_loss` knows it."""

    def gather(values, n):
        gathered.append(values)
        return torch.cat(gathered)

    gathered = [] if gathered is None else gathered
    return SimpleNamespace(
        config=SimpleNamespace(context=7), options=SimpleNamespace(micro_batch=micro_batch), device=torch.device("cpu"),
        evaluating=lambda model: contextlib.nullcontext(model), share=lambda n: share(n, rank, processes), gather=gather,
    )  # fmt: skip


def random_text(n):
    """A model that is sure of something, and a split of n + 1 tokens."""
    torch.manual_seed(n)
    model = GPT(9, n_layer=1, n_head=2, D=8, context=12, dropout=0.0).requires_grad_(False).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, 0, 0.5)
    tokens = torch.randint(9, (n + 1,)).tolist()
    return model, tokens, Corpus({"val": np.array(tokens, np.uint16), "train": np.zeros(99, np.uint16)}, {}, None)


@pytest.mark.parametrize("n", [7, 8, 13, 14, 15, 35, 41])
def test_heldout_loss_counts_every_token_but_the_first_once(n, double):
    model, tokens, text = random_text(n)
    expected = heldout(model, tokens, 7)
    for micro_batch in (None, 1, 7, 14, 20, 1000):
        found = pretrain.heldout_loss(evaluating_run(micro_batch=micro_batch), model, text, "val")
        assert found == pytest.approx(expected, rel=1e-12)
    if n >= 12:
        found = pretrain.heldout_loss(evaluating_run(), model, text, "val", T=12)
        assert found == pytest.approx(heldout(model, tokens, 12), rel=1e-12)


@pytest.mark.parametrize(("n", "processes"), [(41, 2), (35, 5), (15, 3), (13, 3)])
def test_heldout_loss_of_several_processes(n, processes, double):
    """Also of more than there are windows."""
    model, tokens, text = random_text(n)
    parts = []
    for rank in range(processes):
        found = pretrain.heldout_loss(evaluating_run(rank, processes, gathered=parts), model, text, "val")
    assert found == pytest.approx(heldout(model, tokens, 7), rel=1e-12)


def test_training_is_the_recipe(trained, double):
    """Forty updates written out: Adam, decay of the matrices apart from the gradient, its longest length, the schedule."""
    text, _ = load(trained)
    given = standin.text(40_000)
    assert whole(text)["train"] == encoded(text.tokenizer, given[:36_000])
    torch.default_generator.manual_seed(mix(0, "start"))
    model = dataclasses.replace(SMOKE, dropout=0.0).net(300)
    moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in model.parameters()}
    losses, rates, heldouts, clipped = [], [], {}, 0
    for step in range(40):
        generator = torch.Generator().manual_seed(mix(0, "windows", step))
        starts = torch.randint(len(text.splits["train"]) - 16, (8,), generator=generator)
        total = 0.0
        for start in starts.tolist():
            tokens = text.splits["train"][start : start + 17].tolist()
            log_p = model(torch.tensor([tokens[:-1]]))[0].log_softmax(1)
            total = total - sum(log_p[t, tokens[t + 1]] for t in range(16)) / (8 * 16)
        model.zero_grad()
        total.backward()
        losses.append(total.item())
        length = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters()))
        clipped += length > 1
        rates.append(1e-2 * (step + 1) / 5 if step < 5 else 1e-2 * (1 + math.cos(math.pi * (step - 5) / 35)) / 2)
        assert rates[-1] == pytest.approx(pretraining_rate(step, 40, 1e-2, 5))
        with torch.no_grad():
            for p, (m, v) in moments.items():
                gradient = p.grad / max(1.0, length + 1e-6)
                if p.ndim > 1:
                    p -= rates[-1] * 0.01 * p
                m.lerp_(gradient, 0.1)
                v.lerp_(gradient**2, 0.001)
                p -= rates[-1] * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
            if step in (19, 39):
                heldouts[step + 1] = heldout(model, whole(text)["val"], 16)
    assert 0 < clipped < 40, "this recipe shows whether gradients are clipped"
    state = newest(trained)["objects"]["model"]
    for name, p in model.named_parameters():
        torch.testing.assert_close(state[name], p.detach(), rtol=1e-7, atol=1e-9, msg=name)
    lines = {row["step"]: row for row in rows(trained)}
    assert [lines[step]["train_loss"] for step in (10, 20, 30, 40)] == pytest.approx(
        [sum(losses[i : i + 10]) / 10 for i in range(0, 40, 10)], rel=1e-6
    )
    metrics, n = record(trained)["metrics"], len(text.splits["val"]) - 1
    for step, nats in heldouts.items():
        assert lines[step]["val_loss"] == pytest.approx(nats, rel=1e-9) and lines[step]["lr"] == pytest.approx(rates[step - 1])
    assert metrics["val_loss"] == pytest.approx(heldouts[40], rel=1e-9)
    assert metrics["val_ppl"] == pytest.approx(math.exp(heldouts[40]))
    words = len(given[36_000:].split()) + given[36_000:].count("\n") - 1
    assert metrics["val_ppl_by_word"] == pytest.approx(math.exp(heldouts[40] * n / words))
    assert metrics["parameters"] == sum(p.numel() for p in model.parameters()) / 1e6


def test_samples_and_figures(trained):
    """Three samples go on from the held-out text's beginning, each otherwise."""
    text, _ = load(trained)
    samples = (trained / "samples.txt").read_text().split("\n\n-----\n\n")
    beginning = text.tokenizer.decode(whole(text)["val"][:15])
    assert len(set(samples)) == 3 and all(each.startswith(beginning) and len(each) > 300 for each in samples)
    for name in ("losses", "attention"):
        content = (trained / f"figures/{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 5000


def test_epochs_are_tokens(tmp_path):
    """Two epochs: ceil(2 n / (B T)) updates; so with the LSTM, which has no attention to be drawn."""
    flags = ["--epochs", 2, "--steps", "None", "--batch-size", 64, "--context", 64, "--network", "lstm", "--units", 12]
    code, output = here(SCRIPT, "smoke", *flags, "--out", tmp_path)
    assert code == 0, output
    facts = json.loads(next((tmp_path / OUT).rglob("tokens.json")).read_text())
    n = facts["splits"]["train"][1]
    assert record(tmp_path / OUT)["steps"] == -(-2 * n // (64 * 64)) == 6
    assert {path.name for path in (tmp_path / OUT / "figures").iterdir()} == {"losses.png"}
    sizes = 300 * 16 + 4 * (16 * 12 + 12 * 12 + 24) + 12 * 16 + 16
    assert record(tmp_path / OUT)["metrics"]["parameters"] == sizes / 1e6


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        *(
            ([flag, value], f"{flag} must be positive")
            for flag, value in (("--epochs", 0), ("--epochs", "inf"), ("--lr", 0), ("--lr", "nan"), ("--clip", -1))
        ),
        *(
            ([f"--{name}", 0], f"--{name} must be at least 1, got 0")
            for name in ("vocabulary", "n-layer", "n-head", "width", "units", "batch-size", "warmup", "evaluate-every", "steps")
        ),
        (["--dropout", 1], "--dropout must be in [0, 1)"),
        (["--dropout", -0.1], "--dropout must be in [0, 1)"),
        (["--beta2", 1], "--beta2 must be in [0, 1)"),
        (["--context", 1], "--context must be at least 2, got 1"),
        (["--n-head", 3], "--width 16 cannot be divided among --n-head 3 heads"),
        (["--last-lr", 0.02], "--last-lr must be in [0, --lr], got 0.02"),
        (["--last-lr", -1], "--last-lr must be in [0, --lr]"),
        (["--weight-decay", -0.1], "--weight-decay must not be negative"),
        (["--weight-decay", "inf"], "--weight-decay must not be negative"),
        (["--corpus", "enwik8"], "enwik8"),
        (["--context", 2000], "--context must be lower than that"),
    ],
    ids=str,
)
def test_bad_flags(flags, said, tmp_path):
    code, output = here(SCRIPT, "smoke", *flags, "--out", tmp_path)
    assert code == 2 and said in " ".join(output.replace("│", " ").split()), output
    assert "Traceback" not in output and not (tmp_path / OUT / "result.json").exists()


def test_the_paper_is_the_default():
    """Sec. 4.1."""
    config = train.EXPERIMENTS["bookscorpus"].config
    paper = {
        "n_layer": 12, "n_head": 12, "width": 768, "context": 512, "dropout": 0.1, "batch_size": 64, "epochs": 100, "steps": None,
        "lr": 2.5e-4, "last_lr": 0.0, "warmup": 2000, "weight_decay": 0.01, "tokens": "openai-gpt", "units": 2048, "clip": 1.0,
    }  # fmt: skip
    assert paper.items() <= vars(config).items()
    assert [(claim.metric, claim.value) for claim in train.EXPERIMENTS["bookscorpus"].claims] == [("val_ppl", 18.4)]
    assert pretrain.loss(torch.zeros(2, 3, 8), torch.zeros(2, 3, dtype=torch.int64)).item() == pytest.approx(math.log(8))


@pytest.mark.slow
def test_bf16_learns_as_fp32(tmp_path):
    """Losses of the whole smoke run, to half a per cent; the dropout of both is the same."""
    losses = {}
    for precision in ("bf16", "fp32"):
        code, output = here(SCRIPT, "smoke", "--precision", precision, "--out", tmp_path / precision)
        assert code == 0, output
        losses[precision] = [row["train_loss"] for row in rows(tmp_path / precision / OUT)]
    assert losses["bf16"] != losses["fp32"] and len(losses["fp32"]) == 4
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=5e-3)
