"""What a net is shown of an image, and stand-in data."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from common.data import images, standin
from papers.alexnet.data import colour_statistics


def padded_crop(image, mean, top, left, flip):
    """Of one image, in the order of words of the ResNet paper, Sec. 4.2: mean subtracted, padded, cropped, flipped."""
    padded = torch.zeros(40, 40, 3, dtype=mean.dtype)
    padded[4:36, 4:36] = image - mean
    crop = padded[top : top + 32, left : left + 32]
    return (crop.flip(1) if flip else crop).permute(2, 0, 1) / 255


def test_crops_are_those_of_each_image_alone():
    batch, _ = standin.images(200, 0)
    mean = batch.double().mean(0).float()
    draws, index = images.draw_crops(150, 9, 3, 7), torch.randperm(200)[:150]
    cropped = images.crop(images.windows(batch, 4), images.windows(mean, 4), index, draws)
    for image, crop, draw in zip(batch[index], cropped, draws.tolist(), strict=True):
        torch.testing.assert_close(crop, padded_crop(image, mean, *draw))
    assert cropped.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(images.normalised(batch, mean)[5], padded_crop(batch[5], mean, 4, 4, False))


def test_crops_are_uniform():
    draws = torch.cat([images.draw_crops(100, 9, 0, step) for step in range(300)])
    for column, values in zip(draws.T, (9, 9, 2), strict=True):
        counts = column.bincount(minlength=values).double()
        assert len(counts) == values
        assert ((counts - 30_000 / values).square() / (30_000 / values)).sum() < 30  # chi-square with at most 8 degrees
    assert torch.corrcoef(draws.double().T).triu(1).abs().max() < 0.03
    assert not torch.equal(images.draw_crops(100, 9, 0, 1), images.draw_crops(100, 9, 1, 1))


def smooth(width, height):
    """A picture without detail, in which a shifted or stretched crop would show."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray((255 * np.stack([x, y, (x + y) / 2], 2)).astype(np.uint8))


@pytest.mark.parametrize(("width", "height"), [(500, 375), (90, 300), (64, 64)])
def test_random_crop_is_a_crop_of_the_resized_image(width, height):
    """Resizing the whole image and cropping then gives the same pixels, for the same draws."""
    image, flips, sides = smooth(width, height), 0, []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        crop = images.random_crop(image, (64, 120), 56, generator).numpy().astype(float)
        side, left, top, flip = torch.rand(4, generator=generator.manual_seed(seed)).tolist()
        side = 64 + int(side * 57)
        size = [round(length * side / min(width, height)) for length in (width, height)]
        left, top = int(left * (size[0] - 55)), int(top * (size[1] - 55))
        expected = np.asarray(image.resize(size, Image.Resampling.BILINEAR), float)[top : top + 56, left : left + 56]
        expected = expected[:, ::-1] if flip < 0.5 else expected
        assert expected.shape == crop.shape == (56, 56, 3)
        assert abs(crop - expected).max() <= 3
        flips += flip < 0.5
        sides.append(side)
    assert 8 < flips < 32 and min(sides) < 75 and max(sides) > 110


def test_random_crop_reaches_every_side_and_corner():
    """Sides from the least to the greatest, and positions from edge to edge."""
    image = smooth(90, 60)
    crops = [images.random_crop(image, (60, 62), 50, torch.Generator().manual_seed(seed)).float() / 255 for seed in range(600)]
    lefts = torch.tensor([crop[..., 0].min() for crop in crops])
    rights = torch.tensor([crop[..., 0].max() for crop in crops])
    assert lefts.min() < 0.01 and rights.max() > 0.99 and lefts.max() > 0.4
    height = torch.tensor([crop[..., 1].max() - crop[..., 1].min() for crop in crops])  # 49 / 61 of the image, or 49 / 59
    assert height.min() < 49 / 61 + 0.008 and height.max() > 49 / 59 - 0.008


def test_views_for_testing():
    """Four corners, the centre, and their flips, in that order, of an image whose shorter side is 256; as torchvision has them."""
    image = smooth(500, 375)
    resized = images.resize(image, 256)
    assert np.array_equal(np.asarray(resized), np.asarray(image.resize((341, 256), Image.Resampling.BILINEAR)))
    for turned in (resized, resized.transpose(Image.Transpose.ROTATE_90), image.crop((0, 0, 301, 301))):
        five = [np.asarray(crop) for crop in functional.five_crop(turned, 224)]
        crops = images.views(turned, 224, images.FIVE).numpy()
        assert np.array_equal(crops, np.stack([*five, *(crop[:, ::-1] for crop in five)]))
        assert np.array_equal(images.views(turned, 224, images.CENTRE).numpy(), crops[[4, 9]])
        assert np.array_equal(crops[4], np.asarray(functional.center_crop(turned, 224)))
    grid = [(i / 4, j / 4) for i in range(5) for j in range(5)]
    crops = images.views(resized, 224, grid).numpy()  # VGG's 50
    pixels = np.asarray(resized)
    for n, (top, left) in enumerate((top, left) for top in (0, 8, 16, 24, 32) for left in (0, 29, 58, 88, 117)):
        assert np.array_equal(crops[n], pixels[top : top + 224, left : left + 224])
    assert np.array_equal(crops[25:], crops[:25, :, ::-1])


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (333, 1000), (64, 64)])
@pytest.mark.parametrize("how", [images.BILINEAR, images.BICUBIC])
def test_resizing_is_torchvisions(size, how):
    image = smooth(*size)
    theirs = functional.resize(image, 97, functional.InterpolationMode(["bilinear", "bicubic"][how == images.BICUBIC]))
    assert np.array_equal(np.asarray(images.resize(image, 97, how)), np.asarray(theirs))


def test_crops_by_area():
    """Shares of the image within the bounds, sides within 3:4 and 4:3, at all places, either way round, by the generator alone."""
    image = smooth(200, 150)
    draw = lambda seed: images.area_crop(image, (0.1, 0.5), 32, torch.Generator().manual_seed(seed)).double() / 255
    state = torch.default_generator.get_state()
    crops = torch.stack([draw(seed) for seed in range(300)])  # red grows to the right, green downwards
    assert torch.equal(crops[7], draw(7)) and torch.equal(torch.default_generator.get_state(), state)
    flipped = crops[:, 0, 0, 0] > crops[:, 0, -1, 0]
    assert 110 < flipped.sum() < 190
    w, h = ((crops[..., i].amax((1, 2)) - crops[..., i].amin((1, 2))) * 32 / 31 for i in (0, 1))  # as shares of the image's
    assert 0.08 < (w * h).min() < 0.13 and 0.45 < (w * h).max() < 0.53
    ratio = w * 200 / (h * 150)
    assert 0.70 < ratio.min() < 0.80 and 1.25 < ratio.max() < 1.42
    assert crops[..., 0].min() < 0.02 and crops[..., 0].max() > 0.98 and crops[..., 1].min() < 0.02 and crops[..., 1].max() > 0.98


def test_windows_of_a_smaller_size():
    """24 pixels of 32, as cuda-convnet takes them: no margins."""
    batch, _ = standin.images(5, 0)
    windows = images.windows(batch, size=24)
    assert windows.shape == (5, 9, 9, 3, 24, 24) and windows.data_ptr() != 0
    assert torch.equal(windows[3, 8, 2].permute(1, 2, 0), batch[3, 8:32, 2:26])


def test_colour_statistics_are_those_of_all_pixels():
    """Of images of several sizes and batches of them; p1 has the greatest spread; either sign would do, but it is always one."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.tensor([[60.0, 50.0, 40.0], [10.0, -8.0, 0.0], [1.0, 2.0, -3.0]])
    colours = lambda *shape: (128 + torch.randn(*shape, 3, generator=generator) @ mixing).clamp(0, 255).to(torch.uint8)
    some = [colours(9, 30, 20), colours(40, 7), colours(1, 1)]
    values, vectors = colour_statistics(some)
    pixels = torch.cat([each.reshape(-1, 3) for each in some]).double() / 255
    covariance = pixels.T.cov(correction=0)
    torch.testing.assert_close(
        vectors.double() @ torch.diag(values.double()) @ vectors.T.double(), covariance, atol=1e-7, rtol=1e-5
    )
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(3), atol=1e-6, rtol=0)
    assert values[0] > values[1] > values[2] > 0
    assert all(column[column.abs().argmax()] > 0 for column in vectors.T)
    for one, other in zip(colour_statistics(reversed(some)), (values, vectors), strict=True):
        torch.testing.assert_close(one, other)


def test_colours_vary_as_the_eigenvalues_say():
    """Their covariance is P diag((std l)^2) P^T."""
    values, vectors = torch.tensor(images.EIGENVALUES), torch.tensor(images.EIGENVECTORS)
    colours = torch.cat([images.draw_colours(1000, 0.1, values, vectors, 0, step) for step in range(100)]).double()
    P = vectors.double()
    torch.testing.assert_close(P.T @ P, torch.eye(3).double(), atol=2e-3, rtol=0)
    expected = P @ torch.diag((0.1 * values.double()).square()) @ P.T
    torch.testing.assert_close(colours.T.cov(), expected, atol=0.02 * expected.max().item(), rtol=0)
    assert torch.equal(images.draw_colours(5, 0, values, vectors, 0, 0), torch.zeros(5, 3))


# Stand-in data.


def test_stand_in_images_show_their_class():
    """The mean colours of sixteen parts tell nearly all images of another seed apart, of any size, in any default type."""
    (seen, labels), (others, their_labels) = standin.images(300, 0, size=24), standin.images(100, 1, size=24)
    assert seen.dtype == torch.uint8 and seen.shape == (300, 24, 24, 3) and set(labels.tolist()) == set(range(10))
    parts = lambda batch: torch.nn.functional.avg_pool2d(batch.permute(0, 3, 1, 2).float(), 6).flatten(1)
    means = torch.stack([parts(seen)[labels == k].mean(0) for k in range(10)])
    assert (torch.cdist(parts(others), means).argmin(1) == their_labels).float().mean() > 0.98
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(standin.images(300, 0, size=24)[0], seen)
    finally:
        torch.set_default_dtype(torch.float32)


def test_stand_in_sentences():
    text = standin.text(5000)
    assert len(text) == 5000 and text == standin.text(5000) and standin.text(9000).startswith(text)
    lines = text.split("\n")[:-1]
    places = [[standin.WORDS.index(word) for word in line[:-1].split()] for line in lines]
    assert all(line.endswith(".") and place == sorted(place) for line, place in zip(lines, places, strict=True))
    source, target = standin.pairs(200, 3)
    assert [" ".join(word[:-1] for word in reversed(each[:-1].split())) + "." for each in target] == source
    assert {len(each.split()) for each in source} == set(range(2, 9)) and standin.pairs(200, 4)[0] != source
