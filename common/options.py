"""What a command line may say: the options of every experiment, what a config refuses, and what has changed in one."""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of every experiment."""

    seed: int = 0
    """Everything random follows from it."""
    data_dir: Path = dataclasses.field(default_factory=lambda: Path(os.environ.get("DATA_DIR", "data")).expanduser())
    """Where data sets are, or go ($DATA_DIR)."""
    out: Path = Path("runs")
    """Runs go to OUT/<paper>/<experiment>/seed<N>/."""
    precision: Literal["fp64", "fp32", "tf32", "bf16"] | None = None
    """Arithmetic; by default what the experiment was verified with on this kind of device."""
    micro_batch: int | None = None
    """Samples (of texts: tokens) that a process takes at once; the batch and its results stay the same."""
    restart: bool = False
    """Throw away what an earlier run left in the directory."""
    allow_changes: bool = False
    """Go on although code or hyper-parameters differ from the checkpoint's; the record says so."""
    beside: bool = False
    """With changed hyper-parameters, take a folder that names them: seed<N>-lr=0.001."""
    track: Literal["wandb", "tensorboard"] = "wandb"
    """What shows the run; metrics.jsonl holds it in any case."""

    def __post_init__(self) -> None:
        _within(self, ("seed",), lambda value: value >= 0, "not be negative")
        if self.micro_batch is not None:
            at_least_one(self, "micro_batch")


def _within(config: Any, names: Sequence[str], allowed: Callable[[float], bool], must: str) -> None:
    for name in names:
        if not allowed(value := getattr(config, name)):
            raise ValueError(f"--{name.replace('_', '-')} must {must}, got {value}")


def positive(config: Any, *names: str) -> None:
    """For the __post_init__ of a config. Raises ValueError: one of these hyper-parameters is not a positive, finite number."""
    _within(config, names, lambda value: 0 < value < math.inf, "be positive")


def at_least_one(config: Any, *names: str) -> None:
    """For the __post_init__ of a config. Raises ValueError: one of these counts is below 1."""
    _within(config, names, lambda value: value >= 1, "be at least 1")


def fraction(config: Any, *names: str) -> None:
    """For the __post_init__ of a config. Raises ValueError: one of these shares is negative, or not below 1."""
    _within(config, names, lambda value: 0 <= value < 1, "be in [0, 1)")


def config_dict(config: Any) -> dict[str, Any]:
    """A config as JSON gives it back (tuples become lists), for comparison with a record."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def changed(before: Any, config: Any) -> str:
    """The hyper-parameters that differ from an experiment's: "lr=0.001 width=64"."""
    old, new = config_dict(before), config_dict(config)
    return " ".join(f"{k}={json.dumps(new[k], separators=(',', ':'))}" for k in new if old[k] != new[k]).replace('"', "")


def differences(old: dict[str, Any], config: Any, **more: Any) -> list[str]:
    """The hyper-parameters in which an older config, as a record has it, differs from today's, as "name old -> new".

    A field that the older one lacks was added since: it counts as its default. more: what the older one holds besides.
    """
    defaults = {f.name: f.default for f in dataclasses.fields(config) if f.default is not dataclasses.MISSING}
    old = json.loads(json.dumps(defaults, default=str)) | old
    new = config_dict(config) | more
    return [f"{k} {old.get(k)} -> {new.get(k)}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
