"""Folders of images, of whatever shape."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from common.data import folders
from common.data.images import CENTRE, views
from common.data.workers import Reader
from tests.serving import refused


def write(path, number, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (number, 0, 255 - number)).convert(mode).save(path)


@pytest.fixture
def classes(tmp_path):
    """Two classes, the second's images in folders of folders, with files that are none; red says which image it is."""
    root = tmp_path / "set"
    for number, name in enumerate(("b/1.png", "b/10.png", "b/2.webp", "a é/x/y/0.bmp", "a é/z.PNG")):
        write(root / name, number)
    (root / "b/notes.txt").write_text("no image")
    write(root / ".hidden/1.png", 9)
    write(root / "b/._1.png", 9)
    return root


def reds(folder):
    return [folder.image(i).getpixel((5, 5))[0] for i in range(len(folder))]


def test_classes(classes):
    """In the order of paths; the first folder is the class."""
    folder = folders.load(classes, "Faces")
    assert folder.classes == ("a é", "b") and folder.labels.tolist() == [0, 0, 1, 1, 1] and len(folder) == 5
    assert [path.decode() for path in folder.paths] == ["a é/x/y/0.bmp", "a é/z.PNG", "b/1.png", "b/10.png", "b/2.webp"]
    assert reds(folder)[:4] == [3, 4, 0, 1]


def test_a_flat_folder_and_a_link_to_one(classes, tmp_path):
    for path in [*classes.rglob("*.png"), *classes.rglob("*.PNG")]:
        shutil.copy(path, (tmp_path / "flat").mkdir(exist_ok=True) or tmp_path / "flat")
    folder = folders.load(tmp_path / "flat", "Faces")
    assert folder.classes == () and folder.labels.tolist() == [0] * len(folder) and len(folder) == 3
    (tmp_path / "link").symlink_to(tmp_path / "flat")
    linked = folders.load(tmp_path / "link", "Faces")
    assert linked.sha256 == folder.sha256 and reds(linked) == reds(folder)


def test_the_digest_says_what_is_there(classes):
    first = folders.load(classes, "Faces").sha256
    assert first == folders.load(classes, "Other name").sha256
    (classes / "b/1.png").rename(classes / "b/3.png")
    moved = folders.load(classes, "Faces").sha256
    write(classes / "b/3.png", 7)
    Image.new("RGB", (80, 90)).save(classes / "b/3.png")
    assert len({first, moved, folders.load(classes, "Faces").sha256}) == 3


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_images_are_in_rgb(mode, tmp_path):
    write(tmp_path / f"0.{'jpg' if mode == 'CMYK' else 'png'}", 200, mode)
    assert np.array(folders.load(tmp_path, "Faces").image(0)).shape == (30, 40, 3)


def test_samples_are_read_by_workers(classes):
    folder = folders.load(classes, "Faces")
    sample = folder.sample(lambda image, generator: views(image, 20, CENTRE)[int(torch.randint(2, (), generator=generator))])
    reader = Reader(sample, workers=1)
    (batch,) = reader.read([[(3, 0), (0, 1)]])
    reader.close()
    assert batch[0].shape == (2, 20, 20, 3) and batch[0][:, 0, 0, 0].tolist() == [1, 3] and batch[1].tolist() == [1, 0]


@pytest.mark.parametrize("content", [b"", b"<html>", "cut"])
def test_an_image_that_cannot_be_decoded_is_named(content, classes):
    path = classes / "b/1.png"
    path.write_bytes(path.read_bytes()[:-40] if content == "cut" else content)
    message = refused(folders.load(classes, "Faces").image, 2)
    assert message.startswith(f"Faces: {path} cannot be decoded: ") and "goes on from the last checkpoint" in message
    path.unlink()


def test_an_image_that_has_gone_is_named(classes):
    folder = folders.load(classes, "Faces")
    (classes / "b/1.png").unlink()
    assert refused(folder.image, 2).startswith(f"Faces: cannot read {classes}/b/1.png (No such file")


def test_folders_that_cannot_be_used(classes, tmp_path):
    assert refused(folders.load, tmp_path / "nowhere", "Faces").startswith(f"Faces: {tmp_path}/nowhere is not there: put images")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/images.tar").write_text("still packed")
    assert refused(folders.load, tmp_path / "empty", "Faces").startswith(f"Faces: {tmp_path}/empty holds no image: put images")
    (classes / "c").mkdir()
    assert refused(folders.load, classes, "Faces") == f"Faces: no image in {classes}/c: unpack it again, or take it away"
