"""Evaluation, Sec. 5: translations, BLEU with its noise, log-likelihoods, and Figs. 2 and 3.

BLEU is multi-bleu.perl's, of tokens; the texts go through sacreBLEU besides, for others to compare with.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from common import bleu, figures
from common.data.ragged import Ragged, by_length
from common.run import Run
from papers.seq2seq_attention import sentences
from papers.seq2seq_attention.model import EncoderDecoder, beam_search, nll
from papers.seq2seq_attention.sentences import END, PAD, UNKNOWN, Pairs, Words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EDGES = {"wmt14": (11, 21, 31, 41, 51), "multi30k": (9, 12, 15, 19)}  # words of the source where the next bin of Fig. 2 begins
NAMES = {"search": "RNNsearch", "encdec": "RNNencdec"}
RESAMPLES = 1000


def log_likelihoods(run: Run, model: nn.Module, pairs: Pairs, split: str) -> dict[str, float]:
    """Table 2: - log p(y | x) of a sentence, mean; and the perplexity of a word, END among them. Of each network."""
    mine, found = torch.arange(len(pairs))[run.share(len(pairs))], {}
    nats = {}
    with run.evaluating(model) as nets:
        for name, net in nets.items():
            nats[name] = torch.zeros(len(mine), dtype=torch.float64, device=run.device)
            for at in by_length(pairs.lengths()[mine].max(1).values, 4096):
                x, y = pairs.source.padded(mine[at]), pairs.target.padded(mine[at])
                nats[name][at.to(run.device)] = nll(net(x, y).to(torch.get_default_dtype()), y, PAD).double()
    for name, each in nats.items():
        total = run.gather(each, len(pairs)).sum().item()
        found[f"{split}_nll_{name}"] = total / len(pairs)
        found[f"{split}_ppl_{name}"] = math.exp(min(total / pairs.target.lengths.sum().item(), 700))
    return found


def translate(run: Run, model: nn.Module, name: str, source: Ragged, K: int, forbidden: tuple[int, ...] = ()) -> Tensor:
    """What `beam_search` finds for each source sentence, padded, on the CPU: (n, L)."""
    mine = torch.arange(len(source))[run.share(len(source))]
    found = torch.full((len(mine), 3 * int(source.lengths.max())), PAD, device=run.device)
    with run.evaluating(model) as nets:
        for at in by_length(source.lengths[mine], max(64, 4096 // K)):
            words, _ = beam_search(nets[name], source.padded(mine[at]), end=END, K=K, forbidden=forbidden)
            found[at.to(run.device), : words.shape[1]] = words
    return run.gather(found, len(source)).cpu()


# BLEU by sums over sentences, so that parts and resamples of a test set cost nothing.


def statistics(hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Of each sentence (tokens between spaces) its n-grams, n = 1 to 4, that the reference has; all of them; lengths: (n, 10)."""
    rows = []
    for ours, theirs in zip(map(str.split, hypotheses), map(str.split, references), strict=True):
        grams = [[Counter(zip(*(side[i:] for i in range(n)), strict=False)) for side in (ours, theirs)] for n in range(1, 5)]
        rows.append([*((a & b).total() for a, b in grams), *(a.total() for a, _ in grams), len(ours), len(theirs)])
    return np.array(rows, np.int64).reshape(len(rows), 10)


def score(sums: np.ndarray) -> np.ndarray:
    """BLEU in % of statistics that were added up (..., 10): 0 without a common 4-gram, as multi-bleu.perl; nan of no sentence."""
    right, all_, ours, theirs = sums[..., :4], sums[..., 4:8], sums[..., 8], sums[..., 9]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(right > 0, np.log(right / np.maximum(all_, 1)), -np.inf).mean(-1)
        brevity = np.minimum(0, 1 - theirs / np.maximum(ours, 1e-9))
        return np.where(theirs > 0, 100 * np.exp(precision + brevity), np.nan)


def gains(search: np.ndarray, encdec: np.ndarray, long: np.ndarray) -> dict[str, float]:
    """By how much RNNsearch's BLEU is larger, and by how much that is more for the `long` sentences (n,) than for the others.

    The standard error of both is by resampling the sentences.
    """

    def gain(often: np.ndarray) -> np.ndarray:
        return score(often @ search) - score(often @ encdec)

    n = len(long)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES)  # how often each sentence is in a resample
    growths = [gain(often * long) - gain(often * ~long) for often in (np.ones((1, n), np.int64), drawn)]
    return {
        "attention_gain": float(gain(np.ones(n, np.int64))), "attention_gain_noise": float(gain(drawn).std(ddof=1)),
        "gain_growth": float(growths[0][0]), "gain_growth_noise": float(growths[1].std(ddof=1)),
    }  # fmt: skip


def measure(run: Run, model: nn.Module, val: Pairs, test: Pairs, words: tuple[Words, Words]) -> dict[str, float]:
    """Tables 1 and 2 and Fig. 2 for the networks: what the record says."""
    config, (_, val_name, test_name) = run.config, sentences.SPLITS.get(run.config.data, ("", "val", "test"))
    convention = f"{test_name}_{'lc_tokenised' if sentences.lowercase(config) else 'tokenised'}_bleu"
    metrics = log_likelihoods(run, model, val, val_name) | log_likelihoods(run, model, test, test_name)
    known, length = test.known().numpy(), test.source.lengths.numpy() - 1
    bins = np.searchsorted(EDGES.get(config.data, (5,)), length, side="right")
    curves, found = {}, {}
    for K in (1, config.beam):
        how = f"beam{K}" if K > 1 else "greedy"
        sums = {}
        for name in model:
            found[name] = translate(run, model, name, test.source, K)
            lines = words[1].decode(found[name])
            sums[name] = statistics(lines, test.references)
            metrics[f"{convention}_{name}_{how}"] = float(score(sums[name].sum(0)))
            metrics |= run.on_main(lambda: written(run, f"{test_name}_{name}_{how}", lines, test.texts))  # noqa: B023, called at once
        if len(sums) == 2:
            gained = gains(sums["search"], sums["encdec"], length > np.median(length))
            metrics |= {f"{key}_{how}": value for key, value in gained.items()}
    for name in model:
        curves[name] = [float(score(sums[name][bins == i].sum(0))) for i in range(bins.max() + 1)]
        for label, value in zip(labels(bins, length), curves[name], strict=True):
            metrics[f"{convention}_{name}_{how}_words_{label}"] = value
        lines = words[1].decode(translate(run, model, name, test.source, config.beam, forbidden=(UNKNOWN,)))
        metrics[f"{convention}_{name}_no_unk_{how}"] = float(score(statistics(lines, test.references)[known].sum(0)))
    metrics["known"] = 100 * float(known.mean())
    draw_by_length(run, curves, labels(bins, length), f"BLEU, {test_name}, {how}", "bleu-by-length", "words of the source")
    if "search" in model:
        fit = known & (length >= 10) & (length <= 20)
        draw_alignments(run, model["search"], test.source, found["search"], fit, words)
    return metrics


def labels(bins: np.ndarray, length: np.ndarray) -> list[str]:
    """The shortest and the longest source of each bin: 9_to_11."""
    parts = [length[bins == i] for i in range(bins.max() + 1)]
    return [f"{part.min()}_to_{part.max()}" if len(part) else f"none_{i}" for i, part in enumerate(parts)]


def written(run: Run, name: str, lines: list[str], references: list[str]) -> dict[str, float]:
    """sacreBLEU of what is read, tokens put together again. Tokens go to a file of the run's directory."""
    (run.dir / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    kind = "lc_sacrebleu" if (lower := sentences.lowercase(run.config)) else "sacrebleu"
    split, _, how = name.rpartition("_")
    split, _, net = split.rpartition("_")
    found = {f"{split}_{kind}_{net}_{how}": bleu.sacrebleu(readable(lines, run.config), references, lowercase=lower)}
    run.say(", ".join(f"{key} {value:.2f}" for key, value in found.items()))
    return found


def readable(lines: Sequence[str], config: Any) -> list[str]:
    """Moses' tokens as a text that people write."""
    if config.data == "made-up":
        return [*lines]
    from sacremoses import MosesDetokenizer

    put_together = MosesDetokenizer(config.target)
    return [put_together.detokenize(line.split()) for line in lines]


def measure_sequences(run: Run, model: nn.Module, test: Pairs) -> dict[str, float]:
    """Sequences without a mistake, and symbols in their places, in %: of lengths that were learned from, and of longer ones."""
    longest, metrics, curves = run.config.max_length, {}, {}
    wanted, length = test.target.padded(torch.arange(len(test))).cpu(), test.source.lengths - 1
    for name in model:
        found = translate(run, model, name, test.source, 1)[:, : wanted.shape[1]]
        right = (found == wanted) & (wanted != PAD)
        shares = {"whole": (found == wanted).all(1).double(), "symbols": right.double().sum(1) / (length + 1)}
        for what, share in shares.items():
            metrics[f"{what}_{name}_within"] = 100 * share[length <= longest].mean().item()
            metrics[f"{what}_{name}_beyond"] = 100 * share[length > longest].mean().item()
        curves[name] = [100 * shares["whole"][length == n].mean().item() for n in range(1, 2 * longest + 1)]
        if name == "search":
            symbols = Words([str(i) for i in range(run.config.vocabulary)])
            draw_alignments(run, model[name], test.source, found, (length == 2 * longest).numpy(), (symbols, symbols))
    if len(curves) == 2:
        metrics["gain_within"] = metrics["whole_search_within"] - metrics["whole_encdec_within"]
        metrics["gain_beyond"] = metrics["symbols_search_beyond"] - metrics["symbols_encdec_beyond"]
    ticks = [str(n) for n in range(1, 2 * longest + 1)]
    draw_by_length(run, curves, ticks, "% written without a mistake", "right-by-length", "symbols")
    return metrics


def draw_by_length(run: Run, curves: dict[str, list[float]], ticks: Sequence[str], what: str, name: str, axis: str) -> None:
    """Fig. 2."""
    styles = {"search": "-o", "encdec": "--o"}
    lines = {NAMES[net]: (range(len(ticks)), values, styles[net]) for net, values in curves.items()}
    figure = figures.curves(lines, {}, xlabel=axis, ylabel=what, title=f"{run.name}, seed {run.seed}", ylim=(0, None))
    every = 1 if len(ticks) <= 10 else 2
    figure.axes[0].set_xticks(range(0, len(ticks), every), [tick.replace("_to_", "–") for tick in ticks[::every]], fontsize="small")
    run.save_figure(figure, name)


def alignments(net: EncoderDecoder, source: Tensor, found: Tensor, words: tuple[Words, Words]) -> "Figure":
    """Fig. 3: rows are the words that were written, columns those that were read, of padded sentences (n, S), (n, L)."""
    panels = []
    for x, y in zip(source, found, strict=True):
        x, y = x[x != PAD], y[y != PAD]
        alpha = net.decode(x[None], y[None])[1][0]
        panels.append((alpha, *([w.words[i] for i in side.tolist()] for w, side in ((words[1], y), (words[0], x))), ""))
    return figures.attention(panels)


def draw_alignments(
    run: Run, net: EncoderDecoder, source: Ragged, found: Tensor, fit: np.ndarray, words: tuple[Words, Words]
) -> None:
    """Of the first four sentences that fit: as in the paper 10 to 20 words, none of them unknown."""
    rows = torch.from_numpy(fit.nonzero()[0][:4])
    rows = rows if len(rows) else torch.arange(min(4, len(fit)))
    with run.evaluating(net) as quiet:
        run.save_figure(alignments(quiet, source.padded(rows), found[rows].to(run.device), words), "alignments")
