"""Zero-shot classification (Sec. 3.1.4) of the sets of Table 11 that are here, and of any folder of images."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from common.data import cifar, fetch, folders, imagenet, mnist
from common.data.images import BICUBIC, CENTRE, normalised, resize, views
from common.data.rows import reading
from common.errors import BadInput
from common.run import Run
from papers.clip.model import CLIP, VisionTransformer, zero_shot_classifier
from papers.clip.tokenizer import Tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of the authors' code, in units of 255
SETS = ("cifar10", "cifar100", "mnist", "stl10", "imagenet")

# The authors' names and templates (data/prompts.md of openai/CLIP).
KINDS = ("", "blurry ", "black and white ", "low contrast ", "high contrast ", "bad ", "good ")
CIFAR = [f"a {kind}photo of {article} {{}}." for article in ("a", "the") for kind in KINDS]
CIFAR += [f"a photo of {article} {size} {{}}." for article in ("a", "the") for size in ("small", "big")]
TEMPLATES = {
    "cifar10": CIFAR, "cifar100": CIFAR, "mnist": ['a photo of the number: "{}".'],
    "stl10": ["a photo of a {}.", "a photo of the {}."],
}  # fmt: skip
NAMES = {
    "cifar10": "airplane automobile bird cat deer dog frog horse ship truck",
    "cifar100": "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
    "caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant "
    "flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree "
    "motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate "
    "poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider "
    "squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle "
    "wardrobe whale willow_tree wolf woman worm",
    "mnist": "0 1 2 3 4 5 6 7 8 9",
    "stl10": "airplane bird car cat deer dog horse monkey ship truck",
}


class Images(NamedTuple):
    """Images with labels: image(i), i below n."""

    n: int
    image: Callable[[int], "Image"]
    labels: Tensor  # (n,), int64


class Set(NamedTuple):
    """A test set and what its classes are called."""

    name: str
    n: int
    test: Images
    classes: Sequence[str]
    templates: Sequence[str]
    sha256: str
    train: Images | None = None


def in_memory(images: Tensor, labels: Tensor) -> Images:
    """images: (n, H, W) or (n, H, W, 3), uint8."""
    from PIL import Image

    return Images(len(images), lambda i: Image.fromarray(images[i].numpy()).convert("RGB"), labels.long())


def load_set(name: str, data_dir: Path, prompts: str = "") -> Set:
    """One of SETS, or a folder with a folder of images for each class; prompts: a file with the classes and templates of a folder.

    Raises:
        BadInput: it is not there or damaged, or the prompts do not fit it.
    """
    classes = [each.replace("_", " ") for each in NAMES.get(name, "").split()]
    if name in ("cifar10", "cifar100"):
        data = cifar.load(data_dir, int(name.removeprefix("cifar")))
    elif name == "mnist":
        data = mnist.load(data_dir)
    elif name == "stl10":
        return stl10(data_dir, classes)
    else:
        data = imagenet.load(data_dir, "val") if name == "imagenet" else folders.load(Path(name), name)
        classes, templates = named(data.classes, name, prompts)
        return Set(Path(name).name, len(data), Images(len(data), data.image, data.labels), classes, templates, data.sha256)
    test = in_memory(data.test_images, data.test_labels)
    return Set(name, test.n, test, classes, TEMPLATES[name], data.sha256, in_memory(data.train_images, data.train_labels))


def stl10(data_dir: Path, classes: Sequence[str]) -> Set:
    """Raises BadInput: it is neither there nor to be had."""
    from torchvision.datasets import STL10

    found = []
    for split in ("train", "test"):
        with reading("STL-10", data_dir, "get stl10_binary.tar.gz and unpack it there, or leave stl10 out of --sets"):
            try:
                data = STL10(str(data_dir), split)
            except RuntimeError as error:  # of torchvision, for what is missing
                raise ValueError(str(error)) from error
        found.append(in_memory(torch.from_numpy(data.data).permute(0, 2, 3, 1), torch.from_numpy(data.labels)))
    files = [data_dir / "stl10_binary" / f"{split}_X.bin" for split in ("train", "test")]
    return Set("stl10", found[1].n, found[1], classes, TEMPLATES["stl10"], fetch.sha256(*files), found[0])


def named(folder: int | Sequence[str], name: str, prompts: str) -> tuple[Sequence[str], Sequence[str]]:
    """Names and templates: of the file `prompts`, of ImageNet's as open_clip_torch has them, or of the folders themselves."""
    n = folder if isinstance(folder, int) else len(folder)
    if prompts:
        with reading("prompts", Path(prompts), 'a file {"classes": [...], "templates": ["a photo of a {}."]} is wanted'):
            found = json.loads(Path(prompts).read_text(encoding="utf-8"))
            classes, templates = found["classes"], found["templates"]
        if len(classes) != n or not all("{}" in template for template in templates) or not templates:
            raise BadInput(f"{prompts}: {len(classes)} classes for the {n} of {name}, or templates without {{}}: mend it")
        return classes, templates
    if name == "imagenet":
        if n != 1000:
            raise BadInput(
                f"ImageNet: {n:,} classes in its folder, not 1,000, so that names would be wrong: give them with --prompts"
            )
        try:
            from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES
        except ImportError as error:
            raise BadInput("ImageNet's edited names are in open_clip_torch: install it, or name a file with --prompts") from error
        return IMAGENET_CLASSNAMES, [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
    return [each.replace("_", " ") for each in folder], ["a photo of a {}."]


def side_of(model: CLIP) -> int:
    """Pixels that a model sees."""
    image = model.image_encoder
    if isinstance(image, VisionTransformer):
        return round((len(image.positional_embedding) - 1) ** 0.5) * image.conv1.kernel_size[0]
    return round((len(image.attnpool.positional_embedding) - 1) ** 0.5) * 32


def preprocessed(image: "Image", side: int) -> Tensor:
    """The centre of an image whose shorter side is `side`, by PIL's bicubic filter: (side, side, 3), uint8."""
    return views(resize(image, side, BICUBIC), side, CENTRE)[0]


def shown(pixels: Tensor, device: torch.device) -> Tensor:
    """As all models see images: (B, H, W, 3) uint8 -> (B, 3, H, W)."""
    mean, std = (255 * torch.tensor(each, device=device) for each in (MEAN, STD))
    return normalised(pixels.to(device), mean, std).contiguous()  # a ViT is a tenth faster so than with channels last


def random_square(image: "Image", side: int, generator: torch.Generator) -> Tensor:
    """Sec. 2.4: a random square of an image whose shorter side is `side`: (side, side, 3), uint8."""
    at = torch.rand(2, generator=generator, dtype=torch.float32).tolist()
    return views(resize(image, side, BICUBIC), side, (at,))[0]


def prepared(run: Run, images: Images, side: int, size: int = 100) -> Callable[[], Iterator[Tensor]]:
    """This process's share of images, read by worker processes, which are there from now on: (b, 3, side, side)."""
    reader = run.reader(lambda i, _: (preprocessed(images.image(i), side),))
    return lambda: (shown(pixels, run.device) for (pixels,) in run.examples(reader, images.n, size))


def classifier(model: CLIP, classes: Sequence[str], templates: Sequence[str], tokenizer: Tokenizer, device: torch.device) -> Tensor:
    """(K, E), of the classes' names in all templates (Sec. 3.1.4)."""
    context = len(model.text_encoder.positional_embedding)
    texts = [[template.format(name) for template in templates] for name in classes]
    return zero_shot_classifier(model, [tokenizer(each, context)[0].to(device) for each in texts])


def zero_shot(run: Run, model: CLIP, data: Set, tokenizer: Tokenizer, images: Callable[[], Iterator[Tensor]]) -> dict[str, float]:
    """Accuracy in % on `images`, its test set as `prepared` has it; of the five likeliest as well where there are more than ten."""
    hits = []
    with run.evaluating(model) as net:
        W = classifier(net, data.classes, data.templates, tokenizer, run.device)
        for some in images():
            hits.append((net.encode_image(some).to(W.dtype) @ W.mT).topk(min(5, len(W))).indices)
    labels = data.test.labels[run.share(data.n)].to(run.device)
    hits = run.gather(torch.cat(hits) == labels[:, None], data.n)
    found = {"accuracy": 100 * hits[:, 0].double().mean().item(), "top5_accuracy": 100 * hits.any(1).double().mean().item()}
    return found if len(data.classes) > 10 else {"accuracy": found["accuracy"]}
