"""Places in a paper, as comments and notes name them: "Eq. (3)", "Secs. 5.1 and 5.2", "Table 6", "Appendix C"."""

import functools
import re
from collections.abc import Iterator

KINDS = {"Sec": "Section", "Eq": "Equation", "Table": "Table", "Fig": "Figure", "Appendix": "Appendix", "Algorithm": "Algorithm"}
SHORT = {"Sec": "Sec. {}", "Eq": "Eq. ({})", "Table": "Table {}", "Fig": "Fig. {}", "Appendix": "App. {}", "Algorithm": "Alg. {}"}
NUMBER = r"\(?((?:\d+|[IVX]+|[A-Z])(?:\.(?:\d+|[A-Z]))*)[a-d]?\b\)?"
HEAD = r"\b(Secs?\.|Sections?|Eqs?\.|Equations?|Tables?|Figs?\.|Figures?|[Aa]ppendix|Appendices|Algorithms?|Alg\.) ?"
MARK = re.compile(HEAD + NUMBER)
MORE = re.compile(r"(,? and |, | to |-|–)" + NUMBER)
ELSEWHERE = re.compile(r"(et al\.[^.;]{0,12},? |\)\), |[a-z]\", )$")  # of another paper


def marks(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, key) of every place named: "Eqs. 5 to 7" is eq-5, eq-6 and eq-7, each with the words that name it."""
    for found in MARK.finditer(text):
        if ELSEWHERE.search(text[: found.start()]):
            continue
        kind = next(k for k in KINDS if found[1].capitalize().startswith(k[:3]))
        several = found[1].rstrip(".").endswith(("s", "ces"))
        number = found[2]
        yield found.start(), found.end(), f"{kind}-{number}".lower()
        end = found.end()
        while more := MORE.match(text, end):
            other = more[2]
            if number[0].isdigit() != other[0].isdigit() or not (several or (kind in ("Sec", "Appendix") and "." in other)):
                break
            if more[1] in (" to ", "-", "–") and number.isdigit() and other.isdigit():
                for n in range(int(number) + 1, min(int(other), int(number) + 40)):
                    yield more.start(), more.end(), f"{kind}-{n}".lower()
            yield more.end() - len(more[0]) + len(more[1]), more.end(), f"{kind}-{other}".lower()
            number, end = other, more.end()


@functools.cache
def places(text: str) -> list[str]:
    """The keys of the places that a text names, once each, in its order."""
    return list(dict.fromkeys(key for *_, key in marks(text)))


def name(key: str) -> str:
    kind, _, number = key.partition("-")
    return SHORT[next(k for k in SHORT if k.lower() == kind)].format(number.upper())


def order(key: str) -> tuple:
    """Sections first, each kind by its numbers."""
    kind, _, number = key.partition("-")
    parts = [(0, int(p), "") if p.isdigit() else (1, len(p) if set(p) <= set("ivx") else 0, p) for p in number.split(".")]
    return [k.lower() for k in KINDS].index(kind), parts


def covers(outer: str, inner: str) -> bool:
    """Sec. 3 covers Sec. 3.1."""
    return inner == outer or inner.startswith(outer + ".")
