"""The page works in a real browser with a mouse, on a phone and with the keyboard alone."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image
from serving import BROWSER, serving

from vitrine.data.labeling import QueuedPhoto, write_queue
from vitrine.inference.heatmaps import Verdict, write_verdicts
from vitrine.inference.runtimes import checkpoint_digest

pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.enable_socket,
    pytest.mark.skipif(
        BROWSER is None and "VITRINE_NEEDS_BROWSER" not in os.environ, reason="no chromium; apt-get install chromium"
    ),
]

PROJECT = os.environ.get("VITRINE_PROJECT")
"""A finished project to open instead of the small made-up one; its labels are not corrected."""

PICTURES = Path(os.environ["VITRINE_PICTURES"]) if "VITRINE_PICTURES" in os.environ else None
"""The folder for screenshots."""

WAIT_MS = 90_000
"""Longest wait for a condition: loading PyTorch takes a minute on a busy machine."""

WORDS = ("blue cap", "green sneakers")
"""Queries in the pictures of the sample."""

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}

WATCH_FILTERS = """() => {
  window.filtersWereSeen = false;
  const watch = () => {
    window.filtersWereSeen ||= document.querySelector('#search-model')?.checkVisibility() ?? false;
    requestAnimationFrame(watch);
  };
  watch();
}"""
"""Record in every frame whether the search filters are visible."""


@pytest.fixture(scope="module")
def folder(project_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if PROJECT:
        return Path(PROJECT)
    root = shutil.copytree(project_folder, tmp_path_factory.mktemp("browsed") / "project")
    won, lost = {"random": (0.2, 0.1, 0.3)}, {"random": (0.0, -0.1, 0.1)}
    verdicts = {
        (name, task): Verdict(checkpoint_digest(name, root / "models"), won if task == "class" else lost)
        for name in ("deit", "mobilevit", "ensemble")
        for task in ("class", "color", "material")
    }
    write_verdicts(root / "models/explanations.json", verdicts)
    return root


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with serving(folder) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    assert BROWSER, "VITRINE_NEEDS_BROWSER is set, but there is no chromium"
    with sync_api.sync_playwright() as playwright:
        sync_api.expect.set_options(timeout=WAIT_MS)
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def scheme() -> str:
    """The color scheme of the page; tests may parametrize it."""
    return "light"


@pytest.fixture(params=[WIDE], ids=["wide"])
def page(browser: Any, address: str, scheme: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Open the page; fail the test if it contacted another host, logged an error or used Gradio's queue.

    The queue loses answers: if the browser learns late that the server has closed the stream of answers, it waits for
    the next answer on the closed stream.
    """
    elsewhere, queued, errors = [], [], []

    def note(request: Any) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            elsewhere.append(request.url)
        if "/gradio_api/queue/" in request.url:
            queued.append(request.url)

    with closing(browser.new_page(viewport=request.param)) as opened:
        opened.set_default_timeout(WAIT_MS)
        opened.on("request", note)
        opened.on("console", lambda message: errors.append(message.text) if is_error(message) else None)
        opened.emulate_media(color_scheme=scheme)
        opened.goto(f"{address}/?__theme={scheme}")
        opened.wait_for_selector(".examples button")
        opened.wait_for_selector("html[data-ready]", state="attached")
        yield opened
    assert elsewhere == []
    assert queued == []
    assert errors == []


def is_error(message: Any) -> bool:
    """Return whether a console message reports an unexpected error.

    Leaving the page aborts Gradio's open connections, and tests provoke rejected requests on purpose.
    """
    expected = ("abort", "connection errored", "status of 400", "status of 404", "status of 409", "status of 503")
    return message.type == "error" and not any(text in message.text.lower() for text in expected)


def both_sizes(test: Any) -> Any:
    return pytest.mark.parametrize("page", [WIDE, PHONE], ids=["wide", "phone"], indirect=True)(test)


def take(page: Any, name: str) -> None:
    if PICTURES:
        page.wait_for_timeout(500)
        page.screenshot(path=PICTURES / f"{name}.png")


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def find(page: Any, words: str) -> None:
    page.get_by_label("Words").fill(words)
    page.get_by_role("button", name="Search", exact=True).click()


def captions(page: Any, place: str = "#results") -> list[str]:
    return page.locator(f"{place} .cards button .words").all_inner_texts()


def no_sideways_scrolling(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def query(page: Any) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


@both_sizes
def test_a_clip_shows_its_frames_until_a_photograph_replaces_it(page: Any, tmp_path: Path) -> None:
    pytest.importorskip("av")
    from clips import encode, pictures

    frames = pictures(20)
    frames[12:17] = frames[12]
    path = encode(tmp_path / "clip.mp4", frames)
    open_example(page)
    with page.expect_file_chooser() as chooser:
        page.locator("#identify-clip").click()
    chooser.value.set_files(path)
    page.wait_for_selector(".strip li")
    assert page.locator(".strip li").count() == 16
    assert page.locator(".strip .dropped").count() >= 2 and "duplicate" in page.locator(".strip").inner_text()
    assert page.locator(".strip .decided").count() == 3
    assert page.locator("#identify-photo img").count() == 0
    assert no_sideways_scrolling(page)
    page.locator("#identify-model label").nth(1).click()
    page.wait_for_selector(".answer[data-system='deit']" if not PROJECT else ".answer:not([data-system='ensemble'])")
    assert page.locator(".strip li").count() == 16
    # A phone scrolls to the answer, and a click before that would miss.
    page.wait_for_function(
        "() => innerWidth > 640 || document.querySelector('.answers').getBoundingClientRect().top < 60"
    )
    open_example(page, 1)
    page.wait_for_selector(".strip", state="detached")
    assert page.locator("#identify-photo img").count() > 0


def test_a_clip_can_be_dropped_on_the_photograph(page: Any, tmp_path: Path) -> None:
    pytest.importorskip("av")
    import base64

    from clips import encode, pictures

    content = base64.b64encode(encode(tmp_path / "clip.mp4", pictures(20)).read_bytes()).decode()
    page.evaluate(
        """(content) => {
          const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
          const moved = new DataTransfer();
          moved.items.add(new File([bytes], 'clip.mp4', {type: 'video/mp4'}));
          const place = document.querySelector('#identify-photo button');
          place.dispatchEvent(new DragEvent('drop', {dataTransfer: moved, bubbles: true, cancelable: true}));
        }""",
        content,
    )
    page.wait_for_selector(".strip li")


def open_example(page: Any, number: int = 0) -> None:
    page.locator(".examples button").nth(number).click()
    page.wait_for_selector(".answer .bar.first")
    page.wait_for_selector("#similar .cards button")


def open_confident_example(page: Any) -> None:
    """Open an example whose answer is confident, and right by its label."""
    for number, picked in enumerate(page.locator(".examples button").all()):
        row = picked.get_attribute("data-picked")
        panel = page.evaluate("(path) => fetch(path).then((answer) => answer.text())", f"/hit/ensemble/{row}")
        of_class = panel.split("Similar photographs")[0].split("<tr>")[2]
        if "✓" in of_class and "confident" in of_class:
            open_example(page, number)
            return
    raise AssertionError("no example has a right and confident answer")


@both_sizes
def test_an_answer_is_one_sentence_with_its_certainty_followed_by_details(page: Any) -> None:
    open_confident_example(page) if PROJECT else open_example(page)
    headline, certain = page.locator(".answer h2").inner_text(), page.locator(".answer .certain").inner_text()
    certainties = {}
    for task in page.locator(".answer .task").all():
        certainty = task.locator(".certainty").inner_text()
        certainties[task.locator("h3").inner_text().removesuffix(certainty).strip().lower()] = certainty
    assert PROJECT or certainties == {"class": "confident", "color": "unsure", "material": "not reliable on this data"}
    for task, certainty in certainties.items():
        part = next(part for part in certain.lower().rstrip(".").split("; ") if re.search(rf"\b{task}\b", part))
        assert part.startswith(certainty)
    first = page.locator(".answer .bar.first span").first.inner_text()
    assert headline.lower().endswith(first.lower()) or first.lower() in headline.lower()
    assert not headline.startswith("Possibly") and "Ensemble" not in headline
    sync_api.expect(page.locator(".answer .bar.first").first).to_be_in_viewport()
    assert no_sideways_scrolling(page)
    take(page, "identify" if page.viewport_size == WIDE else "identify_phone")


@both_sizes
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_keyboard_shows_the_heat_map_of_a_task_or_why_there_is_none(page: Any) -> None:
    open_example(page)
    switch = page.get_by_label("Show why")
    switch.focus()
    page.keyboard.press("Space")
    figure = page.locator("#why-picture figure")
    verdict = page.locator("#why-picture figure, #why-picture .hidden-why")
    sync_api.expect(verdict.first).to_be_visible()
    if not PROJECT:
        label = page.locator(".answer .bar.first span").first.inner_text()
        sync_api.expect(figure.locator("img")).to_have_attribute(
            "alt", re.compile(f"Heat map of Ensemble for .*{label}")
        )
        sync_api.expect(figure).to_contain_text(re.compile(r"Bright regions support .*Ensemble, \d+ ms", re.DOTALL))
        assert figure.locator("img").evaluate("image => image.naturalWidth") == 384
    assert no_sideways_scrolling(page)
    page.locator("#why").scroll_into_view_if_needed()
    take(page, f"why_{'wide' if page.viewport_size == WIDE else 'phone'}")
    if PROJECT:
        return
    page.locator("#why-task").get_by_label("Color").check()
    reason = "No heat map for color by Ensemble: on val its heat maps are not more faithful than"
    sync_api.expect(page.locator("#why-picture .hidden-why")).to_contain_text(reason)
    sync_api.expect(figure).to_have_count(0)
    page.locator("#why-task").get_by_label("Class").check()
    page.locator("#identify-model").get_by_label("Side by side").check()
    sync_api.expect(figure).to_have_count(2)
    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.click()
    sync_api.expect(figure).to_have_count(0)
    switch.uncheck()
    sync_api.expect(page.locator("#why-task")).to_be_hidden()


def test_similar_photographs_exclude_the_photograph_itself(page: Any) -> None:
    open_example(page, 1)
    row = page.locator(".examples button").nth(1).get_attribute("data-picked")
    assert f"ensemble/{row}" not in [hit.get_attribute("data-hit") for hit in page.locator("#similar [data-hit]").all()]


def test_a_search_can_start_from_an_identified_photograph(page: Any) -> None:
    open_example(page, 1)
    page.get_by_role("button", name="Search for photographs like it").click()
    sync_api.expect(page.get_by_role("tab", name="Search", exact=True)).to_have_attribute("aria-selected", "true")
    sync_api.expect(page.locator("#results .why").first).to_contain_text("similarity")
    sync_api.expect(page.locator("#like-photo img")).to_be_visible()
    likeness = [int(re.findall(r"similarity (\d+)%", caption)[0]) for caption in captions(page)]
    assert likeness == sorted(likeness, reverse=True) and likeness[0] > 90


def test_removing_a_photograph_removes_its_panels(page: Any) -> None:
    open_example(page)
    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.click()
    sync_api.expect(page.locator("#answer .empty")).to_contain_text("No photograph yet")
    sync_api.expect(page.locator("#similar .cards")).to_have_count(0)
    sync_api.expect(page.get_by_role("button", name="Search for photographs like it")).to_be_hidden()


def test_an_uploaded_photograph_is_combined_with_words_and_cleared(page: Any, folder: Path) -> None:
    image = next((folder / "data").glob("*/images/*"))
    open_tab(page, "Search")
    page.get_by_role("button", name="Like a photograph").click()
    page.locator("#like-photo input[type=file]").set_input_files(str(image))
    sync_api.expect(page.locator("#results .why").first).to_contain_text("similarity")
    find(page, "red")
    sync_api.expect(page.locator("#results .why").first).to_contain_text("red")
    assert "similarity" in captions(page)[0]
    take(page, "search_photo")
    page.locator("#results [data-hit]").nth(1).click()  # a hit replaces the upload
    source = page.locator(".lightbox .detail").get_attribute("data-place")
    page.get_by_role("button", name="Find similar photographs").click()
    sync_api.expect(page.locator("#results .why").first).to_contain_text("similarity 100%")
    sync_api.expect(page.locator("#like-photo img")).to_have_count(0)
    assert query(page)["like"] == [source] and "q" not in query(page)
    page.get_by_role("button", name="Clear photo").click()
    sync_api.expect(page.locator("#results .why").first).not_to_contain_text("similarity")
    page.wait_for_function("!location.search.includes('like=')")


def test_a_file_is_uploaded_and_compared_side_by_side(page: Any, folder: Path) -> None:
    image = next((folder / "data").glob("*/images/*"))
    page.locator("#identify-photo input[type=file]").set_input_files(str(image))
    page.wait_for_selector(".answer")
    page.locator("#identify-model").get_by_label("Side by side").check()
    page.wait_for_selector('.answer[data-system="mobilevit"]')
    assert page.locator(".answer").count() == len(list((folder / "models").glob("*/model.json")))
    first = page.locator(".answer .note").first.inner_text().split(",")[0]
    sync_api.expect(page.locator("#similar h2")).to_have_text(f"Most similar in the gallery to {first}")
    take(page, "compare")


def test_a_file_that_is_not_a_photograph_is_reported(page: Any, tmp_path: Path) -> None:
    (tmp_path / "page.png").write_text("<html>")
    page.locator("#identify-photo input[type=file]").set_input_files(str(tmp_path / "page.png"))
    sync_api.expect(page.locator("#answer .empty")).to_contain_text("Can't read this image: it is not an image")


# -- many photographs ------------------------------------------------------------------------------------------------


def add_many(page: Any, paths: list[Path]) -> None:
    page.locator("vitrine-batch input[type=file]").first.set_input_files([str(path) for path in paths])
    sync_api.expect(page.locator("vitrine-batch [role=status]")).to_contain_text(re.compile(r"answers?[.;]"))


@both_sizes
def test_many_photographs_are_identified_sorted_combined_and_saved(page: Any, folder: Path, tmp_path: Path) -> None:
    images = sorted((folder / "data").glob("*/images/*"))[::3][:8]
    (tmp_path / "broken.png").write_text("x")
    (tmp_path / "=1+1.txt").write_text("x")
    add_many(page, [*images, tmp_path / "broken.png", tmp_path / "=1+1.txt"])
    status = page.locator("vitrine-batch [role=status]")
    sync_api.expect(status).to_have_text("8 answers; 1 file could not be read; 1 other file left out.")
    rows = page.locator("table.batch tbody tr")
    assert rows.count() == 9 and page.locator("table.batch .thumbs img").count() == 9
    assert "Can't read this image" in rows.nth(8).inner_text()
    page.locator("table.batch thead").get_by_role("button", name="class").click()
    shares = [int(re.findall(r"(\d+)%", text)[0]) for text in rows.all_inner_texts() if "%" in text]
    assert shares == sorted(shares) and len(shares) == 8
    assert no_sideways_scrolling(page)
    page.locator("vitrine-batch").scroll_into_view_if_needed()
    take(page, "many" if page.viewport_size == WIDE else "many_phone")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as CSV").click()
    lines = list(csv.DictReader(io.StringIO(Path(saved.value.path()).read_text(encoding="utf-8"))))
    assert {line["image_path"] for line in lines} == {path.name for path in images} | {"broken.png"}
    assert [bool(line["error"]) for line in lines].count(True) == 1
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as JSON").click()
    records = json.loads(Path(saved.value.path()).read_text(encoding="utf-8"))
    by_name = {record["image_path"]: record for record in records}
    for line in lines:
        record = by_name[line["image_path"]]
        assert line["error"] or float(line["class_probability"]) == record["tasks"]["class"]["labels"][0]["probability"]
    chosen = page.locator("table.batch tbody input:enabled")
    chosen.nth(0).check()
    chosen.nth(1).check()
    page.get_by_role("button", name="Combine as one item").click()
    sync_api.expect(status).to_contain_text("7 answers; 1 file could not be read")
    assert rows.count() == 8 and page.locator("table.batch .name", has_text=" + ").count() == 1
    page.get_by_role("button", name="Clear", exact=True).last.click()
    sync_api.expect(rows).to_have_count(0)


def test_at_most_two_hundred_photographs_are_accepted(page: Any, folder: Path) -> None:
    page.route("**/api/predict*", lambda route: route.fulfill(status=400, json={"error": "not now"}))
    page.locator("vitrine-batch input[type=file]").first.set_input_files(
        [str(sorted((folder / "data").glob("*/images/*"))[0])] * 203
    )
    status = page.locator("vitrine-batch [role=status]")
    sync_api.expect(status).to_contain_text("200 files could not be read; 3 photographs beyond 200 left out.")


def test_a_request_to_a_busy_server_is_retried(page: Any, folder: Path) -> None:
    requests = []

    def answer(route: Any) -> None:
        requests.append(route.request.url)
        if len(requests) == 1:
            route.fulfill(status=503, headers={"Retry-After": "0.1"}, json={"error": "busy"})
        else:
            route.continue_()

    page.route("**/api/predict*", answer)
    add_many(page, sorted((folder / "data").glob("*/images/*"))[:1])
    sync_api.expect(page.locator("vitrine-batch [role=status]")).to_have_text("1 answer.")
    assert len(requests) == 2


# -- search ----------------------------------------------------------------------------------------------------------


@both_sizes
def test_words_find_photographs_with_reasons(page: Any) -> None:
    open_tab(page, "Search")
    find(page, "blue bottle")
    sync_api.expect(page.locator("#results .cards .why").first).to_contain_text("blue")
    spacing = "caption => { const style = getComputedStyle(caption); return [style.padding, style.display]; }"
    assert page.locator("#results .cards .why").first.evaluate(spacing) == ["0px", "block"]
    assert "%" in captions(page)[0]
    line = page.locator(".count b").first.inner_text()
    assert re.fullmatch(r"(\d+ photographs match|1 photograph matches|No confident match for) “blue bottle”.*", line)
    box = page.locator("#results .cards button").first.bounding_box()
    assert box["y"] < page.viewport_size["height"] - 150, "hits are below the first screen"
    assert no_sideways_scrolling(page)
    if PROJECT:
        find(page, WORDS[0])
        sync_api.expect(page.locator(".count b").first).to_contain_text(WORDS[0])
    take(page, "search" if page.viewport_size == WIDE else "search_phone")


@pytest.mark.parametrize("page", [PHONE], ids=["phone"], indirect=True)
def test_filters_unfold_on_a_phone(page: Any) -> None:
    page.evaluate(WATCH_FILTERS)
    open_tab(page, "Search")
    sync_api.expect(page.locator("#results .cards img").first).to_be_visible()
    assert page.evaluate("filtersWereSeen") is False, "the filters are drawn open and folded afterwards"
    title = page.locator("summary", has_text="Model and filters")
    title.click()
    page.locator("#search-model").get_by_label("DeiT").check()
    sync_api.expect(page.locator("#results .cards img").first).to_have_attribute("src", re.compile("^/photo/deit/"))
    sync_api.expect(page.locator("#search-model")).to_be_visible()
    title.focus()
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#search-model")).to_be_hidden()
    page.keyboard.press("Space")
    sync_api.expect(page.locator("#search-model")).to_be_visible()
    assert no_sideways_scrolling(page)


def test_filters_need_no_unfolding_on_a_wide_screen(page: Any) -> None:
    open_tab(page, "Search")
    sync_api.expect(page.locator("#search-model")).to_be_visible()
    sync_api.expect(page.locator("#unfold-filters")).to_be_hidden()
    page.set_viewport_size(PHONE)
    sync_api.expect(page.locator("#search-model")).to_be_hidden()
    page.locator("#unfold-filters summary").click()
    page.set_viewport_size(WIDE)
    sync_api.expect(page.locator("#search-model")).to_be_visible()


def test_models_are_compared_in_a_search(page: Any) -> None:
    open_tab(page, "Search")
    page.locator("#search-model").get_by_label("Side by side").check()
    page.wait_for_selector("#results .columns")
    find(page, "blue bottle")
    sync_api.expect(page.locator("#results .columns section").last.locator(".why").first).to_contain_text("blue")
    take(page, "search_compare")


def test_a_search_offers_hints_more_hits_and_filters(page: Any) -> None:
    open_tab(page, "Search")
    find(page, "zebra")
    sync_api.expect(page.locator("#results .empty")).to_contain_text("Not understood: 'zebra'")
    page.locator(".chips button").first.click()
    page.wait_for_selector("#results .cards button")
    assert page.locator("#results .cards button").count() == 24
    page.get_by_role("button", name="Show more").click()
    sync_api.expect(page.locator("#results .cards button").nth(24)).to_be_visible()
    find(page, "")
    sync_api.expect(page.locator(".count b")).to_have_text(re.compile(r"^\d+ photographs$"))
    page.get_by_role("button", name="Class").click()
    label = page.locator(".facet label").filter(has_text=re.compile(r"\([1-9]\d*\)$")).first
    count = int(label.inner_text().rsplit("(", 1)[1].rstrip(")"))
    label.locator("input").check()
    sync_api.expect(page.locator(".count b")).to_have_text(f"{count} photograph{'s' if count > 1 else ''}")


def test_the_correction_of_a_misspelled_word_is_shown(page: Any) -> None:
    open_tab(page, "Search")
    find(page, "blue botle class:zebra")
    sync_api.expect(page.locator(".count")).to_contain_text("Showing results for 'bottle'")
    sync_api.expect(page.locator(".count")).to_contain_text("Not understood: 'class:zebra'")


def test_a_hit_opens_large_and_arrow_keys_show_its_neighbors(page: Any) -> None:
    open_tab(page, "Search")
    find(page, "red")
    sync_api.expect(page.locator("#results .why").first).to_contain_text("red")
    hits = page.locator("#results [data-hit]")
    order = [hit.get_attribute("data-hit") for hit in hits.all()]
    hits.nth(1).click()
    detail = page.locator(".lightbox .detail")
    sync_api.expect(detail).to_have_attribute("data-place", order[1])
    assert query(page)["hit"] == [order[1]]
    num_tasks = page.locator("#filters .label-wrap").count() - 1
    assert detail.locator("tbody tr").count() == detail.locator(".right, .wrong").count() == num_tasks
    page.wait_for_function("document.querySelector('.detail img').naturalWidth > 0")
    take(page, "detail")
    page.keyboard.press("ArrowRight")
    sync_api.expect(detail).to_have_attribute("data-place", order[2])
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    sync_api.expect(detail).to_have_attribute("data-place", order[0])
    page.keyboard.press("ArrowLeft")
    sync_api.expect(detail).to_have_attribute("data-place", order[-1])
    page.locator(".lightbox [data-hit]").first.click()
    sync_api.expect(detail).not_to_have_attribute("data-place", order[-1])
    page.keyboard.press("Escape")
    sync_api.expect(page.locator(".lightbox")).to_be_hidden()
    assert page.evaluate("document.activeElement.dataset.hit") == order[1], "focus returns to the hit that was clicked"
    page.wait_for_function("!location.search.includes('hit=')")
    assert query(page)["q"] == ["red"]


def test_a_hit_leads_to_similar_photographs_that_words_narrow_down(page: Any) -> None:
    open_tab(page, "Search")
    page.locator("#results [data-hit]").nth(2).click()
    source = page.locator(".lightbox .detail").get_attribute("data-place")
    page.get_by_role("button", name="Find similar photographs").click()
    sync_api.expect(page.locator("#results .why").first).to_contain_text("similarity 100%")
    assert page.locator("#results [data-hit]").first.get_attribute("data-hit") == source
    sync_api.expect(page.locator(".count b")).to_contain_text("the photograph")
    page.reload()
    sync_api.expect(page.locator("#results .why").first).to_contain_text("similarity 100%")
    assert page.locator("#results [data-hit]").first.get_attribute("data-hit") == source
    find(page, "red")  # words and similarity together
    sync_api.expect(page.locator("#results .why").first).to_contain_text("red")
    assert "similarity" in captions(page)[0]
    sync_api.expect(page.locator(".count b")).to_contain_text("“red” and are like the photograph")
    page.wait_for_function("location.search.includes('q=red')")
    assert query(page)["like"] == [source]
    page.get_by_role("button", name="Clear photo").click()
    sync_api.expect(page.locator("#results .why").first).not_to_contain_text("similarity")


# -- the address -----------------------------------------------------------------------------------------------------


def test_a_shared_address_shows_the_same_tab_search_and_photograph(page: Any, address: str) -> None:
    open_tab(page, "Search")
    page.locator("#search-model").get_by_label("DeiT").check()
    find(page, "red")
    sync_api.expect(page.locator("#results .why").first).to_contain_text("red")
    page.get_by_role("button", name="Color").and_(page.locator(".label-wrap")).click()
    label = page.locator(".facet:visible label").filter(has_text=re.compile(r"\([1-9]\d*\)$")).first
    label.locator("input").check()
    page.wait_for_function("location.search.includes('color=')")
    shown = page.locator(".count b").inner_text()
    page.locator("#results [data-hit]").first.click()
    place = page.locator(".lightbox .detail").get_attribute("data-place")
    shared = query(page)
    assert (
        shared["tab"] == ["search"]
        and shared["model"] == ["deit"]
        and shared["q"] == ["red"]
        and shared["hit"] == [place]
    )
    page.goto("about:blank")
    page.goto(f"{address}/?{urlsplit(page.url).query or '&'.join(f'{k}={v}' for k, vs in shared.items() for v in vs)}")
    sync_api.expect(page.locator(".lightbox .detail")).to_have_attribute("data-place", place)
    page.keyboard.press("Escape")
    sync_api.expect(page.locator("#words textarea, #words input")).to_have_value("red")
    sync_api.expect(page.locator(".count b")).to_have_text(shown)
    sync_api.expect(page.locator("#search-model").get_by_label("DeiT")).to_be_checked()


@pytest.mark.parametrize("query_string", ["tab=search&q=red", "tab=search&color=red&model=deit", "tab=accuracy", ""])
def test_an_address_opened_without_a_cache_shows_its_tab_and_can_go_back(
    browser: Any, address: str, query_string: str
) -> None:
    """A browser without the page in its cache reports the first tab late."""
    with closing(browser.new_context()) as context:
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.goto("about:blank")
        before = page.evaluate("history.length")
        page.goto(f"{address}/?{query_string}")
        page.wait_for_selector("html[data-ready]", state="attached")
        page.wait_for_timeout(500)
        tab = parse_qs(query_string).get("tab", ["identify"])[0]
        shown = page.get_by_role("tab", name=tab.capitalize(), exact=True)
        sync_api.expect(shown).to_have_attribute("aria-selected", "true")
        assert query(page).items() >= parse_qs(query_string).items()
        assert page.evaluate("history.length") == before + 1


def test_back_returns_to_what_was_shown(page: Any) -> None:
    open_tab(page, "Search")
    for words in ("red", "blue"):
        find(page, words)
        sync_api.expect(page.locator("#results .why").first).to_contain_text(words)
        page.wait_for_function(f"location.search.includes('q={words}')")
    page.locator("#results [data-hit]").first.click()
    page.wait_for_selector(".lightbox .detail")
    page.go_back()
    sync_api.expect(page.locator(".lightbox")).to_be_hidden()
    sync_api.expect(page.locator("#results .why").first).to_contain_text("blue")
    page.go_back()
    sync_api.expect(page.locator("#results .why").first).to_contain_text("red")
    sync_api.expect(page.locator("#words textarea, #words input")).to_have_value("red")
    page.go_forward()
    sync_api.expect(page.locator("#results .why").first).to_contain_text("blue")


def test_an_invalid_address_shows_the_first_tab(page: Any, address: str) -> None:
    page.goto(f"{address}/?hit=deit/99999")
    sync_api.expect(page.locator(".lightbox")).to_contain_text("There is no such photograph.")
    page.goto(f"{address}/?tab=<b>&model=x&like=../../etc&class=none&q={'y' * 900}")
    sync_api.expect(page.get_by_role("tab", name="Identify", exact=True)).to_have_attribute("aria-selected", "true")
    open_tab(page, "Search")
    sync_api.expect(page.locator("#results .empty")).to_contain_text("Not understood")


# -- accuracy --------------------------------------------------------------------------------------------------------


def test_the_scores_are_shown_and_a_figure_opens_large(page: Any) -> None:
    open_tab(page, "Accuracy")
    page.wait_for_selector("table.scores")
    assert page.locator(".tile").count() == page.locator("table.scores thead th").count() - 1
    assert " to " in page.locator("table.scores .interval").first.inner_text()
    page.get_by_text("How to read this").click()
    sync_api.expect(page.locator(".howto p")).to_contain_text("intervals")
    figure = page.locator(".figures button").first
    figure.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('.figures img').naturalWidth > 0")
    take(page, "accuracy")
    figure.click()
    sync_api.expect(page.locator(".lightbox img.figure")).to_be_visible()
    page.keyboard.press("Escape")
    sync_api.expect(page.locator(".lightbox")).to_be_hidden()
    assert page.evaluate("document.activeElement.dataset.figure")


# -- labels ----------------------------------------------------------------------------------------------------------


def corrections(folder: Path) -> list[dict[str, str]]:
    with (folder / "data/corrections.csv").open() as file:
        return list(csv.DictReader(file))


def shown_split(page: Any) -> str:
    return str(re.findall(r"in (val|test)\.", page.locator(".fix .note").first.inner_text())[0])


@both_sizes
def test_labels_are_corrected_one_by_one_with_the_keyboard(page: Any, folder: Path) -> None:
    open_tab(page, "Fix labels")
    page.wait_for_selector(".fix h2")
    count = page.locator("vitrine-labels .count")
    total = int(count.inner_text().split(" of ")[1])
    assert count.inner_text() == f"1 of {total}" and total > 1
    take(page, "labels" if page.viewport_size == WIDE else "labels_phone")
    assert no_sideways_scrolling(page)
    first = page.locator(".fix h2").inner_text()
    page.locator(".fix").focus()
    page.keyboard.press("s")  # moves it to the end of the queue
    sync_api.expect(count).to_have_text(f"1 of {total}")
    sync_api.expect(page.locator(".fix h2")).not_to_have_text("")
    page.keyboard.press("u")
    sync_api.expect(page.locator(".fix h2")).to_have_text(first)
    page.keyboard.press("k")
    sync_api.expect(count).to_have_text(f"2 of {total}")
    page.keyboard.press("u")
    sync_api.expect(count).to_have_text(f"1 of {total}")
    if PROJECT:
        return
    before = corrections(folder)
    label = page.locator(".labels .label").first.inner_text()
    in_test = shown_split(page) == "test"
    page.keyboard.press("1")
    if in_test:
        sync_api.expect(page.locator(".fix [role=alertdialog]")).to_contain_text("changes the scores")
        assert corrections(folder) == before
        page.keyboard.press("Enter")
    sync_api.expect(page.locator("vitrine-labels")).to_contain_text("in data/corrections.csv. dvc repro applies it.")
    sync_api.expect(count).to_have_text(f"2 of {total}")
    (line,) = corrections(folder)[len(before) :]
    assert line["task"] == "class" and line["label"].replace("_", " ") in label
    page.keyboard.press("u")
    sync_api.expect(page.locator("vitrine-labels")).to_contain_text("correction undone")
    assert corrections(folder) == before


def test_the_last_label_ends_the_queue(page: Any) -> None:
    open_tab(page, "Fix labels")
    page.wait_for_selector(".fix h2")
    total = int(page.locator("vitrine-labels .count").inner_text().split(" of ")[1])
    page.locator(".fix").focus()
    for _ in range(total):
        page.keyboard.press("k")
    sync_api.expect(page.locator(".fix")).to_contain_text("That was the last one.")
    page.locator("vitrine-labels select").first.select_option("color")
    sync_api.expect(page.locator(".fix")).not_to_contain_text("That was the last one.")


@pytest.fixture
def queue(folder: Path) -> Iterator[Path]:
    """Queue three items in the served project: one with two photographs, one with one, and a broken one."""
    (folder / "new").mkdir(exist_ok=True)
    sources = sorted((folder / "data").glob("*/images/*"))[:3]
    for number, source in enumerate(sources):
        Image.open(source).rotate(8).save(folder / f"new/{number}.png")
    (folder / "new/3.png").write_text("no photograph")
    items = ("first item", "first item", "second item", "third item")
    photos = [QueuedPhoto(Path(f"new/{row}.png"), item, "Possibly soap bar") for row, item in enumerate(items)]
    write_queue(folder / "queue.csv", photos, ["color", "material"])
    yield folder / "queue.csv"
    (folder / "queue.csv").unlink()


def queued_labels(queue: Path) -> list[list[str]]:
    with queue.open(encoding="utf-8") as file:
        return [[row["class_label"], row["color"], row["material"]] for row in csv.DictReader(file)]


def axe_findings(page: Any) -> list[tuple[Any, ...]]:
    from axe_playwright_python.sync_playwright import Axe

    page.wait_for_function("document.getAnimations().every((animation) => animation.playState !== 'running')")
    violations = Axe().run(page).response["violations"]
    return [(v["id"], v["help"], [node["html"][:160] for node in v["nodes"][:3]]) for v in violations]


def expect_queue(page: Any, text: str) -> None:
    sync_api.expect(page.locator("vitrine-queue")).to_contain_text(text)


@pytest.mark.skipif(PROJECT is not None, reason="labels photographs")
@both_sizes
def test_photographs_are_labeled_item_by_item_with_the_keyboard(page: Any, queue: Path) -> None:
    page.emulate_media(reduced_motion="reduce")
    page.reload()
    open_tab(page, "Fix labels")
    page.get_by_label("Photographs to label").check()
    assert "labels=queue" in page.url and not page.locator("vitrine-labels").is_visible()
    card, count = page.locator(".to-label"), page.locator("vitrine-queue .count")
    title = card.locator("h2")
    sync_api.expect(card.locator("[aria-current=step] h3")).to_have_text("class")
    sync_api.expect(title).to_have_text("first item")
    sync_api.expect(card.locator("img")).to_have_count(2)
    sync_api.expect(count).to_have_text("0 of 3 labeled")
    assert no_sideways_scrolling(page) and axe_findings(page) == []
    if page.viewport_size == PHONE:
        assert page.evaluate(SMALL_TARGETS) == []
    take(page, "queue" if page.viewport_size == WIDE else "queue_phone")
    names = [re.sub(r"^\d  | <?\d+%$", "", text) for text in card.locator(".label").all_inner_texts()]
    card.focus()
    page.keyboard.press("2")
    sync_api.expect(card.locator("[aria-current=step] h3")).to_have_text("color")
    sync_api.expect(card.locator(".steps li").first).to_contain_text(f"class: {names[1]}")
    page.keyboard.press("u")
    sync_api.expect(card.locator("[aria-current=step] h3")).to_have_text("class")
    page.keyboard.press("s")
    sync_api.expect(title).to_have_text("second item")
    page.keyboard.press("u")
    sync_api.expect(title).to_have_text("first item")
    page.keyboard.press("Enter")
    sync_api.expect(card.locator("[aria-current=step] h3")).to_have_text("color")
    page.keyboard.press("1")
    assert queued_labels(queue) == [["", "", ""]] * 4, "an item is written once all its tasks are done"
    page.keyboard.press("n")
    sync_api.expect(title).to_have_text("second item")
    sync_api.expect(count).to_have_text("1 of 3 labeled")
    first, same, *others = queued_labels(queue)
    assert first == same and first[0].replace("_", " ") == names[0] and first[1] and not first[2]
    assert others == [["", "", ""]] * 2
    page.keyboard.press("u")
    expect_queue(page, "labels removed")
    sync_api.expect(card.locator("[aria-current=step] h3")).to_have_text("material")
    assert queued_labels(queue) == [["", "", ""]] * 4
    page.keyboard.press("Enter")
    sync_api.expect(title).to_have_text("second item")
    sync_api.expect(card.locator("[aria-current=step] h3")).to_have_text("class")
    for _ in range(3):
        page.keyboard.press("Enter")
    sync_api.expect(title).to_have_text("third item")
    expect_queue(page, "No prediction: new/3.png: is not an image that can be read")
    sync_api.expect(card.locator(".broken")).to_have_text("3.png cannot be read")
    take(page, "queue_broken" if page.viewport_size == WIDE else "queue_broken_phone")
    for key in ("1", "n", "n"):
        page.keyboard.press(key)
    sync_api.expect(page.locator("vitrine-queue > .note")).to_have_text("new/3.png: is not an image that can be read")
    sync_api.expect(count).to_have_text("2 of 3 labeled")
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")  # until then, the address is not that of the tab
    sync_api.expect(title).to_be_visible()
    sync_api.expect(title).to_have_text("third item")
    queue.write_text(
        "".join(line for line in queue.read_text(encoding="utf-8").splitlines(keepends=True) if "new/3" not in line),
        encoding="utf-8",
    )
    page.reload()
    expect_queue(page, "Every item of the queue has labels")
    expect_queue(page, "vitrine label add queue.csv")
    assert axe_findings(page) == []
    take(page, "queue_done" if page.viewport_size == WIDE else "queue_done_phone")


@pytest.mark.skipif(PROJECT is not None, reason="the project may have a queue")
@both_sizes
def test_without_a_queue_the_page_says_how_to_make_one(page: Any) -> None:
    open_tab(page, "Fix labels")
    page.get_by_label("Photographs to label").check()
    expect_queue(page, "vitrine label next unlabeled_index --num 20 --out queue.csv")
    assert no_sideways_scrolling(page) and axe_findings(page) == []
    take(page, "queue_none" if page.viewport_size == WIDE else "queue_none_phone")


@pytest.mark.skipif(PICTURES is None, reason="made only by `make pictures`")
@pytest.mark.parametrize("page", [{"width": 1100, "height": 760}], ids=["tour"], indirect=True)
def test_the_tour_of_the_page_takes_twenty_seconds(page: Any) -> None:
    assert PICTURES is not None
    frames: list[tuple[bytes, float]] = []

    def shoot(seconds: float) -> None:
        page.wait_for_timeout(600)
        frames.append((page.screenshot(), seconds))

    shoot(1.5)
    open_confident_example(page)
    shoot(3)
    page.get_by_role("button", name="Search for photographs like it").click()
    sync_api.expect(page.locator("#results .why").first).to_contain_text("similarity")
    page.evaluate("scrollTo(0, 0)")
    shoot(2.5)
    page.get_by_role("button", name="Clear photo").click()
    for words in WORDS:
        page.get_by_label("Words").fill(words)
        shoot(1)
        find(page, words)
        sync_api.expect(page.locator(".count b").first).to_contain_text(words)
        page.evaluate("scrollTo(0, 0)")
        shoot(2)
    page.locator("#results [data-hit]").first.click()
    page.wait_for_selector(".lightbox .detail")
    shoot(2.5)
    page.keyboard.press("Escape")
    open_tab(page, "Accuracy")
    page.wait_for_selector("table.scores")
    shoot(2.5)
    open_tab(page, "Fix labels")
    page.wait_for_selector(".fix h2")
    shoot(2)
    film = [
        Image.open(io.BytesIO(content)).convert("RGB").resize((825, 570), Image.Resampling.LANCZOS)
        for content, _ in frames
    ]
    first, *others = [frame.quantize(128, dither=Image.Dither.NONE) for frame in film]
    lengths = [round(1000 * seconds) for _, seconds in frames]
    assert 18_000 <= sum(lengths) <= 22_000
    path = PICTURES / "tour.gif"
    first.save(path, save_all=True, append_images=others, duration=lengths, loop=0, optimize=True)
    assert path.stat().st_size < 1_000_000


def test_the_keyboard_is_enough_to_search(page: Any) -> None:
    page.get_by_role("tab", name="Identify", exact=True).focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#words textarea, #words input")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#words') !== null"):
            break
    page.keyboard.type("red")
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#results .why").first).to_contain_text("red")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#results button') !== null"):
            break
    page.keyboard.press("Enter")
    page.wait_for_selector(".lightbox .detail")
    page.keyboard.press("Escape")
    sync_api.expect(page.locator(".lightbox")).to_be_hidden()
    assert page.evaluate("document.activeElement.closest('#results button') !== null")


SMALL_TARGETS = """() => [...document.querySelectorAll('button, select, summary, [role=tab], fieldset label')]
  .filter((each) => each.checkVisibility() && each.getBoundingClientRect().width > 0)
  .map((each) => [each.outerHTML.slice(0, 120), each.getBoundingClientRect()])
  .filter(([, box]) => box.width < 44 || box.height < 44).map(([html]) => html)"""
"""List controls that are too small to tap."""


@pytest.mark.parametrize("tab", ["Identify", "Search", "Accuracy", "Fix labels"])
@pytest.mark.parametrize("page", [PHONE], ids=["phone"], indirect=True)
def test_tap_targets_on_a_phone_are_large_enough(page: Any, tab: str) -> None:
    open_tab(page, tab)
    if tab == "Search":
        page.locator("summary", has_text="Model and filters").click()
        sync_api.expect(page.locator("#search-model")).to_be_visible()
    elif tab == "Fix labels":
        page.wait_for_selector(".fix h2")
    assert page.evaluate(SMALL_TARGETS) == []


LAST_DRAWN = {
    "Identify": "#similar .cards button",
    "Search": "#results .cards button",
    "Accuracy": "table.scores",
    "Fix labels": ".fix h2",
    "a hit": ".lightbox .detail",
    "many photographs": "table.batch tbody .certainty",
}
"""The last element that a tab draws."""


@pytest.mark.parametrize("tab", LAST_DRAWN)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violations(page: Any, folder: Path, tab: str, scheme: str) -> None:
    page.emulate_media(reduced_motion="reduce")
    if tab == "Identify":
        open_confident_example(page) if PROJECT else open_example(page)
    if tab == "many photographs":
        add_many(page, sorted((folder / "data").glob("*/images/*"))[:3])
    elif tab == "a hit":
        open_tab(page, "Search")
        page.locator("#results [data-hit]").first.click()
    else:
        open_tab(page, tab)
    page.wait_for_selector(LAST_DRAWN[tab])
    if scheme == "dark":
        take(page, f"dark_{tab.split()[0].lower()}")
    assert axe_findings(page) == []
