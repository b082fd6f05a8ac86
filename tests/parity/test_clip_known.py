"""The two examples of the authors' README, where their ViT-B/32 is in data/weights (downloaded by `make evaluate-clip`)."""

import pytest
import torch

from common.data import cifar
from common.provenance import ROOT
from papers.clip import tokenizer, zeroshot
from papers.clip.pretrained import build, from_openai, read_openai

DATA, FILE = ROOT / "data", ROOT / "data/weights/ViT-B-32.pt"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="no data/weights/ViT-B-32.pt")


@pytest.mark.skipif(not (DATA / "cifar-100-python").exists(), reason="no CIFAR-100")
def test_a_snake():
    """Image 3637 of CIFAR-100's test set, with "a photo of a {}": the five likeliest, in %."""
    model, data = build(from_openai(read_openai(FILE))), cifar.load(DATA, 100)
    classes = [each.replace("_", " ") for each in zeroshot.NAMES["cifar100"].split()]
    W = zeroshot.classifier(model, classes, ["a photo of a {}"], tokenizer.load(DATA), torch.device("cpu"))
    images = zeroshot.in_memory(data.test_images, data.test_labels)
    pixels = zeroshot.shown(zeroshot.preprocessed(images.image(3637), 224)[None], torch.device("cpu"))
    values, indices = (100 * model.encode_image(pixels) @ W.mT).softmax(1)[0].topk(5)
    assert [classes[i] for i in indices] == ["snake", "turtle", "sweet pepper", "lizard", "crocodile"]
    assert (100 * values).tolist() == pytest.approx([65.31, 12.29, 3.83, 1.88, 1.75], abs=0.6)  # theirs is in half precision


@pytest.mark.skipif(not (DATA / "CLIP.png").exists(), reason="no data/CLIP.png, the picture of the authors' README")
def test_a_diagram():
    from papers.clip.classify import probabilities

    model = build(from_openai(read_openai(FILE)))
    found = probabilities(model, tokenizer.load(DATA), [DATA / "CLIP.png"], ["a diagram", "a dog", "a cat"])
    assert found[0].tolist() == pytest.approx([0.9927937, 0.00421068, 0.00299572], abs=2e-3)
