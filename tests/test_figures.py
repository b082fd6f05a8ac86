"""Pictures: what is drawn where, and that pixels are kept as they are."""

import numpy as np
import pytest
import torch
from PIL import Image

from common import figures


def test_curves_beside_the_papers_values():
    lines = {"train": ([1, 2, 3], [5.0, 4.0, 3.0], "--"), "test": ([1, 3], [6.0, 3.5], "o-")}
    figure = figures.curves(lines, {"paper 2.9": 2.9}, xlabel="updates", ylim=(2, 7), title="a run")
    (axes,) = figure.axes
    train, test, paper = axes.lines
    assert list(train.get_ydata()) == [5, 4, 3] and list(test.get_xdata()) == [1, 3] and set(paper.get_ydata()) == {2.9}
    assert train.get_linewidth() < test.get_linewidth()
    assert axes.get_ylim() == (2, 7) and (axes.get_xlabel(), axes.get_title()) == ("updates", "a run")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["train", "test"]
    below = figures.curves(lines | {"better": ([1, 3], [4.0, 0.5], "-")}, {}, ylim=(2, 7)).axes[0]
    assert below.get_ylim() == (0.5, 7), "what ends below is not cut off"
    figure.draw_without_rendering()
    (label,) = axes.texts
    assert label.get_text() == "paper 2.9" and label.get_window_extent().x0 > axes.get_window_extent().x1


def test_attention_has_words_on_both_sides():
    weights = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]], dtype=torch.bfloat16)
    one, two = figures.attention(
        [(weights, ["a", "$"], ["x", "y", "z"], "layer 1"), (weights.T, ["x", "y", "z"], ["a", "b"], "")]
    ).axes
    assert [label.get_text() for label in one.get_xticklabels()] == ["x", "y", "z"] and one.get_title() == "layer 1"
    assert [label.get_text() for label in one.get_yticklabels()] == ["a", r"\$"], "no mathematics"
    assert np.allclose(one.images[0].get_array(), weights.float()) and two.images[0].get_array().shape == (3, 2)


@pytest.mark.parametrize("channels", [0, 3])
def test_a_grid_is_kept_pixel_by_pixel(channels, tmp_path):
    """Row after row, nothing between them; what is beyond 0 and 1 is cut."""
    shape = (6, *[channels] * bool(channels), 5, 4)
    levels = torch.randint(256, shape, generator=torch.Generator().manual_seed(0))
    images = levels / 255
    images[0].view(-1)[0], images[5].view(-1)[-1] = -3, 7
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/grid.png").write_bytes(figures.png(figures.grid(images, 3), "grid", "a run's"))
    with Image.open(tmp_path / "figures" / "grid.png") as picture:
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        assert picture.info == {"Title": "grid", "Description": "a run's"}
    levels[0].view(-1)[0], levels[5].view(-1)[-1] = 0, 255
    expected = (levels if channels else levels[:, None].expand(-1, 3, -1, -1)).view(2, 3, 3, 5, 4)
    assert torch.equal(pixels, expected.permute(2, 0, 3, 1, 4).reshape(3, 10, 12).to(torch.uint8))
