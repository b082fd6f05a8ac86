"""A file of code as rows: at the right its lines, at the left what its comments and docstrings say of the paper there."""

import ast
import io
import re
import tokenize
from dataclasses import dataclass, field
from html import escape

from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from tools.site.formulas import spans, typeset
from tools.site.places import marks, places

ONE = r"\((?:[A-Z](?:_\w+)?|\.\.\.|\d+ [A-Z])(?=[ ,)])(?:[^()]|\([^()]*\))*\)"
SHAPE = re.compile(rf"(?<!\w){ONE}(?:(?:, | -&gt; ){ONE})*")
COMMENT = re.compile(r'(<span class="(?:c1|sd)">)(.*?)(</span>)')


@dataclass
class Note:
    """What is said at a line; it speaks of the lines up to `last`."""

    line: int
    last: int
    text: str
    kind: str  # doc, head (a comment on lines of its own), end (a comment at a line's end)
    quotes: list[tuple[str, bool]] = field(default_factory=list)  # of the page's Notes from the paper; is there room for it?

    @property
    def places(self) -> list[str]:
        return places(self.text)


@dataclass
class Row:
    notes: list[Note]
    lines: list[tuple[int, Markup, str, int]]  # number, code, keys of the places, spaces before it


def _docstrings(source: str) -> list[Note]:
    """Docstrings, and strings below the fields of a class, at the line they speak of."""
    found = []
    for node in ast.walk(ast.parse(source)):
        for i, each in enumerate(body := getattr(node, "body", []) if isinstance(getattr(node, "body", []), list) else []):
            if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant) and isinstance(each.value.value, str)):
                continue
            text = ast.get_docstring(node) if i == 0 and not isinstance(node, ast.If | ast.For | ast.With) else each.value.value
            whole = isinstance(node, ast.FunctionDef) and i == 0
            first = body[i - 1].lineno if i else getattr(node, "lineno", 1)
            last = node.end_lineno if whole else each.end_lineno
            found.append(Note(first, last, text.strip(), "doc"))
    return found


def _comments(source: str) -> list[Note]:
    lines, found = source.splitlines(), []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or re.match(r"# (fmt|noqa|type):?|#!", token.string):
            continue
        n, text = token.start[0], re.sub(r"  # (noqa|fmt).*", "", token.string.lstrip("# "))
        if token.line.strip() != token.string:
            found.append(Note(n, n, text, "end"))
        elif found and found[-1].kind == "head" and found[-1].last == n - 1:
            found[-1].text, found[-1].last = f"{found[-1].text} {text}", n
        else:
            found.append(Note(n, n, text, "head"))
    for note in found:
        while note.kind == "head" and note.last < len(lines) and lines[note.last].strip():
            note.last += 1
    return [note for note in found if note.kind == "head" or note.places or spans(note.text)]


def notes(source: str) -> list[Note]:
    return sorted(_docstrings(source) + _comments(source), key=lambda note: (note.line, note.last))


def linked(text: str, known: set[str]) -> str:
    """HTML in which a place that is on the page is a link to it. Text in tags is left alone."""
    parts = re.split(r"(<math.*?</math>|<code>.*?</code>|<a .*?</a>|<[^>]+>)", text)
    for i in range(0, len(parts), 2):
        out, last = [], 0
        for start, end, key in marks(parts[i]):
            if key in known and start >= last:
                out += [parts[i][last:start], f'<a class="place" href="#{key}">{parts[i][start:end]}</a>']
                last = end
        parts[i] = "".join([*out, parts[i][last:]])
    return "".join(parts)


def rows(source: str, found: list[Note], known: set[str]) -> list[Row]:
    """A row begins at every line of which something is said."""
    shown = highlight(source, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)).splitlines()
    keys: dict[int, list[str]] = {}
    for note in found:
        for n in range(note.line, note.last + 1):
            keys.setdefault(n, []).extend(note.places)
    shape = lambda m: f'<b class="shape">{m[0]}</b>'
    comment = lambda m: m[1] + linked(SHAPE.sub(shape, m[2]), known) + m[3]
    at: dict[int, list[Note]] = {}
    for note in found:
        at.setdefault(note.line, []).append(note)
    result: list[Row] = []
    for n, (line, plain) in enumerate(zip(shown, source.splitlines(), strict=True), 1):
        indent = len(plain) - len(plain.lstrip())
        if n == 1 or n in at:
            result.append(Row(at.get(n, []), []))
        result[-1].lines.append((n, Markup(COMMENT.sub(comment, line)), " ".join(dict.fromkeys(keys.get(n, []))), indent))
    return result


def said(note: Note, known: set[str]) -> Markup:
    """A note as HTML: paragraphs, and what is set in below a head as it stands."""
    out = []
    for part in re.split(r"\n\s*\n", note.text):
        lines = part.splitlines()
        if re.match(r"\s*(Args|Raises|Returns):$", lines[0]):
            out.append(f"<p><b>{lines[0].strip()}</b></p><ul>{''.join(_items(lines[1:]))}</ul>")
        elif lines[0].startswith("    "):
            out.append(f"<pre>{escape(re.sub(r'(?m)^    ', '', part))}</pre>")
        elif lines[0].startswith("Shapes:"):
            parts = " ".join(re.sub(r"(?<=[^:\s])\s{3,}", ", ", part).split()).split(", ")  # D d_model is no product
            out.append(f"<p>{', '.join(typeset(p) if '=' in p else ' '.join(map(typeset, p.split())) for p in parts)}</p>")
        else:
            out.append(f"<p>{typeset(' '.join(line.strip() for line in lines))}</p>")
    return Markup(linked("".join(out), known))


def _items(lines: list[str]) -> list[str]:
    """The arguments under a head, each with its lines."""
    found: list[str] = []
    least = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    for line in lines:
        if found and len(line) - len(line.lstrip()) > least:
            found[-1] += " " + line.strip()
        else:
            found.append(line.strip())
    split = lambda text: re.sub(r"^([\w, *]{1,40}?): ", r"`\1`: ", text)
    return [f"<li>{typeset(split(text))}</li>" for text in found]
