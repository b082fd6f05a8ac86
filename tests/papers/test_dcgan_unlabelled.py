"""DCGANs without labels: folders of images, what is wrong with them, SVHN, and SVMs on features."""

import statistics

import numpy as np
import pytest
import torch
from PIL import Image

from common.data import standin
from common.data.images import normalised
from common.errors import BadInput
from papers.dcgan import features, train, unlabelled
from papers.dcgan.features import Labelled, Sets
from papers.dcgan.model import dcgan_svhn
from tests.start import here, newest, record

SCRIPT = "papers.dcgan.train"
FACES = ("faces", "--width", 2, "--batch-size", 4, "--epochs", 1, "--Z", 5)


def folder(path, sizes):
    path.mkdir(parents=True)
    for i, size in enumerate(sizes):
        Image.fromarray(standin.images(1, i, size=128)[0][0].numpy()).resize(size).save(path / f"{i}.png")


def test_a_folder_of_faces(tmp_path):
    """Read by workers, resized and cropped; from two resolutions the same net of 64 pixels learns."""
    folder(tmp_path / "data/faces", [(64, 64), (80, 100), (128, 90), (64, 70)] * 3)
    code, output = here(SCRIPT, *FACES, "--data-dir", tmp_path / "data", "--out", tmp_path / "runs")
    assert code == 0, output
    run = tmp_path / "runs/dcgan/faces/seed0"
    assert record(run)["steps"] == 3 and record(run)["data"]["train"] == 12
    pictures = {path.stem for path in (run / "figures").glob("*.png")}
    assert {*train.EXPERIMENTS["faces"].figures, "samples-epoch001"} <= pictures
    with Image.open(run / "figures/samples.png") as picture:
        assert picture.size == (16 * 64, 8 * 64)
        samples = picture.crop((0, 0, 8 * 64, 8 * 64)).tobytes()
    with Image.open(run / "figures/training.png") as picture:  # in colour, and no wider than what it shows
        picture.seek(picture.n_frames - 1)
        assert picture.size == (8 * 64, 8 * 64) and picture.convert("RGB").tobytes() == samples
    assert newest(run)["objects"]["model"]["convs.3.weight"].shape == (16, 8, 5, 5)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [([], "holds no image"), ([(64, 64), (60, 90), (64, 64), (64, 64)], "1.png is 60 x 90 pixels, and 64 are needed")],
)
def test_a_folder_that_does_not_do(sizes, words, tmp_path):
    folder(tmp_path / "data/faces", sizes)
    code, output = here(SCRIPT, *FACES, "--data-dir", tmp_path / "data", "--out", tmp_path / "runs")
    assert code == 2 and words in output and output.strip().count("error") <= 1 and "Traceback" not in output


def test_features_of_another_set(tmp_path, monkeypatch):
    """Learned from ImageNet, read and resized to 32 pixels by workers; judged on CIFAR-10, here a stand-in."""
    for name in ("n01", "n02"):
        folder(tmp_path / "imagenet/train" / name, [(40, 32), (100, 60)] * 4)
    monkeypatch.setattr(unlabelled, "labelled_cifar", lambda run: (sets(), ""))
    flags = ("--width", 2, "--batch-size", 4, "--epochs", 1, "--Z", 5, "--trials", 1, "--draws", 1, "--labelled", 2)
    code, output = here(SCRIPT, "cifar10-features", *flags, "--data-dir", tmp_path, "--out", tmp_path / "runs")
    assert code == 0, output
    run = record(tmp_path / "runs/dcgan/cifar10-features/seed0")
    assert run["steps"] == 4 and run["data"]["stand_in"] and 0 <= run["metrics"]["test_accuracy_svm_2_a_class"] <= 100


def test_no_folder(tmp_path):
    code, output = here(SCRIPT, "lsun", "--data-dir", tmp_path, "--out", tmp_path / "runs")
    assert code == 2 and str(tmp_path / "lsun") in output and "is not there" in output


def test_what_a_worker_makes_of_an_image():
    """The shorter side is resized, and the centre is what is learned."""
    wide = Image.fromarray(np.arange(128, dtype=np.uint8).repeat(3).reshape(1, 128, 3).repeat(64, 0))
    (shown,) = unlabelled.reading(lambda index: wide, str, 64)(0, None)
    assert shown.shape == (64, 64, 3) and (shown[0, :, 0] == torch.arange(32, 96)).all()


def test_svhn(tmp_path, monkeypatch):
    """The files of format 2, whose 10 is a 0; one that is another file."""
    from scipy.io import savemat

    (tmp_path / "svhn").mkdir()
    images, labels = standin.images(60, 0)
    for name in ("train", "test"):
        content = {"X": images.permute(1, 2, 3, 0).numpy(), "y": labels.where(labels > 0, torch.tensor(10))[:, None].numpy()}
        savemat(tmp_path / f"svhn/{name}_32x32.mat", content)
    sets = unlabelled.split
    monkeypatch.setattr(unlabelled, "split", lambda images, labels, held_out, test: sets(images, labels, 20, test))
    flags = ("--width", 2, "--batch-size", 8, "--epochs", 1, "--trials", 1, "--draws", 1, "--labelled", 2)
    code, output = here(SCRIPT, "svhn-1000", *flags, "--data-dir", tmp_path, "--out", tmp_path / "runs")
    assert code == 0, output
    run = record(tmp_path / "runs/dcgan/svhn-1000/seed0")
    assert run["data"]["train"] == 40 and 0 <= run["metrics"]["test_error_svm_2_a_class"] <= 100
    (tmp_path / "svhn/test_32x32.mat").write_bytes(b"nothing")
    code, output = here(SCRIPT, "svhn-1000", "--data-dir", tmp_path, "--out", tmp_path / "again")
    assert code == 2 and "test_32x32.mat" in output and "get it again" in output


def sets():
    return Sets(*(Labelled(*standin.images(n, seed)) for seed, n in enumerate((100, 50, 60))))


def test_few_labels():
    labels = torch.arange(100) % 10
    first, again, other = (features.few(labels, 3, 0, draw) for draw in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert (labels[first].bincount() == 3).all() and len(first.unique()) == 30


def test_svms_are_those_of_the_authors_protocol():
    """C by validation images over a few draws; then the mean over others."""
    from sklearn.svm import LinearSVC

    data, x = sets(), features.of_pixels
    errors, C = features.svm_errors(x, data, 4, trials=2, draws=3, seed=1)

    def error(C, draw, on):
        few = features.few(data.train.labels, 4, 1, draw)
        svm = LinearSVC(C=C, random_state=abs(draw)).fit(x(data.train.images[few]), data.train.labels[few].numpy())
        return 100 * (svm.predict(x(on.images)) != on.labels.numpy()).mean()

    found = {C: statistics.fmean(error(C, draw, data.validation) for draw in (-1, -2)) for C in features.CS}
    assert found[C] == min(found.values())
    assert errors == pytest.approx([error(C, draw, data.test) for draw in range(3)])


def test_features_are_those_of_the_populations_statistics():
    """The same for an image alone as among others, and of what is learned, not of the test images."""
    from types import SimpleNamespace

    torch.manual_seed(0)
    run = SimpleNamespace(device=torch.device("cpu"), autocast=lambda: torch.autocast("cpu", torch.bfloat16, enabled=False))
    net, images = dcgan_svhn(width=4)[1], standin.images(300, 0)[0]
    found = features.of_network(run, net, images[:256])
    together = found(images[256:])
    assert np.allclose(together[:1], found(images[256:257]), atol=1e-5)
    with torch.no_grad():
        h = net.convs[1](net.activations[0](net.convs[0](normalised(images[:256], 127.5, 127.5))))
    means = torch.stack([part.mean((0, 2, 3)) for part in h.split(128)]).mean(0)
    torch.testing.assert_close(net.norms[1].running_mean, means, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "flags", [("lsun", "--labelled", 10), ("cifar10-features-scaled", "--labelled", -1), ("lsun", "--width", 0)]
)
def test_impossible_values(flags, tmp_path):
    code, output = here(SCRIPT, *flags, "--out", tmp_path)
    assert code == 2 and "Traceback" not in output


def test_an_image_that_is_too_small_is_named():
    with pytest.raises(BadInput, match=r"here 3 is 32 x 64 pixels"):
        unlabelled.reading(lambda index: Image.new("RGB", (32, 64)), lambda index: f"here {index}", 64)(3, None)
