"""The training script of a paper that does not exist: it proves `common` where LSTM, which cannot be split, does not reach."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common.claims import Claim, Experiment
from common.command import reproduce
from common.data.fetch import found
from common.data.order import mix, shuffled
from common.options import positive
from common.run import Run
from tests.toy.model import Tagger

VOCABULARY, PAD, LENGTH = 11, 0, 9
TRAIN, TEST = 50, 13


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of nothing."""

    batch_size: int = 12
    """Sequences in a global batch."""
    steps: int = 40
    """Updates."""
    lr: float = 0.02
    """Learning rate at the start; it falls to zero in a straight line."""
    dropout: float = 0.1
    """On embeddings."""
    width: int = 16
    """Of the model."""
    batch_norm: bool = False
    """Normalise the hidden layer."""
    compile: bool = False
    """torch.compile the model."""
    nan_at: int = -1
    """The update whose loss is made not finite."""
    overflow_at: int = -1
    """The update that makes a weight infinite."""

    def __post_init__(self) -> None:
        positive(self, "lr")


EXPERIMENTS = {
    "headline": Experiment(
        Config(), kind="paper", source="Table 1", cost="1 s", log_every=5, checkpoint_every=0, figures=["curve"],
        curves=["step", "test_error"],
        claims=[Claim("test_error", 20.0, "%", "Table 1", lower_is_better=True, tolerance=5.0, why="made up")],
    ),
    "norm": Experiment(Config(batch_norm=True), kind="reading", source="Table 1", cost="1 s", log_every=5, checkpoint_every=0),
    "smoke": Experiment(Config(), kind="smoke", source="Table 1", cost="1 s", log_every=5, checkpoint_every=0),
}  # fmt: skip


def sequences(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """n padded sequences of unequal length and their labels: (n, T), (n, T)."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, VOCABULARY, (n, LENGTH), generator=generator)
    tokens[torch.arange(LENGTH) >= torch.randint(1, LENGTH + 1, (n, 1), generator=generator)] = PAD
    return tokens, torch.where(tokens == PAD, PAD, (3 * tokens + 1) % VOCABULARY)


def write_data(data_dir: Path) -> None:
    (data_dir / "toy").mkdir(parents=True, exist_ok=True)
    for name, n in (("train", TRAIN), ("test", TEST)):
        torch.save(sequences(n, seed=n), data_dir / "toy" / f"{name}.pt")


def train(run: Run[Config]) -> dict[str, float]:
    config, smoke = run.config, run.experiment.kind == "smoke"
    if smoke:
        splits = sequences(TRAIN, mix("toy")), sequences(TEST, mix("toy test"))
    else:
        files = {"toy/train.pt": None, "toy/test.pt": None}
        splits = [torch.load(p) for p in found(run.data_dir, "toy", files, source="tests/toy")]
    data, test = (tuple(t.to(run.device) for t in split) for split in splits)
    digest = hashlib.sha256(b"".join(t.numpy().tobytes() for split in splits for t in split)).hexdigest()
    run.describe_data(name="toy", sha256=digest, train=TRAIN, test=TEST, stand_in=smoke)

    model = Tagger(VOCABULARY, config.width, config.dropout, config.batch_norm)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9)).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr)
    if config.compile:
        model = run.compile(model)
    model, ema, optimizer = run.prepare(model=model, ema=ema, optimizer=optimizer)

    for step, index in run.indices(shuffled(TRAIN, config.batch_size, run.seed), steps=config.steps):
        optimizer.param_groups[0]["lr"] = rate = config.lr * (1 - step / config.steps)
        run.log(lr=rate)
        batch = tuple(t[index.to(run.device)] for t in data)
        for (tokens, labels), weight in run.micro_batches(batch, model, count=lambda _, labels: (labels != PAD).sum()):
            with run.autocast():
                loss = cross_entropy(model(tokens).flatten(0, 1), labels.flatten(), ignore_index=PAD)
            if step == config.nan_at:
                loss = loss * float("nan")
            run.backward(loss * weight)
            run.log(train_loss=loss.detach() * weight)
        optimizer.step()
        optimizer.zero_grad()
        if step == config.overflow_at:
            next(model.parameters()).data.fill_(float("inf"))
        ema.update_parameters(model)
        if run.log_step:
            run.report(test_error=evaluate(run, model, test))
    result = {"test_error": evaluate(run, model, test), "ema_test_error": evaluate(run, ema, test)}
    from matplotlib.figure import Figure

    figure = Figure()
    figure.add_subplot().plot([0, 1])
    run.save_figure(figure, "curve")
    return result


def evaluate(run: Run[Config], model: torch.nn.Module, test: tuple[Tensor, Tensor]) -> float:
    """Tokens with a wrong label, in %."""
    tokens, labels = (t[run.share(TEST)] for t in test)
    with run.evaluating(model) as net:
        wrong = ((net(tokens).argmax(-1) != labels) & (labels != PAD)).sum(1)
    return 100 * (run.gather(wrong, TEST).sum() / (test[1] != PAD).sum()).item()


if __name__ == "__main__":
    reproduce(EXPERIMENTS, train)
