# SPDX-License-Identifier: Apache-2.0
"""LVM's text format: sections of names with numbers, strings and lists, as LVM itself writes them.

Stricter than LVM's own parser, since all that LVM 2.03 writes is of this form: no floating point
or octal numbers, no bare words, no name twice in a section.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

from ipa_snapshot.devices.file_systems.base import NotUnderstood

_DEPTH = 8  # LVM needs four: group, logical_volumes, volume, segment
_MOST_TOKENS = 400_000
_TOKEN = re.compile(
    r"""(?P<space>(?:\s+|\#[^\n]*)+)
    | (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<number>-?(?:0|[1-9][0-9]{0,18})(?![A-Za-z0-9_.+-]))
    | (?P<name>[A-Za-z0-9_.+-]+)
    | (?P<mark>[][{}=,])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)

Scalar = int | str
Value = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True)
class Section:
    """A section: its values and its own sections, by their names.

    Its methods raise :class:`NotUnderstood` for what is missing or of another kind.
    """

    name: str
    values: Mapping[str, Value]
    sections: Mapping[str, "Section"]

    def number(self, name: str, least: int, most: int) -> int:
        """Return a number within limits."""
        value = self.values.get(name)
        if not isinstance(value, int) or not least <= value <= most:
            raise NotUnderstood("%s of %s is %.40r" % (name, self.name, value))
        return value

    def text(self, name: str) -> str:
        """Return a string."""
        value = self.values.get(name)
        if not isinstance(value, str):
            raise NotUnderstood("%s of %s is %.40r" % (name, self.name, value))
        return value

    def items(self, name: str) -> tuple[Scalar, ...]:
        """Return a list, an empty one if there is none."""
        value = self.values.get(name, ())
        if not isinstance(value, tuple):
            raise NotUnderstood("%s of %s is %.40r" % (name, self.name, value))
        return value

    def words(self, *names: str) -> frozenset[str]:
        """Return all strings of some lists."""
        return frozenset(str(item) for name in names for item in self.items(name))

    def only(self, *known: str) -> None:
        """Refuse values that are not ``known``."""
        if strange := sorted(self.values.keys() - set(known)):
            raise NotUnderstood("%s has an unknown %.40s" % (self.name, strange[0]))


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str


def parse(text: str) -> Section:
    """Return the file as a section without a name.

    :raises: NotUnderstood
    """
    tokens = _Tokens(text)
    return _section(tokens, "", _DEPTH)


class _Tokens:
    """The tokens in turn, and the next one to look at."""

    def __init__(self, text: str) -> None:
        self._rest = _tokens(text)
        self.next = next(self._rest)

    def take(self, kind: str, text: str | None = None) -> str:
        token = self.next
        if token.kind != kind or text not in (None, token.text):
            _refuse(token)
        if kind != "end":
            self.next = next(self._rest)
        return token.text

    def is_mark(self, text: str) -> bool:
        return self.next == _Token("mark", text)


def _tokens(text: str) -> Iterator[_Token]:
    position = count = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None or found.lastgroup is None or count > _MOST_TOKENS:
            raise NotUnderstood("LVM's metadata is not of its form at byte %d" % position)
        position = found.end()
        if found.lastgroup != "space":
            count += 1
            yield _Token(found.lastgroup, found[0])
    yield _Token("end", "")


def _refuse(token: _Token) -> NoReturn:
    raise NotUnderstood("%.40r where LVM's metadata has something else" % token.text)


def _section(tokens: _Tokens, name: str, depth: int) -> Section:
    """Read what is between braces, or of the file."""
    if depth == 0:
        raise NotUnderstood("LVM's metadata has sections in sections in sections")
    values: dict[str, Value] = {}
    sections: dict[str, Section] = {}
    while tokens.next.kind != "end" and not tokens.is_mark("}"):
        # a volume may be called 7
        key = tokens.take("number" if tokens.next.kind == "number" else "name")
        if key in values or key in sections:
            raise NotUnderstood("LVM's metadata has %.40s twice" % key)
        if tokens.is_mark("{"):
            tokens.take("mark", "{")
            sections[key] = _section(tokens, key, depth - 1)
            tokens.take("mark", "}")
        else:
            tokens.take("mark", "=")
            values[key] = _value(tokens)
    if not name:
        tokens.take("end")
    return Section(name, values, sections)


def _value(tokens: _Tokens) -> Value:
    if not tokens.is_mark("["):
        return _scalar(tokens)
    tokens.take("mark", "[")
    items: list[Scalar] = []
    while not tokens.is_mark("]"):
        items.append(_scalar(tokens))
        if not tokens.is_mark("]"):
            tokens.take("mark", ",")
    tokens.take("mark", "]")
    return tuple(items)


def _scalar(tokens: _Tokens) -> Scalar:
    if tokens.next.kind == "number":
        return int(tokens.take("number"))
    return _ESCAPED.sub(r"\1", tokens.take("string")[1:-1])
