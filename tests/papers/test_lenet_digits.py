"""LeNet-5's input: the field, the distorted copies of a digit, and the digits made up for tests."""

import math

import pytest
import torch

from papers.lenet.digits import distort, field, made_up, random_distortions

WHITE, BLACK = -0.1, 1.175

pytestmark = pytest.mark.usefixtures("double")


def affine(xx=1.0, xy=0.0, right=0.0, yy=1.0, down=0.0):
    """A map from the distorted image to the original; right and down in pixels."""
    return torch.tensor([[[xx, xy, right / 16], [0, yy, down / 16]]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_field(dtype):
    torch.set_default_dtype(dtype)
    torch.manual_seed(0)
    images = torch.randint(256, (3, 28, 28)).to(torch.uint8)
    images[:, 0, 0], images[:, 27, 27] = 0, 255
    fields = field(images)
    assert fields.dtype == dtype and fields.shape == (3, 1, 32, 32)
    torch.testing.assert_close(fields[:, 0, 2, 2], torch.full((3,), WHITE))
    torch.testing.assert_close(fields[:, 0, 29, 29], torch.full((3,), BLACK))
    torch.testing.assert_close(fields[:, 0, 2:30, 2:30], images.to(dtype) * (1.275 / 255) - 0.1)
    fields[:, :, 2:30, 2:30] = WHITE
    torch.testing.assert_close(fields, torch.full((3, 1, 32, 32), WHITE))


# Distortions


def test_the_identity_changes_nothing():
    torch.manual_seed(0)
    fields = torch.randn(4, 1, 32, 32)
    torch.testing.assert_close(distort(fields, affine().expand(4, 2, 3)), fields)
    torch.testing.assert_close(distort(fields, torch.eye(2, 3).expand(4, 2, 3).float()), fields)


@pytest.mark.parametrize("right, down", [(3, 0), (0, 2), (-1, 5), (-4, -2)])
def test_translation_by_whole_pixels(right, down):
    """The distorted image takes its pixels from that far to the right and down in the original; beyond its edges is white."""
    torch.manual_seed(0)
    original = torch.randn(32, 32)
    expected = torch.full((32, 32), WHITE)
    for r in range(32):
        for c in range(32):
            if 0 <= r + down < 32 and 0 <= c + right < 32:
                expected[r, c] = original[r + down, c + right]
    torch.testing.assert_close(distort(original[None, None], affine(right=right, down=down))[0, 0], expected)


def test_any_map_of_a_ramp():
    """Bilinear interpolation is exact on ramps, so each pixel shows where it was taken from."""
    maps = random_distortions(50, 1.0, torch.Generator().manual_seed(1)).to(torch.float64)
    at = torch.arange(32) - 15.5  # of pixel centres, from the middle of the field
    down, right = torch.meshgrid(at, at, indexing="ij")
    for ramp, row in ((right, 0), (down, 1)):
        source = maps[:, :, :2] @ torch.stack([right.flatten(), down.flatten()]) + 16 * maps[:, :, 2:]  # (50, 2, 1024)
        inside = source.abs().amax(1) < 15.5
        shown = distort(ramp.expand(50, 1, 32, 32), maps).view(50, -1)
        assert inside.double().mean() > 0.8
        torch.testing.assert_close(shown[inside], source[:, row][inside], rtol=0, atol=1e-9)


def moments(image):
    """Covariance (xx, xy, yy) of the ink of a field, in pixels."""
    ink, at = image - WHITE, torch.arange(32) - 15.5
    ink = ink / ink.sum()
    right, down = (ink.sum(0) * at).sum(), (ink.sum(1) * at).sum()
    xx, yy = (ink.sum(0) * (at - right) ** 2).sum(), (ink.sum(1) * (at - down) ** 2).sum()
    return torch.stack([xx, (at - down) @ ink @ (at - right), yy])


@pytest.mark.parametrize(
    "map, expected",
    [
        (affine(xx=1.25, yy=1.25), (9 / 1.25**2, 0, 9 / 1.25**2)),  # scaling: smaller
        (affine(xx=0.8, yy=0.8), (9 / 0.8**2, 0, 9 / 0.8**2)),  # larger
        (affine(xx=1.25, yy=0.8), (9 / 1.25**2, 0, 9 / 0.8**2)),  # squeezing: narrower and higher
        (affine(xy=0.3), (9 + 9 * 0.3**2, -9 * 0.3, 9)),  # shearing: x moves by -0.3 y
    ],
)
def test_second_moments_of_a_blob(map, expected):
    """A Gaussian of standard deviation 3 pixels; interpolation adds up to 0.3 square pixels."""
    ink = torch.exp(-((torch.arange(32) - 15.5) ** 2) / 18)
    blob = WHITE + (BLACK - WHITE) * ink[:, None] * ink
    torch.testing.assert_close(moments(blob), torch.tensor([9.0, 0, 9]), rtol=0, atol=1e-3)
    torch.testing.assert_close(moments(distort(blob[None, None], map)[0, 0]), torch.tensor(expected), rtol=0, atol=0.35)


def test_shearing_displaces_rows_by_their_height():
    bar = torch.full((1, 1, 32, 32), WHITE)
    bar[:, :, 4:28, 15:17] = BLACK
    ink = distort(bar, affine(xy=0.25))[0, 0, 4:28] - WHITE
    at = torch.arange(32) - 15.5
    torch.testing.assert_close((ink * at).sum(1) / ink.sum(1), -0.25 * at[4:28], rtol=0, atol=1e-9)
    torch.testing.assert_close(ink.sum(1), torch.full((24,), 2 * (BLACK - WHITE)))


def parameters(maps):
    """What a map is made of: (n, 5), each in units of its range."""
    maps = maps.double()
    assert (maps[:, 1, 0] == 0).all()
    wide, high = maps[:, 0, 0], maps[:, 1, 1]
    log = math.log(1.15)
    return torch.stack(
        [
            maps[:, 0, 2] * 16 / 2,
            maps[:, 1, 2] * 16 / 2,
            (wide * high).log() / 2 / log,
            (wide / high).log() / 2 / log,
            maps[:, 0, 1] / 0.3,
        ],
        1,
    )


def draw(strength, seed=0, n=4000):
    return random_distortions(n, strength, torch.Generator().manual_seed(seed))


def test_random_distortions_fill_their_ranges():
    """2 pixels, a factor of 1.15, 0.3 pixels for each pixel; at twice the strength twice as far, the logarithm of factors."""
    once = parameters(draw(1.0))
    assert ((once.amin(0) >= -1 - 1e-9) & (once.amin(0) < -0.99) & (once.amax(0) > 0.99) & (once.amax(0) <= 1 + 1e-9)).all()
    assert (once.mean(0).abs() < 0.04).all() and (once.square().mean(0) - 1 / 3).abs().max() < 0.02
    torch.testing.assert_close(parameters(draw(2.0)), 2 * once)
    assert torch.equal(draw(0.0), torch.eye(2, 3).expand(4000, 2, 3))


def test_random_distortions_are_independent_and_repeatable():
    once = parameters(draw(1.0))
    assert (torch.corrcoef(once.T) - torch.eye(5)).abs().max() < 0.06  # four standard errors
    assert torch.equal(draw(1.0), draw(1.0))
    assert not torch.isclose(draw(1.0), draw(1.0, seed=1))[:, :, 2].any(1).all()


# Digits for the smoke experiment


def test_made_up_digits_are_the_same_on_every_call():
    once, again = made_up(30, 20), made_up(30, 20)
    for part in ("train_images", "train_labels", "test_images", "test_labels"):
        assert torch.equal(getattr(once, part), getattr(again, part))
    assert [len(part) for part in (once.train_images, once.train_labels, once.test_images, once.test_labels)] == [30, 30, 20, 20]
    assert not torch.equal(once.train_images[:20], once.test_images)
