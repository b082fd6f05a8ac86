"""Updates and samples per second: the loop and the pipeline of diffusers, and what train.py and chain.py do.

    make benchmark-ddpm      # needs diffusers; alternating blocks in one process, some minutes on two CPU cores

The same network (2.2 million parameters, 32 x 32 pixels), minibatches, Adam, clipping and averaged weights. diffusers' loop is that
of its unconditional training example: a DataLoader of images with ToTensor, Normalize and flips, DDPMScheduler.add_noise,
UNet2DModel, EMAModel. Its pipeline is DDPMPipeline, from noise to arrays, in as many steps.
"""

import copy
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from common.benchmark import compare
from common.data import standin
from common.data.order import shuffled
from papers.ddpm.chain import noise, reverse
from papers.ddpm.data import layout, scaled, to_bytes
from papers.ddpm.model import Diffusion
from papers.ddpm.pretrained import build, from_diffusers
from papers.ddpm.train import Config, Losses, drawn

UPDATES, BLOCKS, IMAGES, BATCH, STEPS, SAMPLES = 2, 5, 500, 16, 10, 16
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CONFIG = Config(ch=32, dropout=0.0, batch_size=BATCH, warmup=0)
LEVELS = (32, 64, 64, 64)


def layout_of(bf16: bool) -> torch.memory_format:
    return layout(SimpleNamespace(device=DEVICE, precision="bf16" if bf16 else "fp32"))


def unet() -> Any:
    """diffusers' network in google/ddpm-cifar10-32's layout."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=32, block_out_channels=LEVELS, layers_per_block=2, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"), norm_eps=1e-6, attention_head_dim=None,
    )  # fmt: skip


class Pictures(Dataset):
    """PIL images, one at a time."""

    def __init__(self, images: Tensor) -> None:
        from torchvision import transforms as T

        self.images = images
        self.transform = T.Compose([T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize([0.5], [0.5])])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[i].numpy()))


def usual(net: Any, images: Tensor) -> Callable[[], None]:
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    net, scheduler = copy.deepcopy(net).to(DEVICE), DDPMScheduler(1000)
    ema, adam = EMAModel(net.parameters(), decay=0.9999), torch.optim.Adam(net.parameters(), CONFIG.lr)
    loader = DataLoader(Pictures(images), BATCH, shuffle=True, drop_last=True)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))

    def block() -> None:
        for x in itertools.islice(batches, UPDATES):
            x = x.to(DEVICE)
            epsilon, t = torch.randn_like(x), torch.randint(1000, (len(x),), device=DEVICE)
            loss = F.mse_loss(net(scheduler.add_noise(x, epsilon, t), t).sample, epsilon)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            adam.step()
            adam.zero_grad()
            ema.step(net.parameters())
            loss.item()  # as its progress bar shows

    return block


def ours(net: nn.Module, images: Tensor, bf16: bool) -> Callable[[], None]:
    nets = nn.ModuleDict({"simple-epsilon": copy.deepcopy(net)}).to(DEVICE, memory_format=layout_of(bf16))
    model, ema = Losses(CONFIG, nets).to(DEVICE), copy.deepcopy(nets).requires_grad_(False)
    adam = torch.optim.Adam(nets.parameters(), CONFIG.lr, eps=1e-8, fused=True)
    run = SimpleNamespace(config=CONFIG, device=DEVICE, seed=0, share=lambda n: slice(0, n))
    images, draw, steps = images.to(DEVICE), shuffled(len(images), BATCH, 0), itertools.count()

    def block() -> None:
        for step in itertools.islice(steps, UPDATES):
            batch = drawn(run, step, scaled(images[draw(step).to(DEVICE)]))
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
                losses = model(*batch)
            losses["simple-epsilon"].backward()
            nn.utils.clip_grad_norm_(nets.parameters(), 1.0)
            adam.step()
            adam.zero_grad()
            torch._foreach_lerp_([*ema.parameters()], [*nets.parameters()], 1e-4)

    return block


def pipeline(net: Any) -> Callable[[], Any]:
    from diffusers import DDPMPipeline, DDPMScheduler

    pipe = DDPMPipeline(copy.deepcopy(net).eval().to(DEVICE), DDPMScheduler(1000, variance_type="fixed_large"))
    pipe.set_progress_bar_config(disable=True)
    return lambda: pipe(SAMPLES, num_inference_steps=STEPS, output_type="np")


def chain(net: nn.Module, bf16: bool) -> Callable[[], Tensor]:
    net = copy.deepcopy(net).eval().requires_grad_(False).to(DEVICE, memory_format=layout_of(bf16))
    times = [round(i * 999 / (STEPS - 1)) for i in range(STEPS)]
    diffusion, which = Diffusion(times=times).to(DEVICE), torch.tensor(times, device=DEVICE)

    def block() -> Tensor:
        z = lambda t: noise((3, 32, 32), range(SAMPLES), DEVICE, 0, t)
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            x = reverse(diffusion, lambda x, t: net(x, which[t]), z(STEPS), STEPS - 1, z)
        return to_bytes(x).cpu()

    return block


def main() -> None:
    try:
        import diffusers  # noqa: F401
    except ImportError:
        return print("diffusers is not installed (pip install diffusers): there is nothing to compare with")
    torch.manual_seed(0)
    theirs, (images, _) = unet(), standin.images(IMAGES, 0)
    net = build(from_diffusers(theirs.state_dict()))
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # as theirs
    training = {
        "diffusers' example, fp32": usual(theirs, images),
        "train.py, fp32": ours(net, images, bf16=False),
        "train.py, bf16": ours(net, images, bf16=True),
    }
    compare(training, UPDATES, "updates", blocks=BLOCKS)
    sampling = {
        "diffusers' DDPMPipeline, fp32": pipeline(theirs),
        "chain.py, fp32": chain(net, bf16=False),
        "chain.py, bf16": chain(net, bf16=True),
    }
    compare(sampling, SAMPLES, f"images in {STEPS} steps", blocks=BLOCKS)


if __name__ == "__main__":
    main()
