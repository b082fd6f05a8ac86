"""LeNet-5. Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document Recognition",
Proceedings of the IEEE 86(11):2278-2324, 1998. This file: MIT licence.

Implemented: the network of Sec. II.B and Figure 2 (`LeNet5`), both losses of Sec. II.C (`mse`, `map_criterion`), the initial
weights of Appendix A, and the second derivatives of Appendix C (`curvature`) that set the step size of each weight.
Not here: trainable RBF centres, the graph transformer networks of Secs. IV to X.

Most networks called LeNet-5 today are another one: C3 connected to all of S2, pooling without coefficients, ReLU, softmax.

Shapes:  B images   I, K feature maps in and out   H, W height and width
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

A, S = 1.7159, 2 / 3

# Table I: an X where the map of S2 (row) feeds the map of C3 (column).
TABLE_I = """
    X . . . X X X . . X X X X . X X
    X X . . . X X X . . X X X X . X
    X X X . . . X X X . . X . X X X
    . X X X . . X X X X . . X . X X
    . . X X X . . X X X X . X X . X
    . . . X X X . . X X X X . X X X
"""

# Figure 3, its ten digits: centres of the RBF units, +1 where there is ink and -1 elsewhere, 7 wide and 12 high. The paper prints
# them as a picture only; these are redrawn, any two of them at least 8 pixels apart.
FIGURE_3 = """
    ..###..  ...#...  .#####.  #######  .....#.  #######  ..####.  #######  ..###..  ..###..
    .#...#.  ..##...  #.....#  ......#  ....##.  #......  .#.....  ......#  .#...#.  .#...#.
    #.....#  .#.#...  ......#  .....#.  ...#.#.  #......  #......  ......#  #.....#  #.....#
    #.....#  ...#...  ......#  ....#..  ..#..#.  #......  #......  .....#.  #.....#  #.....#
    #.....#  ...#...  .....#.  ...##..  .#...#.  #.###..  #.###..  .....#.  .#...#.  #.....#
    #.....#  ...#...  ....#..  .....#.  #....#.  ##...#.  ##...#.  ....#..  ..###..  .#...##
    #.....#  ...#...  ...#...  ......#  #....#.  ......#  #.....#  ....#..  .#...#.  ..###.#
    #.....#  ...#...  ..#....  ......#  #######  ......#  #.....#  ...#...  #.....#  ......#
    #.....#  ...#...  .#.....  ......#  .....#.  ......#  #.....#  ...#...  #.....#  ......#
    #.....#  ...#...  #......  #.....#  .....#.  #.....#  #.....#  ..#....  #.....#  ......#
    .#...#.  ...#...  #......  .#...#.  .....#.  .#...#.  .#...#.  ..#....  .#...#.  .....#.
    ..###..  .#####.  #######  ..###..  .....#.  ..###..  ..###..  ..#....  ..###..  .####..
"""


def table_i() -> Tensor:
    """Which maps of S2 feed which of C3: (16, 6), bool."""
    return torch.tensor([[cross == "X" for cross in row.split()] for row in TABLE_I.split("\n")[1:-1]]).T


def figure_3() -> Tensor:
    """The RBF centres: (10, 84), +1 or -1."""
    rows = [row.split() for row in FIGURE_3.split("\n")[1:-1]]
    return torch.tensor([[1.0 if pixel == "#" else -1.0 for row in rows for pixel in row[digit]] for digit in range(10)])


def f(a: Tensor) -> Tensor:
    """The squashing function, A tanh(S a) (Eq. 6): f(1) = 1, f(-1) = -1."""
    return A * torch.tanh(S * a)


# Initial weights are uniform in [-bound(F), bound(F)], where F is the number of inputs of the unit (its fan-in, Appendix A).
Bound = Callable[[Tensor], Tensor]


def printed(fan_in: Tensor) -> Tensor:
    """2.4 / F, as Appendix A prints it: for inputs that are highly correlated."""
    return 2.4 / fan_in


def root(fan_in: Tensor) -> Tensor:
    """1 / sqrt(F), for inputs that are independent; its step sizes are nearest to those that Sec. III.B reports (README.md)."""
    return fan_in**-0.5


def uniform(*shape: int, bound: Tensor) -> nn.Parameter:
    return nn.Parameter((2 * torch.rand(shape) - 1) * bound)


class Convolution(nn.Module):
    """Feature maps of 5x5 kernels: (B, I, H, W) -> (B, K, H-4, W-4). A kernel for each connected pair of maps, a bias for each map.

    connected: (K, I), bool.

    Written as one product of matrices, which is faster than F.conv2d on one small image (benchmark.py).
    """

    def __init__(self, connected: Tensor, bound: Bound) -> None:
        super().__init__()
        self.maps = len(connected)
        fan_in = 25 * connected.sum(1)  # (K,): 75, 100 or 150 in C3
        of_kernel = fan_in[connected.nonzero()[:, 0]]
        self.kernels = uniform(len(of_kernel), 25, bound=bound(of_kernel)[:, None])
        self.bias = uniform(self.maps, 1, bound=bound(fan_in)[:, None])
        self.register_buffer("place", None if connected.all() else connected.flatten().nonzero().squeeze(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        (B, I, H, W), K = x.shape, self.maps
        kernels = self.kernels
        if self.place is not None:  # zero where Table I has no X
            kernels = kernels.new_zeros(K * I, 25).index_copy(0, self.place, kernels)
        fields = x.unfold(2, 5, 1).unfold(3, 5, 1)  # receptive fields, (B, I, H-4, W-4, 5, 5)
        fields = fields.permute(1, 4, 5, 0, 2, 3).reshape(I * 25, -1)  # (I*25, B*(H-4)*(W-4))
        a = torch.addmm(self.bias, kernels.reshape(K, I * 25), fields)
        return a.view(K, B, H - 4, W - 4).transpose(0, 1)


class Subsampling(nn.Module):
    """The sum of 2x2 inputs, times the map's coefficient, plus its bias: (B, K, H, W) -> (B, K, H/2, W/2).

    coefficient: initial value of all of them, the biases at zero; None: both at random as all weights, with four inputs to a unit.
    """

    def __init__(self, maps: int, bound: Bound, coefficient: float | None) -> None:
        super().__init__()
        four = torch.tensor(4.0)
        self.coefficient, self.bias = uniform(maps, 1, 1, bound=bound(four)), uniform(maps, 1, 1, bound=bound(four))
        if coefficient is not None:
            nn.init.constant_(self.coefficient, coefficient)
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.coefficient * (4 * nn.functional.avg_pool2d(x, 2)) + self.bias  # exactly the sum; ONNX knows no other divisor


class FullConnection(nn.Module):
    """(B, I, 1, 1) -> (B, K)."""

    def __init__(self, inputs: int, units: int, bound: Bound) -> None:
        super().__init__()
        each = bound(torch.tensor(float(inputs)))
        self.weight, self.bias = uniform(units, inputs, bound=each), uniform(units, bound=each)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.flatten(1), self.weight, self.bias)


class LeNet5(nn.Module):
    """LeNet-5 (Sec. II.B, Figure 2): images -> penalties of the ten classes, (B, 1, 32, 32) -> (B, 10). The least one wins.

    Images are grey levels, white -0.1 and black 1.175. 60,000 trainable parameters, 340,908 connections.

    bound: range of the initial weights.    coefficient: where those of S2 and S4 start (see `Subsampling`).
    """

    def __init__(self, bound: Bound = printed, coefficient: float | None = None) -> None:
        super().__init__()
        self.C1 = Convolution(torch.ones(6, 1, dtype=torch.bool), bound)  # (B, 6, 28, 28)      156 parameters
        self.S2 = Subsampling(6, bound, coefficient)  # (B, 6, 14, 14)       12
        self.C3 = Convolution(table_i(), bound)  # (B, 16, 10, 10)   1,516
        self.S4 = Subsampling(16, bound, coefficient)  # (B, 16, 5, 5)        32
        self.C5 = Convolution(torch.ones(120, 16, dtype=torch.bool), bound)  # (B, 120, 1, 1)   48,120
        self.F6 = FullConnection(120, 84, bound)  # (B, 84)          10,164
        self.register_buffer("centres", figure_3(), persistent=False)  # chosen by hand, and fixed
        assert sum(p.numel() for p in self.parameters()) == 60_000

    def layers(self) -> dict[str, nn.Module]:
        return {"C1": self.C1, "S2": self.S2, "C3": self.C3, "S4": self.S4, "C5": self.C5, "F6": self.F6}

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers().values():
            x = f(layer(x))  # x_i = f(a_i) (Eq. 5)
        return self.output(x)

    def output(self, x: Tensor) -> Tensor:
        """Euclidean radial basis functions, y_i = sum_j (x_j - w_ij)^2 (Eq. 7): (B, 84) -> (B, 10)."""
        return ((x[:, None] - self.centres) ** 2).sum(2)


# Sec. II.C: loss functions, means over patterns; y (B, 10), labels (B,).


def mse(y: Tensor, labels: Tensor) -> Tensor:
    """Maximum likelihood, which is mean squared error here: the penalty of the correct class (Eq. 8)."""
    return y.gather(1, labels[:, None]).mean()


def map_criterion(y: Tensor, labels: Tensor, j: float) -> Tensor:
    """Maximum a posteriori: log(e^-j + sum_i e^-y_i) added (Eq. 9), which pushes the other classes' penalties up, as far as j.

    e^-j stands for a class of "rubbish", the background.
    """
    rubbish = y.new_full((len(y), 1), j)
    return mse(y, labels) + torch.logsumexp(-torch.cat([y, rubbish], 1), 1).mean()


def curvature(model: LeNet5, images: Tensor) -> dict[str, Tensor]:
    """h_kk of every parameter, by name: second derivatives of Eq. 8, averaged over B patterns (Appendix C). images (B, 1, 32, 32).

    With the paper's approximations: no terms between two connections, even if they share a weight; Gauss-Newton, which keeps
    the curvature of the loss and drops that of the network. What is left is back-propagation with weights and slopes squared,

        d2E/da_i^2 = f'(a_i)^2 sum_k u_ki^2 d2E/da_k^2,    h_kk = mean over patterns of sum_(i,j) in V_k of d2E/da_i^2 x_j^2,

    so autograd computes it, through the same layers with u^2 for u: `s` has the value x^2 and the derivative f'(a)^2.
    """
    squares = {name: p.detach().square().requires_grad_() for name, p in model.named_parameters()}
    x, s = images, images.square()
    for name, layer in model.layers().items():
        a = layer(x).detach()
        s = functional_call(layer, {key: squares[f"{name}.{key}"] for key, _ in layer.named_parameters()}, (s,))
        x = f(a)
        slope = A * S * (1 - (x / A).square())  # f'(a)
        s = x.square() + slope.square() * (s - s.detach())
    second = 2.0  # d2E/dx_j^2 of (x_j - w_ij)^2, for all states x_j of F6
    h = torch.autograd.grad(second * s.sum() / len(images), list(squares.values()))
    return dict(zip(squares, h, strict=True))
