"""The tasks, every case of them: what each net is given and what it should answer. Nothing here is random but the splits."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from papers.backprop.model import Net, family_trees, layered, t_or_c


@dataclass(frozen=True)
class Task:
    """inputs: layer -> (C, I), levels 0 and 1.    d: what the outputs should be, (C, J).    name: of the data, in a record."""

    name: str
    inputs: dict[str, Tensor]
    d: Tensor
    people: list["Person"] = field(default_factory=list)


def binary(bits: int) -> Tensor:
    """All patterns: (2^bits, bits), the first bit first."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=bits)), dtype=torch.get_default_dtype())


def symmetry() -> Task:
    """Is a row of six the same from either end? 8 of 64 are."""
    x = binary(6)
    return Task("64 rows of six", {"input": x}, (x == x.flip(1)).all(1, keepdim=True).to(x))


def parity(bits: int) -> Task:
    """Is an odd number of inputs on? With two inputs: exclusive or."""
    x = binary(bits)
    return Task(f"{2**bits} patterns of {bits}", {"input": x}, x.sum(1, keepdim=True) % 2)


def encoder() -> Task:
    """One of eight, through three units, to the same one of eight."""
    x = torch.eye(8, dtype=torch.get_default_dtype())
    return Task("8 patterns, one unit on", {"input": x}, x)


def addition() -> Task:
    """Two numbers of two bits each, and their sum's three bits, the largest first."""
    x = binary(4)
    total = (x @ torch.tensor([2.0, 1, 2, 1], dtype=x.dtype)).long()
    return Task("16 sums", {"input": x}, torch.stack([total // 4, total // 2 % 2, total % 2], 1).to(x))


SHAPES = {"T": ("###", ".#.", ".#."), "C": ("##.", "#..", "##.")}  # five cells each; redrawn, in a field of three by three


def letters(retina: int = 5) -> Task:
    """T or C, turned four ways, in the middle of the retina."""
    x, d = torch.zeros(8, retina, retina, dtype=torch.get_default_dtype()), torch.zeros(8, 1, dtype=torch.get_default_dtype())
    at = (retina - 3) // 2
    for n, (letter, turns) in enumerate(itertools.product(SHAPES, range(4))):
        cells = torch.tensor([[cell == "#" for cell in row] for row in SHAPES[letter]], dtype=x.dtype)
        x[n, at : at + 3, at : at + 3] = cells.rot90(turns)
        d[n] = letter == "T"
    return Task("T and C, four ways each", {"input": x.flatten(1)}, d)


# Family trees (Fig. 2). Who is whose child, and who is married; English, and the Italians in the same places.

ENGLISH = [
    "Christopher", "Andrew", "Arthur", "James", "Charles", "Colin", "Penelope", "Christine", "Victoria", "Jennifer", "Margaret",
    "Charlotte",
]  # fmt: skip
ITALIAN = [
    "Roberto", "Pierro", "Emilio", "Marco", "Tomaso", "Alfonso", "Maria", "Francesca", "Lucia", "Angela", "Gina", "Sophia",
]  # fmt: skip
MARRIED = [
    ("Christopher", "Penelope"),
    ("Andrew", "Christine"),
    ("Arthur", "Margaret"),
    ("James", "Victoria"),
    ("Charles", "Jennifer"),
]
CHILDREN = {
    ("Christopher", "Penelope"): ("Arthur", "Victoria"), ("Andrew", "Christine"): ("James", "Jennifer"),
    ("James", "Victoria"): ("Colin", "Charlotte"),
}  # fmt: skip
GENERATION = {"Christopher": -1, "Penelope": -1, "Andrew": -1, "Christine": -1, "Colin": 1, "Charlotte": 1}  # others: 0
LEFT = ("Christopher", "Penelope", "Arthur", "Margaret", "Victoria")  # the branch in which they were born, or married first
BOTH = ("Colin", "Charlotte")  # of either
RELATIONS = [
    "father", "mother", "husband", "wife", "son", "daughter", "uncle", "aunt", "brother", "sister", "nephew", "niece",
]  # fmt: skip


@dataclass(frozen=True)
class Person:
    """nationality, generation, branch: -1, 0 or 1, as units 1, 2 and 6 of Fig. 4 tell them."""

    name: str
    nationality: int
    generation: int
    branch: int


def people() -> list[Person]:
    """The 24, as they are numbered."""
    found = []
    for nationality, names in ((-1, ENGLISH), (1, ITALIAN)):
        for place, name in zip(ENGLISH, names, strict=True):
            branch = 0 if place in BOTH else -1 if place in LEFT else 1
            found.append(Person(name, nationality, GENERATION.get(place, 0), branch))
    return found


def relatives() -> dict[tuple[str, str], list[str]]:
    """(person, relation) -> who, of the English tree: 52 questions with an answer. Uncles and aunts include those by marriage."""
    men = set(ENGLISH[:6])
    partner = {a: b for pair in MARRIED for a, b in (pair, pair[::-1])}
    parents = {child: pair for pair, children in CHILDREN.items() for child in children}
    children = {person: of for pair, of in CHILDREN.items() for person in pair}
    siblings = {person: [other for other in children[pair[0]] if other != person] for person, pair in parents.items()}

    def by_blood_or_marriage(persons: list[str]) -> list[str]:
        return [each for person in persons for each in (person, partner.get(person)) if each]

    answers = {}
    for person in ENGLISH:
        mine = {
            ("father", "mother"): parents.get(person, ()),
            ("husband", "wife"): [partner[person]] if person in partner else [],
            ("son", "daughter"): children.get(person, ()),
            ("uncle", "aunt"): by_blood_or_marriage([s for parent in parents.get(person, ()) for s in siblings.get(parent, [])]),
            ("brother", "sister"): siblings.get(person, []),
            ("nephew", "niece"): [
                child for each in (person, partner.get(person)) for s in siblings.get(each, []) for child in children.get(s, ())
            ],
        }  # fmt: skip
        for (male, female), found in mine.items():
            for relation, those in ((male, [p for p in found if p in men]), (female, [p for p in found if p not in men])):
                if those:
                    answers[person, relation] = those
    return answers


def family() -> Task:
    """104 questions, person and relation, one unit on for each; the units of all persons who are an answer should be on."""
    everyone, answers = people(), relatives()
    number = {person.name: n for n, person in enumerate(everyone)}
    translated = [dict(zip(ENGLISH, names, strict=True)) for names in (ENGLISH, ITALIAN)]
    cases = [(to, *question, those) for to in translated for question, those in answers.items()]
    person, relation, d = torch.zeros(len(cases), 24), torch.zeros(len(cases), 12), torch.zeros(len(cases), 24)
    for n, (to, who, what, those) in enumerate(cases):
        person[n, number[to[who]]] = relation[n, RELATIONS.index(what)] = 1
        d[n, [number[to[each]] for each in those]] = 1
    kind = torch.get_default_dtype()
    return Task(
        "104 questions of two family trees", {"person": person.to(kind), "relation": relation.to(kind)}, d.to(kind), everyone
    )


TASKS: dict[str, tuple[Callable[[], Task], Callable[..., Net]]] = {  # name -> the cases, and what makes T nets for them
    "symmetry": (symmetry, lambda hidden, **more: layered(6, hidden, 1, **more)),
    "xor": (lambda: parity(2), lambda hidden, **more: layered(2, hidden, 1, **more)),
    "parity-4": (lambda: parity(4), lambda hidden, **more: layered(4, hidden, 1, **more)),
    "encoder": (encoder, lambda hidden, **more: layered(8, hidden, 8, **more)),
    "addition": (addition, lambda hidden, **more: layered(4, hidden, 3, **more)),
    "t-or-c": (letters, lambda hidden, direct, **more: t_or_c(kernels=hidden, **more)),
    "family-trees": (family, lambda hidden, direct, **more: family_trees(**more)),
}
