"""The pages of the site: one for each paper, the start page, and the index that its search reads."""

import functools
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from PIL import Image

from common.provenance import ROOT
from common.words import tolerance
from tools.grids import Row, by_table, claim_rows, title
from tools.repository import heading
from tools.site import charts
from tools.site.code import Note, linked, notes, rows, said
from tools.site.formulas import balanced, typeset
from tools.site.places import covers, name, order, places
from tools.tables import SIGNS, counted, found, of_paper, tally

HERE = Path(__file__).parent
FILES = ("model.py", "train.py")
LETTERS = 44  # on a line at the left of the code
SECTIONS = ("What was found", "Deviations", "Open questions", "Figures")
ENVIRONMENT = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
MARKDOWN = MarkdownIt("commonmark").enable("table")


@dataclass
class Paper:
    """What a page is made of."""

    folder: str
    title: str
    year: str
    field: str
    intro: str
    parts: dict[str, str]  # heading -> Markdown, of the README
    quotes: list[str]  # the bullets of Notes from the paper
    sources: dict[str, str]
    notes: dict[str, list[Note]]
    claims: list[Row]
    lost: list[str] = field(default_factory=list)  # marks that point nowhere, one line each

    @functools.cached_property
    def known(self) -> set[str]:
        """The places that code, notes or claims name: the page's table of places has them all."""
        named = [key for mine in self.notes.values() for note in mine for key in note.places]
        return {*named, *(key for text in (*self.quotes, *(row.claim.source for row in self.claims)) for key in places(text))}


def read(folder: str) -> Paper:
    """A paper's folder. Raises BadInput as `heading` and `claim_rows` do."""
    text = (ROOT / "papers" / folder / "README.md").read_text(encoding="utf-8")
    intro, *rest = re.split(r"^## ", text, flags=re.MULTILINE)
    intro = re.sub(r"<!-- generated: contents.*?<!-- end -->", "", intro.split("-->\n", 1)[1], flags=re.DOTALL)
    parts = {part.split("\n", 1)[0].strip(): part.split("\n", 1)[1] for part in rest}
    quotes = [" ".join(q.split()) for q in re.findall(r"^- (.*?)(?=\n- |\n\n|\Z)", parts["Notes from the paper"], re.M | re.DOTALL)]
    sources = {file: (ROOT / "papers" / folder / file).read_text(encoding="utf-8") for file in FILES}
    mine = {file: notes(source) for file, source in sources.items()}
    paper = Paper(folder, *heading(folder), intro, parts, quotes, sources, mine, claim_rows(folder))
    spread_quotes(paper)
    return paper


def spread_quotes(paper: Paper) -> None:
    """Each of the notes from the paper stands once beside the code: where its place is marked and there is most room."""
    room: dict[int, float] = {}  # lines beside a note up to the next, less its own
    for mine in paper.notes.values():
        for note in mine:
            after = min((other.line for other in mine if other.line > note.line), default=note.last + 1)
            room[id(note)] = after - note.line - sum(len(n.text) for n in mine if n.line == note.line) / LETTERS
    for quote in paper.quotes:
        keys, need = places(quote), len(quote) / LETTERS + 1
        fit = [
            n for mine in paper.notes.values() for n in mine if any(covers(k, at) for k in keys for at in n.places) and n.line > 1
        ]
        if exact := [n for n in fit if any(key in n.places for key in keys)] or fit:
            best = max(exact, key=lambda n: min(room[id(n)], need))
            best.quotes.append((quote, need < room[id(best)] + 3))
            room[id(best)] -= need
        elif keys:
            paper.lost.append(f"notes: {', '.join(map(name, keys))}: no comment in the code names it")
    noted = [key for quote in paper.quotes for key in places(quote)]
    for key in sorted(paper.known, key=order):
        at = [f"{file}:{n.line}" for file in FILES for n in paper.notes[file] if key in n.places]
        if at and not any(covers(other, key) or covers(key, other) for other in noted):
            paper.lost.append(f"{name(key)}: {', '.join(at[:4])}{' ...' * (len(at) > 4)}: the notes do not have it")


def places_table(paper: Paper) -> list[tuple[str, list[dict]]]:
    """By kind, every place: the lines that name it, what is first said of it, the notes and the claims that name it."""
    kinds: dict[str, list[dict]] = {}
    for key in sorted(paper.known, key=order):
        at = [(file, n) for file in FILES for n in paper.notes[file] if key in n.places]
        spots = [{"href": f"#{file[:-3]}-{n.line}", "text": f"{file[:-3]} {n.line}"} for file, n in at]
        quoted = [i for i, quote in enumerate(paper.quotes, 1) if key in places(quote)]
        claims = [anchor(of) for of, mine in by_table(paper.claims).items() for row in mine if key in places(row.claim.source)]
        hint = next((h for _, n in at if (h := hinted(n.text, key))), "")
        entry = {"key": key, "name": name(key), "spots": spots, "quoted": quoted, "claims": claims, "hint": hint}
        kinds.setdefault(
            {"sec": "Sections", "eq": "Equations", "table": "Tables", "fig": "Figures"}.get(key.split("-")[0], "Further"), []
        ).append(entry)
    return list(kinds.items())


def hinted(text: str, key: str) -> Markup:
    """The first words said of a place, after its name and a colon."""
    words = "|".join(re.escape(each) for each in (name(key), name(key).replace("(", "").replace(")", "")))
    said = re.search(rf"(?:{words}): ([^:;]+)", " ".join(text.split()))
    parts = re.split(r"(?<=[^.][.,])(?<!Eq\.) ", said[1].strip()) if said else []
    hints = (" ".join(parts[:n]).rstrip(".,") for n in range(1, len(parts) + 1))
    return Markup(next((typeset(hint) for hint in hints if balanced(hint) and len(hint) <= 64), ""))


def markdown(paper: Paper, text: str) -> Markup:
    """A part of the README: formulas set, pictures with their sizes, links that leave the site only to the network."""
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    html = MARKDOWN.render(text)

    def image(m: re.Match) -> str:
        if not (ROOT / "papers" / paper.folder / m[1]).exists():
            paper.lost.append(f"{m[1]}: no such picture")
            return f"<em>{m[2] or m[1]}</em>"
        with Image.open(ROOT / "papers" / paper.folder / m[1]) as picture:
            width, height = picture.size
        file = f"figures/{paper.folder}/{Path(m[1]).name}"
        size = f'width="{width}" height="{height}" loading="lazy"'
        broad = " broad" * (width > 2.5 * height)
        return f'<a class="figure{broad}" href="{file}"><img src="{file}" alt="{m[2]}" {size}></a>'

    def link(m: re.Match) -> str:
        other = re.fullmatch(r"(?:\.\./)*(?:papers/)?(\w+)/README\.md(?:#.*)?", m[1])
        if m[1].startswith(("http://", "https://")):
            return f'<a href="{m[1]}" rel="noreferrer">{m[2]}</a>'
        return f'<a href="{other[1]}.html">{m[2]}</a>' if other and (ROOT / "papers" / other[1]).exists() else m[2]

    html = re.sub(r'<img src="([^"]+)" alt="([^"]*)" />', image, html)
    html = re.sub(r'<a href="([^"]*)">(.*?)</a>', link, html, flags=re.DOTALL)
    html = re.sub(r"<table>.*?</table>", lambda m: f'<div class="wide">{m[0]}</div>', html, flags=re.DOTALL)
    parts = re.split(r"(<pre>.*?</pre>|<code>.*?</code>|<[^>]+>)", html, flags=re.DOTALL)
    parts[::2] = [retypeset(part) for part in parts[::2]]
    return Markup(linked("".join(parts), paper.known))


def retypeset(text: str) -> str:
    """Text between tags, its formulas set."""
    return typeset(unescape(text)) if re.search(r"[=^_~+]|sqrt", text) else text


def anchor(key: tuple[str, str]) -> str:
    """Of a table of `by_table`."""
    return "claims-" + re.sub(r"\W+", "-", title(*key).lower()).strip("-")


def results(paper: Paper) -> list[dict]:
    """The claims by the paper's tables, with strips and curves; what did not run comes last within each."""
    parts, drawn = [], set()
    for key, mine in by_table(paper.claims).items():
        lines, pictures = [], []
        for row in sorted(mine, key=lambda row: not row.mine):
            label, theirs, ours, verdict = row.cells()
            word = row.verdict.word
            bound = tolerance(row.claim) if row.experiment.kind in ("paper", "weights") else "–"
            cells = {"experiment": row.name, "claim": label, "paper": theirs, "bound": bound, "ours": ours, "verdict": verdict}
            lines.append(
                cells
                | {"word": word.replace(" ", "-"), "strip": charts.strip(row), "why": row.claim.why, "source": row.claim.source}
            )
            if row.mine and (row.name, row.claim.metric) not in drawn and (drawing := charts.of_claim(row)):
                drawn |= {(row.name, row.claim.metric), (row.name, "")}
                pictures.append((row.name, f"{row.claim.metric}; dashed, the paper's value", drawing))
        for row in mine:
            if row.mine and (row.name, "") not in drawn:
                drawn.add((row.name, ""))
                metric, drawing = charts.of_run(row.mine[0])
                pictures += [(row.name, f"{metric}, seed {row.mine[0]['seed']}", drawing)] * bool(drawing)
        summary = f"{counted(len(mine), 'claims')}: {tally(mine)}"
        parts.append({"title": title(*key), "id": anchor(key), "summary": summary, "lines": lines, "charts": pictures})
    return parts


def page(paper: Paper, others: list[Paper]) -> str:
    files = []
    for file in FILES:
        mine = rows(paper.sources[file], paper.notes[file], paper.known)
        shown = [
            {
                "notes": [(n, said(n, paper.known), [(*quoted(paper, q), fits) for q, fits in n.quotes]) for n in r.notes],
                "lines": r.lines,
            }
            for r in mine
        ]
        files.append({"name": file, "id": file[:-3], "rows": shown})
    sections = [(part, less_generated(paper.parts[part])) for part in SECTIONS if part in paper.parts]
    parts = [(part, part.lower().replace(" ", "-"), markdown(paper, text)) for part, text in sections if text.strip()]
    return ENVIRONMENT.get_template("paper.html").render(
        paper=paper, files=files, places=places_table(paper), results=results(paper), others=others,
        intro=markdown(paper, paper.intro), found=markdown(paper, found(paper.folder)),
        quotes=[quoted(paper, q) for q in paper.quotes],
        parts=parts,
    )  # fmt: skip


def less_generated(text: str) -> str:
    return re.sub(r"<!-- generated:.*?<!-- end -->", "", text, flags=re.DOTALL)


def quoted(paper: Paper, quote: str) -> tuple[int, Markup]:
    return paper.quotes.index(quote) + 1, Markup(linked(typeset(quote), paper.known))


def start(papers: list[Paper]) -> str:
    lines = []
    for paper in papers:
        own, judged = of_paper(paper.claims)
        count = Counter(SIGNS.get(row.verdict.word, row.verdict.word) for row in judged)
        beside = Counter(row.experiment.kind for row in paper.claims if row.mine and row.experiment.kind != "paper")
        first, *more = [
            " ".join(re.sub(r"\[([^\]]+)\]\([^)]*\)|[*_`]", r"\1", p).split()) for p in paper.intro.strip().split("\n\n")
        ]
        whole = re.search(r"\d{4,5}\)*\. (.{200,})", first)  # the citation, and in the same paragraph what it is about
        text = whole[1] if whole else more[0]
        lines.append(
            {
                "paper": paper,
                "own": len(own),
                "judged": len(judged),
                "count": count,
                "beside": beside,
                "text": text.split(". ")[0].rstrip(".") + ".",
            }
        )
    total = Counter(row.verdict.word for paper in papers for row in of_paper(paper.claims)[0])
    return ENVIRONMENT.get_template("index.html").render(lines=lines, total=total)


def index(papers: list[Paper]) -> str:
    """search.js: of each paper, the lines of model.py, of train.py those with words or names, and every paragraph of the notes."""
    worth = {"model.py": re.compile(r"\w{3}"), "train.py": re.compile(r"# |\"\"\"|^\s*(?:def|class) |^    \"[\w-]+\": ")}
    entries = []
    for paper in papers:
        mine = [[f"n{i}", quote] for i, quote in enumerate(paper.quotes, 1)]
        for part in SECTIONS[:3]:
            text = less_generated(paper.parts.get(part, ""))
            mine += [
                [part.lower().replace(" ", "-"), " ".join(p.split())]
                for p in re.split(r"\n\n|\n(?=- )", text)
                if len(p.split()) > 5
            ]
        for file, source in paper.sources.items():
            mine += [
                [f"{file[:-3]}-{n}", line.strip()] for n, line in enumerate(source.splitlines(), 1) if worth[file].search(line)
            ]
        entries.append([paper.folder, f"{paper.title} ({paper.year})", mine])
    return f"window.ENTRIES = {json.dumps(entries, ensure_ascii=False, separators=(',', ':'))};\n"
