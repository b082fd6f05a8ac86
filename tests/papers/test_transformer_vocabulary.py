"""The Transformer's byte-pair encoding."""

import pytest
import torch

from common.errors import BadInput
from papers.transformer import vocabulary
from papers.transformer.vocabulary import END, PAD, SPECIAL, START, UNKNOWN

TEXTS = ["Ein Mann schläft.", "a man sleeps, a man eats", "Ein Mann isst - schläft er?", "two men (and a dog) sleep."] * 5


@pytest.fixture(scope="module")
def tokenizer():
    return vocabulary.train_bpe(TEXTS, 80)


def test_bpe_gives_the_text_back(tokenizer):
    tokens = vocabulary.encode(tokenizer, TEXTS, chunk=3)
    assert vocabulary.decode(tokenizer, tokens.padded(torch.arange(len(TEXTS)))) == TEXTS
    assert vocabulary.decode(tokenizer, torch.tensor([[START, *tokenizer.encode("a dog").ids, END, PAD]])) == ["a dog"]
    assert tokenizer.encode("a man").tokens == ["▁a", "▁man"], "what is frequent is one token, with the space before it"
    assert tokenizer.encode("sleep.").tokens[-1] == ".", "punctuation stands alone"


def test_bpe_is_learned_alike_each_time_and_begins_with_the_special_tokens(tokenizer):
    assert vocabulary.train_bpe(iter(TEXTS), 80).to_str() == tokenizer.to_str()
    assert [tokenizer.id_to_token(i) for i in range(4)] == list(SPECIAL)
    assert vocabulary.train_bpe(TEXTS, 40).get_vocab_size() == 40 < tokenizer.get_vocab_size() <= 80
    assert UNKNOWN in tokenizer.encode("a 猫").ids and UNKNOWN not in tokenizer.encode("tods").ids


def test_a_vocabulary_is_read_or_refused(tokenizer, tmp_path):
    tokenizer.save(str(tmp_path / "good.json"))
    assert vocabulary.load_bpe(tmp_path / "good.json").to_str() == tokenizer.to_str()
    (tmp_path / "cut.json").write_text((tmp_path / "good.json").read_text()[:500])
    (tmp_path / "other.json").write_text((tmp_path / "good.json").read_text().replace("<pad>", "[PAD]"))
    for name, said in (("none.json", "No such file"), ("cut.json", "cannot read"), ("other.json", "begins with")):
        with pytest.raises(BadInput, match=said) as refused:
            vocabulary.load_bpe(tmp_path / name)
        assert "\n" not in str(refused.value) and name in str(refused.value)
