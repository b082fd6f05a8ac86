"""DCGANs of images without labels: rooms and faces at 64 pixels (Sec. 4), and discriminators as feature extractors (Sec. 5)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from common import figures
from common.data import cifar, folders, imagenet, standin
from common.data.fetch import found, sha256
from common.data.images import normalised, pixels, resize
from common.data.order import mix, permuted, shuffled
from common.data.workers import Reader
from common.errors import BadInput
from common.options import at_least_one
from common.run import Run
from papers.dcgan.features import Labelled, Sets, judge
from papers.dcgan.model import dcgan32, dcgan64, dcgan_svhn, guided_backpropagation
from papers.dcgan.pictures import animate
from papers.dcgan.updates import Config, Pair, epoch_ends

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = {"lsun": 64, "faces": 64}  # pixels; the others: 32
NETWORKS = {"lsun": dcgan64, "faces": dcgan64, "imagenet": dcgan32, "cifar10": dcgan32, "svhn": dcgan_svhn, "made-up": dcgan_svhn}


@dataclass(frozen=True)
class Images(Config):
    """Of nets without labels. Rates are constant in the paper's experiments."""

    data: Literal["lsun", "faces", "imagenet", "cifar10", "svhn", "made-up"] = "lsun"
    """What is learned from. lsun, faces: folders of images below --data-dir; made-up: stand-in images, for tests."""
    epochs: int = 5
    decay: int = 0
    l2: float = 1e-5
    prior: Literal["uniform", "normal"] = "uniform"
    """Of z."""
    width: int = 128
    """Feature maps of the discriminator's first layer."""
    labelled: tuple[int, ...] = ()
    """Labels of each class that an SVM on features learns from, once for each number; 0: all. Of CIFAR-10, or of SVHN."""
    trials: int = 10
    """Draws of these labels by which its C is chosen (code)."""
    draws: int = 100
    """Draws of labels over which its error is averaged (code)."""
    controls: bool = False
    """Judge a discriminator with random weights, and pixels, too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "width", "trials", "draws")
        if any(n < 0 for n in self.labelled) or (self.labelled and self.data in SIDE):
            raise ValueError(f"--labelled {self.labelled}: numbers of labels, of a set that has some, which {self.data} has not")


class Data(NamedTuple):
    """n images to learn from: on the device (n, H, W, 3), or read by workers; and where there are labels, the sets of Sec. 5."""

    n: int
    images: Tensor | None
    reader: Reader | None
    sets: Sets | None


def train(run: Run[Images]) -> dict[str, float]:
    config, B = run.config, run.config.batch_size
    data = load(run)
    ends = epoch_ends(config, data.n)  # updates -> epoch
    G, D = NETWORKS[config.data](config.Z, config.width)
    pair, draw, steps = Pair(run, G, D), shuffled(data.n, B, run.seed), max(ends)
    for step, drawn in run.loaded(data.reader, draw, steps=steps) if data.reader else run.indices(draw, steps=steps):
        images = drawn[0] if data.reader else data.images[drawn.to(run.device, non_blocking=True)]
        z = noise(run, B, "z", step)[run.share(B)]
        pair.take_turn(step, rate := config.rate_at(step * B // data.n), z, normalised(images, 127.5, 127.5))
        if epoch := ends.get(step + 1):
            run.report(epoch=epoch, lr=rate)
            draw_epoch(run, pair.generator, f"samples-epoch{epoch:03}")

    draw_epoch(run, pair.generator, "samples")
    animate(run, "training", 8 * side(config))
    draw_ways(run, pair.generator)
    some = data.images[:BATCH_OF_PICTURES] if data.reader is None else first_images(run, data)
    with run.evaluating(pair.discriminator) as net:
        draw_features(run, net, normalised(some, 127.5, 127.5))
        metrics = {name: value.item() for name, value in pair.latest.values().items()}
        if data.sets:
            run.seed_all("random weights")
            random = NETWORKS[config.data](config.Z, config.width)[1].to(run.device)
            nets = [("learned", net)] + ([("random", random), ("pixels", None)] if config.controls else [])
            learned_from = data.sets.train.images if data.images is None else data.images
            metrics |= run.on_main(lambda: judge(run, nets, data.sets, learned_from[:STATISTICS]))
    return metrics


STATISTICS = 50_000  # images, at most, over which batch norm's statistics for features are taken


def noise(run: Run[Images], n: int, *parts: object) -> Tensor:
    """z: (n, Z), a function of `parts`."""
    generator = torch.Generator(run.device).manual_seed(mix(run.seed, *parts))
    if run.config.prior == "normal":
        return torch.randn(n, run.config.Z, generator=generator, device=run.device)
    return 2 * torch.rand(n, run.config.Z, generator=generator, device=run.device) - 1


# Data: "No pre-processing was applied to training images besides scaling to the range of the tanh activation function [-1, 1]".


def side(config: Images) -> int:
    return SIDE.get(config.data, 32)


def load(run: Run[Images]) -> Data:
    data = run.config.data
    if data in SIDE:
        folder = folders.load(run.data_dir / data, data)
        run.describe_data(name=data, sha256=folder.sha256, train=len(folder), test=0, stand_in=False)
        where = lambda index: f"{data}: {folder.root / folder.paths[index].decode(errors='replace')}"
        return Data(len(folder), None, run.reader(reading(folder.image, where, SIDE[data])), None)
    if data == "imagenet":
        official = imagenet.load(run.data_dir, "train")
        sets, digest = labelled_cifar(run)
        run.describe_data(
            name="imagenet, then cifar10", sha256=official.sha256, cifar10_sha256=digest, train=len(official),
            test=len(sets.test.labels), stand_in=not official.official,
        )  # fmt: skip
        where = "ImageNet: image {}".format
        return Data(len(official), None, run.reader(reading(official.image, where, 32)), sets if run.config.labelled else None)
    sets, digest = {"cifar10": labelled_cifar, "svhn": labelled_svhn, "made-up": made_up}[data](run)
    n = len(sets.train.labels)
    run.describe_data(name=data, sha256=digest, train=n, test=len(sets.test.labels), stand_in=data == "made-up")
    return Data(n, sets.train.images.to(run.device), None, sets if run.config.labelled else None)


def reading(image: Callable[[int], "Image"], where: Callable[[int], str], size: int) -> Callable[..., tuple[Tensor]]:
    """What a worker makes of an image: its shorter side resized, and of that the centre: (size, size, 3), bytes."""

    def sample(index: int, _: torch.Generator) -> tuple[Tensor]:
        whole = image(index)
        if min(whole.size) < size:
            small = f"is {whole.size[0]} x {whole.size[1]} pixels, and {size} are needed"
            raise BadInput(f"{where(index)} {small}: take it away, or put a larger one there, and run again with --restart")
        shown = pixels(resize(whole, size))
        top, left = (shown.shape[0] - size) // 2, (shown.shape[1] - size) // 2
        return (shown[top : top + size, left : left + size],)

    return sample


def split(images: Tensor, labels: Tensor, held_out: int, test: Labelled) -> Sets:
    """Some training images for validation, the same for all seeds."""
    order = permuted(len(labels), mix("held out"), 0, len(labels))
    whole = Labelled(images, labels)
    return Sets(whole.some(order[held_out:]), whole.some(order[:held_out]), test)


def labelled_cifar(run: Run) -> tuple[Sets, str]:
    run.on_main(lambda: cifar.fetch(run.data_dir))
    data = cifar.load(run.data_dir)
    return split(data.train_images, data.train_labels, 5000, Labelled(data.test_images, data.test_labels)), data.sha256


SVHN = "http://ufldl.stanford.edu/housenumbers/"


def labelled_svhn(run: Run) -> tuple[Sets, str]:
    """SVHN in format 2, from data_dir/svhn. Raises BadInput: a file is missing, or is not one of these."""
    from scipy.io import loadmat

    paths, read = found(run.data_dir, "SVHN", {f"svhn/{name}_32x32.mat": None for name in ("train", "test")}, source=SVHN), []
    for path in paths:
        try:
            content = loadmat(path)
            images, labels = torch.from_numpy(content["X"]).permute(3, 0, 1, 2), torch.from_numpy(content["y"]).flatten()
        except Exception as error:  # scipy raises what it meets
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BadInput(f"SVHN: {path.absolute()} is not a file of {SVHN} ({reason}): get it again") from error
        read.append(Labelled(images.contiguous(), labels.long() % 10))  # 10 stands for 0
    return split(*read[0], 10_000, read[1]), sha256(*paths)


def made_up(run: Run) -> tuple[Sets, str]:
    return Sets(*(Labelled(*standin.images(n, seed)) for seed, n in enumerate((120, 40, 40)))), ""


def first_images(run: Run[Images], data: Data) -> Tensor:
    """For pictures, on every process the same: the first ones of the set."""
    n = min(data.n, BATCH_OF_PICTURES)
    mine = [images for (images,) in run.examples(data.reader, n, n)]
    return run.gather(torch.cat(mine), n)


# Pictures.

BATCH_OF_PICTURES = 256
ROWS, COLUMNS = 9, 16


def draw_epoch(run: Run[Images], generator: Any, name: str) -> None:
    """Samples for the same z at all epochs."""
    with run.evaluating(generator) as net:
        images = net(noise(run, 8 * COLUMNS, "pictures"))
    run.save_figure(figures.grid((images.float() + 1) / 2, COLUMNS), name)


def draw_ways(run: Run[Images], generator: Any) -> None:
    """Fig. 4: between "a series of 9 random points in Z"."""
    points = noise(run, ROWS + 1, "ways")
    share = torch.linspace(0, 1, COLUMNS, device=points.device)[None, :, None]
    with run.evaluating(generator) as net:
        images = net(torch.lerp(points[:-1, None], points[1:, None], share).flatten(0, 1))
    run.save_figure(figures.grid((images.float() + 1) / 2, COLUMNS), "interpolation")


def draw_features(run: Run[Images], net: Any, images: Tensor, features: int = 6, shown: int = 8) -> None:
    """Fig. 5: for the first features of the last convolutional layer, images with the strongest answers, and what caused them.

    The gradients are guided backpropagation's, each scaled to what a picture can show.
    """
    rows = []
    for feature in range(min(features, net.convs[-1].out_channels)):
        strongest, gradient = guided_backpropagation(net, images, feature)
        top = strongest.topk(min(shown, len(images))).indices
        scale = gradient[top].flatten(1).abs().amax(1).clamp(min=1e-12)[:, None, None, None]
        rows += [(images[top] + 1) / 2, (gradient[top] / scale + 1) / 2]
    run.save_figure(figures.grid(torch.cat(rows).float(), min(shown, len(images))), "features")
