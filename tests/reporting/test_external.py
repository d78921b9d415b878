"""The page on other people's photographs escapes names, is self-contained, and is written completely or not at all."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import write_labels
from judging import make_theirs
from PIL import Image

from vitrine.artifacts import ArtifactError
from vitrine.evaluation.external import ExternalEvaluation, evaluate_external
from vitrine.reporting import external
from vitrine.reporting.external import check_folder, escaped, evaluation_markdown, write_evaluation
from vitrine.reporting.external_figures import MAX_CHARACTERS, printable, surest_mistakes
from vitrine.reporting.html import html_page

HOSTILE = "<script>alert(1)</script> ![x](https://example.com/a.png) | $\\frac$ **b** `c` \x1b[31m"


def judge(project: Path, folder: Path, models: tuple[str, ...] = ("deit",)) -> ExternalEvaluation:
    return evaluate_external(folder, models=models, project=project, progress=False)


@pytest.fixture(scope="module")
def result(judged_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ExternalEvaluation:
    folder = tmp_path_factory.mktemp("theirs") / "market_photos"
    make_theirs(folder, 6)
    (folder / "images/0_0.png").write_bytes(b"")
    return judge(judged_folder, folder, ("deit", "ensemble"))


class TextCollector(HTMLParser):
    """Collects tags and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_numbers_and_pictures_are_written(result: ExternalEvaluation, tmp_path: Path) -> None:
    write_evaluation(result, tmp_path / "deep/out")
    names = {path.name for path in (tmp_path / "deep/out").iterdir()}
    pictures = {f"mistakes_{name}.jpg" for name in ("deit", "ensemble")}
    assert names == {"report.md", "index.html", "evaluation.json", "accuracy.png", "reliability.png", *pictures}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"], "no temporary folder is left"
    text = (tmp_path / "deep/out/report.md").read_text(encoding="utf-8")
    assert text.startswith("# Other people's photographs: market\\_photos\n")
    assert "images/0\\_0.png: is empty (0 bytes)" in text and "Of 12 photographs in labels.csv, 11 are scored." in text
    assert "| deit |" in text and "| ensemble |" in text and "### Broken: 1" in text
    page = (tmp_path / "deep/out/index.html").read_text(encoding="utf-8")
    assert page.count("data:image/webp;base64,") == 4 and not re.search(r"https?:|url\(|<script|<link", page)
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page
    assert json.loads((tmp_path / "deep/out/evaluation.json").read_text(encoding="utf-8")) == result.to_json()
    again = tmp_path / "again"
    write_evaluation(result, again)
    for name in names:
        assert (again / name).read_bytes() == (tmp_path / "deep/out" / name).read_bytes(), name


def test_names_of_other_people_are_shown_literally(judged_folder: Path, tmp_path: Path) -> None:
    rows = make_theirs(tmp_path / "theirs")
    for row in rows[:2]:
        row["class_label"] = HOSTILE
        row["instance_id"] = "soap_bar-red-train-0"
    rows[2]["image_path"] = "images/- <b>x.png"
    write_labels(tmp_path / "theirs", rows)
    result = judge(judged_folder, tmp_path / "theirs")
    write_evaluation(result, tmp_path / "out")
    page = TextCollector()
    page.feed((tmp_path / "out/index.html").read_text(encoding="utf-8"))
    assert not {"script", "b"} & set(page.tags) and page.tags.count("img") == 3
    assert printable(HOSTILE)[:-1] in page.text and "\x1b" not in page.text
    assert "images/- <b>x.png: not found" in page.text and "soap_bar-red-train-0" in page.text


@pytest.mark.parametrize(
    "name", ["- a", "1. a", "12) a", "+ b", "# a", "---", "a_b_c", "[a](b)", "&amp;", "~~a~~", "$a$"]
)
def test_a_name_in_a_list_is_shown_literally(name: str, tmp_path: Path) -> None:
    page = TextCollector()
    page.feed(html_page(f"# t\n\n## x\n\n- {escaped(name)}\n", tmp_path))
    assert page.text.rstrip().endswith(name) and page.tags.count("li") == 1


def test_long_names_and_line_breaks_are_cut() -> None:
    assert printable("a\nb") == "a\N{REPLACEMENT CHARACTER}b"
    assert len(printable("x" * 500)) == MAX_CHARACTERS


def test_the_most_confident_mistake_of_each_item_is_listed_in_order(result: ExternalEvaluation) -> None:
    rows = surest_mistakes(result, "deit", "class")
    probs = result.systems["deit"].predictions.probs["class"]
    assert rows and not any(result.photos["instance_id"].iloc[rows].duplicated())
    sure = probs[rows].max(axis=1).tolist()
    assert sure == sorted(sure, reverse=True)
    labels = result.label_space.labels["class"]
    assert all(labels[probs[row].argmax()] != result.photos["class"].iloc[row] for row in rows)


def test_a_folder_with_other_files_is_refused_and_an_older_evaluation_is_replaced(
    result: ExternalEvaluation, judged_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="is a file"):
        check_folder(tmp_path / "file")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/index.html").write_text("mine")
    with pytest.raises(ArtifactError, match="contains other files"):
        write_evaluation(result, tmp_path / "notes")
    assert (tmp_path / "notes/index.html").read_text(encoding="utf-8") == "mine"
    (tmp_path / "out").mkdir()
    write_evaluation(result, tmp_path / "out")
    (tmp_path / "out/notes.txt").write_text("mine")
    write_evaluation(judge(judged_folder, result.folder), tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "notes.txt" in names and "mistakes_ensemble.jpg" not in names and "mistakes_deit.jpg" in names


def test_a_failure_keeps_the_older_evaluation_and_leaves_nothing_else(
    result: ExternalEvaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_evaluation(result, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def broken(*_: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(external, "html_page", broken)
    for name in ("out", "new"):
        with pytest.raises(OSError, match="disk full"):
            write_evaluation(result, tmp_path / name)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_page_of_a_folder_without_class_labels_shows_its_first_task(judged_folder: Path, tmp_path: Path) -> None:
    make_theirs(tmp_path / "theirs", classes=("chair",), colors=("red", "teal"))
    result = judge(judged_folder, tmp_path / "theirs")
    text = evaluation_markdown(result)
    assert "| color right |" in text and "Unknown to the systems, class: chair (12)." in text
    assert "### Class\n\nNot scored: no photograph that counts has a label that the systems know." in text
    write_evaluation(result, tmp_path / "out")
    with Image.open(tmp_path / "out/accuracy.png") as picture:
        assert picture.size[0] == 1100
