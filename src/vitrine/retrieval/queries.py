"""Parse text queries: map words to the data's labels, with synonyms, typos, negation and facets."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml
from rapidfuzz.distance import OSA

from vitrine.artifacts import ArtifactError
from vitrine.labels import CLASS_TASK, LabelSpace, label_words

NEGATIONS = frozenset({"not", "no", "without", "except", "but"})
"""Words that negate the next term; "but" often precedes another one, as in "but not blue"."""

FILLERS = frozenset({"a", "an", "the", "and", "of", "with", "in", "for", "my", "some", "made", "colored"})
KNOWN_WORDS = NEGATIONS | FILLERS | {"or"}
MIN_TYPO_LETTERS = 4
MAX_QUERY_CHARACTERS = 500
MAX_PHRASE_WORDS = 6

Label = tuple[str, int]
"""A task and the code of one of its labels."""


@dataclass(frozen=True)
class Term:
    """Something that a photograph should or should not show.

    Attributes:
        text: the words of the query
        labels: any of these labels matches
        wanted: False after a negation
        read_as: the word it was interpreted as, if different (a typo, a synonym)
    """

    text: str
    labels: tuple[Label, ...]
    wanted: bool = True
    read_as: str | None = None


class _Word(NamedTuple):
    text: str
    wanted: bool
    task: str | None


@dataclass(frozen=True)
class ParsedQuery:
    """A query's terms, its unknown words (`class:zebra` with its task), and text beyond the length limit."""

    terms: tuple[Term, ...]
    unknown_words: tuple[str, ...]
    unread: str = ""


def normalize(word: str) -> str:
    """Convert a word to lower case, without accents and plural endings."""
    plain = unicodedata.normalize("NFKD", word.casefold())
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    if len(plain) > 4 and plain.endswith(("sses", "shes", "ches", "xes")):
        return plain[:-2]
    if len(plain) > 3 and plain.endswith("ies"):
        return plain[:-3] + "y"
    if len(plain) > 3 and plain.endswith("s") and not plain.endswith(("ss", "us", "is")):
        return plain[:-1]
    return plain


def split_words(text: str) -> list[str]:
    """Split a text at everything other than letters and digits, and normalize its words."""
    return [normalize(word) for word in re.findall(r"[^\W_]+", text)]


def whole_words(text: str, length: int) -> str:
    """Truncate a text to at most `length` characters, without cutting a word."""
    kept = text[:length]
    return kept if text[length].isspace() or " " not in kept.strip() else kept[: kept.rindex(" ")]


def read_synonyms(path: Path) -> dict[str, list[str]]:
    """Read a file of `word: other words` or `word: [words, words]`.

    Raises:
        ArtifactError: the file is missing or holds something else.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}). Expected lines such as 'grey: gray'") from None
    synonyms: dict[str, list[str]] = {}
    if not isinstance(document or {}, dict):
        raise ArtifactError(f"{path}: expected lines such as 'grey: gray'; found {document!r}")
    for word, meaning in (document or {}).items():
        meanings = meaning if isinstance(meaning, list) else [meaning]
        if not isinstance(word, str) or not all(isinstance(text, str) for text in meanings):
            raise ArtifactError(
                f"{path}: {word!r}: {meaning!r}: expected 'word: words' or 'word: [words, words]', in quotes where "
                'YAML would read something else ("no": ...)'
            )
        synonyms[" ".join(split_words(word))] = [" ".join(split_words(str(text))) for text in meanings]
    return synonyms


class Vocabulary:
    """The words that match labels.

    A word that is a whole label ("blue", "plastic") matches only that label; otherwise it matches every label that has
    it as one of its words, or as the end of one ("bag" in "handbag").
    """

    def __init__(self, label_space: LabelSpace, synonyms: Mapping[str, Sequence[str]]) -> None:
        self.label_space = label_space
        self.synonyms = dict(synonyms)
        self._whole: dict[str, list[Label]] = {}
        self._words: dict[str, list[Label]] = {}
        for task in label_space:
            for code, label in enumerate(label_space.labels[task]):
                words = split_words(label)
                self._whole.setdefault(" ".join(words), []).append((task, code))
                for word in dict.fromkeys(words):
                    self._words.setdefault(word, []).append((task, code))
        self.tasks = {" ".join(split_words(task)): task for task in label_space}

    def lookup(self, phrase: str, task: str | None = None) -> tuple[Label, ...]:
        """Return the labels, optionally of one task, that match a normalized phrase; none for an unknown word."""
        whole = self._within(self._whole.get(phrase, ()), task)
        if whole:
            return whole
        matches = [set(self._word(word)) for word in phrase.split()]
        return self._within(sorted(set.intersection(*matches), key=self._place), task) if matches else ()

    def _word(self, word: str) -> list[Label]:
        if word in self._words:
            return self._words[word]
        if len(word) < 3:
            return []
        return [label for known, labels in self._words.items() if known.endswith(word) for label in labels]

    def _place(self, label: Label) -> tuple[int, int]:
        return self.label_space.tasks.index(label[0]), label[1]

    def meaning(self, phrase: str, task: str | None = None) -> tuple[tuple[Label, ...], str | None]:
        """Return a phrase's labels, optionally of one task, and, if it is a synonym, what it stands for."""
        if phrase in self.synonyms and phrase not in self._whole:
            meanings = self.synonyms[phrase]
            labels = {label for text in meanings for label in self.lookup(text, task)}
            if labels:
                return tuple(sorted(labels, key=self._place)), " or ".join(meanings)
        return self.lookup(phrase, task), None

    def correct(self, word: str) -> str | None:
        """Return the known word one edit away from a long enough unknown word; of several, the first in sort order.

        An edit inserts, deletes or replaces a letter, or swaps two neighbors.
        """
        typed = [text for text in (word, f"{word}s") if len(text) >= MIN_TYPO_LETTERS]  # "glas" has lost its s
        known = {*self._words, *(phrase for phrase in self.synonyms if " " not in phrase)}
        close = sorted(candidate for candidate in known if any(OSA.distance(text, candidate) == 1 for text in typed))
        return next((candidate for candidate in close if self.meaning(candidate)[0]), None)

    def parse(self, text: str) -> ParsedQuery:
        """Parse a query into terms. Any text is valid; words that match no label are returned as unknown.

        A negation applies to the next term ("bottle not blue"), as does a minus sign before a word. `color:blue` only
        matches labels of that task. "or" joins its neighbors into one term, and words that share a label refer to it
        ("shampoo bottle"). All terms must hold.
        """
        kept = text if len(text) <= MAX_QUERY_CHARACTERS else whole_words(text, MAX_QUERY_CHARACTERS)
        words = self._read(kept)
        terms: list[Term] = []
        unknown: list[str] = []
        start, joining = 0, False
        while start < len(words):
            length, term = self._longest(words[start : start + MAX_PHRASE_WORDS])
            word = words[start].text
            if term is not None and joining and terms:
                last = terms.pop()
                labels = tuple(sorted({*last.labels, *term.labels}, key=self._place))
                term = Term(f"{last.text} or {term.text}", labels, last.wanted, last.read_as or term.read_as)
            elif term is not None and terms and terms[-1].wanted == term.wanted:
                both = tuple(label for label in terms[-1].labels if label in term.labels)
                if both:  # "shampoo bottle" is one thing, not two
                    last = terms.pop()
                    term = Term(f"{last.text} {term.text}", both, term.wanted, last.read_as or term.read_as)
            if term is not None:
                terms.append(term)
            elif words[start].task:
                unknown.append(f"{words[start].task}:{word}")
            elif word not in KNOWN_WORDS and word not in self.tasks:
                unknown.append(word)
            joining = term is None and (joining or word == "or")
            start += length
        return ParsedQuery(tuple(dict.fromkeys(terms)), tuple(dict.fromkeys(unknown)), text[len(kept) :].strip())

    def _read(self, text: str) -> list[_Word]:
        """Split a query into words, each with its negation and its facet."""
        words: list[_Word] = []
        negated = False
        for chunk in re.split(r"[\s,;]+", text):
            negated = negated or chunk.startswith("-")
            facet, separator, value = chunk.lstrip("-").partition(":")
            task = self.tasks.get(" ".join(split_words(facet))) if separator and value else None
            parts = split_words(value if task else chunk)
            if len(parts) > 1 and "".join(parts) in self._words:  # "back-pack"
                parts = ["".join(parts)]
            for part in parts:
                words.append(_Word(part, not negated, task))
                negated = part in NEGATIONS or (negated and part in FILLERS)
        return words

    def _longest(self, words: Sequence[_Word]) -> tuple[int, Term | None]:
        """Return the number of words of the longest known phrase at the start, and its term; 1 and None without one."""
        first = words[0]
        for length in range(len(words), 1, -1):
            part = words[:length]
            phrase = " ".join(word.text for word in part)
            uniform = all((word.wanted, word.task) == (first.wanted, first.task) for word in part)
            if uniform and (phrase in self._whole or phrase in self.synonyms):
                labels, read_as = self.meaning(phrase, first.task)
                if labels:
                    return length, Term(phrase, labels, first.wanted, read_as)
        if first.text in KNOWN_WORDS or (first.text in self.tasks and first.text not in self._whole):
            return 1, None
        labels, read_as = self.meaning(first.text, first.task)
        if not labels and not self.meaning(first.text)[0]:
            corrected = self.correct(first.text)
            if corrected:
                labels, other = self.meaning(corrected, first.task)
                read_as = other or corrected
        return 1, Term(first.text, labels, first.wanted, read_as) if labels else None

    def _within(self, labels: Sequence[Label], task: str | None) -> tuple[Label, ...]:
        return tuple(label for label in labels if task in (None, label[0]))

    def words_of(self, label: Label) -> str:
        """Return a label as people write it."""
        return label_words(self.label_space.labels[label[0]][label[1]])

    def suggestions(self) -> list[str]:
        """Return example words for a query that finds nothing: a label of each task, the class last."""
        tasks = [*(task for task in self.label_space if task != CLASS_TASK), CLASS_TASK]
        return [self.words_of((task, 0)) for task in tasks if self.label_space.num_labels(task)]
