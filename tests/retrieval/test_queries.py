"""Queries are parsed as people mean them, and any text is parsed without an exception."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrine.artifacts import ArtifactError
from vitrine.labels import LabelSpace
from vitrine.retrieval.queries import Vocabulary, normalize, read_synonyms, split_words

SPACE = LabelSpace(
    {
        "class": (
            "footwear_sneakers",
            "shampoo_bottle",
            "soap_bar",
            "travel_backpack",
            "travel_handbag",
            "water_bottle",
        ),
        "color": ("black", "blue", "gray", "red", "transparent"),
        "material": ("glass", "plastic", "soap"),
    }
)
SYNONYMS = {"grey": ["gray"], "see through": ["transparent"], "trainer": ["sneaker"], "bag": ["handbag", "backpack"],
            "moonstone": ["opal"]}  # fmt: skip
VOCABULARY = Vocabulary(SPACE, SYNONYMS)


def parsed_terms(text: str) -> list[str]:
    """Return the terms of a query: alternatives joined by |, unwanted terms with a minus."""
    return [
        ("" if term.wanted else "-") + "|".join(VOCABULARY.words_of(label) for label in term.labels)
        for term in VOCABULARY.parse(text).terms
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("BLUE Bottles", ["blue", "shampoo bottle|water bottle"]),
        ("a blue bottle made of plastic", ["blue", "shampoo bottle|water bottle", "plastic"]),
        ("shampoo bottle", ["shampoo bottle"]),
        ("water bottle", ["water bottle"]),
        ("handbag", ["travel handbag"]),
        ("bag", ["travel backpack|travel handbag"]),
        ("back-pack", ["travel backpack"]),
        ("see-through trainers", ["transparent", "footwear sneakers"]),
        ("grey", ["gray"]),
        ("botle", ["shampoo bottle|water bottle"]),
        ("bleu glas", ["blue", "glass"]),
        ("bottle not blue", ["shampoo bottle|water bottle", "-blue"]),
        ("bottle -blue", ["shampoo bottle|water bottle", "-blue"]),
        ("not a red bag", ["-red", "travel backpack|travel handbag"]),
        ("bag without red or blue", ["travel backpack|travel handbag", "-blue|red"]),
        ("red or blue glass", ["blue|red", "glass"]),
        ("color:blue material:glass", ["blue", "glass"]),
        ("class:soap material:soap", ["soap bar", "soap"]),
        ("material:blue", []),
        ("color:blue,class:soap", ["blue", "soap bar"]),
        ("soap", ["soap"]),
        ("blue color", ["blue"]),
        ("blue blue", ["blue"]),
        ("", []),
        ("not", []),
    ],
)
def test_queries_mean_what_people_mean(text: str, expected: list[str]) -> None:
    assert parsed_terms(text) == expected


def test_unknown_words_are_reported_once_and_never_dropped() -> None:
    parsed = VOCABULARY.parse("zebra blue moonstone zebra material:red of")
    assert parsed.unknown_words == ("zebra", "moonstone", "material:red")
    assert [term.text for term in parsed.terms] == ["blue"]


def test_terms_state_how_words_were_read() -> None:
    assert [term.read_as for term in VOCABULARY.parse("botle grey glass").terms] == ["bottle", "gray", None]


@pytest.mark.parametrize(
    ("typed", "found"),
    [("botle", "bottle"), ("bottel", "bottle"), ("bottlle", "bottle"), ("bootle", "bottle"), ("obttle", "bottle"),
     ("bttle", "bottle"), ("botel", None), ("tobtle", None), ("xyzzy", None)],
)  # fmt: skip
def test_a_word_is_corrected_by_at_most_one_edit(typed: str, found: str | None) -> None:
    assert VOCABULARY.correct(typed) == found


@pytest.mark.parametrize(
    ("word", "expected"),
    [("Bottles", "bottle"), ("glass", "glass"), ("glasses", "glass"), ("boxes", "box"), ("bodies", "body"),
     ("Café", "cafe"), ("bus", "bus"), ("gas", "gas"), ("ß", "ss")],
)  # fmt: skip
def test_words_are_normalized(word: str, expected: str) -> None:
    assert normalize(word) == expected


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=80), st.text(alphabet="-: otnrblue_wihdg\u0000\u0130", max_size=60)))
def test_any_text_is_parsed_and_every_term_has_labels(text: str) -> None:
    parsed = VOCABULARY.parse(text)
    assert all(term.labels and set(term.labels) <= {(t, c) for t in SPACE for c in range(SPACE.num_labels(t))}
               for term in parsed.terms)  # fmt: skip
    assert VOCABULARY.parse(text) == parsed


def test_the_projects_synonyms_are_read(tmp_path: Path) -> None:
    synonyms = read_synonyms(Path(__file__).parents[2] / "data/synonyms.yaml")
    assert synonyms["see through"] == ["transparent"] and synonyms["bag"] == ["handbag", "backpack"]
    (tmp_path / "empty.yaml").write_text("")
    assert read_synonyms(tmp_path / "empty.yaml") == {}


@pytest.mark.parametrize("text", ["grey: 1", "no: gray", "- grey", "grey: [gray, {}]", "grey: [", "just text"])
def test_bad_synonyms_are_a_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "synonyms.yaml").write_text(text)
    with pytest.raises(ArtifactError, match=r"synonyms\.yaml"):
        read_synonyms(tmp_path / "synonyms.yaml")
    with pytest.raises(ArtifactError, match=r"absent\.yaml"):
        read_synonyms(tmp_path / "absent.yaml")


def test_words_are_split_at_other_characters() -> None:
    assert split_words("travel_handbag, see-through!") == ["travel", "handbag", "see", "through"]
