"""Evaluation, Sec. 6.1: translations by beam search, BLEU and perplexity, and pictures of them.

python -m papers.transformer.translate RUN < text     # what one types, by the averaged weights of a run's directory
"""

import argparse
import contextlib
import functools
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from common import bleu, directory, figures
from common.data.ragged import Ragged, by_length
from common.errors import BadInput
from common.processes import bare
from common.run import Run
from papers.transformer import sentences
from papers.transformer.model import Transformer, beam_search, length_penalty
from papers.transformer.sentences import Pairs
from papers.transformer.vocabulary import END, PAD, START, decode, encode, load_bpe

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def shifted_right(labels: Tensor) -> Tensor:
    """Sec. 3.1, "offset by one position": what the decoder sees (B, T)."""
    return F.pad(labels[:, :-1], (1, 0), value=START)


def attention_kernel(device: torch.device) -> contextlib.AbstractContextManager:
    """On a CPU fused attention takes several times as long as the written-out one for sentences of twenty tokens."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()


def measure(run: Run, model: nn.Module, averaged: nn.Module, val: Pairs, test: Pairs, tokenizer: "Tokenizer") -> dict[str, float]:
    """Table 3: perplexity and BLEU on the validation set with the last checkpoint. Table 2: BLEU on the test set, averaged."""
    config = run.config
    _, val_name, test_name = sentences.SPLITS.get(config.data, ("train", "val", "test"))
    mean, beam = f"avg{config.average}", f"beam{config.beam}"
    metrics = {f"{val_name}_ppl_last": perplexity(run, model, val)}
    for name, pairs, net, checkpoints, K in (
        (val_name, val, model, "last", config.beam),
        (test_name, test, model, "last", 1),
        (test_name, test, model, "last", config.beam),
        (test_name, test, averaged, mean, config.beam),
    ):
        found = with_beams(run, net, pairs.source, K)
        texts, how = decode(tokenizer, found), f"{checkpoints}_{beam if K > 1 else 'greedy'}"
        metrics |= run.on_main(lambda: scores(run, name, how, texts, pairs.references))  # noqa: B023, called at once
    for source, ours, reference in zip(test.sources[:3], texts, test.references, strict=False):
        run.say(f"source     {source}\nours       {ours}\nreference  {reference}\n")
    draw_attention(run, averaged, test.source, found, lambda token: tokenizer.id_to_token(token).replace("▁", " "))
    run.on_main(lambda: draw_by_length(run, test, texts))
    return metrics


def scores(run: Run, name: str, how: str, texts: list[str], references: list[str]) -> dict[str, float]:
    """BLEU in two conventions. The translations go to a file of the run's directory."""
    (run.dir / f"{name}_{how}.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    convention, options = recipe(run.config)
    found = {
        f"{name}_sacrebleu_{how}": bleu.sacrebleu(texts, references),
        f"{name}_{convention}_bleu_{how}": bleu.tokenised_bleu(texts, references, run.config.target, **options),
    }
    run.say(", ".join(f"{key} {value:.2f}" for key, value in found.items()))
    return found


def recipe(config: Any) -> tuple[str, dict[str, bool]]:
    """The convention of published numbers: the paper's for German is tensor2tensor's get_ende_bleu.sh, Multi30k's "lc.norm.tok"."""
    if config.data == "multi30k":
        return "lc_tokenised", {"lowercase": True, "normalise": True}
    return ("compound", {"compounds": True}) if config.target == "de" else ("tokenised", {})


def measure_copies(run: Run, model: nn.Module, averaged: nn.Module, test: Pairs) -> dict[str, float]:
    """How many of the sequences come back whole, in %."""
    metrics, wanted = {}, test.target.padded(torch.arange(len(test))).cpu()
    for name, net in (("last", model), (f"avg{run.config.average}", averaged)):
        found = with_beams(run, net, test.source, 1)
        whole = (found[:, : wanted.shape[1]] == wanted).all(1)
        metrics[f"copied_{name}_greedy"] = 100 * whole.double().mean().item()
    draw_attention(run, averaged, test.source, found, str)
    return metrics


def perplexity(run: Run, model: nn.Module, pairs: Pairs) -> float:
    """exp of the mean cross-entropy of a target token, END among them, without label smoothing."""
    mine = torch.arange(len(pairs))[run.share(len(pairs))]
    nats = torch.zeros(len(mine), dtype=torch.float64, device=run.device)  # of each sentence
    with run.evaluating(model) as net, attention_kernel(run.device):
        for at in by_length(pairs.lengths()[mine].max(1).values, 8192):
            labels = pairs.target.padded(mine[at])
            logits = net(pairs.source.padded(mine[at]), shifted_right(labels)).to(torch.get_default_dtype())
            each = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=PAD, reduction="none")  # (B, T)
            nats[at.to(run.device)] = each.double().sum(1)
    return math.exp(run.gather(nats, len(pairs)).sum().item() / pairs.target.lengths.sum().item())


def with_beams(run: Run, model: nn.Module, source: Ragged, K: int) -> Tensor:
    """`translate` by the hyper-parameters."""
    penalty = functools.partial(length_penalty, alpha=run.config.alpha)
    return translate(run, model, source, K=K, start=START, end=END, extra=run.config.extra, penalty=penalty)


def translate(run: Run, model: nn.Module, source: Ragged, *, K: int, extra: int, **how: Any) -> Tensor:
    """What `beam_search` finds for each source sentence, padded, on the CPU: (n, L)."""
    mine, pad = torch.arange(len(source))[run.share(len(source))], bare(model).pad
    found = torch.full((len(mine), int(source.lengths.max()) + extra), pad, device=run.device)
    with run.evaluating(model) as net, attention_kernel(run.device):
        for at in by_length(source.lengths[mine], (run.options.micro_batch or 8192) // K):
            best, _ = beam_search(net, source.padded(mine[at], pad), K=K, extra=extra, **how)
            found[at.to(run.device), : best.shape[1]] = best
    return run.gather(found, len(source)).cpu()


def draw_attention(run: Run, model: nn.Module, source: Ragged, found: Tensor, word: Callable[[int], str]) -> None:
    """What the last decoder layer looks at in three sentences, mean over its heads."""
    panels = []
    for row in torch.arange(min(3, len(source))):
        sentence, labels = source.padded(row[None]), found[row][found[row] != PAD][None].to(run.device)
        seen = []
        with run.evaluating(model) as net:
            attend = net.decoder[-1].cross_attention
            hook = attend.register_forward_pre_hook(lambda _, inputs: seen.append(attend.weights(*inputs)))  # noqa: B023
            net(sentence, shifted_right(labels))
            hook.remove()
        panels.append((seen[0][0].mean(0), *([word(token) for token in each[0].tolist()] for each in (labels, sentence)), ""))
    run.save_figure(figures.attention(panels), "attention")


def draw_by_length(run: Run, test: Pairs, texts: list[str]) -> None:
    """BLEU of the averaged checkpoints in six parts of the test set, from short to long sources."""
    from matplotlib.figure import Figure

    name, options = recipe(run.config)
    parts = [part for part in test.source.lengths.sort(stable=True).indices.tensor_split(6) if len(part)]
    values = [
        bleu.tokenised_bleu([texts[i] for i in part], [test.references[i] for i in part], run.config.target, **options)
        for part in parts
    ]
    ranges = [test.source.lengths[part] for part in parts]
    figure = Figure(figsize=(5, 3.5))
    axes = figure.add_subplot()
    axes.bar(range(len(parts)), values)
    axes.set_xticks(range(len(parts)), [f"{int(each.min())}–{int(each.max())}" for each in ranges])
    axes.set(xlabel="tokens of the source", ylabel=f"BLEU, {name.replace('_', ' ')}", title=f"{run.name}, seed {run.seed}")
    run.save_figure(figure, "bleu-by-length")


# From the command line.


def load(run: Path) -> tuple[Transformer, "Tokenizer", Any]:
    """The network of a run's directory with its averaged weights, its vocabulary, and its hyper-parameters.

    Raises:
        BadInput: it is no such directory, has no checkpoint, or no vocabulary; says what to do.
    """
    _, config, learned = directory.learned(run, "transformer")
    c = SimpleNamespace(**config)
    tokenizer = load_bpe(run / "vocabulary.json")
    sizes = {name: getattr(c, name) for name in ("N", "d_model", "d_ff", "h", "d_k", "d_v")}
    positions = c.max_length + c.extra if c.learned_positions else 0
    model = Transformer(tokenizer.get_vocab_size(), **sizes, dropout=0, learned_positions=positions, pad=PAD)
    model.load_state_dict(learned["averaged"])
    return model.eval(), tokenizer, c


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m papers.transformer.translate", description="Translate the lines of stdin.")
    parser.add_argument("run", type=Path, help="a run's directory, OUT/transformer/EXPERIMENT/SEED")
    parser.add_argument("--beam", type=int, help="beams; 1 is greedy (those of the run)")
    options = parser.parse_args(argv)
    try:
        if options.beam is not None and options.beam < 1:
            raise BadInput(f"--beam must be at least 1, got {options.beam}")
        model, tokenizer, config = load(options.run)
        results, penalty = [line.strip() for line in sys.stdin], functools.partial(length_penalty, alpha=config.alpha)
        rows = torch.tensor([i for i, line in enumerate(results) if line], dtype=torch.int64)  # an empty line stays empty
        source = encode(tokenizer, [results[i] for i in rows]) if len(rows) else None
        if source and config.learned_positions and source.lengths.max() > config.max_length:
            long = f"line {rows[source.lengths.argmax()] + 1:,} has {source.lengths.max():,} tokens"
            raise BadInput(f"{long}, and learned positions end at {config.max_length}: cut it")
        K, extra = options.beam or config.beam, config.extra
        with torch.no_grad(), attention_kernel(torch.device("cpu")):
            for at in by_length(source.lengths, 8192 // K) if source else ():
                best, _ = beam_search(model, source.padded(at, PAD), start=START, end=END, K=K, extra=extra, penalty=penalty)
                for i, text in zip(rows[at].tolist(), decode(tokenizer, best), strict=True):
                    results[i] = text
        print("".join(f"{line}\n" for line in results), end="")
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
