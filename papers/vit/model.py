"""An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale.
Alexey Dosovitskiy, Lucas Beyer, Alexander Kolesnikov, Dirk Weissenborn, Xiaohua Zhai, et al., ICLR 2021, arXiv:2010.11929.
This file: MIT licence.

Here, in the paper's order: the Vision Transformer of Sec. 3.1 (Fig. 1, Eqs. 1-4, Appendix A) with its two heads, in the sizes of
Table 1, with what Table 8 and Fig. 9 take away or replace; positions for other resolutions (Sec. 3.2); the analyses behind Figs. 6
and 7. Not here: the hybrid of ResNet and ViT (Sec. 3.1, "Hybrid Architecture"), axial attention (Appendix D.6), and the
self-supervised objective (Appendix B.1.2).

Shapes: B images, H W C their height, width and channels, P side of a patch, N = HW/P^2 patches, T = N + 1 tokens, D width, k heads,
D_h = D/k width of a head.
"""

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6  # of layer norms, in the official code; PyTorch's own default is 1e-5

# Appendix A, Eqs. (5)-(8): multihead self-attention.


class Attention(nn.Module):
    """MSA(z) = [SA_1(z); ...; SA_k(z)] U_msa, SA(z) = A v, A = softmax(q k^T / sqrt(D_h)); the k heads side by side.

    The official code's have biases, which the equations have not.

    Args:
        offsets: T, for the relative positions of Appendix D.4 among T tokens: an embedding of each offset p_q - p_k, as wide as a
            head and the same for all, is a second key for the same query; these logits are added before the softmax.
    """

    def __init__(self, D: int, k: int, offsets: int = 0) -> None:
        super().__init__()
        self.k = k
        self.qkv = nn.Linear(D, 3 * D)  # Eq. (5): U_qkv
        self.msa = nn.Linear(D, D)  # Eq. (8): U_msa
        self.offsets = nn.Parameter(torch.empty(2 * offsets - 1, D // k)) if offsets else None
        for part in self.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(part)
        nn.init.xavier_uniform_(self.msa.weight)
        nn.init.zeros_(self.qkv.bias), nn.init.zeros_(self.msa.bias)
        if offsets:
            nn.init.normal_(self.offsets, std=0.02)

    def heads(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """z (B, T, D) -> q, k, v (B, k, T, D_h), and what relative positions add to the logits (B, k, T, T)."""
        q, k, v = rearrange(self.qkv(z), "B T (three k d) -> three B k T d", three=3, k=self.k).unbind()
        if self.offsets is None:
            return q, k, v, None
        places = torch.arange(q.shape[2], device=z.device)
        keys = self.offsets[places[:, None] - places + len(places) - 1]  # (T, T, D_h), of query and key
        return q, k, v, torch.einsum("bhqd,qkd->bhqk", q, keys.to(q.dtype)) * q.shape[3] ** -0.5

    def forward(self, z: Tensor) -> Tensor:
        q, k, v, bias = self.heads(z)
        if q.is_cuda or q.dtype != torch.bfloat16:
            SA = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:  # the same; on a CPU, in bf16, it is twice as fast written out
            A = self.weights(q, k, bias)
            SA = A.to(v.dtype) @ v  # Eq. (7), (B, k, T, D_h)
        return self.msa(rearrange(SA, "B k T d -> B T (k d)"))  # (B, T, D)

    def weights(self, q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
        """A of Eq. (6): (B, k, T, T), rows that sum to 1."""
        logits = q * q.shape[3] ** -0.5 @ k.mT
        return (logits if bias is None else logits + bias).softmax(3)


class Block(nn.Module):
    """One layer of the encoder, Eqs. (2) and (3). Dropout is "after every dense layer except for the qkv-projections" (B.1)."""

    def __init__(self, D: int, k: int, mlp: int, dropout: float, tanh: bool, eps: float, offsets: int = 0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(D, eps)
        self.attention = Attention(D, k, offsets)
        self.norm2 = nn.LayerNorm(D, eps)
        self.fc1, self.fc2 = nn.Linear(D, mlp), nn.Linear(mlp, D)  # "The MLP contains two layers with a GELU non-linearity."
        self.gelu, self.dropout = nn.GELU("tanh" if tanh else "none"), nn.Dropout(dropout)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, z: Tensor) -> Tensor:
        z = self.dropout(self.attention(self.norm1(z))) + z  # Eq. (2): z' = MSA(LN(z)) + z
        hidden = self.dropout(self.gelu(self.fc1(self.norm2(z))))  # (B, T, mlp)
        return self.dropout(self.fc2(hidden)) + z  # Eq. (3): z = MLP(LN(z')) + z'


# Sec. 3.1: Vision Transformer (ViT).


class ViT(nn.Module):
    """Images (B, C, H, W), in [-1, 1] for the official weights -> logits (B, classes).

    Args:
        image: H and W, one number for a square.
        D, L, k, mlp: width, layers, heads, and width of the hidden layer of the MLPs.
        classes: outputs; 0 gives the representation y of Eq. (4).
        hidden: the head is an "MLP with one hidden layer at pre-training time", a "single linear layer at fine-tuning time".
        positions: 1-D, none, 2-D or relative (Table 8).
        pool: the class token, or the average of the patches without such a token (Fig. 9).
        tanh: GELU by its tanh approximation, as JAX and so the official code has it; PyTorch's libraries have the exact one.
        eps: of layer norms.

    Raises:
        ValueError: H or W is not a multiple of P, or D not one of k.
    """

    def __init__(
        self, P: int = 16, D: int = 768, L: int = 12, k: int = 12, mlp: int = 3072, *, image: int | tuple[int, int] = 224,
        channels: int = 3, classes: int = 1000, hidden: bool = False, positions: str = "1-D", pool: str = "token",
        dropout: float = 0.0, tanh: bool = True, eps: float = EPS,
    ) -> None:  # fmt: skip
        super().__init__()
        self.P, self.image = P, (image, image) if isinstance(image, int) else tuple(image)
        self.grid = (self.image[0] // P, self.image[1] // P)  # patches down and across
        if min(self.grid) < 1 or self.image != (self.grid[0] * P, self.grid[1] * P):
            raise ValueError(f"images of {self.image[0]} x {self.image[1]} are not whole patches of {P} x {P}")
        if D % k:
            raise ValueError(f"a width of {D} cannot be divided among {k} heads")
        N = self.grid[0] * self.grid[1]
        self.E = nn.Linear(P * P * channels, D)  # Eq. (1); as a convolution of P x P with stride P
        self.token = nn.Parameter(torch.zeros(1, 1, D)) if pool == "token" else None  # x_class
        T = N + (pool == "token")
        if positions == "1-D":
            self.positions = nn.Parameter(torch.empty(1, T, D).normal_(std=0.02))  # E_pos
        elif positions == "2-D":  # D.4: "two sets of embeddings [...] X-embedding, and Y-embedding, each with size D/2"
            self.X, self.Y = (nn.Parameter(torch.empty(n, D // 2).normal_(std=0.02)) for n in self.grid[::-1])
        elif positions not in ("none", "relative"):
            raise ValueError(f"positions are 1-D, none, 2-D or relative, not {positions}")
        self.how, self.dropout = positions, nn.Dropout(dropout)
        offsets = T if positions == "relative" else 0
        self.blocks = nn.ModuleList(Block(D, k, mlp, dropout, tanh, eps, offsets) for _ in range(L))
        self.norm = nn.LayerNorm(D, eps)
        self.hidden = nn.Sequential(nn.Linear(D, D), nn.Tanh()) if hidden else nn.Identity()
        self.head = nn.Linear(D, classes) if classes else nn.Identity()
        for layer in [self.E, *([self.hidden[0]] if hidden else [])]:  # LeCun's normal distribution, cut at two deviations
            nn.init.trunc_normal_(layer.weight, std=(std := layer.in_features**-0.5 / 0.8796), a=-2 * std, b=2 * std)
            nn.init.zeros_(layer.bias)
        if classes:  # Sec. 3.2: "a zero-initialized D x K feedforward layer"; so is the official code's at pre-training
            nn.init.zeros_(self.head.weight), nn.init.zeros_(self.head.bias)

    def embedded(self, x: Tensor) -> Tensor:
        """Eq. (1): z_0 = [x_class; x_p^1 E; ...; x_p^N E] + E_pos. Raises ValueError: images of another size."""
        if x.shape[2:] != self.image:
            sizes = " x ".join(map(str, x.shape[2:])), " x ".join(map(str, self.image))
            raise ValueError(f"images are {sizes[0]}, and the net is for {sizes[1]}: resample_positions fits one for the other")
        z = self.E(rearrange(x, "B C (h p) (w q) -> B (h w) (p q C)", p=self.P, q=self.P))  # (B, N, P^2 C) -> (B, N, D)
        if self.how == "2-D":
            h, w = self.grid
            z = z + torch.cat([self.X.repeat(h, 1), self.Y.repeat_interleave(w, 0)], 1)  # in raster order, none for the token
        if self.token is not None:
            z = torch.cat([self.token.to(z.dtype).expand(len(z), -1, -1), z], 1)  # (B, T, D)
        return self.dropout(z + self.positions if self.how == "1-D" else z)

    def features(self, x: Tensor) -> Tensor:
        """y = LN(z_L^0) of Eq. (4), the image's representation, or with pool="average" the mean of LN(z_L) over patches: (B, D)."""
        z = self.embedded(x)
        for block in self.blocks:
            z = block(z)  # (B, T, D)
        return self.norm(z[:, 0]) if self.token is not None else self.norm(z).mean(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.features(x)))  # (B, classes)

    def attention_weights(self, x: Tensor) -> Tensor:
        """Of every layer and head, A of Eq. (6): (L, B, k, T, T)."""
        z, weights = self.embedded(x), []
        for block in self.blocks:
            q, k, _, bias = block.attention.heads(block.norm1(z))
            weights.append(block.attention.weights(q, k, bias))
            z = block(z)
        return torch.stack(weights)


def vit_b_16(**more) -> ViT:
    """ViT-B/16 of Table 1: 85,798,656 parameters without its head."""
    return ViT(16, 768, 12, 12, 3072, **more)


def vit_b_32(**more) -> ViT:
    """ViT-B/32: 87,455,232 parameters without its head."""
    return ViT(32, 768, 12, 12, 3072, **more)


def vit_l_16(**more) -> ViT:
    """ViT-L/16: 303,301,632 parameters without its head."""
    return ViT(16, 1024, 24, 16, 4096, **more)


def vit_l_32(**more) -> ViT:
    """ViT-L/32: 305,510,400 parameters without its head."""
    return ViT(32, 1024, 24, 16, 4096, **more)


def vit_h_14(**more) -> ViT:
    """ViT-H/14: 630,764,800 parameters without its head."""
    return ViT(14, 1280, 32, 16, 5120, **more)


# Sec. 3.2: Fine-tuning and higher resolution.


def resample_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int], how: str = "bilinear") -> Tensor:
    """Sec. 3.2: "2D interpolation of the pre-trained position embeddings, according to their location in the original image".

    Args:
        positions: (1, T, D); what comes before the grid, the class token's, is kept as it is.
        old, new: patches down and across.
        how: bilinear, corners on corners, as the official code; bicubic with antialiasing, pixels on pixels, as timm.

    Raises:
        ValueError: there are fewer positions than the old grid has patches.
    """
    if (extra := positions.shape[1] - old[0] * old[1]) < 0:
        raise ValueError(f"{positions.shape[1]} positions are not a grid of {old[0]} x {old[1]}")
    if old == new:
        return positions
    options = {"align_corners": True} if how == "bilinear" else {"align_corners": False, "antialias": True}
    grid = rearrange(positions[:, extra:], "one (h w) D -> one D h w", h=old[0])
    grid = F.interpolate(grid, size=new, mode=how, **options)
    return torch.cat([positions[:, :extra], rearrange(grid, "one D h w -> one (h w) D")], 1)  # (1, extra + N, D)


# Sec. 4.5: Inspecting Vision Transformer.


def embedding_filters(E: Tensor, P: int, n: int = 28) -> Tensor:
    """Fig. 7, left: the first n principal components of the embedding filters, E.weight (D, P^2 C) -> (n, P, P, C)."""
    E = E.double()
    return torch.linalg.svd(E - E.mean(0), full_matrices=False).Vh[:n].unflatten(1, (P, P, -1)).float()


def position_similarity(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Fig. 7, centre: cosine similarity of each patch's position embedding with all others': (1, T, D) -> (h, w, h, w)."""
    unit = F.normalize(positions[0, positions.shape[1] - math.prod(grid) :], dim=1)
    return (unit @ unit.T).unflatten(0, grid).unflatten(2, grid)


def attention_rollout(weights: Tensor, grid: tuple[int, int]) -> Tensor:
    """Fig. 6, Appendix D.8: what each patch gives to the class token, (L, B, k, T, T) -> (B, h, w), at most 1.

    Heads are averaged, and matrices multiplied from layer to layer, each averaged with the identity for the residual connection
    (Abnar and Zuidema, 2020).
    """
    A = weights.mean(2)  # (L, B, T, T)
    A = (A + torch.eye(A.shape[-1], device=A.device, dtype=A.dtype)) / 2
    rollout = A[0]
    for each in A[1:]:
        rollout = each @ rollout
    seen = rollout[:, 0, 1:].unflatten(1, grid)
    return seen / seen.amax((1, 2), keepdim=True)
