"""The Marian weights opus-mt-en-de and opus-mt-de-en (Helsinki-NLP, Hugging Face) in our Transformer, evaluated on newstest sets.

    make evaluate-transformer ARGS=opus-mt-en-de                       # downloaded to data/weights/
    make evaluate-transformer ARGS="path/to/opus-mt-en-de --beam 4"    # a folder that holds the files of the hub
    make evaluate-transformer ARGS="Helsinki-NLP/opus-mt-fr-en --source fr --target en --sets newstest2014"
    torchrun --nproc-per-node=8 -m papers.transformer.pretrained opus-mt-de-en --data-dir /datasets

They are base models of the paper (N 6, d_model 512, h 8, d_ff 2048, one embedding matrix), trained on OPUS instead of WMT14, with
three differences that `Marian` and `from_transformers` make up for: SiLU in place of ReLU, a bias of the logits, and an encoding
of positions that has all sines before all cosines.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from common.bleu import sacrebleu, signature
from common.claims import Claim, Experiment
from common.command import evaluate_weights
from common.data.ragged import ragged
from common.data.translation import Parallel, read_pair
from common.errors import BadInput
from common.files import write_atomic
from common.options import at_least_one
from common.run import Run
from common.weights import TENSORS, check_files, filled, fingerprint, folder_of, read, refused
from papers.transformer.keys import from_transformers
from papers.transformer.model import Transformer
from papers.transformer.translate import translate

if TYPE_CHECKING:
    from transformers import MarianTokenizer

ACTIVATIONS = {"swish": nn.SiLU, "silu": nn.SiLU, "relu": nn.ReLU}
SETTINGS = {  # of config.json: what our model is, or has no place for
    "model_type": "marian",
    "scale_embedding": True,
    "static_position_embeddings": True,
    "normalize_before": False,
    "normalize_embedding": False,
    "add_final_layer_norm": False,
    "share_encoder_decoder_embeddings": True,
    "tie_word_embeddings": True,
}


class Marian(Transformer):
    """Our Transformer with another activation, and a bias of the logits.

    `pad` has no probability. The paper's vocabularies, and Marian's, hold no such token; the conversion to Hugging Face added it,
    with a logit of 0, which must not enter the softmax (transformers: bad_words_ids and renormalize_logits).
    """

    def __init__(self, vocabulary: int, *, activation: str, **sizes: int) -> None:
        super().__init__(vocabulary, **sizes)
        self.bias = nn.Buffer(torch.zeros(vocabulary))
        for layer in [*self.encoder, *self.decoder]:
            layer.feed_forward.relu = ACTIVATIONS[activation]()

    def logits(self, y: Tensor) -> Tensor:
        return super().logits(y) + self.bias


def build(state: Mapping[str, Tensor], *, h: int = 8, pad: int = 58100, activation: str = "swish") -> Marian:
    """The model whose state dict this is, as `from_transformers` gives it, with these weights; other sizes are the tensors'.

    Args:
        h, pad, activation: encoder_attention_heads, pad_token_id and activation_function of config.json, as `settings` reads them.

    Raises:
        ValueError: a tensor is missing, or has a shape that does not fit the others, h or pad.
    """
    embedding, W_1 = (state.get(name) for name in ("embedding.weight", "encoder.0.feed_forward.W_1.weight"))
    depths = [len({key.split(".")[1] for key in state if key.startswith(side)}) for side in ("encoder.", "decoder.")]
    if embedding is None or W_1 is None or depths[0] != depths[1]:
        raise ValueError(f"not a Transformer of ours: {depths[0]} layers of the encoder, {depths[1]} of the decoder")
    (vocabulary, d_model), d_ff = embedding.shape, len(W_1)
    if h < 1 or d_model % h or not 0 <= pad < vocabulary or activation not in ACTIVATIONS:
        facts = f"d_model {d_model}, h {h}, {vocabulary} tokens, pad {pad}, activation {activation}"
        raise ValueError(f"{facts}: h has to divide d_model, pad to be a token, activation to be one of {', '.join(ACTIVATIONS)}")
    model = Marian(vocabulary, activation=activation, N=depths[0], d_model=d_model, d_ff=d_ff, h=h, pad=pad)
    model = filled(model, state, "a Transformer of ours")
    model.bias[pad] = -math.inf
    return model


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a MarianMTModel -> what `build` takes.

    Raises:
        ValueError: it says something that our model is not.
    """
    theirs = {**SETTINGS, "model_type": None, "scale_embedding": False, **config}  # transformers' defaults
    wrong = [f"{name} {theirs[name]}, not {value}" for name, value in SETTINGS.items() if theirs[name] != value]
    same = [("decoder_attention_heads", "encoder_attention_heads"), ("decoder_start_token_id", "pad_token_id")]
    wrong += [f"{one} {theirs.get(one)}, {two} {theirs.get(two)}" for one, two in same if theirs.get(one) != theirs.get(two)]
    names = {"h": "encoder_attention_heads", "pad": "pad_token_id", "activation": "activation_function"}
    wrong += [f"no {name}" for name in (*names.values(), "eos_token_id") if theirs.get(name) is None]
    if wrong:
        raise ValueError(f"config.json has {'; '.join(wrong)}")
    return {ours: theirs[name] for ours, name in names.items()}


@dataclass(frozen=True)
class Weights:
    weights: str
    """opus-mt-en-de, opus-mt-de-en or OWNER/NAME of the Hugging Face hub, to be downloaded, or a folder that holds its files."""
    source: str = "en"
    """Language that is translated, as files of the sets end."""
    target: str = "de"
    """Language that it is translated to."""
    sets: tuple[str, ...] = tuple(f"newstest{year}" for year in (2013, 2015, 2016, 2017, 2018, 2019))
    """Names, for DATA_DIR/newstest/<source>-<target>/NAME.<language> or DATA_DIR/newstest/NAME.<language>, or paths up to the dot
    before the language; a file may end with .gz."""
    beam: int = 6
    """K; a hypothesis is as good as its mean log-probability over its tokens, the end among them."""

    def __post_init__(self) -> None:
        at_least_one(self, "beam")
        names = [Path(name).name for name in self.sets]
        if not all(names) or len({*names}) != len(names) or not names:
            raise ValueError(f"--sets must name different sets, got {' '.join(self.sets) or 'none'}")


def known(name: str, scores: Mapping[int, float]) -> Experiment[Weights]:
    """The BLEU on newstest sets that a model card publishes, year -> BLEU."""
    _, _, source, target = name.split("-")
    why = "the card's scores are of Marian's own decoder; that they are sacreBLEU's, with beam 6, is from memory"
    claims = [
        Claim(f"newstest{year}_sacrebleu_beam6", bleu, "BLEU", f"model card of {name}", tolerance=0.5, why=why, either_way=True)
        for year, bleu in scores.items()
    ]
    return Experiment(
        Weights(name, source, target, tuple(f"newstest{year}" for year in scores)), kind="weights", claims=claims,
        source="Sec. 3, trained on other data", cap="the test sets", cost="half an hour on one A100 or so, a guess; not run here",
    )  # fmt: skip


WEIGHTS = {
    "weights-opus-mt-en-de": known("opus-mt-en-de", {2013: 26.9, 2015: 31.1, 2016: 37.0, 2017: 29.9, 2018: 45.2, 2019: 40.9}),
    "weights-opus-mt-de-en": known(
        "opus-mt-de-en", {2013: 32.1, 2014: 34.0, 2015: 34.2, 2016: 40.4, 2017: 35.7, 2018: 43.7, 2019: 40.1}
    ),
}
FILES = ("config.json", "vocab.json", "source.spm", "target.spm")


ADVICE = (
    f"name one of {', '.join(name.removeprefix('weights-') for name in WEIGHTS)}, or a folder that holds {', '.join(FILES)} and "
    f"{' or '.join(TENSORS)}"
)


def fetch(weights: str, cache: Path) -> Path:
    """The folder of these weights, downloaded to `cache` if `weights` is none.

    Raises:
        BadInput: it cannot be had; says why, and what to do.
    """
    repository = f"Helsinki-NLP/{weights}" if f"weights-{weights}" in WEIGHTS and not Path(weights).exists() else weights
    with refused(weights, ADVICE):
        return folder_of(repository, cache, (*FILES, "tokenizer_config.json"))


def load(weights: str, folder: Path) -> "tuple[Marian, MarianTokenizer]":
    """The model and the tokens of a folder, which `fetch` gives for `weights`.

    Raises:
        BadInput: files are missing, damaged, or of another model; says which.
    """
    with refused(weights, ADVICE):
        from transformers import MarianTokenizer

        check_files(folder, FILES)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model = build(from_transformers(read(folder, folder)), **settings(config))
        tokenizer = MarianTokenizer.from_pretrained(folder)
        theirs = (tokenizer.vocab_size, tokenizer.pad_token_id, tokenizer.eos_token_id)
        if theirs != (expected := (len(model.bias), model.pad, config["eos_token_id"])):
            raise ValueError(f"vocab.json has (size, pad, end) {theirs}, the model {expected}")
        return model, tokenizer


def cleaner() -> Callable[[str], str]:
    """What OPUS-MT-train's preprocess-spm.sh does to a source: punctuation as in ASCII, no control characters, single spaces."""
    from sacremoses import MosesPunctNormalizer

    replaced = MosesPunctNormalizer().replace_unicode_punct

    def clean(text: str) -> str:
        text = "".join(" " if unicodedata.category(character)[0] == "C" else character for character in replaced(text))
        return re.sub(" +", " ", text).strip(" ")

    return clean


def find(config: Weights, data_dir: Path) -> dict[str, Parallel]:
    """The sets that are there, by name.

    Raises:
        BadInput: none is; says where it was looked for, and how to get one. One that is there is damaged.
    """
    folder, pair, there = data_dir / "newstest", f"{config.source}-{config.target}", {}
    for name in config.sets:
        for prefix in (folder / pair / name, folder / name, Path(name)):
            plain = [Path(f"{prefix}.{language}") for language in (config.source, config.target)]
            files = [path if path.exists() else Path(f"{path}.gz") for path in plain]
            if all(path.exists() for path in files):
                there[Path(name).name] = read_pair(*files, name=Path(name).name)
                break
    if not there:
        to, name = (folder / pair).absolute(), Path(config.sets[0]).name
        wmt = f"wmt{name[-2:]}" if re.fullmatch(r"newstest20\d\d", name) else "wmt13"
        raise BadInput(
            f"none of {', '.join(config.sets)} is there (looked for {name}.{config.source} and {name}.{config.target}, plain or "
            f".gz, and so on, in {to} and {folder.absolute()}): get them with `sacrebleu -t {wmt} -l {pair} --echo src > "
            f"{to / name}.{config.source}` and `--echo ref > {to / name}.{config.target}` (2014 is wmt14/full), or name paths with "
            "--sets"
        )
    return there


def main(run: Run[Weights]) -> dict[str, float]:
    config = run.config
    sets = find(config, run.data_dir)
    folder = run.on_main(lambda: fetch(config.weights, run.data_dir / "weights"))
    model, tokenizer = load(config.weights, folder)
    if (tokenizer.source_lang, tokenizer.target_lang) == (config.target, config.source):
        raise BadInput(
            f"{config.weights} translates {config.target} to {config.source}: add --source {config.target} --target {config.source}"
        )
    clean, metrics = cleaner(), {}
    sha256, n = {name: pairs.sha256 for name, pairs in sets.items()}, {name: len(pairs) for name, pairs in sets.items()}
    run.describe_data(
        name="newstest", train=0, test=sum(n.values()), sets=n, sha256=sha256, bleu=signature(), stand_in=False,
        weights_sha256=fingerprint(model),
    )  # fmt: skip
    model = model.to(run.device)
    for name in (Path(each).name for each in config.sets):
        metric = f"{name}_sacrebleu_beam{config.beam}"
        if name not in sets:
            run.say(f"{metric}: no {name}.{config.source} and {name}.{config.target} there, not measured")
            metrics[metric] = math.nan
            continue
        sources = ragged(tokenizer([clean(text) for text in sets[name].source]).input_ids).to(run.device)  # each with its end
        rows = translate(
            run, model, sources, K=config.beam, start=model.pad, end=tokenizer.eos_token_id, extra=50, penalty=lambda length: length
        )
        texts = tokenizer.batch_decode(
            rows.tolist(), skip_special_tokens=True, use_source_tokenizer=False, clean_up_tokenization_spaces=False
        )  # fmt: skip
        metrics[metric] = sacrebleu(texts, sets[name].target)
        run.say(f"{metric} {metrics[metric]:.2f}, of {len(texts):,} sentences, {signature()}")
        if run.main:
            write_atomic(run.dir / f"{name}.txt", "".join(f"{text}\n" for text in texts).encode())
    return metrics


if __name__ == "__main__":
    evaluate_weights(WEIGHTS, main)
