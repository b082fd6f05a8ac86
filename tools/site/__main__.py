"""`python -m tools.site [--out site] [PAPER ...]`: the site to read beside the papers, static, read without a network (make site).

It lists the marks that point nowhere: places that the code names and a paper's notes do not, and the reverse.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

from common.files import workshop
from common.provenance import ROOT
from tools.repository import known, papers, refuse, told
from tools.site import pages

SHOWN = 3  # marks of a paper that are printed; the others are counted


def build(out: Path, only: list[str]) -> list[pages.Paper]:
    """Write the site. Raises BadInput: no such paper, or `out` holds something else."""
    for paper in only:
        known(paper)
    refuse(
        out.exists() and any(out.iterdir()) and not (out / "search.js").exists(),
        f"{out} holds something that is no site: name another with --out",
    )
    mine = sorted(map(pages.read, only or papers()), key=lambda paper: (paper.year, paper.title.lower()))
    out.parent.mkdir(parents=True, exist_ok=True)
    with workshop(out.parent, f"{out.name}.building") as making:
        new = making / "site"
        new.mkdir()
        for file in (pages.HERE / "assets").iterdir():
            shutil.copy(file, new / file.name)
        (new / "index.html").write_text(pages.start(mine), encoding="utf-8")
        (new / "search.js").write_text(pages.index(mine), encoding="utf-8")
        for paper in mine:
            (new / f"{paper.folder}.html").write_text(pages.page(paper, mine), encoding="utf-8")
            if (figures := ROOT / "papers" / paper.folder / "figures").exists():
                shutil.copytree(figures, new / "figures" / paper.folder)
        shutil.rmtree(out, ignore_errors=True)
        new.rename(out)
    return mine


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.site", description=__doc__.split("\n")[0])
    parser.add_argument("papers", nargs="*", help="only these")
    parser.add_argument("--out", type=Path, default=ROOT / "site")
    parser.add_argument("--marks", action="store_true", help="all marks that point nowhere")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    mine = build(options.out, options.papers)
    for paper in mine:
        shown = paper.lost if options.marks else paper.lost[:SHOWN]
        print("\n".join(f"{paper.folder}: {line}" for line in shown) or f"{paper.folder}: every mark is found", flush=True)
        if more := len(paper.lost) - len(shown):
            print(f"{paper.folder}: {more} more marks that point nowhere (--marks shows them)")
    size = max((options.out / f"{paper.folder}.html").stat().st_size for paper in mine)
    print(f"{options.out}: {len(mine)} papers in {time.perf_counter() - began:.1f} s, pages up to {size / 1000:.0f} kB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(told(main, sys.argv[1:]))
