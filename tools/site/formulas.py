"""Formulas as comments write them, `softmax(Q K^T / sqrt(d_k)) V`, found in prose and set as MathML."""

import re
from html import escape

LETTERS = "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi psi omega"
GREEK = dict(zip(LETTERS.split(), "αβγδεζηθκλμνξπρστφχψω", strict=True))
GREEK |= {"Delta": "Δ", "Theta": "Θ", "Sigma": "Σ", "sum": "∑", "prod": "∏", "infinity": "∞"}
ACCENTS = {"bar": "¯", "hat": "^", "tilde": "~"}
SIGNS = {"*": "·", "-": "−", "->": "→", "<=": "≤", ">=": "≥", "!=": "≠", "~": "∼", "+-": "±", "||": "∥", "...": "…", ".": "·"}
NAMES = "sqrt softmax sigmoid max min log exp tanh sin cos ln tr det LayerNorm LN MSA MLP FFN PE SA Var Concat Attention"
FUNCTIONS = [*NAMES.split(), "Sublayer", "Dropout"]
TOKEN = re.compile(r"\s*(\|\||->|<=|>=|!=|\+-|\.\.\.|\d+(?:[.,]\d+)*|[A-Za-z]+'*|\S)")
LETTER = rf"(?:d?[A-Za-z]|{'|'.join(GREEK)}|net|head|pos|(?:step|rate)(?!_))'*"
SUFFIX = r"(?:_(?:[A-Za-z0-9]+|\{[^}]*\}|\())?(?:\^-?(?:[A-Za-z0-9.]+|\{[^}]*\}|\())?"
PIECE = rf"(?:(?:{'|'.join(FUNCTIONS)}){SUFFIX}|\d+(?:[.,]\d+)*%?|\d*{LETTER}{SUFFIX}|\d+\^\(?)"
PIECE = rf"(?<![A-Za-z]){PIECE}(?:(?<=\()|(?![A-Za-z]))"
WORD = re.compile(rf"[(\[{{|-]*(?:{PIECE}[()\[\]{{}}|*/^,;=+-]*)*[)\]}}|]*(?:\^-?[\w.]+)?[,;:.]*")
OPERATOR = re.compile(r"[-+*/=<>~|.]|->|<=|>=|!=|\+-|\.\.\.[,;]?")
STRONG = re.compile(rf"=|\^|\b{LETTER}_[A-Za-z0-9{{]|sqrt\(|\S [+~] \S")
LONG = 30  # letters of a formula that may take more than a line
PAIRS = {")": "(", "]": "[", "}": "{"}


class _Reader:
    """Recursive descent over the tokens of one formula."""

    def __init__(self, text: str) -> None:
        self.tokens, self.at = TOKEN.findall(re.sub(r"\^(-?\d+/\d+)", r"^{\1}", text)), 0

    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1]

    def row(self, end: str = "") -> str:
        parts = []
        while self.next() and self.next() != end:
            space = '<mspace width="0.3em"/>' * bool(parts and self.next()[0].isdigit() and "<mo>" not in parts[-1][:4])
            parts.append(space + self.scripted())
        return f"<mrow>{''.join(parts)}</mrow>"

    def inside(self, opening: str) -> str:
        text = self.row({v: k for k, v in PAIRS.items()}[opening])
        if self.next():
            self.take()
        return text

    def scripted(self) -> str:
        """An atom with what is below and above it."""
        base, scripts = self.atom(), {}
        while self.next() in ("_", "^") and self.next() not in scripts:
            sign = self.take()
            word = self.next()
            if sign == "_" and word in ACCENTS:
                self.take()
                base = f'<mover accent="true">{base}<mo stretchy="false">{ACCENTS[word]}</mo></mover>'
            elif word in ("{", "("):
                scripts[sign] = self.inside(self.take())
            elif word:
                minus = "<mo>−</mo>" if word == "-" and self.take() else ""
                scripts[sign] = f"<mrow>{minus}{self.atom() if self.next() else ''}</mrow>"
        below, above = scripts.get("_"), scripts.get("^")
        if below and above:
            return f"<msubsup>{base}{below}{above}</msubsup>"
        return f"<msub>{base}{below}</msub>" if below else f"<msup>{base}{above}</msup>" if above else base

    def atom(self) -> str:
        word = self.take()
        if word == "sqrt" and self.next() == "(":
            return f"<msqrt>{self.inside(self.take())}</msqrt>"
        if word in "([{":
            closing = {v: k for k, v in PAIRS.items()}[word]
            inner, whole = self.row(closing), bool(self.next())
            if whole:
                self.take()
            return f'<mrow><mo stretchy="false">{word}</mo>{inner}{f"""<mo stretchy="false">{closing}</mo>""" * whole}</mrow>'
        if word[0].isdigit():
            return f"<mn>{word}</mn>"
        if word[0].isalpha():
            name = word.rstrip("'")
            shown, primes = GREEK.get(name, name), '<mo lspace="0" rspace="0">′</mo>' * (len(word) - len(name))
            if name in ("sum", "prod"):
                return f"<mo>{shown}</mo>"
            if len(name) == 2 and name[0] == "d" and name[1].isupper():
                return f"<mrow><mi>d</mi><mi>{shown[1:]}</mi></mrow>"
            space = '<mspace width="0.17em"/>' * ((name in FUNCTIONS or len(shown) > 2) and self.next()[:1].isalnum())
            base = f"<mi>{shown}</mi>"  # one letter leans, a word stands: MathML's own rule
            return (f"<mrow>{base}{primes}</mrow>" if primes else base) + space
        return f"<mo>{escape(SIGNS.get(word, word))}</mo>"


def mathml(text: str) -> str:
    """One formula, its text kept for those who copy or listen. A long one is in parts, between which a line may end."""
    parts: list[str] = []
    for word in text.split(" "):
        whole = parts and len(text) > LONG and balanced(parts[-1]) and not OPERATOR.fullmatch(parts[-1].split()[-1])
        if not parts or (whole and re.match(r"[=+]|[a-z]{3,}\(", word)):
            parts.append(word)
        else:
            parts[-1] += f" {word}"
    rows = [_Reader(part).row() for part in parts]
    rows[1:] = [re.sub("^<mrow><mo>", '<mrow><mo form="infix">', row) for row in rows[1:]]
    return " ".join(f'<math aria-label="{escape(part)}">{row}</math>' for part, row in zip(parts, rows, strict=True))


def balanced(text: str) -> bool:
    stack = []
    for sign in text:
        if sign in "([{":
            stack.append(sign)
        elif sign in PAIRS and (not stack or stack.pop() != PAIRS[sign]):
            return False
    return not stack


def spans(text: str) -> list[tuple[int, int]]:
    """Where formulas stand in a piece of prose: runs of words that look like one, with a sign that settles it."""
    words = [(m.start(), m.end(), m[0]) for m in re.finditer(r"\S+", text)]
    looks = [bool(OPERATOR.fullmatch(w) or (WORD.fullmatch(w) and w not in ("a", "A", "I", "a,"))) for *_, w in words]
    found, i = [], 0
    while i < len(words):
        if not looks[i] or OPERATOR.fullmatch(words[i][2]):
            i += 1
            continue
        best, j, line = 0, i, ""
        while j < len(words) and looks[j]:
            line = text[words[i][0] : words[j][1]]
            ends = not OPERATOR.fullmatch(words[j][2])
            if ends and balanced(line) and STRONG.search(line):
                best = j + 1
            if re.search(r"[,;:.]$", line) and balanced(line) and not re.search(r"( \.|\.\.\.[,;]?)$", line):
                break
            j += 1
        if best and not any(re.fullmatch(r"[-+*/=]", word) for *_, word in words[best : best + 1]):  # else it is cut in two
            start, end = words[i][0], words[best - 1][1]
            end -= len(text[start:end]) - len(text[start:end].rstrip(",;:."))
            found.append((start, end))
        i = max(best, i + 1)
    return found


def typeset(text: str) -> str:
    """Prose as HTML: code in backticks, bold and slanted words, formulas set."""
    out = []
    for part in re.split(r"(`[^`]+`)", text):
        if part.startswith("`") and part.endswith("`") and len(part) > 2:
            out.append(f"<code>{escape(part[1:-1])}</code>")
            continue
        last = 0
        for start, end in spans(part):
            out += [prose(part[last:start]), mathml(part[start:end])]
            last = end
        out.append(prose(part[last:]))
    return "".join(out)


def prose(text: str) -> str:
    text = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", escape(text, quote=False))
    text = re.sub(r"\[([^\]]+)\]\((https?://[^)\s]+)\)", r'<a href="\2">\1</a>', text)
    return re.sub(r"(?<![\w*])\*([^*\s][^*]*)\*", r"<em>\1</em>", text)
