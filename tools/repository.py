"""The papers of this repository, their experiments and their published records."""

import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from common.claims import Claim, Experiment, Record
from common.errors import BadInput, Failed
from common.provenance import ROOT


def papers() -> list[str]:
    """Every folder of papers/ with a train.py, in alphabetical order."""
    return sorted(path.parent.name for path in (ROOT / "papers").glob("*/train.py"))


def refuse(so: object, reason: str) -> None:
    """Raises BadInput: it is so."""
    if so:
        raise BadInput(reason)


def known(paper: str) -> None:
    """Raises BadInput: there is no such paper."""
    refuse(paper not in papers(), f"no paper '{paper}': there are {', '.join(papers())}")


def told(main: Callable[..., int], *arguments: Any) -> int:
    """The exit code of a tool's main; 2 and one line where it refuses its input."""
    sys.stdout.reconfigure(errors="backslashreplace")  # of a locale without such a sign
    try:
        return main(*arguments)
    except BrokenPipeError:  # `make list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (BadInput, Failed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, BadInput) else 1


def experiments(paper: str) -> dict[str, Experiment]:
    """What train.py runs and, where there are official weights, what pretrained.py evaluates."""
    table = dict(importlib.import_module(f"papers.{paper}.train").EXPERIMENTS)
    if (ROOT / "papers" / paper / "pretrained.py").exists():
        table |= importlib.import_module(f"papers.{paper}.pretrained").WEIGHTS
    return table


def pictures(paper: str) -> dict[str, tuple[Sequence[str], Callable[[list[Record]], Any]]]:
    """The pictures that train.py draws from several published records, its PICTURES: name -> (experiments, records -> Figure)."""
    return getattr(importlib.import_module(f"papers.{paper}.train"), "PICTURES", {})


def exporter(paper: str) -> Any:
    """papers/<paper>/export.py, or None: `of_run`, a run's folder -> its net; `inputs`, net and n -> n random examples, of
    a length that varies with n if any will do; `parts`, net -> the nets of which ONNX has a file each, if it is not one."""
    there = (ROOT / "papers" / paper / "export.py").exists()
    return importlib.import_module(f"papers.{paper}.export") if there else None


def records(paper: str) -> list[Record]:
    """The published records of a paper, papers/<paper>/results.json."""
    path = ROOT / "papers" / paper / "results.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def heading(paper: str) -> tuple[str, str, str]:
    """(name, year, field), from the first two lines of a paper's page. Raises BadInput: they are not of that form."""
    text = (ROOT / "papers" / paper / "README.md").read_text(encoding="utf-8")
    found = re.match(r"# (.+) \((\d{4})\)\n<!-- field: ([\w ]+) -->\n", text)
    refuse(not found, f"papers/{paper}/README.md begins with '# NAME (YEAR)' and '<!-- field: FIELD -->', a line each")
    return found.groups()


def shapes(paper: str) -> dict[str, Callable[[str, Claim], tuple[str, str]]]:
    """train.py's SHAPES, for tables that are not experiments by metrics: table -> (experiment, claim) -> (line, column)."""
    return getattr(importlib.import_module(f"papers.{paper}.train"), "SHAPES", {})


def own_tables(paper: str) -> dict[str, Callable[[list[Record]], list[list[str]]]]:
    """The tables that train.py makes of records for its own README, its TABLES: name -> (records -> rows, the head first)."""
    return getattr(importlib.import_module(f"papers.{paper}.train"), "TABLES", {})
