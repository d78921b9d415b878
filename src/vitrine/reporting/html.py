"""Turn a Markdown report into one HTML file that needs nothing else: styles and pictures are inside."""

from __future__ import annotations

import base64
import io
import os
from html import escape
from pathlib import Path
from string import Template

from markdown_it import MarkdownIt
from markdown_it.token import Token
from PIL import Image

from vitrine.artifacts import ArtifactError

WEBP_QUALITY = 35
"""Of embedded pictures; keeps a report with 20 of them below a megabyte."""

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { --ink: #22262b; --soft: #5b6470; --line: #dde1e6; --paper: #fff; --shade: #f4f6f8; --accent: #00599c; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --soft: #a3acb8; --line: #363d46; --paper: #16191d; --shade: #1f242a; --accent: #7cc0f5; }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: .6rem 0 1rem; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; margin: 2.8rem 0 .8rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .6rem; }
p { max-width: 46rem; color: var(--soft); }
a { color: var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: .3rem .9rem; margin: 1.2rem 0; font-size: .92rem; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
h1 + ul { background: var(--shade); border-radius: .6rem; padding: 1rem 1.4rem 1rem 2.2rem; margin: 0; }
h1 + ul li + li { margin-top: .55rem; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { text-align: left; color: var(--soft); font-weight: 600; }
tbody tr:hover { background: var(--shade); }
img { display: block; max-width: 100%; height: auto; margin: 1rem 0; border-radius: .5rem; background: #fff; }
code { background: var(--shade); border-radius: .25rem; padding: .1em .3em; font-size: .88em; }
pre { background: var(--shade); border-radius: .5rem; padding: 1rem; overflow-x: auto; font-size: .82rem; }
pre code { background: none; padding: 0; font-size: 1em; }
</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")


def html_page(markdown: str, folder: Path) -> str:
    """Return a whole page: the first heading is its title, the second ones its table of contents after the first list.

    Args:
        folder: where the Markdown lies; its pictures' addresses are relative to it.

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
                contents.append(f'<a href="#{escape(name)}">{escape(text)}</a>')
        for child in token.children or []:
            if child.type == "image":
                _embed(child, folder)
    body = reader.renderer.render(tokens, reader.options, {})
    body = body.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")
    start = body.find("<h2")
    if start > 0:
        body = f"{body[:start]}<nav>{' '.join(contents)}</nav>\n{body[start:]}"
    return PAGE.substitute(title=escape(title), body=body)


def _embed(image: Token, folder: Path) -> None:
    """Put a picture's bytes and size where its address was."""
    path = Path(os.path.normpath(folder / str(image.attrGet("src"))))
    packed = io.BytesIO()
    try:
        with Image.open(path) as picture:
            picture.convert("RGB").save(packed, "WEBP", quality=WEBP_QUALITY, method=6)
            width, height = picture.size
    except OSError as error:
        raise ArtifactError(f"{path}: not a picture ({error}). Make it with: dvc repro") from None
    image.attrSet("src", f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}")
    image.attrSet("width", str(width))
    image.attrSet("height", str(height))
    image.attrSet("loading", "lazy")
