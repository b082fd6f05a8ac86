"""ImageNet from folders and from shards, every kind of bad data refused in one line."""

import io
import os

import pytest
import torch
from PIL import Image

from common.data import imagenet
from common.data.order import mix
from tests.serving import refused

CLASSES = ["n01440764", "n01443537", "n01484850"]
MODES = {"RGB": "JPEG", "L": "JPEG", "CMYK": "JPEG", "RGBA": "PNG", "P": "PNG"}  # ImageNet has all; a PNG is called .JPEG as well


def picture(mode, seed):
    """The bytes of a random image file, smooth enough for JPEG to keep it."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(256, (3, 4, 3), dtype=torch.uint8, generator=generator)
    image = Image.fromarray(small.numpy()).resize((40, 30), Image.Resampling.BICUBIC).convert(mode)
    file = io.BytesIO()
    image.save(file, MODES[mode])
    return file.getvalue()


def files():
    """split -> path in it -> bytes: two or more images in each class, in every mode."""
    made = {"train": {}, "val": {}}
    for split, names in (("train", ["b.JPEG", "a.JPEG", "c.jpg"]), ("val", ["v2.JPEG", "v1.JPG"])):
        for c, name in enumerate(CLASSES):
            for i, file in enumerate(names):
                made[split][f"{name}/{name}_{file}"] = picture(list(MODES)[(c + i) % len(MODES)], mix(split, c, i))
    return made


def in_order(split):
    return sorted(files()[split].items())


@pytest.fixture
def folder(tmp_path):
    """data_dir/imagenet with its two splits as folders; data_dir is tmp_path."""
    for split, contents in files().items():
        for path, content in contents.items():
            file = tmp_path / "imagenet" / split / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    return tmp_path / "imagenet"


@pytest.fixture
def shards(tmp_path):
    """data_dir/imagenet-1k/data with its two splits as `datasets` writes them, two shards of train; data_dir is tmp_path."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    target = tmp_path / "imagenet-1k/data"
    target.mkdir(parents=True)
    for split, name, n in (("train", "train", 2), ("val", "validation", 1)):
        images = [{"bytes": content, "path": path} for path, content in in_order(split)]
        labels = [CLASSES.index(path.split("/")[0]) for path, _ in in_order(split)]
        data = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        for i in range(n):
            data.shard(n, i, contiguous=True).to_parquet(target / f"{name}-{i:05}-of-{n:05}.parquet")
    return target


def pixels(image):
    return image.mode, image.size, image.tobytes()


@pytest.mark.parametrize("source", ["folder", "shards"])
def test_images_and_labels(source, request, tmp_path, capfd):
    request.getfixturevalue(source)
    capfd.readouterr()
    for split in ("train", "val"):
        data, wanted = imagenet.load(tmp_path, split), in_order(split)
        assert len(data) == len(wanted) and data.classes == (1000 if source == "folder" else 3) and not data.official
        assert data.labels.dtype == torch.int64
        assert data.labels.tolist() == [CLASSES.index(path.split("/")[0]) for path, _ in wanted]
        for index, (_, content) in enumerate(wanted):
            image = data.image(index)
            assert image.mode == "RGB" and pixels(image) == pixels(Image.open(io.BytesIO(content)).convert("RGB"))
    output = "".join(capfd.readouterr()).splitlines()
    copied = f"ImageNet: copying {tmp_path}/imagenet-1k/data to {tmp_path}/imagenet-1k/data/.arrow, once for all runs"
    assert output == ([copied] if source == "shards" else [])


def test_the_official_numbers(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(imagenet, "SIZES", {"train": 9, "val": 7})
    monkeypatch.setattr(imagenet, "CLASSES", 3)
    assert imagenet.load(tmp_path, "train").official and not imagenet.load(tmp_path, "val").official
    monkeypatch.setattr(imagenet, "SIZES", {"train": 10, "val": 7})
    assert not imagenet.load(tmp_path, "train").official


def named(tmp_path, *classes):
    for split in ("train", "val"):
        for name in classes:
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "0.PNG").write_bytes(picture("RGB", 0))
    return imagenet.load(tmp_path, "val")


def test_some_of_the_official_classes_keep_their_numbers(tmp_path):
    """By their WordNet ids, of which a net of 1,000 outputs knows the place."""
    data = named(tmp_path, "n15075141", "n01484850", "n12768682")
    assert data.labels.tolist() == [2, 990, 999] and data.classes == 1000


def test_a_net_tells_apart_what_is_there_or_is_refused(tmp_path):
    data = named(tmp_path / "official", "n15075141", "n01484850", "n12768682")
    assert data.told_apart(1000) is data
    own = data.told_apart(3)
    assert own.labels.tolist() == [0, 1, 2] and own.classes == 3 and own.image is data.image
    for other in (10, 21843):
        assert f"3 classes are there, and {other:,} outputs" in refused(data.told_apart, other)
    data = named(tmp_path / "own", "cat", "dog")
    assert data.told_apart(2) is data and data.told_apart(1000) is data, "as a run of ours on this folder has learned them"
    assert "2 classes are there, and 1 outputs" in refused(data.told_apart, 1)


def test_a_flat_validation_set_with_kaggles_list(tmp_path):
    wanted = named(tmp_path / "plain", "n02099601", "n01440764")  # two classes, one image of each in val
    rows, val = ["ImageId,PredictionString"], tmp_path / "plain/val"
    for i, path in enumerate(sorted(val.glob("*/*"))):
        rows.append(f"ILSVRC2012_val_{i},{path.parent.name} 1 2 3 4 {path.parent.name} 5 6 7 8")
        path.rename(val / f"ILSVRC2012_val_{i}.JPEG")
        path.parent.rmdir()
    assert "LOC_val_solution.csv beside it or above it does as well" in refused(imagenet.load, tmp_path / "plain", "val")
    (tmp_path / "plain/LOC_val_solution.csv").write_text("\n".join([*rows, ""]))
    data = imagenet.load(tmp_path / "plain", "val")
    assert data.labels.tolist() == wanted.labels.tolist() and data.classes == 1000 and 207 in data.labels
    imagenet.load(tmp_path / "plain", "train")
    (val / "other.JPEG").write_bytes((val / "ILSVRC2012_val_0.JPEG").read_bytes())
    assert "other.JPEG is not in LOC_val_solution.csv" in refused(imagenet.load, tmp_path / "plain", "val")


def test_own_classes_are_numbered_by_name_and_that_is_said(tmp_path, capfd):
    data = named(tmp_path, "cat", "ant", "n00000001")
    assert data.labels.tolist() == [0, 1, 2] and data.classes == 3
    assert capfd.readouterr().err == f"ImageNet: {tmp_path}/val has 3 classes of its own, numbered in the order of their names\n"


def test_official_classes_and_others_together(tmp_path):
    line = refused(named, tmp_path, "n01440764", "cat")
    assert f"{tmp_path / 'val/cat'} is none of its 1,000 classes" in line


def test_where_it_may_lie(folder, tmp_path):
    whole = imagenet.load(tmp_path, "train").sha256
    assert imagenet.load(folder, "train").sha256 == whole, "data_dir itself"
    (tmp_path / "other").mkdir()
    folder.rename(tmp_path / "other/imagenet-1k")
    assert imagenet.load(tmp_path / "other", "train").sha256 == whole
    os.rename(tmp_path / "other/imagenet-1k/train", tmp_path / "train")
    assert len(imagenet.load(tmp_path / "other", "val")) == 6, "evaluation needs no training images"


def test_the_listing_is_what_is_hashed(folder, tmp_path):
    before = imagenet.load(tmp_path, "train").sha256
    (folder / "train/notes.txt").write_text("mine")
    (folder / "train" / CLASSES[0] / "notes.txt").write_text("mine")
    assert imagenet.load(tmp_path, "train").sha256 == before and len(imagenet.load(tmp_path, "train")) == 9
    (folder / "train" / CLASSES[1] / "more.PNG").write_bytes(picture("RGB", 1))
    assert imagenet.load(tmp_path, "train").sha256 != before and len(imagenet.load(tmp_path, "train")) == 10


JPEG = picture("RGB", 0)
BAD = {
    "truncated": (JPEG[:-50], "image file is truncated"),
    "header": (JPEG[:300], "Truncated File Read"),
    "empty": (b"", "it is empty"),
    "text": (b"<html>quota exceeded</html>", "no image begins with b'<html>qu'"),
    "png": (picture("RGBA", 0)[:100], ""),
}


@pytest.mark.parametrize(("content", "reason"), BAD.values(), ids=BAD)
def test_bad_image(content, reason, folder, tmp_path):
    index = 4
    path = folder / "train" / in_order("train")[index][0]
    path.write_bytes(content)
    data = imagenet.load(tmp_path, "train")
    message = refused(data.image, index)
    assert f"ImageNet: {path} cannot be decoded: {reason}" in message
    assert "replace it, then the same command goes on" in message and "0x" not in message
    assert data.image(index - 1).size == data.image(index + 1).size == (40, 30)


def test_bad_image_in_a_shard(shards, tmp_path, monkeypatch):
    data = imagenet.load(tmp_path, "train")
    monkeypatch.setattr(Image, "open", lambda file: 1 / 0)
    last = shards / "train-00001-of-00002.parquet"
    assert f"row 3 of {last} cannot be decoded: division by zero" in refused(data.image, 8)
    assert f"row 0 of {last} " in refused(data.image, 5)
    assert f"row 4 of {shards / 'train-00000-of-00002.parquet'} " in refused(data.image, 4)


def test_damaged_bytes_in_a_shard(shards, tmp_path):
    path = shards / "train-00000-of-00002.parquet"
    content = path.read_bytes()
    at = content.index(in_order("train")[1][1])
    path.write_bytes(content[:at] + bytes(50) + content[at + 50 :])
    data = imagenet.load(tmp_path, "train")
    assert f"row 1 of {path} cannot be decoded: no image begins with b'\\x00" in refused(data.image, 1)
    assert data.image(0).size == data.image(2).size == (40, 30)


def test_file_that_cannot_be_read(folder, tmp_path):
    data = imagenet.load(tmp_path, "val")
    path = folder / "val" / in_order("val")[0][0]
    path.unlink()
    assert f"ImageNet: cannot read {path} (No such file or directory)" in refused(data.image, 0)


def test_damaged_exif_is_no_news(folder, tmp_path, recwarn):
    exif = Image.Exif()
    exif[0x011A] = 72.0
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, "JPEG", exif=exif.tobytes()[:-4])
    content = file.getvalue()
    Image.open(io.BytesIO(content))
    assert len(recwarn.list) == 1, "PIL warns of it"
    recwarn.clear()
    (folder / "val" / in_order("val")[0][0]).write_bytes(content)
    assert imagenet.load(tmp_path, "val").image(0).size == (40, 30) and not recwarn.list


def flat(folder):
    for path in folder.glob("*/*"):
        path.rename(folder / path.name)
    for path in folder.iterdir():
        if path.is_dir():
            path.rmdir()


NONE = "holds images or nothing, no folders of images"
FOLDERS = {  # what happens to the folder -> which split is asked for, and what is said
    "an empty class": (lambda f: [(f / x / "n9").mkdir() for x in ("train", "val")], "train", "no image in {0}/train/n9"),
    "a class of val alone": (
        lambda f: (f / "val/n01443537").rename(f / "val/n0"),
        "train",
        "{0}/val/n0 is there but {0}/train/n0 ",
    ),
    "a class of train alone": (
        lambda f: (f / "val/n01443537").rename(f / "x"),
        "val",
        "{0}/train/n01443537 is there but {0}/val/n",
    ),
    "no classes": (lambda f: flat(f / "val"), "val", "{0}/val " + NONE),
    "no classes in the other": (lambda f: flat(f / "val"), "train", "{0}/val " + NONE),
    "still packed": (lambda f: flat(f / "train"), "train", "{0}/train " + NONE),
}


@pytest.mark.parametrize(("change", "split", "reason"), FOLDERS.values(), ids=FOLDERS)
def test_bad_folders(change, split, reason, folder, tmp_path):
    change(folder)
    message = refused(imagenet.load, tmp_path, split)
    assert reason.format(folder) in message and ("LOC_val_solution.csv" in message or "unpack it" in message)


def test_nothing_there(tmp_path):
    for split, shard in (("train", "train-*.parquet"), ("val", "val*-*.parquet")):
        message = refused(imagenet.load, tmp_path / "none", split)
        for word in (
            f"no {split}/ and no {shard} in {tmp_path}/none/imagenet, {tmp_path}/none/imagenet-1k,",
            "https://image-net.org",
        ):
            assert word in message
        for word in ("hf download ILSVRC/imagenet-1k", "--data-dir", "make smoke"):
            assert word in message


def test_missing_shard(shards, tmp_path):
    (shards / "train-00000-of-00002.parquet").unlink()
    assert f"{shards} holds 1 of 2 train shards" in refused(imagenet.load, tmp_path, "train")
    assert len(imagenet.load(tmp_path, "val")) == 6


def test_damaged_shard(shards, tmp_path):
    path = shards / "train-00001-of-00002.parquet"
    content = path.read_bytes()
    for damaged in (content[:-50], b""):
        path.write_bytes(damaged)
        assert f"ImageNet: cannot read {path} (" in refused(imagenet.load, tmp_path, "train")
    path.write_bytes(content[:4] + bytes(100) + content[104:])  # in the images; the index at the end is whole
    message = refused(imagenet.load, tmp_path, "train")
    assert f"{shards} cannot be copied to {shards / '.arrow'} (" in message and "hf download" in message


def test_other_columns(shards, tmp_path):
    import datasets

    path = shards / "validation-00000-of-00001.parquet"
    datasets.Dataset.from_dict({"img": [1], "label": [1]}).to_parquet(path)
    assert f"{shards} cannot be copied to {shards / '.arrow'} (" in refused(imagenet.load, tmp_path, "val")


def test_no_room_for_the_copy(shards, tmp_path):
    (shards / ".arrow").write_text("a file")
    message = refused(imagenet.load, tmp_path, "val")
    assert f"{shards} cannot be copied to {shards / '.arrow'} (" in message and "$HF_HOME" in message
