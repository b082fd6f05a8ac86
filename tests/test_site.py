"""The site to read beside the papers: whole, its links, numbers and formulas, and what a browser makes of it."""

import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from common.provenance import ROOT
from tools.grids import claim_rows
from tools.repository import papers
from tools.site import __main__ as site
from tools.site.code import notes
from tools.site.formulas import mathml, spans, typeset
from tools.site.pages import hinted
from tools.site.places import covers, order, places

SOME = ["resnet", "transformer"]
LIMIT = 500_000  # bytes of a page, less its pictures
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """Its names, links, what it loads, and the rows of its tables of claims."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids, self.links, self.loads, self.open, self.images = [], [], [], [], []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        of = dict(attributes)
        self.ids += [of.get("id")] * ("id" in of)
        self.links += [of.get("href")] * (tag == "a")
        self.loads += [of.get(LOADS.get(tag))] * (LOADS.get(tag) in of)
        self.images += [of] * (tag == "img")

    def claims(self) -> list[tuple[str, ...]]:
        cells = r'<tr class="[\w-]+"><td>(.*?)<br>.*?</td><td>(.*?)</td><td class="num paper"[^>]*>(.*?)</td>'
        cells += r'<td class="num"[^>]*>.*?</td><td class="num ours"[^>]*>(.*?)</td><td>.*?</td><td class="verdict">(.*?)</td></tr>'
        return [tuple(map(unescape, found)) for found in re.findall(cells, self.text)]


@pytest.fixture(scope="module", params=[SOME, pytest.param([], marks=pytest.mark.slow)], ids=["some", "all"])
def built(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "site"
    site.build(out, request.param)
    return out, {path.name: Page(path) for path in out.glob("*.html")}


def test_links(built):
    """Every link within the site has its place, and nothing is loaded from elsewhere."""
    out, pages = built
    names = {path.name for path in out.iterdir()}
    for name, page in pages.items():
        assert len(page.ids) == len(set(page.ids)), f"{name}: {[i for i in page.ids if page.ids.count(i) > 1][:5]} twice"
        for link in page.links:
            file, _, anchor = link.partition("#")
            if re.match("https?:", link) or (file.removesuffix(".html") in papers() and file not in names):
                continue
            assert not file or (out / file).exists(), f"{name}: {link}"
            assert not anchor or anchor in pages[file or name].ids, f"{name}: {link}"
        for load in page.loads:
            assert load == "data:," or ((out / load).exists() and not load.startswith(("http", "//", "/"))), f"{name}: {load}"
        assert all("width" in image and "height" in image for image in page.images), f"{name}: a picture without a size"
    for asset in ("style.css", "script.js"):
        assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", (out / asset).read_text())


def test_sizes(built):
    out, pages = built
    assert all((out / name).stat().st_size < LIMIT for name in pages)
    assert (out / "search.js").stat().st_size < LIMIT


def test_code_is_whole(built):
    """The lines of a page are those of the file, so that what is copied runs."""
    _, pages = built
    for name, page in pages.items():
        if name != "index.html":
            for file in ("model", "train"):
                lines = re.findall(rf'<span class="l" id="{file}-\d+"[^>]*>(.*?)\n</span>', page.text, re.DOTALL)
                source = (ROOT / "papers" / name.removesuffix(".html") / f"{file}.py").read_text()
                assert [unescape(re.sub(r"<[^>]+>", "", line)) for line in lines] == source.splitlines()


def test_claims_are_the_records(built):
    _, pages = built
    for name, page in pages.items():
        if name != "index.html":
            rows = claim_rows(name.removesuffix(".html"))
            assert sorted(page.claims()) == sorted((row.name, *row.cells()) for row in rows)


def test_equations_both_ways(built):
    """Eq. (3) of the Transformer leads to the lines of its learning rate, and they lead back."""
    page = built[1]["transformer.html"]
    entry = re.search(r'<li id="eq-3">.*?</li>', page.text, re.DOTALL)[0]
    (line,) = {int(n) for n in re.findall(r'href="#model-(\d+)"', entry)}
    source = (ROOT / "papers/transformer/model.py").read_text().splitlines()
    assert "Eq. (3)" in source[line] and source[line - 1].startswith("def ")
    lit = re.findall(r'id="model-(\d+)" data-n="\d+" data-p="[^"]*\beq-3\b', page.text)
    assert len(lit) > 2 and int(lit[0]) == line
    assert '<a class="place" href="#eq-3">Eq. (3)</a>' in page.text


def test_paper_line(built):
    """A curve has the paper's value as a line, where the claim has it."""
    text = built[1]["resnet.html"].text
    assert 'class="paper" data-value="8.75"' in text and text.count('class="ours"') == 1


def test_places():
    assert places("Eqs. 5 to 7 and Table 6, ResNet-20; Secs. 5.1 and 5.2 (Fig. 6 left)") == [
        "eq-5", "eq-6", "eq-7", "table-6", "sec-5.1", "sec-5.2", "fig-6",
    ]  # fmt: skip
    assert places("Sec. 3.4, 4.1, Table 3, 20 layers, Eq. (2)") == ["sec-3.4", "sec-4.1", "table-3", "eq-2"]
    assert places("Tables 3 and 4, E, S in [256; 512]") == ["table-3", "table-4"]
    assert places('Wu et al. (2016), "Translation System", Eq. (14); He et al., Eq. 10') == []
    assert places("appendix A.2, Sec. III.B, Algorithm 1") == ["appendix-a.2", "sec-iii.b", "algorithm-1"]
    assert sorted(["fig-1", "sec-10", "sec-9.2", "eq-2"], key=order) == ["sec-9.2", "sec-10", "eq-2", "fig-1"]
    assert covers("sec-3", "sec-3.1") and not covers("sec-3", "sec-31")


@pytest.mark.parametrize(
    "text, formulas",
    [
        ("Eq. (1): softmax(Q K^T / sqrt(d_k)) V, for (B, h, T, k)", ["softmax(Q K^T / sqrt(d_k)) V"]),
        ("FFN(x) = max(0, x W_1 + b_1) W_2 + b_2.", ["FFN(x) = max(0, x W_1 + b_1) W_2 + b_2"]),
        ("y_i = sum_j (x_j - w_ij)^2 (Eq. 7): (B, 84) -> (B, 10)", ["y_i = sum_j (x_j - w_ij)^2"]),
        ("half the sum over cases of (y - d)^2: a loss", ["(y - d)^2"]),
        ("a bottleneck with stride_in_3x3 and conv2_x", []),
        ("the 152 layers of Table 1, in a column", []),
        ("PE(pos, 2i) = sin(pos / 10000^(2i / d)), and so on", ["PE(pos, 2i) = sin(pos / 10000^(2i / d))"]),
        ("the mean of -log P(u_i | u_1, ..., u_(i-1)) in nats", ["-log P(u_i | u_1, ..., u_(i-1))"]),
        ("e_ij = v_a . tanh(W_a s), and step_size", ["e_ij = v_a . tanh(W_a s)"]),
        ("b_i = a_i / (k + alpha sum of a_j^2 over the maps)^beta", ["a_j^2"]),
    ],
)
def test_formulas_are_found(text, formulas):
    assert [text[a:b] for a, b in spans(text)] == formulas


def test_formulas_are_set():
    long = mathml("log p(x|z) = sum_i x_i log y_i + (1 - x_i) log(1 - y_i)")
    assert re.findall('aria-label="(.*?)"', long) == ["log p(x|z)", "= sum_i x_i log y_i", "+ (1 - x_i)", "log(1 - y_i)"]
    assert re.findall('aria-label="(.*?)"', mathml("FFN(x) = max(0, x W_1 + b_1) W_2 + b_2"))[1] == "= max(0, x W_1 + b_1) W_2"
    assert "infix" not in mathml("rate d_model^-0.5 min(step^-0.5, step 4000^-1.5)")
    assert "<msqrt>" in mathml("sqrt(d_k)") and "<msubsup>" in mathml("W_i^Q")
    assert '<mover accent="true"><mi>α</mi>' in mathml("alpha_bar")
    assert mathml("d^-3/4") == mathml("d^{-3/4}").replace("{", "").replace("}", "")
    assert "<msup><mi>d</mi>" not in mathml("d_model^-0.5") and "<mo>−</mo>" in mathml("d_model^-0.5")


def test_a_place_has_a_whole_hint():
    assert hinted("Sec. 3.3, Eq. (2): FFN(x) = max(0, x) W, of all positions.", "eq-2") == typeset("FFN(x) = max(0, x) W")
    assert hinted("Fig. 1: a net (Rumelhart et al. 1986), and more", "fig-1") == "a net (Rumelhart et al. 1986)"


def test_notes_stand_at_their_lines():
    source = '"""Doc."""\n\n# Sec. 2: a part.\n\n\ndef f(x):\n    """Eq. (1)."""\n    y = x  # Eq. (2): y = x^2\n    return y\n'
    found = [(n.line, n.last, n.kind, n.places) for n in notes(source)]
    assert found == [(1, 1, "doc", []), (3, 3, "head", ["sec-2"]), (6, 9, "doc", ["eq-1"]), (8, 8, "end", ["eq-2"])]


def test_what_is_no_site_is_kept(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    for arguments, words in (["resnet", "--out", str(tmp_path)], "no site"), (["rsenet", "--out", str(tmp_path / "x")], "rsenet"):
        run = subprocess.run(
            [sys.executable, "-m", "tools.site", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert run.returncode == 2 and words in run.stderr and len(run.stderr.splitlines()) == 1
    assert (tmp_path / "thesis.tex").exists()
