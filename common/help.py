"""`--help` without torch, whose import takes seconds, and more on a cluster's file system.

A command line follows from dataclasses alone. So while help is printed, torch is a name under which everything can be found, be
subclassed and decorate, and nothing works.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class Anything(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name, (), {})

    def __call__(cls, *arguments: Any, **_: Any) -> Any:
        return arguments[0] if len(arguments) == 1 and callable(arguments[0]) else cls  # what decorates gives the function back


ANYTHING = Anything("anything", (), {})


class Absent(MetaPathFinder, Loader):
    """Finds torch, and everything below it."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "torch" else None

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = lambda name: getattr(ANYTHING, name)


def without_torch() -> None:
    """Where `python -m`, which has not put the file's name there yet, starts something that is asked for help alone."""
    if sys.argv[:1] == ["-m"] and {"-h", "--help"} & {*sys.argv[1:]}:
        sys.meta_path.insert(0, Absent())
