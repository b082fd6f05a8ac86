"""Images and captions: the emoji drawings and CIFAR-10 on the device, any other pairs by worker processes."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.data import cifar, fetch, folders, standin
from common.data.images import crop, draw_crops, normalised, windows
from common.data.order import mix
from common.data.rows import is_text, lines, reading
from common.data.workers import Reader
from common.errors import BadInput
from common.run import Run
from papers.clip import pairs, tokenizer
from papers.clip.tokenizer import Tokenizer
from papers.clip.zeroshot import CIFAR, MEAN, NAMES, STD, Set, load_set, prepared, random_square, shown

PAD = 4  # pixels of background around an image, which a random crop of its own size then may show
EMOJI = "emoji-captions"
DRAWN = ("noto", "openmoji", "blobmoji", "emojitwo", "twemoji")  # sets of drawings
UNSEEN = {"test": "twemoji", "val": "emojitwo"}  # the set that zero-shot classification is about; the test's is never trained on
GET = "put the folder there, captions.jsonl and the images that it names; the other experiments run without"


class Pairs(NamedTuple):
    """Images, each with the caption of its place: of concepts that no training image shows."""

    images: Tensor  # (n, H, W, 3), uint8
    tokens: Tensor  # (n, T)


class Data(NamedTuple):
    """A data set as `train` goes through it."""

    n: int  # training images
    reader: Reader | None  # of these; None: they are on the device
    # step, what is drawn or read for it -> images (b, 3, H, W), tokens (b, T), labels (b,)
    shown: Callable[[int, Any], tuple[Tensor, ...]]
    labels: Tensor | None = None  # (n,) of concepts, on the CPU; captions of the same are right for one another
    vocabulary: Tokenizer | None = None
    context: int = tokenizer.CONTEXT
    side: int = 224
    # what it is tested on
    look: Callable[[Tensor], Tensor] = lambda x: x  # images (b, H, W, 3), uint8 -> as the nets see them
    test: Pairs | None = None  # images with their labels in place of tokens
    prompts: Sequence[Tensor] = ()  # of each class
    retrieval: dict[str, Pairs] = {}  # set of drawings -> those of the held-out concepts
    zero_shot: tuple[Set, Callable] | None = None


def texts(run: Run, captions: Sequence[str], size: int) -> tuple[Tokenizer, Tensor, int]:
    """The vocabulary of so many tokens, the captions' tokens (n, T), and how many were cut."""
    run.on_main(lambda: tokenizer.download(run.data_dir, size))
    found = tokenizer.load(run.data_dir, size)
    return found, *found(captions)


def on_device(run: Run, images: Tensor, fill: int) -> tuple[Callable, Callable]:
    """(step, index) -> random crops of images, padded by `fill`; and images -> whole ones; both normalised as all models see them.

    Sec. 2.4: "A random square crop from resized images is the only data augmentation".
    """
    N, side = run.config.batch_size, images.shape[1]
    padded = torch.full((len(images), side + 2 * PAD, side + 2 * PAD, 3), fill, dtype=torch.uint8)
    padded[:, PAD:-PAD, PAD:-PAD] = images
    mean, scale = (255 * torch.tensor(each, device=run.device) for each in (MEAN, STD))
    crops = windows(padded.to(run.device), size=side)
    means = windows(mean.expand(side + 2 * PAD, side + 2 * PAD, 3), size=side)

    def cropped(step: int, index: Tensor) -> Tensor:
        draws = draw_crops(N, 2 * PAD + 1, run.seed, step)[run.share(N)]
        draws[:, 2] = 0  # no flips: there is left and right in captions
        return crop(crops, means, index, draws.to(run.device, non_blocking=True), scale[:, None, None])

    return cropped, lambda some: normalised(some, mean, scale)


def read_emoji(data_dir: Path) -> tuple[list[dict[str, Any]], Tensor, str]:
    """The lines of captions.jsonl, their images (n, 64, 64, 3), a sha256 of all. Raises BadInput: it is missing or damaged."""
    root = data_dir / EMOJI
    with reading("emoji", root / "captions.jsonl", GET):
        rows = [json.loads(line) for line in lines(root / "captions.jsonl")]
        missing = [row["file"] for row in rows if not (root / row["file"]).exists()]
    if missing:
        raise BadInput(f"emoji: {root / missing[0]} is missing, and {len(missing) - 1:,} more: {GET}")
    if empty := [row["file"] for row in rows if not is_text(row["caption"])]:
        raise BadInput(f"emoji: the caption of {empty[0]} is empty: give it one, or take its line away")
    paths = [root / row["file"] for row in rows]
    from torchvision.transforms.functional import pil_to_tensor

    images = [pil_to_tensor(folders.decoded(path.read_bytes(), f"emoji: {path}")).permute(1, 2, 0) for path in paths]
    return rows, torch.stack(images), fetch.sha256(root / "captions.jsonl", *paths)


def emoji(run: Run) -> Data:
    """Drawings of concepts with their names in Unicode as captions.

    Training: the concepts of the split `train`, as all sets but one draw them. Zero-shot: the same concepts in that set, among all
    their names. Retrieval: the concepts of the split `test`, in each of the training's sets. Of --judged-on val the set left out
    is another, the concepts are those of `val`, and the test's are not looked at.
    """
    config = run.config
    rows, images, sha256 = read_emoji(run.data_dir)
    unseen = UNSEEN[config.judged_on]
    seen = [name for name in DRAWN if name not in {unseen, UNSEEN["test"]}]
    chosen = lambda split, *sets: [i for i, row in enumerate(rows) if row["split"] == split and row["set"] in sets]
    train, test = chosen("train", *seen), chosen("train", unseen)
    held = {name: chosen(config.judged_on, name) for name in seen}
    codes = sorted({rows[i]["code"] for i in train})
    names = {row["code"]: row["caption"] for row in rows}
    every = [*codes, *sorted({*names} - {*codes})]
    place = {code: i for i, code in enumerate(every)}  # of its caption among all
    vocabulary, tokens, cut = texts(run, [names[code] for code in every], config.vocabulary)
    run.describe_data(
        name=f"emoji drawings, without {unseen}", sha256=sha256, train=len(train), test=len(test), stand_in=False,
        concepts=len(codes), held_out_concepts=len({rows[i]["code"] for each in held.values() for i in each}), captions_cut=cut,
    )  # fmt: skip
    labels = torch.tensor([place[rows[i]["code"]] for i in train])
    cropped, look = on_device(run, images[train], 255)
    on, own = labels.to(run.device), tokens[: len(codes)].to(run.device)

    def seen_now(step: int, index: Tensor) -> tuple[Tensor, ...]:
        index = index.to(run.device, non_blocking=True)
        return cropped(step, index), own[on[index]], on[index]

    pairs_of = lambda some: Pairs(images[some].to(run.device), tokens[[place[rows[i]["code"]] for i in some]].to(run.device))
    return Data(
        len(train), None, seen_now, labels, vocabulary, tokens.shape[1], 64, look,
        Pairs(images[test].to(run.device), torch.tensor([place[rows[i]["code"]] for i in test], device=run.device)),
        [each[None] for each in own], {name: pairs_of(some) for name, some in held.items()},
    )  # fmt: skip


def cifar10(run: Run) -> Data:
    """CIFAR-10, or stand-in images for tests, with captions of their classes in the 18 templates of the authors' prompts."""
    config, made_up = run.config, run.config.data == "made-up"
    if made_up:
        data = cifar.CIFAR(*standin.images(256, 0), *standin.images(100, 1), sha256="")
    else:
        run.on_main(lambda: cifar.fetch(run.data_dir))
        data = cifar.load(run.data_dir)
    images, labels, test_images, test_labels = data.train_images, data.train_labels, data.test_images, data.test_labels
    if config.judged_on == "val":
        part = len(images) - len(images) // 5
        images, labels, test_images, test_labels = images[:part], labels[:part], images[part:], labels[part:]
    classes = NAMES["cifar10"].split()
    templates = ["{}"] if made_up else CIFAR
    captions = [template.format(name) for name in classes for template in templates]
    vocabulary, tokens, cut = texts(run, captions, config.vocabulary)
    held = ", held out: 10,000 of the training images" * (config.judged_on == "val")
    run.describe_data(
        name="cifar10 with captions of templates" + held, sha256=data.sha256, train=len(images), test=len(test_images),
        stand_in=made_up, captions_cut=cut,
    )  # fmt: skip
    cropped, look = on_device(run, images, 0)
    N, n, on = config.batch_size, len(templates), labels.to(run.device)
    table = tokens.to(run.device)

    def seen_now(step: int, index: Tensor) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(mix(run.seed, "templates", step))
        which = torch.randint(n, (N,), generator=generator)[run.share(N)]
        index, which = (each.to(run.device, non_blocking=True) for each in (index, which))
        return cropped(step, index), table[on[index] * n + which], on[index]

    test = Pairs(test_images.to(run.device), test_labels.to(run.device))
    return Data(len(images), None, seen_now, labels, vocabulary, tokens.shape[1], 32, look, test, table.split(n))


def any_pairs(run: Run) -> Data:
    """WebDataset shards or a folder with captions.jsonl, by worker processes; tested zero-shot, on ImageNet by default."""
    config = run.config
    source = pairs.load(Path(config.pairs) if config.pairs else run.data_dir / config.set, run.data_dir)
    run.on_main(lambda: tokenizer.download(run.data_dir))
    vocabulary, side, test = tokenizer.load(run.data_dir), config.side, load_set(config.test, run.data_dir, config.prompts)
    run.describe_data(
        name=config.set, sha256=source.sha256, train=len(source), test=test.n, test_sha256=test.sha256, stand_in=False,
        complete=len(source) >= config.pairs_in_set,
        shards=f"{len(source.files)}: {source.files[0].name} to {source.files[-1].name}",
    )  # fmt: skip

    def sample(index: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        skipped = 0
        while True:
            try:
                image, caption = source.pair((index + skipped) % len(source))
                break
            except BadInput:
                if not config.skip_broken or skipped == 100:
                    raise
                skipped += 1  # the next one in its place
        tokens, cut = vocabulary([caption])
        padded = torch.nn.functional.pad(tokens[0], (0, tokenizer.CONTEXT - tokens.shape[1]))
        return random_square(image, side, generator), padded, torch.tensor([cut, skipped], dtype=torch.float32)

    def seen_now(step: int, read: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        pixels, tokens, counts = read
        share = counts.clamp(max=1).mean(0) * (100 * len(pixels) * run.processes / config.batch_size)
        run.log(captions_cut=share[0], images_skipped=share[1])
        return shown(pixels, run.device), tokens

    reader = run.reader(sample)
    return Data(len(source), reader, seen_now, None, vocabulary, side=side, zero_shot=(test, prepared(run, test.test, side)))
