# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen's rules for one version 1 grant entry, as they were tried on Xen 4.17 (`tests/xen/test_seam.py`).

An entry is the word that guest, mediator and Xen all write, and what Xen remembers beside it while it is mapped.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

MAPPINGS_MAX = 2
"""Of one entry at a time: enough to map it again while it is mapped, and in both ways."""


class Access(IntEnum):
    """What somebody can do with a page."""

    NONE = 0
    READ = 1
    WRITE = 2


class Word(NamedTuple):
    """The 64 bits of an entry. `reading` and `writing` are Xen's: somebody has it mapped, has it mapped writable."""

    typed: bool  # GTF_permit_access
    readonly: bool
    reading: bool
    writing: bool
    mark: str  # of the device that a mediator wrote it for; "": it is none of theirs
    grantee: str
    frame: int

    @property
    def mapped(self) -> bool:
        """As far as the word tells."""
        return self.reading or self.writing


FREE = Word(typed=False, readonly=False, reading=False, writing=False, mark="", grantee="", frame=-1)


def granted(mark: str, grantee: str, frame: int, *, writable: bool) -> Word:
    """What a mediator writes."""
    return Word(True, not writable, False, False, mark, grantee, frame)


class Entry(NamedTuple):
    """The word, and Xen's own record: whose mappings there are, of which frame, and how many of either kind."""

    word: Word = FREE
    grantee: str = ""
    frame: int = -1
    read_only: int = 0
    writable: int = 0

    @property
    def mappings(self) -> int:
        """How many there are."""
        return self.read_only + self.writable

    def may_map(self, who: str, *, writable: bool) -> bool:
        """Would Xen let `who` map it now?

        While it is mapped the type is not compared any more, and only the first writable mapping asks for
        GTF_readonly; nobody but who has it mapped may map it then.
        """
        if not self.mappings:
            return self.word.typed and self.word.grantee == who and not (writable and self.word.readonly)
        if self.grantee != who:
            return False
        return not writable or self.writable > 0 or not self.word.readonly

    def map(self, who: str, *, writable: bool) -> Entry:
        """A mapping more. The frame is looked up for the first one only: all others get that page."""
        word = self.word
        if not self.mappings or (writable and not self.writable):
            word = word._replace(reading=True, writing=word.writing or writable)
        frame = self.frame if self.mappings else word.frame
        return Entry(word, who, frame, self.read_only + (not writable), self.writable + writable)

    def unmap(self, *, writable: bool) -> Entry:
        """One mapping less. The word's flags go with the last of either kind."""
        read_only, writable_left = self.read_only - (not writable), self.writable - writable
        word = self.word
        if writable and not writable_left:
            word = word._replace(writing=False)
        if read_only + writable_left:
            return Entry(word, self.grantee, self.frame, read_only, writable_left)
        return Entry(word._replace(reading=False))

    def without(self, who: str) -> Entry:
        """All mappings of `who` are gone: its domain has ended."""
        if not self.mappings or self.grantee != who:
            return self
        return Entry(self.word._replace(reading=False, writing=False))

    def write(self, word: Word) -> Entry:
        """Somebody stores another word."""
        return self._replace(word=word)

    def has(self, who: str) -> Access:
        """What `who` can do with the mappings that it has."""
        if not self.mappings or self.grantee != who:
            return Access.NONE
        return Access.WRITE if self.writable else Access.READ

    def could_have(self, who: str) -> Access:
        """What it could do if it now mapped it as well."""
        if self.may_map(who, writable=True):
            return Access.WRITE
        return max(self.has(who), Access.READ if self.may_map(who, writable=False) else Access.NONE)

    def reached_frame(self) -> int:
        """The page that a mapping of it gives, one that is there or the first."""
        return self.frame if self.mappings else self.word.frame
