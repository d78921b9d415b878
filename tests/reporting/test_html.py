"""The HTML report is self-contained."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from vitrine.artifacts import ArtifactError
from vitrine.reporting.html import html_page

MARKDOWN = "# A <title>\n\n- verdict\n\n## One & two\n\n| a | b |\n| --- | ---: |\n| x | 1 |\n\n![shown](picture.png)\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (30, 20), (200, 30, 30)).save(tmp_path / "picture.png")
    return tmp_path


def test_pictures_are_embedded_and_nothing_is_fetched(folder: Path) -> None:
    page = html_page(MARKDOWN, folder)
    source = re.search(r'src="data:image/webp;base64,([^"]+)"', page)
    assert source is not None
    with Image.open(io.BytesIO(base64.b64decode(source.group(1)))) as picture:
        assert picture.format == "WEBP" and picture.size == (30, 20)
    assert 'width="30"' in page and 'height="20"' in page and 'alt="shown"' in page
    assert not re.search(r"https?:|url\(|<script|<link", page)
    assert html_page(MARKDOWN, folder) == page


def test_titles_tables_and_contents(folder: Path) -> None:
    page = html_page(MARKDOWN, folder)
    assert "<title>A &lt;title&gt;</title>" in page
    assert '<div class="table" tabindex="0"><table>' in page
    assert '<h2 id="one---two">' in page and '<a href="#one---two">One &amp; two</a>' in page
    assert "viewport" in page and "prefers-color-scheme: dark" in page


def test_details_are_kept_and_a_label_cannot_create_one(folder: Path) -> None:
    fold = "<details><summary>All & more</summary>\n\n| a |\n| --- |\n| <details> |\n\n</details>\n"
    page = html_page(f"# t\n\n{fold}", folder)
    assert page.count("<details>") == 1 and page.count("</details>") == 1
    assert "<summary>All &amp; more</summary>" in page and "&lt;details&gt;" in page


def test_a_picture_has_a_checkbox_for_full_size(folder: Path) -> None:
    page = html_page(MARKDOWN, folder)
    assert '<label class="figure"><input type="checkbox" aria-label="full size"><img ' in page


def test_a_missing_picture_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"picture\.png: not a picture"):
        html_page(MARKDOWN, tmp_path)


def test_markup_in_the_data_is_escaped(folder: Path) -> None:
    page = html_page("# t\n\n<script>alert(1)</script> and **<b>label</b>**\n", folder)
    assert "<script>" not in page and "<b>" not in page
