"""Symbolic terms and what an attacker can know of them (Dolev-Yao: cryptography is perfect, the network is his).

A term is a name that everybody knows, a fresh value that only its maker knows, a cryptographic function of terms, or a
message with named fields. Equal terms are the same object, so that comparing and hashing them is cheap however deep
they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

FIELDS: dict[str, tuple[str, ...]] = {
    "POLICY": ("flags", "id_i", "responders"),
    "TICKET": ("policy", "tpk", "rand", "kemac", "v"),
    "REQUEST_INIT": ("id_i", "rand_i", "policy", "tpk", "v"),
    "REQUEST_RESP": ("ticket", "kemac", "v"),
    "TRANSFER_INIT": ("id_i", "id_r", "rand_i", "ticket", "kemac", "v", "vi", "vr"),
    "RESOLVE_INIT": ("psk", "id_r", "rand_r", "ticket", "vi", "vr", "v"),
    "RESOLVE_RESP": ("kemac", "id_r", "rand_kms", "v"),
    "TRANSFER_RESP": ("id_r", "rand_r", "rand_kms", "kemac", "v"),
}
"""The messages and payloads, by the names of their fields. `vi` and `vr` are the Initiator Data of `ticket`."""

ONE_WAY = frozenset({"prf", "mac", "enc", "fresh", "name"})


class Term:
    """One symbolic term. Make terms with the functions below only: they see to it that equal terms are identical."""

    __slots__ = ("args", "op")

    def __init__(self, op: str, args: tuple[Term | str, ...]) -> None:
        self.op = op
        self.args = args

    def __getitem__(self, name: str) -> Term:
        """A field of a message."""
        found = self.args[FIELDS[self.op].index(name)]
        assert isinstance(found, Term)
        return found

    @property
    def terms(self) -> tuple[Term, ...]:
        """The arguments that are terms; the others are constants."""
        return tuple(a for a in self.args if isinstance(a, Term))

    def __str__(self) -> str:
        if self.op == "name":
            return str(self.args[0])
        if self.op == "fresh":
            return f"{self.args[0]}({self.args[1] if isinstance(self.args[1], str) else '..'})"
        return f"{self.op}({', '.join(map(str, self.args))})"

    __repr__ = __str__


_terms: dict[tuple[str, tuple[Term | str, ...]], Term] = {}


def make(op: str, *args: Term | str) -> Term:
    """The term with this function symbol (or message type) and these arguments."""
    found = _terms.get((op, args))
    if found is None:
        found = _terms[op, args] = Term(op, args)
    return found


def name(text: str) -> Term:
    """A constant that everybody knows: an identity, flags, a value that the attacker chose."""
    return make("name", text)


def fresh(kind: str, *made_for: Term | str) -> Term:
    """A random value or long-term key, known to whoever made or holds it. `made_for` makes it unique: the session or
    the request that it was made for. (A replay of a request is thus answered with the same values.)"""
    return make("fresh", kind, *made_for)


def prf(key: Term, *label: Term | str) -> Term:
    """A key derived from a key."""
    return make("prf", key, *label)


def mac(key: Term, *covered: Term) -> Term:
    """A MAC."""
    return make("mac", key, *covered)


def enc(key: Term, *keys: Term) -> Term:
    """A KEMAC: keys, encrypted."""
    return make("enc", key, *keys)


def opened(kemac: Term, key: Term) -> tuple[Term, ...]:
    """What a KEMAC holds, for one who has its key. Empty if this is not its key."""
    return kemac.terms[1:] if kemac.op == "enc" and kemac.args[0] is key else ()


NONE = name("-")
"""In the place of a payload that is absent."""


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What the attacker has: all parts that he could take out of what he saw, and KEMACs that he cannot open.

    In the order of learning (hence dicts), so that a search takes the same course each time.
    """

    parts: dict[Term, None] = field(default_factory=dict)
    locked: dict[Term, None] = field(default_factory=dict)
    _memo: dict[Term, bool] = field(default_factory=dict, repr=False)

    def learn(self, terms: Iterable[Term]) -> Knowledge:
        """This knowledge and all that can be taken apart once `terms` are known too."""
        todo = [t for t in terms if t not in self.parts]
        if not todo:
            return self
        parts, locked = dict(self.parts), dict(self.locked)
        while True:
            while todo:
                term = todo.pop()
                if term in parts:
                    continue
                parts[term] = None
                if term.op == "enc":
                    locked[term] = None
                elif term.op not in ONE_WAY:
                    todo.extend(term.terms)
            result = Knowledge(parts, locked)
            for kemac in [k for k in locked if result.derives(k.terms[0])]:
                del locked[kemac]
                todo.extend(kemac.terms[1:])
            if not todo:
                return result

    def derives(self, term: Term) -> bool:
        """Whether the attacker has this term or can make it from what he has."""
        known = self._memo.get(term)
        if known is None:
            known = (
                term.op == "name"
                or term in self.parts
                or (term.op != "fresh" and all(self.derives(t) for t in term.terms))
            )
            self._memo[term] = known
        return known
