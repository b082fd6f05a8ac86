"""A run of this folder for other programs: `make export-vae RUN=runs/vae/mnist-nz20/seed0 FORMAT=onnx`."""

from pathlib import Path

import torch
from torch import Tensor, nn

from common import directory
from papers.vae.model import VAE, BernoulliDecoder, GaussianDecoder
from papers.vae.train import Config, Methods

SHOWN = (
    "of the encoder images (n, D) in [0, 1], its outputs mu and log sigma^2 of q(z|x); of the decoder z (n, J), its output the "
    "means of p(x|z) (n, D). Of several methods in a run they are auto-encoding variational Bayes'"
)


class Mean(nn.Module):
    def __init__(self, decoder: BernoulliDecoder | GaussianDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, z: Tensor) -> Tensor:
        return self.decoder.mean(z)


def of_run(folder: Path) -> VAE:
    """Raises BadInput: it is no folder of such a run, or has no checkpoint that fits."""
    _, config, learned = directory.learned(folder, "vae", Config)
    methods = Methods(config)
    directory.restore(folder, {"model": learned["model"]}, {"model": methods})
    return methods.aevb.eval()


def parts(net: VAE) -> dict[str, nn.Module]:
    return {"encoder": net.encoder, "decoder": Mean(net.decoder)}


def inputs(part: nn.Module, n: int) -> dict[str, Tensor]:
    size = next(layer.in_features for layer in part.modules() if isinstance(layer, nn.Linear))
    return {"z": torch.randn(n, size)} if isinstance(part, Mean) else {"x": torch.rand(n, size)}
