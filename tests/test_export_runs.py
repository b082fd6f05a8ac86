"""Smoke runs that leave the house: nets of texts, of texts and images, and of noise, as other programs read them."""

import pytest
import torch

from common import directory
from common.errors import BadInput
from papers.clip.train import EXPERIMENTS as SMALL
from tests.start import here, newest
from tests.test_export import agree, onnx, written
from tools import export


@pytest.fixture
def smoke(tmp_path):
    """A paper's smoke run, every weight of which is then shaken, so that each of them matters -> its folder, and our net."""

    def run(paper, experiment="smoke", *argv):
        code, output = here(f"papers.{paper}.train", experiment, "--out", str(tmp_path), *argv)
        assert code == 0, output
        folder = tmp_path / paper / experiment / "seed0"
        state = newest(folder)
        torch.manual_seed(1)
        for each in (w for net in state["objects"].values() for w in net.values() if isinstance(w, torch.Tensor)):
            if each.is_floating_point():
                each.add_(0.2 * torch.randn_like(each))
        directory.save(folder, state)
        return folder, export.exporter(paper).of_run(folder).requires_grad_(False)

    return run


def exported(paper, folder, *forms):
    for form in forms:
        assert export.main(paper, str(folder), form) == 0
    return folder / "export"


def texts(net, n, T, *more):
    tokens, segments = torch.randint(net.bert.tokens.num_embeddings, (n, T)), torch.randint(2, (n, T))
    return tokens, segments, torch.arange(T) < torch.tensor([T, *more] * n)[:n, None]


@pytest.mark.parametrize(
    ("experiment", "argv", "kind"),
    [
        pytest.param("smoke-pretraining", ["--steps", "4"], "PreTraining", marks=pytest.mark.slow),
        ("smoke", ["--epochs", "1", "--rates", "1e-3", "3e-3"], "SequenceClassification"),
        pytest.param("smoke-squad", ["--epochs", "1"], "QuestionAnswering", marks=pytest.mark.slow),
    ],
)
def test_bert(smoke, experiment, argv, kind):
    """With padding, which attention must not see, in batches and lengths that the exporter has not seen."""
    import transformers

    folder, net = smoke("bert", experiment, *argv)
    to = exported("bert", folder, "transformers", "onnx")
    theirs = getattr(transformers, f"BertFor{kind}").from_pretrained(to / "transformers").eval()
    for n, T in ((1, 2), (4, 11)):
        x = tokens, segments, real = texts(net, n, T, 1, T // 2)
        found, ours = theirs(tokens, real.long(), segments), net(*x)
        by_onnx = onnx(to / "model.onnx", tokens=tokens, segments=segments, real=real)
        ours = ours[0] if isinstance(ours, tuple) else ours
        if kind == "QuestionAnswering":  # the starts; those of padding are the least that there are
            ours, by_onnx = (y[:, 0].where(real, 0) for y in (ours, by_onnx))
            found = [found.start_logits.where(real, 0)]
        agree(ours, by_onnx)
        agree(ours, found[0])


def test_lstm_as_its_step(tmp_path):
    """Step after step onnxruntime has the outputs of the whole sequence."""
    from papers.lstm.sequence_end import Config

    torch.manual_seed(5)
    config = Config(trials=3, init=1.0)
    net = config.network()
    folder = written(tmp_path / "run", "lstm", "temporal-order-6a", config, net)
    step = exported("lstm", folder, "onnx") / "step.onnx"
    x, y, s = torch.randn(3, 4, 9, 8), torch.zeros(3, 4, 8), torch.zeros(3, 4, 2, 2)
    with torch.no_grad():
        wanted = net(x)
    for t in range(9):
        y, s, found = onnx(step, all_of=True, x=x[:, :, t], y=y, s=s)
        agree(wanted[:, :, t], found)


@pytest.mark.slow
@pytest.mark.parametrize("argv", [["--present"], ["--networks", "encdec"]], ids=str)
def test_attention_as_its_parts(argv, smoke):
    """Word by word onnxruntime has the logits and the weights of the whole sentence, in lengths that the exporter has not seen."""
    folder, net = smoke("seq2seq_attention", "smoke", *argv)
    to = exported("seq2seq_attention", folder, "onnx")
    source, y = torch.randint(3, net.E_x.num_embeddings, (5, 12)), torch.randint(3, net.E_y.num_embeddings, (5, 4))
    source[1, 2:], source[3, 7:] = 0, 0
    with torch.no_grad():
        wanted, alphas = net.decode(source, y)
    *read, s = onnx(to / "encoder.onnx", all_of=True, source=source)
    read, last = dict(zip(("Ch", "Coh", "Uah"), read, strict=False)), torch.zeros(5, dtype=torch.int64)
    for i in range(4):
        logits, alpha, s = onnx(to / "decoder.onnx", all_of=True, source=source, y=last, s=s, **read)
        agree(wanted[:, i], logits)
        if net.alignment is None:
            assert torch.equal(alphas[:, i], alpha)
        else:
            agree(alphas[:, i], alpha)
        last = y[:, i]


@pytest.mark.slow
def test_transformer_as_its_parts_and_for_transformers(smoke):
    """onnxruntime translates token by token as beam_search does with one beam; and Marian's logits are ours."""
    from transformers import MarianMTModel

    from papers.transformer.model import beam_search
    from papers.transformer.vocabulary import END, PAD, START

    folder, net = smoke("transformer", "smoke", "--steps", "7")
    to = exported("transformer", folder, "onnx", "transformers")
    source = torch.randint(3, len(net.embedding.weight), (4, 9))
    source[1, 4:] = PAD
    wanted, _ = beam_search(net, source, start=START, end=END, K=1, extra=3)
    memory, target = onnx(to / "encoder.onnx", source=source), torch.full((4, 1), START)
    for t in range(wanted.shape[1]):
        logits = onnx(to / "decoder.onnx", source=source, memory=memory, target=target)
        agree(net(source, target), logits)
        logits[:, -1, PAD] = -torch.inf
        target = torch.cat([target, wanted[:, t : t + 1]], 1)
        goes_on = (wanted[:, : t + 1] != END).all(1) & (wanted[:, t] != PAD)
        assert torch.equal(logits[:, -1].argmax(1)[goes_on], wanted[:, t][goes_on])
    theirs = MarianMTModel.from_pretrained(to / "transformers").eval()
    agree(net(source, target), theirs(source, (source != PAD).long(), target).logits)
    theirs.model.decoder.layers[0].encoder_attn.k_proj.weight.data.mul_(-1)
    assert (net(source, target) - theirs(source, (source != PAD).long(), target).logits).abs().max() > 0.01


@pytest.mark.slow
def test_ddpm_for_diffusers(smoke):
    from diffusers import UNet2DModel

    folder, net = smoke("ddpm")
    to = exported("ddpm", folder, "diffusers", "onnx")
    theirs = UNet2DModel.from_pretrained(to / "diffusers").eval()
    x, t = torch.randn(5, *net.shape), torch.tensor([0, 1, 3, 7, 9])
    agree(net(x, t), theirs(x, t).sample)
    agree(net(x, t), onnx(to / "model.onnx", x=x, t=t))
    assert theirs.config.sample_size == net.shape[1]


def captions(net, m):
    T, V = len(net.text_encoder.positional_embedding), len(net.text_encoder.token_embedding.weight)
    tokens = torch.randint(1, V - 1, (m, T))
    return tokens.scatter(1, torch.randint(1, T, (m, 1)), V - 1)


@pytest.mark.slow
def test_clip_for_its_libraries(smoke):
    from safetensors.torch import load_file
    from transformers import CLIPModel

    from papers.clip.export import of_open_clip

    folder, net = smoke("clip")
    to = exported("clip", folder, "transformers", "open_clip", "onnx")
    side = net.image_encoder.conv1.kernel_size[0] * round((len(net.image_encoder.positional_embedding) - 1) ** 0.5)
    images, tokens = torch.randn(3, 3, side, side), captions(net, 7)
    I, T, scale = net(images, tokens)
    agree(scale * I @ T.mT, CLIPModel.from_pretrained(to / "transformers").eval()(tokens, images).logits_per_image)
    theirs = of_open_clip(net).eval()
    theirs.load_state_dict(load_file(to / "open_clip.safetensors"))
    agree(scale * I @ T.mT, theirs.get_logits(images, tokens)[0])
    agree(I, onnx(to / "model.onnx", images=images, tokens=tokens))


def test_a_clip_with_a_resnet(tmp_path):
    """open_clip has it, transformers not."""
    from papers.clip.model import CLIP, ModifiedResNet, TextEncoder

    torch.manual_seed(4)
    net = CLIP(ModifiedResNet(24, (1, 2, 1, 1), 16, 64), TextEncoder(24, 64, 2, 12, 99))
    folder = written(tmp_path / "run", "clip", "smoke", SMALL["smoke"].config, net)
    assert export.main("clip", str(folder), "open_clip") == 0
    with pytest.raises(BadInput, match="transformers has no CLIP with a ResNet: take open_clip"):
        export.main("clip", str(folder), "transformers")


@pytest.mark.parametrize(("data", "D"), [("frey-face", 560), ("mnist", 784)])
def test_vae_as_its_parts(tmp_path, data, D):
    from papers.vae.train import Config, Methods

    torch.manual_seed(2)
    config = Config(data=data, latent=3, hidden=7, train_size=1000)
    nets = Methods(config)
    for weight in nets.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    to = exported("vae", written(tmp_path / "run", "vae", data, config, nets), "onnx")
    z, x = torch.randn(5, 3), torch.rand(4, D)
    with torch.no_grad():
        agree(nets.aevb.decoder.mean(z), onnx(to / "decoder.onnx", z=z))
        for ours, theirs in zip(nets.aevb.encoder(x), onnx(to / "encoder.onnx", all_of=True, x=x), strict=True):
            agree(ours, theirs)


@pytest.mark.parametrize("digits", [True, False])
def test_dcgan_by_the_statistics_of_each_batch(tmp_path, digits):
    from papers.dcgan.train import Mnist, networks
    from papers.dcgan.unlabelled import NETWORKS, Images

    torch.manual_seed(2)
    config = Mnist(Z=6, maps=4, units=9) if digits else Images(data="made-up", Z=6, width=4)
    G, D = networks(config) if digits else NETWORKS["made-up"](6, 4)
    folder = written(tmp_path / "run", "dcgan", "x", config, G, "generator")
    state = newest(folder)
    state["objects"] = {"generator": G.state_dict(), "model": D.state_dict()}
    directory.save(folder, state)
    to, y = exported("dcgan", folder, "onnx"), {"y": torch.eye(10)[[3, 1, 4, 1, 5]]} if digits else {}
    z, x = 2 * torch.rand(5, 6) - 1, torch.rand(5, *((1, 28, 28) if digits else (3, 32, 32)))
    with torch.no_grad():
        agree(G(z, *y.values()), onnx(to / "generator.onnx", z=z, **y))
        agree(D(x, *y.values()), onnx(to / "discriminator.onnx", x=x, **y))


def test_alexnet(tmp_path):
    from papers.alexnet.train import ImageNet

    torch.manual_seed(2)
    config = ImageNet(narrow=16, classes=5)
    net = config.networks()[""].eval()
    folder, x = written(tmp_path / "run", "alexnet", "imagenet", config, net), 60 * torch.randn(3, 3, 224, 224)
    with torch.no_grad():
        agree(net(x), onnx(exported("alexnet", folder, "onnx") / "model.onnx", images=x))
