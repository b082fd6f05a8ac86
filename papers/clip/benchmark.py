"""Speeds of training and of zero-shot evaluation against open_clip's.

    make benchmark-clip      # alternating blocks in one process; some minutes

The same towers, batches and precision, on a GPU where there is one. open_clip pads captions to 77 tokens, and so does "77 tokens"
here; a set whose captions are short ends with its longest one (train.py), which gives the same embeddings.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.benchmark import compare
from common.data import standin
from papers.clip.model import CLIP, LN_100, TextEncoder, VisionTransformer, clip, contrastive_loss
from papers.clip.zeroshot import MEAN, STD, in_memory, preprocessed, shown

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GPU = DEVICE.type == "cuda"
CONFIG = {
    "embed_dim": 512,
    "vision_cfg": {"layers": 12, "width": 768, "patch_size": 32, "image_size": 224},
    "text_cfg": {"context_length": 77, "vocab_size": 49_408, "width": 512, "heads": 8, "layers": 12},
}


def theirs(layers: int) -> nn.Module:
    """open_clip's ViT-B/32 with so many layers in each encoder."""
    from open_clip.model import CLIP as OpenCLIP

    vision, text = CONFIG["vision_cfg"] | {"layers": layers}, CONFIG["text_cfg"] | {"layers": layers}
    return OpenCLIP(embed_dim=512, vision_cfg=vision, text_cfg=text, quick_gelu=True)


def ours(layers: int) -> CLIP:
    return clip("ViT-B/32") if layers == 12 else CLIP(VisionTransformer(512, 768, layers, 32), TextEncoder(512, 512, layers))


def training(model: nn.Module, images: Tensor, tokens: Tensor, updates: int) -> Callable[[], None]:
    """A block of updates. Of open_clip with its own loss, whose process is alone."""
    model = model.to(DEVICE)
    usual = not isinstance(model, CLIP)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, weight_decay=0.2, fused=not usual)
    if usual:
        from open_clip.loss import ClipLoss

        loss_of = ClipLoss()
    else:
        loss_of = contrastive_loss

    def block() -> None:
        for _ in range(updates):
            with torch.autocast(DEVICE.type, torch.bfloat16):
                I, T, scale = model(images, tokens)[:3]
            loss_of(I.float(), T.float(), scale).backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                model.logit_scale.clamp_(max=LN_100)

    return block


def evaluation(model: nn.Module, images: Tensor, ours_: bool) -> Callable[[], None]:
    """CIFAR-10's images from bytes to embeddings, resized by PIL's bicubic filter."""
    from torchvision import transforms

    model = model.to(DEVICE).eval()
    several = in_memory(images, torch.zeros(len(images)))
    usual = transforms.Compose(
        [
            transforms.Resize(224, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(224), transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )  # fmt: skip

    @torch.no_grad()
    def block() -> None:
        if ours_:
            pixels = shown(torch.stack([preprocessed(several.image(i), 224) for i in range(several.n)]), DEVICE)
        else:
            pixels = torch.stack([usual(several.image(i)) for i in range(several.n)]).to(DEVICE)
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=GPU):
            model.encode_image(pixels)

    return block


def main() -> None:
    torch.manual_seed(0)
    layers, B, n = (12, 256, 20) if GPU else (3, 32, 1)
    images = torch.randn(B, 3, 224, 224, device=DEVICE)
    tokens = torch.zeros(B, 77, dtype=torch.int64, device=DEVICE)
    tokens[:, 0], tokens[:, 1:9], tokens[:, 9] = 49_406, torch.randint(1, 49_000, (B, 8), device=DEVICE), 49_407
    print(f"ViT-B/32, {layers} layers in each encoder, updates in batches of {B}, bf16")
    variants = {
        "open_clip": training(theirs(layers), images, tokens, n),
        "model.py, 77 tokens": training(ours(layers), images, tokens, n),
        "model.py, captions of 10 tokens as they are": training(ours(layers), images, tokens[:, :10], n),
    }
    compare(variants, n * B, "pairs", blocks=5)
    print(f"\nzero-shot evaluation of images of 32 pixels, ViT-B/32, {layers} layers, from bytes to embeddings, one process")
    some = standin.images(32, 0)[0]
    models = (theirs(layers), ours(layers))
    variants = {
        name: evaluation(model, some, i == 1)
        for i, (name, model) in enumerate(zip(("open_clip", "zeroshot.py"), models, strict=True))
    }
    compare(variants, len(some), "images", blocks=5)


if __name__ == "__main__":
    main()
