"""Convert a Markdown report into one self-contained HTML file with its styles and pictures."""

from __future__ import annotations

import base64
import io
import os
import re
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape
from PIL import Image

from vitrine.artifacts import ArtifactError
from vitrine.reporting.templating import render

WEBP_QUALITY = 28
"""Quality of embedded pictures; keeps a report with 22 of them below a megabyte."""

FOLD = re.compile(r"<details><summary>([^<>]*)</summary>")


def html_page(markdown: str, folder: Path) -> str:
    """Return a complete page: the level-1 heading is its title, and the level-2 headings its table of contents.

    HTML in the text is escaped, except in lines that open or close a fold.

    Args:
        folder: the folder of the Markdown file; addresses of pictures are relative to it.

    Raises:
        ArtifactError: a picture is missing or not a picture.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(markdown)
    title, contents = "", []
    for position, token in enumerate(tokens):
        if token.type == "heading_open":
            text = tokens[position + 1].content
            name = "".join(letter if letter.isalnum() else "-" for letter in text.lower())
            token.attrSet("id", name)
            if token.tag == "h1":
                title = text
            elif token.tag == "h2":
                contents.append((name, text))
        for child in token.children or []:
            if child.type == "image":
                _embed(child, folder)
    tokens = _with_folds(tokens)
    starts = [place for place, token in enumerate(tokens) if token.type == "heading_open" and token.tag == "h2"]
    first = starts[0] if starts else len(tokens)
    before, after = (_body(reader, part) for part in (tokens[:first], tokens[first:]))
    return render("page.html.j2", title=title, contents=contents, before=before, after=after)


def _body(reader: MarkdownIt, tokens: list[Token]) -> Markup:
    body = reader.renderer.render(tokens, reader.options, {})
    body = body.replace("<table>", '<div class="table" tabindex="0"><table>').replace("</table>", "</table></div>")
    # A figure fills the window while its box is checked.
    zoom = '<label class="figure"><input type="checkbox" aria-label="full size">'
    body = re.sub(r"<p>(<img [^>]*>)</p>", rf"{zoom}\1</label>", body)
    return Markup(body)


def _with_folds(tokens: list[Token]) -> list[Token]:
    """Replace paragraphs that only open or close a fold."""
    kept: list[Token] = []
    for token in tokens:
        kept.append(token)
        if token.type != "paragraph_close" or len(kept) < 3:
            continue
        text = kept[-2].content
        opened = FOLD.fullmatch(text)
        if opened or text == "</details>":
            html = f"<details><summary>{escape(opened[1])}</summary>\n" if opened else "</details>\n"
            kept[-3:] = [Token("html_block", "", 0, content=html)]
    return kept


def _embed(image: Token, folder: Path) -> None:
    """Replace a picture's address with its bytes and size."""
    path = Path(os.path.normpath(folder / str(image.attrGet("src"))))
    packed = io.BytesIO()
    try:
        with Image.open(path) as picture:
            picture.convert("RGB").save(packed, "WEBP", quality=WEBP_QUALITY, method=6)
            width, height = picture.size
    except OSError as error:
        raise ArtifactError(f"{path}: not a picture ({error}). Create it with: dvc repro") from None
    image.attrSet("src", f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}")
    image.attrSet("width", str(width))
    image.attrSet("height", str(height))
    image.attrSet("loading", "lazy")
