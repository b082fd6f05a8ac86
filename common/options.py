"""Hyper-parameters: what a config refuses, and what has changed since an older one."""

import dataclasses
import json
import math
from typing import Any


def positive(config: Any, *names: str) -> None:
    """For the __post_init__ of a config. Raises ValueError: one of these hyper-parameters is not a positive, finite number."""
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {getattr(config, name)}")


def at_least_one(config: Any, *names: str) -> None:
    """For the __post_init__ of a config. Raises ValueError: one of these counts is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(config, name)}")


def fraction(config: Any, *names: str) -> None:
    """For the __post_init__ of a config. Raises ValueError: one of these shares is negative, or not below 1."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be in [0, 1), got {getattr(config, name)}")


def config_dict(config: Any) -> dict[str, Any]:
    """A config as JSON gives it back (tuples become lists), for comparison with a record."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def differences(old: dict[str, Any], config: Any, **more: Any) -> list[str]:
    """The hyper-parameters in which an older config, as a record has it, differs from today's, as "name old -> new".

    A field that the older one lacks was added since: it counts as its default. more: what the older one holds besides.
    """
    defaults = {f.name: f.default for f in dataclasses.fields(config) if f.default is not dataclasses.MISSING}
    old = json.loads(json.dumps(defaults, default=str)) | old
    new = config_dict(config) | more
    return [f"{k} {old.get(k)} -> {new.get(k)}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
