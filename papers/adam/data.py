"""What the nets learn from: MNIST, and in place of IMDB's reviews the phrases of SST-2 as bags of words."""

from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.data import glue, mnist, standin
from common.run import Run

VOCABULARY = 10_000  # Sec. 6.1: the most frequent words
HELD_OUT = 10_000  # the last of MNIST's training images


class Examples(NamedTuple):
    """On the run's device. x: pixels from 0 to 1, (n, D), or numbers of words, (n, L), `vocabulary` for none; y: (n,)."""

    x: Tensor
    y: Tensor
    classes: int
    vocabulary: int = 0
    held_out: tuple[Tensor, Tensor] | None = None
    test: tuple[Tensor, Tensor] | None = None

    @property
    def inputs(self) -> int:
        return self.vocabulary or self.x.shape[1]


def load(run: Run[Any]) -> Examples:
    """Raises BadInput: the data cannot be had."""
    if run.config.data == "sst2":
        return phrases(run)
    size, held_out = run.config.train_size, run.config.judged == "held-out"
    if made_up := run.config.data == "made-up":
        pictures, labels = standin.images(384, 0, size=8)
        x, y, digest = pictures[..., 0], labels, {"generator": "common/data/standin.py", "seed": 0}
        sets = [(x[:256], y[:256]), (x[256:320], y[256:320]), (x[320:], y[320:])]
    else:
        run.on_main(lambda: mnist.fetch(run.data_dir))
        digits = mnist.load(run.data_dir)
        x, y, digest = digits.train_images, digits.train_labels, {"sha256": digits.sha256}
        sets = [(x[:size], y[:size]), (x[-HELD_OUT:], y[-HELD_OUT:]), (digits.test_images, digits.test_labels)]
    (x, y), *others = [(x.flatten(1).to(run.device, torch.get_default_dtype()) / 255, y.to(run.device)) for x, y in sets]
    run.describe_data(name="mnist", train=len(x), test=len(others[1][0]) if held_out else 0, stand_in=made_up, **digest)
    return Examples(x, y, 10, 0, *others) if held_out else Examples(x, y, 10)


def phrases(run: Run[Any]) -> Examples:
    """SST-2's training phrases, words as they stand there."""
    run.on_main(lambda: glue.fetch_glue(run.data_dir, "sst2"))
    found = glue.glue(run.data_dir, "sst2", "train")
    texts = [text.split() for (text,) in found.texts]
    frequent = Counter(word for text in texts for word in text).most_common(VOCABULARY)
    number = {word: i for i, (word, _) in enumerate(frequent)}
    numbers = [torch.tensor([*{number[word] for word in text if word in number}], dtype=torch.long) for text in texts]
    x = torch.nn.utils.rnn.pad_sequence(numbers, batch_first=True, padding_value=VOCABULARY)  # (n, L)
    run.describe_data(name="sst2", train=len(texts), test=0, stand_in=False, sha256=found.sha256)
    return Examples(x.to(run.device), torch.tensor(found.labels, device=run.device), 2, VOCABULARY)
