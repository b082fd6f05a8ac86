"""ImageNet from folders and from shards, every kind of bad data refused in one line, and the worker processes that read it."""

import io
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from common.data import imagenet, mix, permuted, workers
from common.errors import BadFile, LostWorker
from tests.loading import EXAMPLES, SAMPLES
from tests.serving import refused
from tests.start import Started, finish, newest, processes, record, rows, until

LOADING = "tests.loading"
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
        assert len(data) == len(wanted) and data.classes == 3 and not data.official
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
    monkeypatch.setattr(imagenet, "CLASSES", 4)
    assert not imagenet.load(tmp_path, "train").official


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
    assert f"ImageNet: {path} cannot be read: No such file or directory" in refused(data.image, 0)


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


def test_empty_class_folder(folder, tmp_path):
    for split in ("train", "val"):
        (folder / split / "n99999999").mkdir()
    (folder / "train/n99999999/readme.txt").write_text("no image")
    assert f"no images in {folder}/train/n99999999: " in refused(imagenet.load, tmp_path, "train")
    assert f"no images in {folder}/val/n99999999: " in refused(imagenet.load, tmp_path, "val")


@pytest.mark.parametrize("split", ["train", "val"])
def test_classes_differ(split, folder, tmp_path):
    os.rename(folder / "val" / CLASSES[1], folder / "val/n0000")
    message = refused(imagenet.load, tmp_path, split)
    assert f"{folder}/val/n0000 is there but {folder}/train/n0000 is not" in message
    os.rename(folder / "val/n0000", tmp_path / "n0000")
    message = refused(imagenet.load, tmp_path, split)
    assert f"{folder}/train/{CLASSES[1]} is there but {folder}/val/{CLASSES[1]} is not" in message


@pytest.mark.parametrize("split", ["train", "val"])
def test_flat_val(split, folder, tmp_path):
    for path in list((folder / "val").glob("*/*")):
        os.rename(path, folder / "val" / path.name)
    for path in (folder / "val").glob("n*"):
        if path.is_dir():
            path.rmdir()
    message = refused(imagenet.load, tmp_path, split)
    assert f"{folder}/val holds 6 images, but no folder for each class" in message and "valprep.sh" in message


def test_still_packed(folder, tmp_path):
    for path in list((folder / "train").iterdir()):
        os.rename(path, tmp_path / path.name)
    (folder / "train/n01440764.tar").write_bytes(b"")
    assert f"{folder}/train holds no folder for each class (still packed?)" in refused(imagenet.load, tmp_path, "train")


def test_nothing_there(tmp_path):
    for split, shard in (("train", "train-*.parquet"), ("val", "validation-*.parquet")):
        message = refused(imagenet.load, tmp_path / "none", split)
        for word in (f"no {split} images", f"{split}/", shard, f"{tmp_path}/none/imagenet,", f"{tmp_path}/none/imagenet-1k,"):
            assert word in message
        for word in ("https://image-net.org", "hf download ILSVRC/imagenet-1k", "--data-dir", "cifar10", "make smoke"):
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
        assert f"ImageNet: {path} is damaged (" in refused(imagenet.load, tmp_path, "train")
    path.write_bytes(content[:4] + bytes(100) + content[104:])  # in the images; the index at the end is whole
    message = refused(imagenet.load, tmp_path, "train")
    assert f"{shards} cannot be copied to {shards / '.arrow'} (" in message and "hf download" in message


def test_other_columns(shards, tmp_path):
    import datasets

    path = shards / "validation-00000-of-00001.parquet"
    datasets.Dataset.from_dict({"img": [1], "label": [1]}).to_parquet(path)
    assert f"{path} has columns img, label, not image and label" in refused(imagenet.load, tmp_path, "val")


def test_no_room_for_the_copy(shards, tmp_path):
    (shards / ".arrow").write_text("a file")
    message = refused(imagenet.load, tmp_path, "val")
    assert f"{shards} cannot be copied to {shards / '.arrow'} (" in message and "$HF_HOME" in message


# The workers.


def load(sample, batches, n):
    reader = workers.Reader(sample, workers=n)
    try:
        yield from reader.read(batches)
    finally:
        reader.close()


BATCHES = [[(3, 30), (1, 10)], [(2, 20)], [(3, 31), (0, 0), (1, 10)], [(5, 50)], [(4, 40), (4, 40)]]


def drawing(index, generator):
    return torch.tensor(index), torch.rand(2, generator=generator), torch.randn((), generator=generator)


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.filterwarnings("ignore:This DataLoader will create 3")
def test_batches_are_what_is_asked(n):
    state = torch.get_rng_state()
    loaded = list(load(drawing, BATCHES, n))
    assert torch.equal(torch.get_rng_state(), state), "the default generator is the training's"
    assert len(loaded) == len(BATCHES)
    for batch, asked in zip(loaded, BATCHES, strict=True):
        wanted = [torch.stack(t) for t in zip(*(drawing(i, torch.Generator().manual_seed(s)) for i, s in asked), strict=True)]
        assert isinstance(batch, tuple) and all(torch.equal(a, b) for a, b in zip(batch, wanted, strict=True))
    assert not torch.equal(loaded[0][1][0], loaded[2][1][0]), "another seed, the same sample"
    assert torch.equal(loaded[0][1][1], loaded[2][1][2]), "the same seed, the same sample"


@pytest.mark.parametrize("n", [0, 2])
@pytest.mark.parametrize("source", ["folder", "shards"])
def test_workers_read_images(source, n, request, tmp_path):
    from torchvision.transforms.functional import pil_to_tensor

    request.getfixturevalue(source)
    data = imagenet.load(tmp_path, "train")
    batches = [[(8, 0), (2, 0), (5, 0)], [(0, 0)]]
    loaded = list(load(lambda i, _: (pil_to_tensor(data.image(i)), data.labels[i]), batches, n))
    assert [labels.tolist() for _, labels in loaded] == [[2, 0, 1], [0]]
    for (images, _), asked in zip(loaded, batches, strict=True):
        assert all(torch.equal(image, pil_to_tensor(data.image(i))) for image, (i, _) in zip(images, asked, strict=True))


def children(pid="self"):
    return {int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()}


def alive(pids):
    """Those that are processes still, and not only their parent's memory of one."""
    found = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            found.add(pid)
    return found


@pytest.mark.parametrize("n", [0, 2])
def test_bad_input_in_a_worker_is_one_line(n, folder, tmp_path):
    path = folder / "train" / in_order("train")[1][0]
    path.write_bytes(b"")
    data = imagenet.load(tmp_path, "train")
    loading = load(lambda i, _: (data.labels[i], data.image(i))[:1], [[(0, 0)], [(2, 0), (1, 0)], [(3, 0)]], n)
    assert next(loading)[0].tolist() == [0]
    with pytest.raises(BadFile) as caught:
        next(loading)
    assert str(caught.value).startswith(f"ImageNet: {path} cannot be decoded: it is empty") and "\n" not in str(caught.value)


@pytest.mark.parametrize("n", [0, 1])
def test_other_errors_keep_their_traceback(n):
    def wrong(index, generator):
        return {}["nowhere"]

    with pytest.raises(KeyError) as caught:
        list(load(wrong, [[(0, 0)]], n))
    assert "nowhere" in str(caught.value) and (n == 0 or 'return {}["nowhere"]' in str(caught.value))
    with pytest.raises(RuntimeError, match="equal size") as caught:
        list(load(lambda i, _: (torch.zeros(i),), [[(1, 0), (2, 0)]], n))
    assert not isinstance(caught.value, LostWorker)


def test_early_close_leaves_no_worker_and_waits_for_no_batch():
    def slow(index, generator):
        time.sleep(0.02)
        return (torch.tensor(index),)

    before = children()
    loading = load(slow, [[(0, 0)], *[[(i, 0) for i in range(1000)]] * 4], 2)
    next(loading)
    mine = children() - before
    assert len(alive(mine)) == 2
    start = time.monotonic()
    loading.close()
    assert not alive(mine) and time.monotonic() - start < 2


def test_signals_are_the_parents_affair():
    before = children()
    loading = load(drawing, BATCHES * 20, 2)
    next(loading)
    mine = children() - before
    for signum in (signal.SIGINT, signal.SIGTERM) * 2:
        for pid in mine:
            os.kill(pid, signum)
        next(loading)
    assert len(list(loading)) == 20 * len(BATCHES) - 5
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set() and signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL


def test_workers_end_with_a_killed_parent():
    def idle():
        loading = load(drawing, BATCHES, 2)
        next(loading)
        time.sleep(60)

    parent = multiprocessing.get_context("fork").Process(target=idle)
    parent.start()
    mine = until(lambda: len(found := children(parent.pid)) == 2 and found, 20)
    time.sleep(0.5)
    assert alive(mine) == mine
    parent.kill()
    parent.join()
    until(lambda: not alive(mine), 2)


def test_count(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(13)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert workers.count() == 13
    for n, each in ((1, 13), (4, 3), (16, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(n))
        assert workers.count() == each


# Run.loaded and Run.examples, in runs of their own.


def seen(directory):
    return newest(directory)["objects"]["seen"]["rows"]


def test_processes_and_kills_change_nothing(tmp_path):
    whole = Started(tmp_path / "whole", LOADING, "smoke", "--out", tmp_path / "a")
    split = processes(2, tmp_path / "split", LOADING, "smoke", "--out", tmp_path / "b")
    finish([whole, *split])
    for step in (3, 7):  # killed at about these, and begun again
        killed = Started(tmp_path / "killed", LOADING, "smoke", "--out", tmp_path / "c", "--seconds", 0.01)
        until(lambda step=step: reached(tmp_path / "c", step), 20)
        mine = children(killed.process.pid)
        assert len(mine) == 2 * workers.count() and not any(holds(pid, "lock") for pid in mine)
        killed.kill(signal.SIGKILL)
        killed.process.join()
    finish([Started(tmp_path / "killed", LOADING, "smoke", "--out", tmp_path / "c", "--seconds", 0.01)])
    assert "from step" in (tmp_path / "killed").read_text()

    a, b, c = (tmp_path / out / "tests/smoke/seed0" for out in "abc")
    assert seen(a)[:, 0].tolist() == permuted(SAMPLES, 0, 0, 48).tolist()
    drawn = torch.rand((), generator=torch.Generator().manual_seed(mix(0, "sample", 5, 2)), dtype=torch.float64)
    assert seen(a)[22, 1] == drawn
    assert torch.equal(seen(a), seen(b)) and torch.equal(seen(a), seen(c))
    assert rows(a) == rows(c) and record(a)["metrics"] == record(b)["metrics"]
    assert EXAMPLES == 7, "the script itself checks that each is seen once"


def holds(pid, name):
    return any(os.readlink(link).endswith(f"/{name}") for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink())


def reached(out, step):
    from common.checkpoint import checkpoints

    return any(int(path.stem.removeprefix("step")) >= step for path in checkpoints(out / "tests/smoke/seed0/checkpoint"))


def test_the_share_of_waiting_is_written(tmp_path):
    finish([Started(tmp_path / "log", LOADING, "smoke", "--out", tmp_path, "--seconds", 0.02)])
    lines = (tmp_path / "tests/smoke/seed0/metrics.jsonl").read_text().splitlines()
    waits = [float(line.split('"data_wait": ')[1].rstrip("}")) for line in lines]
    assert len(waits) == 6 and all(30 < wait <= 100 for wait in waits)
    assert "data_wait" not in rows(tmp_path / "tests/smoke/seed0")[0]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group(signum, tmp_path):
    run = Started(tmp_path / "log", LOADING, "smoke", "--out", tmp_path, "--seconds", 0.02, "--steps", 1000)
    until(lambda: reached(tmp_path, 2), 20)
    mine = children(run.process.pid)
    for pid in [*mine, run.process.pid]:
        os.kill(pid, signum)
    assert run.wait(10) == 128 + signum
    assert not alive(mine)
    assert "goes on from there" in run.output() and "Traceback" not in run.output() and "Warning" not in run.output()


def test_a_bad_file_is_told_by_the_process_that_met_it(tmp_path):
    order = permuted(SAMPLES, 0, 0, 4).tolist()
    runs = processes(2, tmp_path / "log", LOADING, "smoke", "--out", tmp_path, "--bad", order[3])  # rank 1's
    try:
        assert runs[1].wait(30) == 2
        assert runs[1].output().count(f"error: sample {order[3]} cannot be read\n") == 1
        assert "Traceback" not in runs[1].output()
    finally:
        runs[0].process.kill()
        runs[0].process.join()


def test_ends_that_nobody_expects_leave_no_worker(tmp_path):
    fails = Started(tmp_path / "fails", LOADING, "smoke", "--out", tmp_path / "a", "--fails-at", 3, "--seconds", 0.3)
    dies = Started(tmp_path / "dies", LOADING, "smoke", "--out", tmp_path / "b", "--deadly", 7)
    start = time.monotonic()
    assert fails.wait(20) == 1 and "nobody expects this" in fails.output() and time.monotonic() - start < 15
    assert dies.wait(30) == 1
    assert dies.output().splitlines()[-1].startswith("error: a process that reads the data died (DataLoader worker (pid")
    assert "Traceback" not in dies.output()
