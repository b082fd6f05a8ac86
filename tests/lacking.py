"""What the folder of a paper lacks, each with what to add: for whoever adds one."""

import functools
import re
from pathlib import Path

from common.claims import Experiment
from common.provenance import ROOT
from tools.repository import experiments

PARTS = [
    "What was found",
    "Run it",
    "Copy it",
    "What is logged",
    "Notes from the paper",
    "Deviations",
    "Open questions",
    "All claims",
    "Figures",
]
MARKS = ["contents", "found", "ran", "runs", "claims"]  # of generated parts


@functools.cache
def of(paper: str) -> tuple[str, ...]:
    return tuple(lacking(ROOT / "papers" / paper, experiments(paper)))


def lacking(folder: Path, table: dict[str, Experiment]) -> list[str]:
    """A sentence for each thing."""
    found, page, model = [], folder / "README.md", folder / "model.py"
    if not model.exists():
        found.append("model.py, the architecture beside the paper")
    elif "MIT licence" not in model.read_text(encoding="utf-8").partition('"""')[2].partition('"""')[0]:
        found.append('model.py: "This file: MIT licence." in its docstring, for those who copy it')
    if "smoke" not in table or table["smoke"].kind != "smoke":
        found.append("train.py: an experiment `smoke` of kind smoke in EXPERIMENTS, seconds long, on stand-in data")
    if not table or next(iter(table.values())).kind != "paper":
        found.append("train.py: the paper's headline, of kind paper, as the first of EXPERIMENTS")
    if not page.exists():
        return [*found, f"README.md: # NAME (YEAR), the paper in a paragraph, then ## {', ## '.join(PARTS)}"]
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    found += [f"README.md: a section ## {part}" for part in PARTS if part not in headings]
    marks = re.findall(r"<!-- generated: (\w+)", text)
    mark = "README.md: <!-- generated: {}, by make tables --> and <!-- end -->, between which make tables writes"
    found += [mark.format(each) for each in MARKS if each not in marks]
    if not found and [part for part in headings if part in PARTS] != PARTS:
        found.append(f"README.md: the order ## {', ## '.join(PARTS)}")
    if not found and [mark for mark in marks if mark in MARKS] != MARKS:
        found.append(f"README.md: the generated parts in the order {', '.join(MARKS)}, each once")
    return found
