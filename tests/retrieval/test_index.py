"""Ranking, ties and explanations agree with cases computed by hand; any query gets a result or a message."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrine.artifacts import ArtifactError
from vitrine.labels import LabelSpace
from vitrine.predictions import Predictions
from vitrine.retrieval.index import BLOCK, FLOOR, Index, MatchRule, best_rows, raised
from vitrine.retrieval.relevance import HardIndex, documents, search_table

SPACE = LabelSpace({"class": ("travel_handbag", "water_bottle"), "color": ("blue", "red")})


def predictions(bags: list[float], blues: list[float]) -> Predictions:
    """Return predictions of z.jpg, y.jpg, ... with the given probabilities of handbag and blue."""
    paths = tuple(f"{chr(ord('z') - row)}.jpg" for row in range(len(bags)))
    values = {task: np.array([[p, 1 - p] for p in probs], dtype=np.float32)
              for task, probs in (("class", bags), ("color", blues))}  # fmt: skip
    angles = np.arange(len(bags)) * 0.5
    return Predictions(SPACE, paths, values, 7 * np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))


GALLERY = predictions([0.9, 0.6, 0.2, 0.9], [0.8, 0.3, 0.7, 0.8])
INDEX = Index.build("m", GALLERY, ["A", "A", "B", "C"], {"sack": ["bag"]})


def test_and_multiplies_and_or_weights_by_rarity() -> None:
    query = INDEX.vocabulary.parse("blue bag")
    expected = raised(np.array([0.8, 0.3, 0.7, 0.8])) * raised(np.array([0.9, 0.6, 0.2, 0.9]))
    np.testing.assert_allclose(INDEX.and_scores(query), expected, rtol=1e-5)
    idf_blue, idf_bag = (math.log(5 / (1 + total)) + 1 for total in (2.6, 2.6))
    np.testing.assert_allclose(INDEX.or_scores(query)[1], idf_blue * 0.3 + idf_bag * 0.6, rtol=1e-5)


def test_hits_are_sorted_with_ties_in_row_order_and_explained() -> None:
    hits = INDEX.search("blue sacks, not red").hits
    assert [hit.row for hit in hits] == [0, 3, 2, 1]
    assert hits[0].image_path == "z.jpg" and hits[0].instance_id == "A" and hits[0].similarity is None
    why = [(match.term, match.wanted, match.label) for match in hits[0].matches]
    assert why == [("blue", True, "blue"), ("sack", True, "travel_handbag"), ("red", False, "red")]
    assert [match.probability for match in hits[0].matches] == pytest.approx([0.8, 0.9, 0.8])
    assert hits[0].score == pytest.approx(math.prod((p + FLOOR) / (1 + FLOOR) for p in (0.8, 0.9, 0.8)), rel=1e-5)


def test_alternatives_of_one_task_are_exclusive_and_those_of_several_are_independent() -> None:
    either = INDEX.vocabulary.parse("blue or red").terms[0]
    np.testing.assert_allclose(INDEX.term_probs(either), 1, rtol=1e-6)
    across = INDEX.vocabulary.parse("blue or bag").terms[0]
    np.testing.assert_allclose(INDEX.term_probs(across), 1 - np.array([0.02, 0.28, 0.24, 0.02]), rtol=1e-5)
    assert INDEX.term_probs(across, np.array([1])).tolist() == pytest.approx([0.72])


def test_hits_can_be_limited_to_one_per_item_and_to_some_rows() -> None:
    assert [hit.row for hit in INDEX.search("blue bag", by_item=True).hits] == [0, 3, 2]
    assert [hit.row for hit in INDEX.search("blue bag", by_item=True, top_k=2).hits] == [0, 3]
    only = np.array([False, True, True, False])
    assert [hit.row for hit in INDEX.search("blue bag", only=only).hits] == [1, 2]
    assert [hit.row for hit in INDEX.search("blue bag", top_k=1).hits] == [0]


def test_similarity_ranks_alone_and_with_words() -> None:
    like = GALLERY.embeddings[2]
    alone = INDEX.search(like=like).hits
    assert alone[0].row == 2 and {alone[1].row, alone[2].row} == {1, 3} and alone[3].row == 0
    assert [hit.similarity for hit in alone] == pytest.approx([1, math.cos(0.5), math.cos(0.5), math.cos(1)])
    both = INDEX.search("bag", like=like).hits
    scores = {hit.row: hit.score for hit in both}
    assert both[0].row == 3  # as similar as 1, but more probably a bag
    likely = 1 / (1 + math.exp(-(INDEX.rule.slope * math.cos(0.5) + INDEX.rule.offset)))
    assert scores[3] == pytest.approx((0.9 + FLOOR) * (likely + FLOOR) / (1 + FLOOR) ** 2, rel=1e-4)


def test_a_match_reaches_the_minimum_score_and_is_probably_of_the_same_class() -> None:
    index = Index.build("m", GALLERY, ["A", "A", "B", "C"], {}, MatchRule(0.6, slope=10, offset=-7))
    words = index.search("bag")
    assert [(hit.row, hit.is_match) for hit in words.hits] == [(0, True), (3, True), (1, True), (2, False)]
    assert words.num_matches == 3 and index.search("bag", top_k=1).num_matches == 3
    assert index.search("bag", by_item=True).num_matches == 2
    assert index.search("bag", only=np.array([False, True, True, False])).num_matches == 1
    assert index.search("bag not blue").num_matches == 0
    like = index.search(like=GALLERY.embeddings[2])  # cosines of 0.54, 0.88, 1 and 0.88; probability > 0.5 from 0.7
    assert {hit.row: hit.is_match for hit in like.hits} == {0: False, 1: True, 2: True, 3: True}
    both = index.search("bag", like=GALLERY.embeddings[2])
    assert {hit.row: hit.is_match for hit in both.hits} == {0: False, 1: True, 2: False, 3: True}


def test_scores_do_not_exceed_one() -> None:
    certain = Index.build("m", predictions([1.0, 1.0], [1.0, 0.0]), ["A", "B"], {})
    assert certain.search("blue bag").hits[0].score == 1
    found = [hit.score for hit in certain.search("bag", like=7 * certain.embeddings[0]).hits]
    assert max(found + [hit.score for hit in certain.search(like=certain.embeddings[0]).hits]) <= 1


def test_the_unread_end_of_a_long_query_is_named() -> None:
    message = INDEX.search("blue " * 99 + "handbags zebra").message
    assert message == "Only the first 500 characters were read; ignored: 'handbags zebra'."
    assert INDEX.search("x" * 600).hits == ()


def test_an_unknown_query_gets_a_hint() -> None:
    empty, unknown = INDEX.search(""), INDEX.search("zebra")
    assert empty.hits == unknown.hits == ()
    assert empty.message == "Nothing to search for. Try words such as: blue, travel handbag."
    assert unknown.message == "Not understood: 'zebra'. Try words such as: blue, travel handbag."
    partly = INDEX.search("zebra bleu")
    assert partly.hits and partly.message == "Showing results for 'blue'. Not understood: 'zebra'."
    assert INDEX.search("blue").message is None


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60), st.integers(0, 9), st.booleans())
def test_any_text_gets_hits_or_a_message(text: str, top_k: int, by_item: bool) -> None:
    found = INDEX.search(text, top_k=top_k, by_item=by_item)
    assert len(found.hits) <= top_k
    assert bool(found.hits) or bool(found.message) or top_k == 0
    scores = [hit.score for hit in found.hits]
    assert scores == sorted(scores, reverse=True) and max(scores, default=0) <= 1


@pytest.mark.parametrize("num", [5, 3 * BLOCK, 41 * BLOCK + 7])
@pytest.mark.parametrize("levels", [3, 10**6])
def test_the_best_rows_equal_those_of_a_full_sort(num: int, levels: int) -> None:
    scores = np.random.default_rng(num).integers(0, levels, num).astype(np.float32)
    full = np.lexsort((np.arange(num), -scores))
    for top_k in (0, 1, 5, 10):
        assert best_rows(scores, top_k).tolist() == full[:top_k].tolist()


def test_an_index_survives_saving_and_a_broken_one_is_named(tmp_path: Path) -> None:
    INDEX.save(tmp_path / "m")
    again = Index.load(tmp_path / "m")
    assert isinstance(again.probs, np.memmap)
    assert again.search("sack -blue") == INDEX.search("sack -blue")
    first = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    again.save(tmp_path / "n")
    assert {path.name: path.read_bytes() for path in (tmp_path / "n").iterdir()} == first
    np.save(next((tmp_path / "m").glob("instance_ids-*.npy")), np.array(["A"]))
    with pytest.raises(ArtifactError, match="its files do not match"):
        Index.load(tmp_path / "m")
    next((tmp_path / "m").glob("probs-*.npy")).unlink()
    with pytest.raises(ArtifactError, match=r"probs-\w+\.npy: not found"):
        Index.load(tmp_path / "m")
    (tmp_path / "n/index.json").write_text("{}")
    with pytest.raises(ArtifactError, match="incomplete index"):
        Index.load(tmp_path / "n")
    with pytest.raises(ArtifactError, match="nothing to index"):
        Index.build("m", predictions([], []), [], {})


def test_indexes_are_joined_and_reduced_and_leave_no_stale_files(tmp_path: Path) -> None:
    more = Index.build("m", predictions([0.1, 0.99], [0.5, 0.95]), ["D", "D"], {})  # again z.jpg and y.jpg
    both = INDEX.concat(more)
    assert both.image_paths.tolist() == ["x.jpg", "w.jpg", "z.jpg", "y.jpg"]
    assert both.search("blue bag").hits[0].image_path == "y.jpg"
    assert both.drop({"y.jpg", "nowhere"}).search("blue bag").hits[0].image_path == "w.jpg"
    INDEX.save(tmp_path)
    (tmp_path / ".probs-killed.npy").write_bytes(b"half")
    both.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 6
    assert Index.load(tmp_path).search("bag") == both.search("bag")
    other = Index.build("other", GALLERY, "ABCD", {})
    with pytest.raises(ArtifactError, match="cannot be merged"):
        INDEX.concat(other)


def test_an_index_deletes_only_the_arrays_of_the_old_one(tmp_path: Path) -> None:
    INDEX.save(tmp_path)
    foreign = {"photos.npy": b"all photographs", "other.usearch": b"a graph", "notes.txt": b"", ".gitignore": b""}
    foreign["probs-0123456789ab.npy"] = b"of no index"
    for name, content in foreign.items():
        (tmp_path / name).write_bytes(content)
    INDEX.drop({"z.jpg"}).save(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in foreign} == foreign
    assert len(list(tmp_path.iterdir())) == len(foreign) + 5
    assert len(Index.load(tmp_path)) == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("photos.npy", ""),
        ("index.json", "{"),
        ("index.json", "[]"),
        ("index.json", '{"files": {}}'),
        ("index.json", '{"files": {"probs": "../photos.npy"}}'),
        ("index.json", '{"files": {"probs": "photos.npy"}}'),
        ("index.json", '{"files": {"probs": 3}}'),
    ],
)
def test_a_folder_with_other_files_is_refused_and_unchanged(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ArtifactError, match=r"and no index|is not a valid index file") as caught:
        INDEX.save(tmp_path)
    assert name in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text(
        encoding="utf-8"
    ) == content
    with pytest.raises(ArtifactError, match="is a file"):
        INDEX.save(tmp_path / name)


KILLED_SAVE = """
import os, signal, sys
from pathlib import Path
from vitrine.retrieval.index import Index

folder, moved, num = Path(sys.argv[1]), os.replace, int(sys.argv[2])

def replace(*paths):
    global num
    if num == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    num -= 1
    moved(*paths)
    if num == 0 and paths[1].name == "index.json":
        os.kill(os.getpid(), signal.SIGKILL)

os.replace = replace
Index.load(folder / "source").save(folder / "m")
"""
"""Saves an index and is killed once the given number of its five files is written."""


@pytest.mark.slow
@pytest.mark.parametrize("has_old", [True, False], ids=["over an old one", "new"])
@pytest.mark.parametrize("num", [0, 2, 4, 5])
def test_a_kill_while_saving_leaves_the_old_index_or_the_new_one(tmp_path: Path, num: int, has_old: bool) -> None:
    new = Index.build("m", predictions([0.1, 0.99], [0.5, 0.95]), ["D", "D"], {})
    new.save(tmp_path / "source")
    if has_old:
        INDEX.save(tmp_path / "m")
    command = [sys.executable, "-c", KILLED_SAVE, str(tmp_path), str(num)]
    killed = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    if num == 5 or has_old:
        assert Index.load(tmp_path / "m").search("blue") == (new if num == 5 else INDEX).search("blue")
    else:
        assert not (tmp_path / "m/index.json").exists()
    new.save(tmp_path / "m")
    assert Index.load(tmp_path / "m").search("blue") == new.search("blue")
    assert all((tmp_path / "m" / path.name).exists() for path in (tmp_path / "source").iterdir())


def test_the_table_of_searches() -> None:
    relevant = np.array([True, False, False, True])
    table = search_table("m", INDEX, [("blue -red", relevant)], np.ones(4, dtype=bool), top_k=2)
    assert table[["rank", "row", "relevant"]].to_numpy().tolist() == [[1, 0, 1], [2, 3, 1]]
    assert table["matches"].iloc[0] == "0.80 blue; 0.80 not red"


# -- hard index of the reference ---------------------------------------------------------------------------------

HARD = predictions([1, 1, 0, 1], [1, 0, 1, 1])  # blue handbag, red handbag, blue bottle, blue handbag


def test_documents_are_predicted_words_with_the_class_last() -> None:
    assert documents(HARD)[:3] == ["blue travel handbag", "red travel handbag", "blue water bottle"]


def test_hard_scores_are_tf_idf_cosines() -> None:
    # Smooth idf of scikit-learn: ln((1 + n) / (1 + df)) + 1
    index = HardIndex(HARD)
    blue, red, bag = (math.log(5 / (1 + df)) + 1 for df in (3, 1, 3))
    document = math.sqrt(red**2 + 2 * bag**2)
    assert index.scores("red")[1] == pytest.approx(red / document)
    query = math.sqrt(red**2 + bag**2)
    assert index.scores("red handbag")[1] == pytest.approx((red**2 + bag**2) / (document * query))
    assert index.scores("blue")[0] == pytest.approx(blue / math.sqrt(blue**2 + 2 * bag**2))
