"""Very Deep Convolutional Networks for Large-Scale Image Recognition.
Karen Simonyan, Andrew Zisserman, ICLR 2015 (arXiv 1409.1556). This file: MIT licence.

Here: the configurations A to E of Table 1, and the shallow net that Sec. 4.1 compares B with; initial weights, and the start of
deep nets from a shallow one (Sec. 3.1); dense evaluation, for which the fully-connected layers become convolutions (Sec. 3.2).
Batch normalisation is not the paper's: it is here for the public weights that have it.
Not here: localisation (Appendix A), which predicts boxes by the same nets.

Shapes: B batch, C maps (channels), H W height and width, K classes.
"""

import math
from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Sec. 2.2, Table 1. Of each block of layers the sizes of the kernels; a max-pooling follows, which halves the sides of the maps.

TABLE_1: dict[str, tuple[tuple[int, ...], ...]] = {
    "A": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "A-LRN": ((3,), (3,), (3, 3), (3, 3), (3, 3)),  # and a response normalisation after the first layer
    "B": ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    "C": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "D": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "E": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
    "shallow": ((5,), (5,), (5,), (5,), (5,)),  # Sec. 4.1: B, "replacing each pair of 3x3 conv. layers with a single 5x5"
}
WIDTHS = (64, 128, 256, 512, 512)  # "starting from 64 in the first layer and then increasing by a factor of 2 [...] until 512"
Start = Literal["variance", "deviation", "glorot"]


class VGG(nn.Module):
    """Images (B, 3, H, W) less the mean RGB of the training set -> logits (B, K).

    Layers bear the names of the authors' release, conv1_1 to conv5_4 and fc6 to fc8.

    Args:
        configuration: a column of Table 1, or "shallow".
        side: of the maps that the fully-connected layers see: 7 for images of 224 pixels, a 32nd of an image's side.
        start: the random initial weights, see `initialise`.
        batch_norm: after each convolution; its biases stay. Not the paper's.
    """

    def __init__(
        self, configuration: str = "D", *, widths: tuple[int, ...] = WIDTHS, units: int = 4096, side: int = 7, classes: int = 1000,
        dropout: float = 0.5, start: Start = "deviation", batch_norm: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.configuration, self.side = configuration, side
        self.features = blocks(TABLE_1[configuration], widths, configuration == "A-LRN", batch_norm)
        self.fc6 = nn.Linear(widths[-1] * side * side, units)
        self.fc7 = nn.Linear(units, units)
        self.fc8 = nn.Linear(units, classes)
        self.dropout = nn.Dropout(dropout)  # Sec. 3.1: "for the first two fully-connected layers (dropout ratio set to 0.5)"
        initialise(self, start)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).flatten(1)  # (B, 3, 224, 224) -> (B, 512, 7, 7) -> (B, 25088)
        x = self.dropout(F.relu(self.fc6(x)))  # (B, 4096)
        x = self.dropout(F.relu(self.fc7(x)))  # (B, 4096)
        return self.fc8(x)  # the softmax is in the loss

    def dense(self, x: Tensor) -> Tensor:
        """Sec. 3.2: class score maps (B, K, H', W') of images of any size from 32 `side` on, by the same weights, without dropout.

        "The fully-connected layers are first converted to convolutional layers (the first FC layer to a 7x7 conv. layer, the last
        two FC layers to 1x1 conv. layers)." Each place of the map has the scores of `forward` for the window under it.
        """
        C, s = self.fc6.in_features // self.side**2, self.side
        x = self.features(x)  # (B, 512, H / 32, W / 32), rounded down
        x = F.relu(F.conv2d(x, self.fc6.weight.view(-1, C, s, s), self.fc6.bias))  # (B, 4096, H', W'); H' = H / 32 - 6
        x = F.relu(F.conv2d(x, self.fc7.weight[:, :, None, None], self.fc7.bias))
        return F.conv2d(x, self.fc8.weight[:, :, None, None], self.fc8.bias)

    def start_from(self, a: "VGG") -> None:
        """Sec. 3.1: "we initialised the first four convolutional layers and the last three fully-connected layers with the layers
        of net A (the intermediate layers were initialised randomly)", which are as they are here.

        A's first four are conv1_1, conv2_1, conv3_1 and conv3_2, and go where layers of these names are: among them are others,
        of a deeper net, where A has poolings.

        Raises:
            ValueError: `a` is not A, or a layer has another shape than here.
        """
        if a.configuration != "A":
            raise ValueError(f"deep nets start from A, not from {a.configuration}")
        state = {name: tensor for name, tensor in a.state_dict().items() if name.startswith(FROM_A)}
        own = self.state_dict()
        if wrong := [name for name, tensor in state.items() if name not in own or own[name].shape != tensor.shape]:
            raise ValueError(f"{wrong[0]} of A is {tuple(state[wrong[0]].shape)}, which fits no layer of {self.configuration}")
        self.load_state_dict(state, strict=False)


FROM_A = ("features.conv1_1.", "features.conv2_1.", "features.conv3_1.", "features.conv3_2.", "fc6.", "fc7.", "fc8.")


def blocks(table: tuple[tuple[int, ...], ...], widths: tuple[int, ...], norm: bool, batch_norm: bool) -> nn.Sequential:
    """Sec. 2.1: convolutions of stride 1 that keep the sides of their maps, each with a ReLU; "2x2 pixel window, with stride 2"."""
    layers, C = OrderedDict[str, nn.Module](), 3
    for i, (kernels, width) in enumerate(zip(table, widths, strict=True), 1):
        for j, kernel in enumerate(kernels, 1):
            layers[f"conv{i}_{j}"] = nn.Conv2d(C, width, kernel, padding=kernel // 2)  # "1 pixel for 3x3", none for 1x1
            if batch_norm:
                layers[f"bn{i}_{j}"] = nn.BatchNorm2d(width)
            layers[f"relu{i}_{j}"] = nn.ReLU(inplace=True)
            C = width
        if norm and i == 1:
            layers["norm1"] = ResponseNorm()
        layers[f"pool{i}"] = nn.MaxPool2d(2, stride=2)
    return nn.Sequential(layers)


class ResponseNorm(nn.Module):
    """b_i = a_i / (2 + 1e-4 sum of a_j^2 over the 5 maps around i)^0.75. "Where applicable, the parameters for the LRN layer are
    those of (Krizhevsky et al., 2012)." The sum is a 1x1 convolution with a band of ones.
    """

    def forward(self, a: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        i = torch.arange(a.shape[1], device=a.device)
        band = ((i[:, None] - i).abs() <= 2).to(a.dtype)  # (C, C)
        d = 2 + 1e-4 * F.conv2d(a * a, band[:, :, None, None])
        return a * (d.rsqrt() * d.rsqrt().sqrt())  # d^-3/4


def initialise(net: nn.Module, start: Start) -> None:
    """Sec. 3.1: "we sampled the weights from a normal distribution with the zero mean and 10^-2 variance. The biases were
    initialised with zero."

    variance: that, a standard deviation of 0.1. deviation: 0.01, which is what the nets of the time had, and what is meant,
    perhaps. glorot: the paper's note, "it is possible to initialise the weights without pre-training by using the random
    initialisation procedure of Glorot & Bengio (2010)": uniform within sqrt(6 / (units before + units after)).
    """
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            if start == "glorot":
                nn.init.xavier_uniform_(layer.weight)
            else:
                nn.init.normal_(layer.weight, 0.0, math.sqrt(1e-2) if start == "variance" else 1e-2)
            nn.init.zeros_(layer.bias)


# The names that others have for these nets.


def vgg11(**more) -> VGG:
    """A: 132,863,336 parameters, 7.609 thousand million multiply-adds for 224 pixels."""
    return VGG("A", **more)


def vgg13(**more) -> VGG:
    """B: 133,047,848 parameters, 11.308 G."""
    return VGG("B", **more)


def vgg16(**more) -> VGG:
    """D: 138,357,544 parameters, 15.470 G. C, which has 16 layers with weights too, has 133,638,952 and 11.771 G."""
    return VGG("D", **more)


def vgg19(**more) -> VGG:
    """E: 143,667,240 parameters, 19.632 G."""
    return VGG("E", **more)


def shallow(**more) -> VGG:
    """Sec. 4.1: five layers of 5x5 kernels, with the receptive field of B's pairs of 3x3."""
    return VGG("shallow", **more)
