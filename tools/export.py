"""`make export-<paper> RUN=runs/...`: what a run has learned, as other people's programs read it, with a card that says what it is.

safetensors and onnx; and what the paper's export.py names: state dicts of torchvision, timm or open_clip, folders of
transformers or diffusers. Every file is read again before it counts: by onnxruntime or that library, on random inputs, with our
outputs.
"""

import json
import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common import directory
from common.claims import Record
from common.errors import Failed
from common.files import write_atomic
from common.options import differences
from common.words import columns, outcome
from tools.licences import licence
from tools.repository import experiments, exporter, known, refuse, told

COUNTERS = {"state", "solved", "progress", "count"}  # modules of a checkpoint that are not a net
CLOSE = 1e-4  # how far outputs of single precision may differ, of the largest
Convert = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


def learned(folder: Path, paper: str) -> dict[str, Tensor]:
    """The weights in a run's newest checkpoint: `model`, or what else is no optimizer, by the names that `run.prepare` has.

    Raises:
        BadInput: it is no folder of such a run, or has no checkpoint.
    """
    objects = directory.learned(folder, paper)[2]
    models = {name: state for name, state in objects.items() if state and all(isinstance(each, Tensor) for each in state.values())}
    refuse(not models, f"{folder}: its checkpoint holds no weights, only {', '.join(objects)}")
    if models.keys() - COUNTERS == {"model"}:
        return models["model"]
    return {f"{name}.{key}" if len(models) > 1 else key: tensor for name, state in models.items() for key, tensor in state.items()}


def inverse(convert: Convert, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of theirs with our weights, by a map from theirs to ours that only renames, moves and drops numbers.

    The map is shown the numbers' places in `theirs` in their stead: what comes out says where each of ours belongs.
    """
    places, at, of = {}, 0, {}
    for key, tensor in theirs.items():
        if (same := (tensor.data_ptr(), tensor.shape)) not in of:  # tied weights have one place
            of[same] = torch.arange(at, at + tensor.numel()).view(tensor.shape)
            at += tensor.numel()
        places[key] = of[same]
    flat = torch.zeros(at, dtype=torch.float64)
    for key, tensor in theirs.items():
        flat[places[key].flatten()] = tensor.flatten().double()
    for name, place in convert(places).items():
        flat[place.flatten()] = ours[name].flatten().double()
    return {key: flat[places[key]].to(tensor.dtype) for key, tensor in theirs.items()}


def same_outputs(what: str, ours: Tensor | tuple, theirs: Tensor | tuple) -> None:
    """Raises Failed: they are not, to single precision."""
    ours, theirs = (y if isinstance(y, tuple) else (y,) for y in (ours, theirs))
    for a, b in zip(ours, theirs, strict=True):
        a, b = (y.masked_fill(y.abs() > 1e30, 0) for y in (a, b))  # the least that there is stands for -inf
        off = ((a - b).abs().max() / a.abs().max().clamp(min=1e-9)).item() if a.shape == b.shape else float("nan")
        if not off <= CLOSE:
            raise Failed(f"{what} gives other outputs than our net ({off:.1e} of the largest off): not kept")


def as_safetensors(state: Mapping[str, Tensor], metadata: dict[str, str]) -> bytes:
    from safetensors.torch import save

    return save({key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}, metadata)  # tied ones: one each


def facts_of(about: Mapping[str, Any]) -> dict[str, str]:
    """Of a record, or of a run that has not ended: what a file of its weights says of itself."""
    facts = {key: about.get(key) for key in ("paper", "experiment", "seed", "commit", "config", "metrics")}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}


Inputs = Callable[[nn.Module, int], dict[str, Tensor]]


@torch.no_grad()
def save_onnx(net: nn.Module, inputs: Inputs, to: Path) -> None:
    """By torch's exporter, for any number of examples, and any of what else varies with it in `inputs`.

    Raises:
        Failed: onnxruntime has other outputs than our net.
    """
    import onnxruntime

    two, three = inputs(net, 2), inputs(net, 3)
    sizes = {name: list(zip(x.shape, three[name].shape, strict=True)) for name, x in two.items()}
    called = {(2, 3): "batch"} | {size: f"{name}_{d}" for name, of in sizes.items() for d, size in enumerate(of) if size != (2, 3)}
    dynamic = tuple({d: called[size] for d, size in enumerate(of) if size[0] != size[1]} for of in sizes.values())
    logging.disable(logging.WARNING)  # the exporter's own
    try:
        with warnings.catch_warnings(action="ignore"):
            program = torch.onnx.export(
                net, (*two.values(),), dynamo=True, input_names=[*two], dynamic_shapes=dynamic, verbose=False
            )
    finally:
        logging.disable(logging.NOTSET)
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for x in (inputs(net, 1), three):
        found = session.run(None, {name: each.numpy() for name, each in x.items()})
        found = tuple(map(torch.from_numpy, found))
        same_outputs("onnxruntime", net(*x.values()), found if len(found) > 1 else found[0])
    write_atomic(to, content)


@torch.no_grad()
def save_for(
    library: str, net: nn.Module, inputs: Inputs, to: Path, make: Callable, convert: Convert, call: Callable | None = None
) -> Path:
    """The library's own net with our weights: its state dict, or where it has such a thing a folder. Raises Failed, as above.

    make: our net -> theirs. convert: their state dict -> ours. call: theirs with our inputs, if not as ours.
    """
    theirs = make(net).eval()
    theirs.load_state_dict(inverse(convert, theirs.state_dict(), net.state_dict()))
    x = inputs(net, 2).values()
    answer = call(theirs, *x) if call else theirs(*x)
    same_outputs(library, net(*x), getattr(answer, "logits", answer))
    if hasattr(theirs, "save_pretrained"):
        theirs.save_pretrained(to)
        return to
    write_atomic(to := to.with_suffix(".safetensors"), as_safetensors(theirs.state_dict(), {"format": "pt"}))
    return to


HEAD = """---
license: other
license_name: of-the-code-mit-of-the-data-its-own
library_name: {library}
tags: [reproduction, {paper}]
---

# {paper}/{name}

"""  # the hub reads what stands before the title


def card(paper: str, about: dict[str, Any], record: Record | None, files: list[str], shown: str, library: str) -> str:
    """What the files are, as a page in Markdown, with the head that the hub reads."""
    name, e = about["experiment"], experiments(paper).get(about["experiment"])
    data = record["data"] if record else about["data"]
    facts = {
        "run": f"{paper}/{name}, seed {about['seed']}", "commit": about["commit"],
        "ended": record["finished"] if record else "not yet",
        "data": f"{data.get('name', 'not said')}" + ", stand-in or other data than the paper's" * bool(data.get("stand_in")),
        "made again by": f"`make reproduce-{paper} EXPERIMENT={name} SEEDS={about['seed']}`",
        "input": shown, "licence": f"of the code MIT; of the data {licence(data)}",
    }  # fmt: skip
    text = HEAD.format(library=library, paper=paper, name=name)
    text += "\n".join(f"- {key}: {value}" for key, value in facts.items() if value)
    if record and e:
        rows = [["claim", "paper", "ours", "verdict"], ["---"] * 4, *outcome(e, record, differences(record["config"], e.config))]
        text += "\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return text + "\n\n" + "\n".join(f"- `{name}`" for name in files) + "\n"


def write(paper: str, run: str, form: str, to: str = "") -> tuple[Path, Path]:
    """The files, beside the run in export/, or in another folder -> what was made, and its card.

    Raises:
        BadInput: no such paper, run or format. Failed: what was written is not what the net is.
    """
    known(paper)
    hooks, folder = exporter(paper), Path(run).expanduser()
    libraries = getattr(hooks, "LIBRARIES", {})
    forms = ["safetensors", *(["onnx"] if hooks else []), *libraries]
    refuse(form not in forms, f"{paper} is exported as {', '.join(forms)}, not as {form}")
    refuse(not run, f"name the run: RUN=runs/{paper}/EXPERIMENT/seed0")
    state = learned(folder, paper) if form == "safetensors" else None
    net = None if state else hooks.of_run(folder)
    about, ended = json.loads((folder / "config.json").read_text(encoding="utf-8")), folder / "result.json"
    record = json.loads(ended.read_text(encoding="utf-8")) if ended.exists() else None
    target = Path(to).expanduser() if to else folder / "export"
    target.mkdir(parents=True, exist_ok=True)
    if state:
        write_atomic(made := target / "model.safetensors", as_safetensors(state, facts_of(record or about)))
    elif form == "onnx":
        for name, part in getattr(hooks, "parts", lambda net: {"model": net})(net).items():
            save_onnx(part, hooks.inputs, made := target / f"{name}.onnx")
    else:
        made = save_for(form, net, hooks.inputs, target / form, *libraries[form])
    files = sorted(path.name for path in target.iterdir() if path.name != "README.md")
    library = form if form in libraries else "pytorch"
    write_atomic(page := target / "README.md", card(paper, about, record, files, getattr(hooks, "SHOWN", ""), library).encode())
    return made, page


def main(paper: str, run: str = "", form: str = "safetensors", to: str = "") -> int:
    made, page = write(paper, run, form, to)
    for line in columns([["file", str(made)], ["card", str(page)]]):
        print(line)
    return 0


if __name__ == "__main__":
    import tyro

    sys.exit(told(tyro.cli, main))
