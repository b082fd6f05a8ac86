"""CLIP's recipes: rates, decay, floors; captions and drawings; the objectives of Fig. 2; evaluation; bad input."""

import io
import json
import math
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision import transforms

from common.errors import BadInput
from papers.clip import classify, data, evaluation, pairs, pretrained, probe, train, zeroshot
from papers.clip.model import CLIP, MODELS, TextEncoder, VisionTransformer
from papers.clip.objectives import BagOfWords, CaptionPrediction, Supervised, WordPrediction, words
from papers.clip.tokenizer import Tokenizer
from tests.start import here, judged, record, refuses, rows

SCRIPT = "papers.clip.train"


def test_table_18():
    paper = train.EXPERIMENTS["yfcc15m-rn50"].config
    assert (paper.batch_size, paper.warmup, paper.weight_decay, paper.lr, paper.beta2, paper.eps) == (
        32_768,
        2_000,
        0.2,
        5e-4,
        0.999,
        1e-8,
    )
    assert paper.steps == round(32 * 14_829_396 / 32_768)
    vit = train.EXPERIMENTS["cc3m-b16"].config
    assert (vit.beta2, vit.eps, vit.weight_decay) == (0.98, 1e-6, 0.2)
    rates = [paper.lr_at(step) for step in (0, 999, 1_999, 2_000, (2_000 + paper.steps) // 2, paper.steps)]
    assert rates == pytest.approx([5e-4 / 2000, 2.5e-4, 5e-4, 5e-4, 2.5e-4, 0], abs=1e-9)


def test_what_decays():
    """Neither gains, biases nor the temperature."""
    model = CLIP(VisionTransformer(8, 64, 1, 16, 32), TextEncoder(8, 64, 1, 6, 20))
    decayed, others = train.adam(model, train.EXPERIMENTS["smoke"].config).param_groups
    assert (decayed["weight_decay"], others["weight_decay"], decayed["betas"]) == (0.2, 0.0, (0.9, 0.999))
    names = {id(p): name for name, p in model.named_parameters()}
    left = {names[id(p)] for p in others["params"]}
    assert left == {name for name in names.values() if name.endswith("bias") or ".ln_" in name} | {
        "logit_scale",
        "image_encoder.class_embedding",
    }
    assert len(decayed["params"]) + len(left) == len(names)


def test_floor(double):
    """Equal shares: ln(N / K). It is what the contrast has when all of a class are alike and all else is far away."""
    labels = torch.arange(60) % 4
    assert train.floor(labels).item() == pytest.approx(math.log(15))
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    eye = torch.eye(3)[labels]
    from papers.clip.model import contrastive_loss

    assert contrastive_loss(eye, eye, torch.tensor(100.0)).item() == pytest.approx(train.floor(labels).item(), rel=1e-9)


# Fig. 2's objectives.

TOKENS = torch.tensor([[38, 5, 6, 6, 39, 0], [38, 7, 39, 0, 0, 0]])


def test_words_are_between_both_ends():
    assert words(TOKENS).tolist() == [[False, True, True, True, False, False], [False, True, False, False, False, False]]


def test_bag_of_words(double):
    encoder = BagOfWords(4, 8, 40)
    e = encoder.token_embedding.weight
    assert torch.allclose(encoder(TOKENS)[0], encoder.proj((e[5] + 2 * e[6]) / 3))
    assert torch.allclose(encoder(torch.tensor([[38, 6, 5, 6, 39, 9]])), encoder(TOKENS)[:1])  # in any order


def test_word_prediction(double):
    """The mean of -log p is the cross-entropy with the share of each token as target."""
    net = WordPrediction(nn.Flatten(), 12, 40)
    images = torch.randn(2, 3, 2, 2)
    target = torch.zeros(2, 40)
    target[0, 5], target[0, 6], target[1, 7] = 1 / 3, 2 / 3, 1
    assert net(images, TOKENS, None).item() == pytest.approx(F.cross_entropy(net.head(images.flatten(1)), target).item())


def test_caption_prediction(double):
    """Token by token, each from the image and those before alone; what is after the end does not count."""
    torch.manual_seed(0)
    net = CaptionPrediction(nn.Flatten(), 12, 64, 2, 6, 40)
    images = torch.randn(2, 3, 2, 2)
    states = net.states(images)
    x = torch.cat([states[:1, None], net.token_embedding(TOKENS[:1, 1:4])], 1) + net.positional_embedding[:4]
    log_p = (net.ln_final(net.blocks(x)) @ net.token_embedding.weight.T).log_softmax(2)[0]
    expected = -sum(log_p[i, token] for i, token in enumerate((5, 6, 6, 39))) / 4
    nats = net.nats(states, TOKENS)
    assert nats[0].item() == pytest.approx(expected.item())
    changed = TOKENS.clone()
    changed[1, 3:] = 11
    assert torch.allclose(net.nats(states, changed), nats)
    assert net(images, TOKENS, None).item() == pytest.approx(nats.mean().item())


# Evaluation.


def test_candidates_have_their_own_among_them():
    labels = torch.arange(12)
    members, right = evaluation.candidates(labels, 12, 3)
    assert torch.equal(members.gather(1, right[:, None])[:, 0], labels)
    assert sorted({tuple(row) for row in members.tolist()}) == [(0, 4, 8), (1, 5, 9), (2, 6, 10), (3, 7, 11)]
    assert torch.equal(evaluation.candidates(labels, 12, 12)[0][0], labels)


def test_recalls_by_hand():
    """Rows: images; the second caption is nearest to the first image."""
    I = torch.eye(7)
    T = I.clone()
    T[1] = torch.tensor([1.0, 0.9, 0, 0, 0, 0, 0])
    found = evaluation.recalls(I, T)
    # images: the first has a tie with its own, a miss; all others hit. Captions: the second misses.
    assert found["text_recall1"] == pytest.approx(100 * 6 / 7) and found["text_recall5"] == 100
    assert found["image_recall1"] == pytest.approx(100 * 6 / 7) and found["image_recall5"] == 100
    assert evaluation.recalls(torch.ones(9, 2), torch.ones(9, 2))["text_recall5"] == 0  # one answer to everything


class Fixed(nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def forward(self, images):
        return self.rows[images[:, 0, 0, 0].long()]


@pytest.mark.parametrize("among", [0, 2])
def test_classified(among, double):
    """By nearness of prompts, and by a supervised net's logits: images whose answer is known."""
    E = torch.eye(4)
    look = lambda some: some.permute(0, 3, 1, 2).double()
    images = torch.arange(4)[:, None, None, None].expand(4, 2, 2, 3)
    labels = torch.tensor([0, 1, 2, 0])  # the last is answered wrongly
    test = SimpleNamespace(look=look, test=data.Pairs(images, labels), prompts=[torch.tensor([[k]]) for k in range(4)])
    run = SimpleNamespace(share=lambda n: slice(None), config=SimpleNamespace(among=among), evaluating=lambda model: Whole(model))
    text = nn.Embedding.from_pretrained(E)
    nets = [CLIP(Fixed(E), nn.Sequential(text, nn.Flatten())), Supervised(Fixed(E), 4, 4)]
    nets[1].head.weight.data, nets[1].head.bias.data = E.clone(), torch.zeros(4)
    for net in nets:
        hits = evaluation.classified(run, net, test)
        assert hits[:3].tolist() == [True, True, True]
        assert among or not hits[3]  # among the two of its group, 0 and 2, it is near to neither
    assert evaluation.gains({"zero_shot_accuracy": 60.0, "supervised_accuracy": 58.0}) == {"zero_shot_gain": 2.0}
    three = {"contrastive_accuracy": 9.0, "words_accuracy": 5.0, "caption_accuracy": 6.0}
    assert evaluation.gains(three) == {"contrastive_gain": 4.0, "words_gain": -1.0}


class Whole:
    def __init__(self, model):
        self.model = model

    def __enter__(self):
        return self.model

    def __exit__(self, *_):
        pass


def test_claims_can_fail():
    """A gain nearer to 0 than its noise shows nothing; the order of Fig. 2 the other way round is no reproduction."""
    claims = {claim.metric: claim for claim in train.EXPERIMENTS["efficiency"].claims}
    assert judged(claims["contrastive_gain"], "paper", [1.0]) == "short, within noise"
    assert judged(claims["contrastive_gain"], "paper", [9.0]) == "reproduced"
    assert judged(claims["words_gain"], "paper", [-9.0]).startswith("short by")
    (paper,) = train.EXPERIMENTS["yfcc15m-rn50"].claims
    assert (paper.metric, paper.value) == ("imagenet_accuracy", 31.3)


# Data.


def write_emoji(root):
    """Five sets of drawings, eight concepts: five for training, the others held out."""
    lines = []
    for name in data.DRAWN:
        (root / data.EMOJI / name).mkdir(parents=True)
        for i in range(8):
            file = f"{name}/{i}.png"
            Image.new("RGB", (64, 64), (30 * i, 20 * data.DRAWN.index(name), 7)).save(root / data.EMOJI / file)
            split = "train" if i < 5 else "val" if i == 5 else "test"
            lines.append({"file": file, "set": name, "code": str(i), "caption": f"thing {i}", "split": split})
    (root / data.EMOJI / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


def emoji(root, judged_on="test"):
    described = {}
    run = SimpleNamespace(
        config=SimpleNamespace(judged_on=judged_on, vocabulary=514, batch_size=4), data_dir=root, device=torch.device("cpu"),
        seed=0, on_main=lambda f: f(), describe_data=described.update, share=lambda n: slice(None), processes=1,
    )  # fmt: skip
    return data.emoji(run), described


def test_emoji_are_split_by_set_and_by_concept(tmp_path):
    write_emoji(tmp_path)
    blue = lambda images: {int(image[0, 0, 1]) // 20 for image in images}  # set
    red = lambda images: {int(image[0, 0, 0]) // 30 for image in images}  # concept
    found, described = emoji(tmp_path)
    assert (found.n, described["train"], described["test"], described["held_out_concepts"]) == (20, 20, 5, 2)
    assert blue(found.test.images) == {data.DRAWN.index("twemoji")} and red(found.test.images) == set(range(5))
    assert {name: red(each.images) for name, each in found.retrieval.items()} == {name: {6, 7} for name in data.DRAWN[:4]}
    images, tokens, labels = found.shown(0, torch.arange(4))
    assert images.shape == (4, 3, 64, 64) and found.vocabulary.decode(tokens[1].tolist()) == f"thing {labels[1]}"
    centre = torch.tensor([data.MEAN, data.STD]).double()
    raw = (images[1, :, 32, 32].double() * centre[1] + centre[0]) * 255
    assert raw.tolist() == pytest.approx([30 * labels[1].item(), raw[1].item(), 7], abs=0.01)
    for pairs_ in found.retrieval.values():
        assert [found.vocabulary.decode(row.tolist()) for row in pairs_.tokens] == ["thing 6", "thing 7"]
    val, _ = emoji(tmp_path, "val")
    assert val.n == 15 and blue(val.test.images) == {data.DRAWN.index("emojitwo")}
    assert {name: red(each.images) for name, each in val.retrieval.items()} == {name: {5} for name in data.DRAWN[:3]}


SMALL = ("--vocabulary", 514, "--batch-size", 4, "--steps", 2, "--evaluate-every", 1, "--image-width", 8, "--text-width", 64)


@pytest.mark.parametrize(("name", "flags"), [("emoji", ()), ("efficiency", ("--among", 5))])
def test_runs_on_drawings(name, flags, tmp_path):
    """From the command line to the record, its claims and figures among them, on a few."""
    write_emoji(tmp_path)
    code, output = here(SCRIPT, name, *SMALL, *flags, "--data-dir", tmp_path, "--out", tmp_path / "out")
    assert code == 0, output
    run = tmp_path / "out/clip" / name / "seed0"
    found, experiment = record(run), train.EXPERIMENTS[name]
    assert {claim.metric for claim in experiment.claims} <= found["metrics"].keys()
    assert {each.stem for each in (run / "figures").iterdir()} == {*experiment.figures}
    assert found.get("curves", {}).keys() == {*experiment.curves}


def test_bad_emoji(tmp_path):
    refuses(SCRIPT, "emoji", "--data-dir", tmp_path, "--out", tmp_path / "out", said="emoji: cannot read")
    lines = write_emoji(tmp_path)
    listing = tmp_path / data.EMOJI / "captions.jsonl"
    lines[3]["caption"] = " "
    listing.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(BadInput, match=r"the caption of noto/3\.png is empty"):
        data.read_emoji(tmp_path)
    lines[3]["caption"] = "thing"
    listing.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / data.EMOJI / "noto/4.png").write_bytes(b"nothing")
    with pytest.raises(BadInput, match=r"noto/4\.png cannot be decoded"):
        data.read_emoji(tmp_path)
    (tmp_path / data.EMOJI / "noto/4.png").unlink()
    with pytest.raises(BadInput, match=r"noto/4\.png is missing"):
        data.read_emoji(tmp_path)


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def picture(i):
    buffer = io.BytesIO()
    Image.new("RGB", (20, 30), (i, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_shards(root, n=(3, 2)):
    root.mkdir(exist_ok=True)
    number = 0
    for shard, count in enumerate(n):
        with tarfile.open(root / f"{shard:05}.tar", "w") as tar:
            for _ in range(count):
                add(tar, f"{number:06}.txt", f"caption {number}".encode())
                add(tar, f"{number:06}.json", b"{}")
                add(tar, f"{number:06}.png", picture(number))
                number += 1
            add(tar, "alone.jpg", b"no caption")
    return root


def test_shards(tmp_path):
    """Each pair by its number, over all shards; the table is made once."""
    root = write_shards(tmp_path / "shards")
    source = pairs.load(root, tmp_path)
    assert len(source) == 5 and len(source.files) == 2
    for i in (4, 0, 2):
        image, caption = source.pair(i)
        assert image.getpixel((0, 0)) == (i, 0, 0) and image.size == (20, 30) and caption == f"caption {i}"
    again = pairs.load(root, tmp_path)
    assert again.sha256 == source.sha256 and len(list((root / "kept").glob("pairs-*"))) == 1


def test_webdataset_reads_the_same(tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    root = write_shards(tmp_path / "shards")
    source = pairs.load(root, tmp_path)
    urls = [str(path) for path in source.files]
    theirs = [(s["png"], s["txt"].decode()) for s in webdataset.WebDataset(urls, shardshuffle=False) if "png" in s]
    ours = [source.pair(i) for i in range(len(source))]
    assert [caption for _, caption in theirs] == [caption for _, caption in ours]
    for (content, _), (image, _) in zip(theirs, ours, strict=True):
        assert np.array_equal(np.array(Image.open(io.BytesIO(content)).convert("RGB")), np.array(image))


def test_bad_shards(tmp_path):
    root = write_shards(tmp_path / "shards")
    content = (root / "00001.tar").read_bytes()
    for cut in (len(content) // 3, 1500, len(content) - 10_000):
        (root / "00001.tar").write_bytes(content[:cut])
        with pytest.raises(BadInput, match=r"00001\.tar is damaged or cut short .*: get the shard again"):
            pairs.load(root, tmp_path)
    with pytest.raises(BadInput, match=r"no \*\.tar and no captions\.jsonl"):
        pairs.load(tmp_path / "none", tmp_path)
    (tmp_path / "listed").mkdir()
    (tmp_path / "listed/captions.jsonl").write_text('{"file": "a.png", "caption": " "}\n{"file": "b.png", "caption": "b"}\n')
    (tmp_path / "listed/a.png").write_bytes(picture(1))
    source = pairs.load(tmp_path / "listed", tmp_path)
    with pytest.raises(BadInput, match=r"a\.png has an empty caption"):
        source.pair(0)
    with pytest.raises(BadInput, match=r"cannot read .*b\.png"):
        source.pair(1)
    (tmp_path / "listed/b.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(BadInput, match=r"b\.png cannot be decoded"):
        source.pair(1)


# Zero-shot, probes, and trying it out.


def test_eighteen_templates():
    assert len(zeroshot.CIFAR) == len({*zeroshot.CIFAR}) == 18 and {"a photo of a {}.", "a bad photo of the {}."} < {
        *zeroshot.CIFAR
    }
    assert "a photo of the big {}." in zeroshot.CIFAR and len(zeroshot.NAMES["cifar100"].split()) == 100
    assert zeroshot.NAMES["cifar100"].split() == sorted(zeroshot.NAMES["cifar100"].split())


@pytest.mark.parametrize("size", [(32, 32), (100, 75), (75, 101), (301, 77)])
def test_preprocessing_is_torchvisions_on_pil(size):
    """Bicubic, by PIL; equal in every pixel."""
    torch.manual_seed(0)
    image = Image.fromarray(torch.randint(256, (size[1], size[0], 3), dtype=torch.uint8).numpy())
    theirs = transforms.Compose(
        [
            transforms.Resize(56, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(56), transforms.ToTensor(),
            transforms.Normalize(zeroshot.MEAN, zeroshot.STD),
        ]
    )(image)  # fmt: skip
    ours = zeroshot.shown(zeroshot.preprocessed(image, 56)[None], torch.device("cpu"))[0]
    assert torch.allclose(ours, theirs, atol=2e-6)


def test_sweep_finds_the_best_exponent():
    """The paper's search asks for few values, and ends within an eighth of a decade."""
    for best in (-4.4, 0.0, 1.9, 6.0):
        asked = []
        found = probe.sweep(lambda C, best=best, asked=asked: asked.append(C) or -abs(math.log10(C) - best))
        assert abs(found - best) <= 1 / 16 + 1e-9 and len(asked) == len({*asked}) <= 15


def test_probe_is_logistic_regression():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(300, 4)), generator.integers(3, size=300)
    x[np.arange(300), y] += 4
    assert (probe.fit(x, y, 1.0)(x) == y).mean() > 0.9


def test_prompts_of_a_folder(tmp_path):
    for name in ("hot_dog", "cat"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "1.png").write_bytes(picture(1))
    found = zeroshot.load_set(str(tmp_path / "set"), tmp_path)
    assert (found.classes, found.templates, found.n) == (["cat", "hot dog"], ["a photo of a {}."], 2)
    (tmp_path / "p.json").write_text(json.dumps({"classes": ["a", "b"], "templates": ["the {}"]}))
    assert zeroshot.load_set(str(tmp_path / "set"), tmp_path, str(tmp_path / "p.json")).classes == ["a", "b"]
    (tmp_path / "p.json").write_text(json.dumps({"classes": ["a"], "templates": ["the {}"]}))
    with pytest.raises(BadInput, match="1 classes for the 2"):
        zeroshot.load_set(str(tmp_path / "set"), tmp_path, str(tmp_path / "p.json"))
    with pytest.raises(BadInput, match="cannot read"):
        zeroshot.load_set(str(tmp_path / "set"), tmp_path, str(tmp_path / "none.json"))


def test_table_11():
    """Five sets of nine models; B/32's beside open_clip's."""
    assert {each.config.weights for each in pretrained.WEIGHTS.values()} == {*MODELS}
    claims = {claim.metric: claim for claim in pretrained.WEIGHTS["weights-ViT-B-32"].claims}
    assert [claims[f"{name}_accuracy"].value for name in zeroshot.SETS] == [91.3, 65.1, 51.9, 97.2, 63.2]
    assert "89.83" in claims["cifar10_accuracy"].source


def test_a_run_classifies(tmp_path, capsys):
    """From a run's directory, without a table or a network: the smoke run's nets know bytes."""
    code, output = here(SCRIPT, "smoke", "--out", tmp_path)
    assert code == 0, output
    run = tmp_path / "clip/smoke/seed0"
    last = [row for row in rows(run) if "floor" in row][-1]
    assert record(run)["metrics"]["excess_loss"] == pytest.approx(last["train_loss"] - last["floor"])
    (tmp_path / "a.png").write_bytes(picture(200))
    argv = [str(tmp_path / "a.png"), "--labels", "cat", "a dog", "--weights", str(run), "--data-dir", str(tmp_path)]
    assert classify.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("a.png") and {line.split("%")[1].strip() for line in lines[1:]} == {"cat", "a dog"}
    assert sum(float(line.split()[0]) for line in lines[1:]) == pytest.approx(100, abs=0.02)
    (tmp_path / "b.png").write_bytes(b"no image")
    assert classify.main([str(tmp_path / "b.png"), *argv[1:]]) == 2
    assert "b.png cannot be decoded" in capsys.readouterr().err
    assert classify.main([argv[0], "--labels", " ", *argv[4:]]) == 2
    assert "caption 0 is empty" in capsys.readouterr().err
    assert classify.main([*argv[:4], "--weights", "no-such", "--data-dir", str(tmp_path)]) == 2
    assert "cannot load no-such" in capsys.readouterr().err


def test_a_narrow_model_keeps_its_heads():
    for narrow, allowed in ((4, True), (8, False), (0, False)):
        make = lambda narrow=narrow: train.Paper(steps=1, evaluate_every=1, model="ViT-B/32", narrow=narrow)
        if allowed:
            model = make().networks(None)[""]
            assert model.image_encoder.proj.shape == (192, 128) and model.text_encoder.proj.shape == (128, 128)
        else:
            with pytest.raises(ValueError, match="--narrow"):
                make()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--vocabulary", 100), "--vocabulary must be 514"),
        (("--image-layers", 1, 2), "--image-layers must be one number for a ViT and four for a ResNet"),
        (("--text-width", 100), "must be multiples of 64"),
        (("--compare", "objectives"), "asks for --among"),
        (("--warmup", 0), "--warmup must be at least 1"),
    ],
)
def test_impossible_values(flags, said, tmp_path):
    refuses(SCRIPT, "smoke", *flags, "--out", tmp_path, said=said)


def test_tokens_of_one_text_fit_the_contexts():
    """A caption cut to a small run's context still ends."""
    tokens, cut = Tokenizer()(["abcdefgh"], 5)
    assert tokens.shape == (1, 5) and tokens[0, -1] == 513 and cut == 1
