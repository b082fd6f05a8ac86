"""Sec. 4.2 and 4.3: the network learns to find answers in SQuAD's paragraphs. The experiments are in train.py."""

import json
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from common.data.order import shuffled
from common.data.ragged import by_length
from common.files import write_atomic
from common.options import at_least_one, fraction, positive
from common.run import Run
from papers.bert.adam import Adam
from papers.bert.finetune import source
from papers.bert.model import Spans, rate, span_loss
from papers.bert.squad import Question, Windows, best_spans, best_threshold, read, scored, windows


@dataclass(frozen=True)
class Squad:
    """Hyper-parameters of Sec. 4.2 and 4.3, and where they say nothing of run_squad.py; the defaults are SQuAD 1.1's."""

    data: Literal["squad1.1", "squad2.0", "xquad", "made-up"] = "squad1.1"
    """xquad: the English file of XQuAD, questions of SQuAD's dev set, a quarter of its articles held out. made-up: for tests."""
    weights: str = "google-bert/bert-base-uncased"
    """As in fine-tuning on GLUE."""
    batch_size: int = 32
    """Windows in an update, on all processes together (Sec. 4.2)."""
    epochs: float = 3
    """(Sec. 4.2)"""
    lr: float = 5e-5
    """The highest rate (Sec. 4.2)."""
    warmup: float = 0.1
    """The share of the updates in which the rate rises; run_squad.py's."""
    dropout: float = 0.1
    """(Appendix A.3)"""
    weight_decay: float = 0.01
    """As in pre-training."""
    context: int = 384
    """Tokens of a window, at most; run_squad.py's."""
    stride: int = 128
    """Tokens from one window of a paragraph to the next; run_squad.py's."""
    asked: int = 64
    """Tokens of a question, at most; run_squad.py's."""
    longest: int = 30
    """Tokens of an answer, at most; run_squad.py's."""

    def __post_init__(self) -> None:
        positive(self, "lr", "epochs")
        at_least_one(self, "batch_size", "stride", "asked", "longest")
        fraction(self, "dropout", "weight_decay", "warmup")
        if self.context < self.asked + 8:
            raise ValueError(f"--context must have room for --asked and 8 tokens more, got {self.context}")


def find_spans(run: Run[Squad]) -> dict[str, float]:
    """Sec. 4.2: "the sum of the log-likelihoods of the correct start and end positions" is maximised."""
    config = run.config
    bert, tokenizer, about = source(run)
    questions, digest = read(config.data, run.data_dir)
    sizes = {"train": len(questions["train"]), "test": len(questions["dev"])}
    run.describe_data(name=config.data, sha256=digest, stand_in=config.data == "made-up", **sizes, **about)
    how = {"context": min(config.context, bert.context), "stride": config.stride, "asked": config.asked}
    splits = {name: windows(some, tokenizer, run.device, **how) for name, some in questions.items()}
    train = splits["train"].examples
    run.seed_all("model")
    model = Spans(bert)
    model, optimizer = run.prepare(model=model, optimizer=Adam(model, config.lr, config.weight_decay))
    steps = max(1, int(len(train) / config.batch_size * config.epochs))
    for step, rows in run.indices(shuffled(len(train), config.batch_size, run.seed), steps=steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, config.lr, int(config.warmup * steps))
        batch = train.batch(rows)
        for piece, weight in run.micro_batches(batch, model, of=config.batch_size, width=batch[0].shape[1]):
            tokens, segments, real, labels = piece
            with run.autocast():
                logits = model(tokens, segments, real)
            loss = span_loss(logits.to(torch.get_default_dtype()), *labels.unbind(1))
            run.backward(loss * weight)
            run.log(train_loss=loss.detach() * weight)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return evaluate(run, model, splits["dev"], questions["dev"])


def evaluate(run: Run[Squad], model: nn.Module, data: Windows, questions: list[Question]) -> dict[str, float]:
    """Exact match and F1 in %, and dev-predictions.json in the form that SQuAD's own scripts take."""
    found = spans(run, model, data)
    best: dict[int, tuple[float, str]] = {}
    null = [float("inf")] * len(questions)
    for i, (first, last, score, empty) in enumerate(found.tolist()):
        of = int(data.of[i])
        null[of] = min(null[of], empty)
        if of not in best or score > best[of][0]:
            best[of] = score, data.text(i, int(first), int(last), questions) if score > -float("inf") else ""
    texts, metrics = [best[of][1] for of in range(len(questions))], {}
    if not all(each.answers for each in questions):
        margin = [null[of] - best[of][0] for of in range(len(questions))]
        metrics["tau"] = best_threshold(questions, texts, margin)
        texts = [text if far <= metrics["tau"] else "" for text, far in zip(texts, margin, strict=True)]
    answers = {each.key: text for each, text in zip(questions, texts, strict=True)}
    run.on_main(lambda: write_atomic(run.dir / "dev-predictions.json", json.dumps(answers, indent=1).encode()))
    exact, f1 = (100 * sum(each) / len(questions) for each in zip(*scored(questions, texts), strict=True))
    return {"dev_exact": exact, "dev_f1": f1} | metrics


def spans(run: Run[Squad], model: nn.Module, data: Windows) -> Tensor:
    """The best span of each window, its score, and that of none, on the CPU: (n, 4)."""
    mine = torch.arange(len(data.examples))[run.share(len(data.examples))]
    found = torch.zeros(len(mine), 4, dtype=torch.float64)
    with run.evaluating(model) as net:
        for at in by_length(data.examples.sequences.lengths[mine], run.options.micro_batch or 4096):
            tokens, segments, real, _ = data.examples.batch(mine[at])
            starts = data.starts.padded(mine[at]) == 1
            ends = (segments == 1) & (torch.arange(tokens.shape[1], device=run.device) < real.sum(1, keepdim=True) - 1)
            some = best_spans(net(tokens, segments, real).float(), starts, ends, run.config.longest)
            found[at] = torch.stack([each.double() for each in some], 1).cpu()
    return run.gather(found.to(run.device), len(data.examples)).cpu()
