"""Official layouts of DDPM's weights in our network: names without a library, and diffusers' numbers where it is installed."""

import re

import pytest
import torch
from torch import nn

from papers.ddpm import model as ddpm
from papers.ddpm import pretrained
from papers.ddpm.model import Diffusion, UNet
from papers.ddpm.pretrained import build, from_authors, from_diffusers
from papers.ddpm.train import FIGURES
from tests.start import weights as started

MULTIPLIERS = (1, 2, 2, 2)


@pytest.fixture
def diffusers():
    return pytest.importorskip("diffusers", reason="diffusers is not installed")


def ours(multipliers=MULTIPLIERS, ch=32, channels=3, seed=0):
    torch.manual_seed(seed)
    net = UNet(ch, multipliers, (16,), size=32, channels=channels).eval()
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    return net


# Names, as google/ddpm-cifar10-32 and pesser/pytorch_diffusion have them, without either.


def layer(name, *kinds):
    return [f"{name}.{kind}" for kind in kinds or ("weight", "bias")]


def diffusers_names(old=False):
    """Of the network's forward pass, in its order, as diffusers calls them."""
    attention = ("query", "key", "value", "proj_attn") if old else ("to_q", "to_k", "to_v", "to_out.0")
    names = [*layer("time_embedding.linear_1"), *layer("time_embedding.linear_2"), *layer("conv_in")]

    def block(name, shortcut):
        parts = ["norm1", "conv1", "time_emb_proj", "norm2", "conv2", *(["conv_shortcut"] if shortcut else [])]
        return [each for part in parts for each in layer(f"{name}.{part}")]

    def attn(name):
        return [each for part in ("group_norm", *attention) for each in layer(f"{name}.{part}")]

    for i in range(4):
        for j in range(2):
            names += block(f"down_blocks.{i}.resnets.{j}", (i, j) == (1, 0)) + (
                attn(f"down_blocks.{i}.attentions.{j}") if i == 1 else []
            )
        names += layer(f"down_blocks.{i}.downsamplers.0.conv") if i < 3 else []
    names += block("mid_block.resnets.0", False) + attn("mid_block.attentions.0") + block("mid_block.resnets.1", False)
    for i in range(4):
        for j in range(3):
            names += block(f"up_blocks.{i}.resnets.{j}", True) + (attn(f"up_blocks.{i}.attentions.{j}") if i == 2 else [])
        names += layer(f"up_blocks.{i}.upsamplers.0.conv") if i < 3 else []
    return [*names, *layer("conv_norm_out"), *layer("conv_out")]


def in_diffusers(net, old=False):
    """Our weights by diffusers' names: both networks call their layers in the same order, so that the k-th is the k-th."""
    order = []
    for level in [*net.down, net.mid, *net.up]:
        for block, attn in zip(level.block, level.attn, strict=True):
            parts = [block.norm1, block.conv1, block.temb_proj, block.norm2, block.conv2]
            order += parts + ([block.nin_shortcut] if isinstance(block.nin_shortcut, nn.Conv2d) else [])
            order += [attn.norm, attn.q, attn.k, attn.v, attn.proj_out] if isinstance(attn, ddpm.Attention) else []
        order += [level.way] if isinstance(level.way, nn.Conv2d) else []
    order = [net.temb[0], net.temb[2], net.conv_in, *order, net.norm_out, net.conv_out]
    tensors = [w for part in order for w in (part.weight, part.bias)]
    names = diffusers_names(old)
    assert len(names) == len(tensors) == len({*names}) == len([*net.parameters()])
    return {name: w.detach().clone() for name, w in zip(names, tensors, strict=True)}


def in_authors(net):
    """Our weights as the PyTorch ports of the authors' checkpoint call them."""
    state = {}
    for key, w in net.state_dict().items():
        key = {"temb.0": "temb.dense.0", "temb.2": "temb.dense.1"}.get(key[:6], key[:6]) + key[6:]
        key = re.sub(r"^mid\.(block|attn)\.(\d)", lambda m: f"mid.{m[1]}_{int(m[2]) + 1}", key)
        key = re.sub(r"^(down\.\d)\.way", r"\1.downsample.conv", key)
        key = re.sub(r"^(up\.\d)\.way", r"\1.upsample.conv", key)
        key = re.sub(r"^up\.(\d)", lambda m: f"up.{3 - int(m[1])}", key)
        state[key] = w[:, :, None, None] if ".attn" in key and w.ndim == 2 else w
    return state


@pytest.mark.parametrize("old", [False, True])
def test_names_of_diffusers(old):
    net = ours()
    state = in_diffusers(net, old)
    found = build(from_diffusers(state))
    for (name, a), (other, b) in zip(found.state_dict().items(), net.state_dict().items(), strict=True):
        assert name == other and torch.equal(a, b), name


def test_names_of_the_authors():
    net = ours()
    state = in_authors(net)
    assert {"temb.dense.1.bias", "down.0.downsample.conv.weight", "mid.attn_1.q.weight", "mid.block_2.conv1.bias"} <= state.keys()
    assert {"up.3.block.0.nin_shortcut.weight", "up.1.attn.2.proj_out.weight", "up.3.upsample.conv.bias"} <= state.keys()
    found = build(from_authors(state))
    for (name, a), (other, b) in zip(found.state_dict().items(), net.state_dict().items(), strict=True):
        assert name == other and torch.equal(a, b), name


def test_the_whole_layout_is_cifar10s():
    """35,746,307 parameters by the names above."""
    with torch.device("meta"):
        net = ddpm.unet_cifar10()
        found = build(from_diffusers(in_diffusers(net)))
    assert sum(p.numel() for p in found.parameters()) == 35_746_307
    assert pretrained.of_cifar10(found) is found


# diffusers' own numbers.


def theirs(diffusers, ch=32):
    """UNet2DModel as google/ddpm-cifar10-32 configures it, narrower; random weights."""
    torch.manual_seed(1)
    net = diffusers.UNet2DModel(
        sample_size=32, in_channels=3, out_channels=3, block_out_channels=(ch, 2 * ch, 2 * ch, 2 * ch), layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"), downsample_padding=0, flip_sin_to_cos=False,
        freq_shift=1, norm_eps=1e-6, norm_num_groups=32, attention_head_dim=None, act_fn="silu", center_input_sample=False,
    ).eval()  # fmt: skip
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    return net.double()


@pytest.mark.parametrize("side", [32, 64])
def test_epsilon_is_diffusers(diffusers, side):
    """In double precision; diffusers works its time embedding out in single precision, so that it is given ours, and compared."""
    net = theirs(diffusers)
    model = build(from_diffusers(net.state_dict())).double().eval()
    time_proj = net.time_proj.forward
    net.time_proj.forward = lambda t: ddpm.time_embedding(t, 32, torch.float64)
    for t in (0, 1, 500, 999):
        at = torch.tensor([t])
        torch.testing.assert_close(time_proj(at), ddpm.time_embedding(at, 32, torch.float32), rtol=1e-4, atol=1e-4)
        x = torch.randn(1, 3, side, side, dtype=torch.float64)
        with torch.no_grad():
            expected, found = net(x, at).sample, model(x, at)
        assert expected.std() > 1e-3
        assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_gradients_are_diffusers(diffusers):
    net = theirs(diffusers)
    model = build(from_diffusers(net.state_dict())).double().eval()
    net.time_proj.forward = lambda t: ddpm.time_embedding(t, 32, torch.float64)
    x, t = torch.randn(2, 3, 16, 16, dtype=torch.float64), torch.tensor([3, 700])
    net(x, t).sample.square().mean().backward()
    model(x, t).square().mean().backward()
    expected = from_diffusers({name: p.grad for name, p in net.named_parameters()})
    largest = max(each.abs().max() for each in expected.values())
    for name, p in model.named_parameters():
        assert (p.grad - expected[name]).abs().max() <= 1e-9 * largest, name


@pytest.mark.parametrize("variance", ["large", "small"])
def test_steps_are_the_schedulers(diffusers, variance):
    """Schedule, q_sample, and x_{t-1} from epsilon, clipped and not, with the scheduler's noise."""
    d, x0 = Diffusion(variance=variance), torch.rand(1, 3, 8, 8, dtype=torch.float64) * 2 - 1
    for clip in (True, False):
        scheduler = diffusers.DDPMScheduler(
            1000, beta_start=1e-4, beta_end=0.02, variance_type=f"fixed_{variance}", clip_sample=clip, prediction_type="epsilon"
        )
        torch.testing.assert_close(scheduler.alphas_cumprod.double(), d.of_x0**2, rtol=1e-4, atol=1e-8)
        for t in (0, 1, 2, 500, 999):
            epsilon, output = torch.randn(2, 1, 3, 8, 8, dtype=torch.float64)
            at = torch.tensor([t])
            xt = d.q_sample(x0, at, epsilon)
            torch.testing.assert_close(scheduler.add_noise(x0, epsilon, at), xt, rtol=0, atol=1e-5)
            step = scheduler.step(output, t, xt, generator=torch.Generator().manual_seed(7))
            z = torch.randn(xt.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
            mean, log_sigma2, predicted = d.p(output, xt, at, clip)
            torch.testing.assert_close(step.pred_original_sample, predicted, rtol=2e-3, atol=1e-4)
            expected = mean + (t > 0) * (0.5 * log_sigma2).exp() * z
            torch.testing.assert_close(step.prev_sample, expected, rtol=2e-3, atol=2e-3)


# What is refused.


@pytest.mark.parametrize(
    "key", ["conv_in.weight", "conv_out.weight", "mid_block.attentions.0.to_q.weight", "up_blocks.3.resnets.2.norm1.bias"]
)
def test_missing_weights_are_refused(key):
    state = in_diffusers(ours())
    del state[key]
    with pytest.raises(ValueError, match=r"^not a(| state dict of a) U-Net of DDPM: it has no "):
        build(from_diffusers(state))


@pytest.mark.parametrize("key", ["class_embedding.weight", "down_blocks.0.attentions.0.to_q.lora.weight", "module.conv_in.weight"])
def test_names_of_other_nets_are_refused(key):
    state = in_diffusers(ours()) | {key: torch.zeros(1)}
    with pytest.raises(ValueError, match=r"^not a state dict of a U-Net of DDPM in diffusers: "):
        from_diffusers(state)
    with pytest.raises(ValueError, match=r"^not a state dict of a U-Net of DDPM as the authors have it: "):
        from_authors(in_authors(ours()) | {key: torch.zeros(1)})


def saved(net, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(in_authors(net), path)
    return path


def test_a_checkpoint_for_other_multipliers(tmp_path, monkeypatch, capfd):
    run = started(pretrained, tmp_path / "out", monkeypatch, capfd)
    code, [line] = run(saved(ours((1, 1, 2, 2)), tmp_path / "w.ckpt"))
    assert code == 2 and "its channel multipliers are (1, 1, 2, 2), and CIFAR-10's network has (1, 2, 2, 2)" in line
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    code, [line] = run(tmp_path / "bad.ckpt")
    assert code == 2 and "cannot load" in line and "name a file" in line
    (tmp_path / "empty").mkdir()
    code, [line] = run("weights-" + str(tmp_path / "nothing" / "here"))
    assert code == 2 and "cannot load" in line


def test_a_folder_of_diffusers_is_loaded(tmp_path):
    """Whichever of its files is there, in either age of names."""
    from safetensors.torch import save_file

    net = ours()
    for name, save in (("new", lambda state, file: save_file(state, file)), ("old", torch.save)):
        folder = tmp_path / name
        folder.mkdir()
        save(in_diffusers(net, old=name == "old"), folder / pretrained.FILES[name == "old"])
        found = pretrained.load(str(folder), tmp_path / "cache")
        assert all(torch.equal(a, b) for a, b in zip(found.parameters(), net.parameters(), strict=True))


@pytest.mark.slow
def test_weights_are_evaluated(tmp_path, monkeypatch, capfd):
    """From the file to the record, on a few images, where there is CIFAR-10."""
    from common.provenance import ROOT
    from tests.start import record

    if not (ROOT / "data/cifar-10-batches-py").exists():
        pytest.skip("no data/cifar-10-batches-py")
    monkeypatch.setattr(pretrained, "Diffusion", lambda: Diffusion(T=20, beta_T=0.4))
    monkeypatch.setattr(pretrained.pictures, "SHOWN", 2)
    run = started(pretrained, tmp_path / "out", monkeypatch, capfd)
    flags = ("--each", 5, "--train-images", 6, "--test-images", 6, "--data-dir", ROOT / "data")
    code, lines = run(saved(ours(), tmp_path / "model-790000.ckpt"), *flags)
    assert code == 0, lines
    directory = tmp_path / "out/ddpm/weights-model-790000/seed0"
    found = record(directory)
    assert len(found["data"]["weights_sha256"]) == 64 and {"test_bits_per_dim", "train_rate", "test_rmse_20"} <= {*found["metrics"]}
    assert sorted(path.stem for path in (directory / "figures").iterdir()) == sorted(FIGURES)
