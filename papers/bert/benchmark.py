"""Speed of fine-tuning, of inference and of masking, as ratios measured in one process.

    make benchmark-bert [ARGS=data]     # on MRPC and weights of that folder, where they are; some minutes on one CPU core

Fine-tuning: transformers' network in its Trainer's step, with every text padded to 128 tokens as its run_glue.py does and as the
authors' code, padded to the longest of a batch only, and finetune.py, with the same examples in bf16.
"""

import copy
import logging
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.benchmark import compare
from common.data import standin
from common.data.glue import Labelled
from common.data.order import permuted
from common.errors import BadInput
from papers.bert import pretrained, tasks, vocabulary
from papers.bert.adam import Adam
from papers.bert.finetune import loss
from papers.bert.model import Bert, Classifier, masked
from papers.bert.pretrained import from_transformers
from papers.bert.tasks import Examples

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FULL = 128


def networks(device: torch.device, V: int = 30_522) -> tuple[nn.Module, nn.Module]:
    """transformers' classifier of MiniLM's size with fused attention, and ours, with the same random weights."""
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
    theirs = BertForSequenceClassification(BertConfig(vocab_size=V, attn_implementation="sdpa", num_labels=2, **sizes))
    ours = Classifier(Bert(V, L=6, D=384, h=12, gelu="none"), 2)
    ours.load_state_dict(from_transformers(theirs.state_dict()))
    return theirs.to(device), ours.to(device)


def texts(data_dir: Path, device: torch.device) -> "tuple[Examples, Tokenizer]":
    """MRPC in MiniLM's word pieces, or stand-in pairs about as long in pieces of their own."""
    try:
        _, tokenizer = pretrained.load("all-MiniLM-L6-v2", pretrained.folder("all-MiniLM-L6-v2", data_dir))
        data = tasks.read("mrpc", data_dir, "train")
    except BadInput as error:
        print(f"stand-in pairs ({str(error)[:90]}...)")
        lines = [" ".join(standin.text(40_000).split()[i : i + 22]) for i in range(0, 5000, 20)]
        tokenizer = vocabulary.learn(lines, 200)
        data = Labelled([*pairwise(lines)], [i % 2 for i in range(len(lines) - 1)], "")
    return tasks.examples(data, tokenizer, FULL, 2, device), tokenizer


def wide(batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same batch, padded to FULL."""
    *parts, labels = batch
    return *(F.pad(each, (0, FULL - each.shape[1])) for each in parts), labels


Batches = list[tuple[Tensor, ...]]


def updates(
    model: nn.Module, forward: Callable[..., Tensor], optimizer: torch.optim.Optimizer, batches: Batches, device: torch.device
) -> Callable[[], None]:
    """A block of updates, one with each of the batches."""

    def block() -> None:
        for tokens, segments, real, labels in batches:
            with torch.autocast(device.type, torch.bfloat16):
                y = forward(tokens, segments, real)
            loss(y, labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    model.train()
    return block


def main() -> None:
    torch.manual_seed(0)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data, tokenizer = texts(Path(sys.argv[1] if len(sys.argv) > 1 else "data"), device)
    theirs, ours = networks(device, max(tokenizer.get_vocab_size(), 1000))
    n, B = (20, 32) if device.type == "cuda" else (2, 32)
    batches = [data.batch(permuted(len(data), 0, i * B, (i + 1) * B)) for i in range(n)]
    longest = sum(each[0].shape[1] for each in batches) / n
    reference = lambda net: lambda tokens, segments, real: net(tokens, attention_mask=real.long(), token_type_ids=segments).logits
    print(f"6 layers, D 384, batches of {B}, {longest:.0f} tokens long on the mean, bf16")
    with torch.no_grad():
        found = [F.cross_entropy(f(*b[:3]), b[3]) for f, b in (
            (reference(theirs.eval()), batches[0]), (reference(theirs), wide(batches[0])), (ours.eval(), batches[0]))]  # fmt: skip
    assert max(found) - min(found) < 1e-5 * max(found), found
    print(f"the same loss from the same weights, in fp32: {', '.join(f'{each:.6f}' for each in found)}")
    second = copy.deepcopy(theirs)
    adamw, full = [torch.optim.AdamW(net.parameters(), 1e-5, fused=True) for net in (theirs, second)], [wide(b) for b in batches]
    variants = {  # the Trainer's default optimizer
        f"transformers, padded to {FULL}": updates(theirs, reference(theirs), adamw[0], full, device),
        "transformers, padded to the longest": updates(second, reference(second), adamw[1], batches, device),
        "finetune.py": updates(ours, ours, Adam(ours, 1e-5), batches, device),
    }
    compare(variants, n * B, "examples", blocks=3)

    def inference(forward: Callable[..., Tensor]) -> Callable[[], None]:
        def block() -> None:
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
                for tokens, segments, real, _ in batches:
                    forward(tokens, segments, real)

        return block

    tokens = sum(int(each[2].sum()) for each in batches)
    variants = {"transformers, fused attention, inference": inference(reference(theirs.eval())), "ours": inference(ours.eval())}
    compare(variants, tokens, "tokens", blocks=3)
    masking(tokenizer, device)


def masking(tokenizer: "Tokenizer", device: torch.device, B: int = 256, T: int = 128) -> None:
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    names = {name: f"[{name[:-6].upper()}]" for name in ("pad_token", "cls_token", "sep_token", "mask_token", "unk_token")}
    collator = DataCollatorForLanguageModeling(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names))
    rows = torch.randint(5, tokenizer.get_vocab_size(), (B, T))
    rows[:, 0], rows[:, T // 2], rows[:, -1] = (tokenizer.token_to_id(each) for each in ("[CLS]", "[SEP]", "[SEP]"))
    there, able = rows.to(device), torch.ones(B, T, dtype=torch.bool, device=device)
    able[:, [0, T // 2, -1]] = False
    features = [{"input_ids": row.tolist()} for row in rows]
    mask, V = tokenizer.token_to_id("[MASK]"), tokenizer.get_vocab_size()
    variants = {
        "transformers' collator": lambda: collator(features),
        "model.py's masked": lambda: masked(there, able, torch.rand(3, B, T, device=device), mask=mask, V=V),
    }
    compare(variants, B, "sequences masked")


if __name__ == "__main__":
    main()
