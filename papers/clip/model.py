"""Learning Transferable Visual Models From Natural Language Supervision. Alec Radford, Jong Wook Kim, Chris Hallacy, Aditya Ramesh,
Gabriel Goh, Sandhini Agarwal, Girish Sastry, Amanda Askell, Pamela Mishkin, Jack Clark, Gretchen Krueger, Ilya Sutskever, ICML 2021
(arXiv 2103.00020). This file: MIT licence.

Here: the contrastive loss (Sec. 2.3, Fig. 3), the text encoder and both kinds of image encoder (Sec. 2.4), the nine models of
Tables 19 and 20, and the classifier that comes of class names (Sec. 3.1). What the paper's text leaves open is as in the authors'
code (openai/CLIP), which has no training. Not here: the objectives that Fig. 2 compares with, which are in objectives.py.

Shapes: B images or captions, N pairs of the global batch, T tokens, D width, h heads, k width of a head, E embedding, C maps, H W
height and width, K classes.
"""

import math
from collections import OrderedDict

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

HEAD, LN_100 = 64, math.log(100)  # width of a head in all transformers of Tables 19 and 20; the greatest logit scale

# Sec. 2.3, Fig. 3. Selecting an efficient pre-training method.


class CLIP(nn.Module):
    """Images (B, 3, H, W) and captions (B, T) -> embeddings of length 1, (B, E) both, and the scale exp(t) of their cosines."""

    def __init__(self, image_encoder: nn.Module, text_encoder: nn.Module) -> None:
        super().__init__()
        self.image_encoder, self.text_encoder = image_encoder, text_encoder
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # t; Sec. 2.5: "the equivalent of 0.07"

    def encode_image(self, images: Tensor) -> Tensor:
        """I_e = l2_normalize(I_f W_i)."""
        return F.normalize(self.image_encoder(images).to(self.logit_scale.dtype), dim=1)  # (B, E)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """T_e = l2_normalize(T_f W_t)."""
        return F.normalize(self.text_encoder(tokens).to(self.logit_scale.dtype), dim=1)  # (B, E)

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.encode_image(images), self.encode_text(tokens), self.logit_scale.exp()

    @torch.no_grad()
    def clip_scale(self) -> None:
        """After an update. Sec. 2.5: "clipped to prevent scaling the logits by more than 100"."""
        self.logit_scale.clamp_(max=LN_100)


def contrastive_loss(I: Tensor, T: Tensor, scale: Tensor, rows: slice = slice(None)) -> Tensor:
    """Fig. 3: cross-entropy of each image's caption among all N captions, and of each caption's image, the mean of the two.

    I, T: embeddings (N, E). rows: the pairs to average over. "The calculation of embedding similarities was also sharded":
    a process has rows (B, N) of the similarities of its own pairs, and never all of them.
    """
    labels = torch.arange(len(I), device=I.device)[rows]
    loss_i = F.cross_entropy(scale * I[rows] @ T.mT, labels)  # logits = np.dot(I_e, T_e.T) * np.exp(t)
    loss_t = F.cross_entropy(scale * T[rows] @ I.mT, labels)  # the same logits by columns
    return (loss_i + loss_t) / 2


# Sec. 2.4. Choosing and scaling a model. Both transformers are made of these blocks.


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values come from one matrix."""

    def __init__(self, D: int, causal: bool) -> None:
        super().__init__()
        self.h, self.causal = D // HEAD, causal
        self.in_proj = nn.Linear(D, 3 * D)
        self.out_proj = nn.Linear(D, D)
        for layer in (self.in_proj, self.out_proj):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        q, k, v = rearrange(self.in_proj(x), "B T (three h k) -> three B h T k", three=3, h=self.h)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)  # softmax(q k^T / sqrt(k)) v
        return self.out_proj(rearrange(y, "B h T k -> B T (h k)"))


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), of the authors' code; the paper's text names no activation."""
    return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """A residual block that normalises first, as GPT-2's."""

    def __init__(self, D: int, causal: bool = False) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(D), Attention(D, causal)
        self.ln_2, self.c_fc, self.c_proj = nn.LayerNorm(D), nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        x = x + self.attn(self.ln_1(x))
        return x + self.c_proj(quick_gelu(self.c_fc(self.ln_2(x))))


class TextEncoder(nn.Module):
    """Captions as tokens (B, T), T at most `context` -> W_t times their features (B, E).

    A caption ends with the vocabulary's last token; what comes after is never seen. So a batch may end with its longest caption.
    """

    def __init__(self, E: int, D: int = 512, layers: int = 12, context: int = 77, vocabulary: int = 49_408) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, D)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(context, D))
        self.blocks = nn.Sequential(*(Block(D, causal=True) for _ in range(layers)))  # "masked self-attention"
        self.ln_final = nn.LayerNorm(D)
        self.proj = nn.Parameter(D**-0.5 * torch.randn(D, E))  # W_t
        self.initialise(D, layers)

    def initialise(self, D: int, layers: int) -> None:
        """As the authors' code does; what it leaves to PyTorch in the image encoders is left to PyTorch there too."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        for block in self.blocks:
            nn.init.normal_(block.attn.in_proj.weight, std=D**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=D**-0.5 * (2 * layers) ** -0.5)
            nn.init.normal_(block.c_fc.weight, std=(2 * D) ** -0.5)
            nn.init.normal_(block.c_proj.weight, std=D**-0.5 * (2 * layers) ** -0.5)

    def states(self, tokens: Tensor) -> Tensor:  # (B, T) -> (B, T, D)
        return self.blocks(self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]])

    def forward(self, tokens: Tensor) -> Tensor:
        end = tokens.argmax(1)  # "the activations of the highest layer of the transformer at the [EOS] token"
        x = self.states(tokens)[torch.arange(len(tokens), device=tokens.device), end]  # (B, D)
        return self.ln_final(x) @ self.proj  # "layer normalized and then linearly projected"


class VisionTransformer(nn.Module):
    """Images (B, 3, H, W) -> W_i times their features (B, E). Unlike ViT's, patches and positions are normalised (ln_pre)."""

    def __init__(self, E: int, D: int, layers: int, patch: int, side: int = 224) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, D, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(D**-0.5 * torch.randn(D))
        self.positional_embedding = nn.Parameter(D**-0.5 * torch.randn((side // patch) ** 2 + 1, D))
        self.ln_pre, self.ln_post = nn.LayerNorm(D), nn.LayerNorm(D)
        self.blocks = nn.Sequential(*(Block(D) for _ in range(layers)))
        self.proj = nn.Parameter(D**-0.5 * torch.randn(D, E))  # W_i
        for block in self.blocks:
            nn.init.xavier_uniform_(block.attn.in_proj.weight)  # nn.MultiheadAttention's

    def features(self, x: Tensor) -> Tensor:
        """I_f (B, D), which linear probes see."""
        x = self.conv1(x).flatten(2).mT  # (B, H W, D)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding  # (B, 1 + H W, D)
        return self.ln_post(self.blocks(self.ln_pre(x))[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x) @ self.proj


class Bottleneck(nn.Module):
    """ResNet's, where strides are left to average poolings: antialiased "rect-2 blur pooling", in shortcuts as well."""

    def __init__(self, C: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(C, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        nn.init.zeros_(self.bn3.weight)  # a block begins as its shortcut
        self.downsample = nn.Identity()
        if stride > 1 or 4 * width != C:
            conv, bn = nn.Conv2d(C, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
            self.downsample = nn.Sequential(OrderedDict(pool=nn.AvgPool2d(stride), conv=conv, bn=bn))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.pool(F.relu(self.bn2(self.conv2(y))))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class AttentionPool(nn.Module):
    """Maps (B, C, H, W) -> (B, E): one layer of attention "where the query is conditioned on the global average-pooled" maps."""

    def __init__(self, side: int, C: int, E: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(C**-0.5 * torch.randn(side**2 + 1, C))
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = (nn.Linear(C, width) for width in (C, C, C, E))
        for layer in (self.q_proj, self.k_proj, self.v_proj, self.c_proj):
            nn.init.normal_(layer.weight, std=C**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).mT  # (B, H W, C)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positional_embedding  # (B, 1 + H W, C)
        several = (self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x))
        q, k, v = (rearrange(each, "B T (h k) -> B h T k", k=HEAD) for each in several)
        return self.c_proj(F.scaled_dot_product_attention(q, k, v).flatten(1))


class ModifiedResNet(nn.Module):
    """Images (B, 3, H, W) -> (B, E). ResNet-D's three convolutions at the start, blur pooling, attention pooling at the end.

    width: maps after the start, 64 for ResNet-50; the attention's width is 32 times as large.
    """

    def __init__(self, E: int, layers: tuple[int, int, int, int], width: int = 64, side: int = 224) -> None:
        super().__init__()
        half, C = width // 2, width
        self.conv1, self.bn1 = nn.Conv2d(3, half, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = nn.Conv2d(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = nn.Conv2d(half, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        for i, n in enumerate(layers):
            blocks = []
            for j in range(n):
                blocks.append(Bottleneck(C, width << i, 2 if i > 0 and j == 0 else 1))
                C = 4 * width << i
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.attnpool = AttentionPool(side // 32, C, E)

    def forward(self, x: Tensor) -> Tensor:
        for conv, bn in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(bn(conv(x)))
        x = F.avg_pool2d(x, 2)  # (B, width, H / 4, W / 4)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (B, 32 width, H / 32, W / 32)
        return self.attnpool(x)

    features = forward  # what linear probes see


# Tables 19 and 20. Model -> E, pixels, layers (or blocks), width (of a ViT its patch too), text width; parameters.

MODELS = {
    "RN50": (1024, 224, (3, 4, 6, 3), 64, 512, 102_007_137),
    "RN101": (512, 224, (3, 4, 23, 3), 64, 512, 119_688_033),
    "RN50x4": (640, 288, (4, 6, 10, 6), 80, 640, 178_300_601),
    "RN50x16": (768, 384, (6, 8, 18, 8), 96, 768, 290_979_217),
    "RN50x64": (1024, 448, (3, 15, 36, 10), 128, 1024, 623_258_305),
    "ViT-B/32": (512, 224, 12, (768, 32), 512, 151_277_313),
    "ViT-B/16": (512, 224, 12, (768, 16), 512, 149_620_737),
    "ViT-L/14": (768, 224, 24, (1024, 14), 768, 427_616_513),
    "ViT-L/14@336px": (768, 336, 24, (1024, 14), 768, 427_944_193),
}


def clip(name: str) -> CLIP:
    """A model of the paper, with random weights."""
    E, side, layers, width, D, parameters = MODELS[name]
    image = VisionTransformer(E, width[0], layers, width[1], side) if "ViT" in name else ModifiedResNet(E, layers, width, side)
    model = CLIP(image, TextEncoder(E, D))
    assert sum(p.numel() for p in model.parameters()) == parameters
    return model


# Sec. 3.1.4. Prompt engineering and ensembling.


@torch.no_grad()
def zero_shot_classifier(model: CLIP, prompts: list[Tensor]) -> Tensor:
    """Each class's prompts as tokens (n, T) -> W (K, E), for logits exp(t) I W^T.

    "We construct the ensemble over the embedding space instead of probability space": the mean of embeddings, of length 1 again.
    """
    return torch.stack([F.normalize(model.encode_text(tokens).mean(0), dim=0) for tokens in prompts])
