"""People use the page with a mouse, a phone or the keyboard alone; a real browser tries what they do."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from serving import BROWSER, serving

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

SHOP = os.environ.get("VITRINE_SHOP")
"""A finished project to look at instead of the small made-up one; then no label is corrected."""

PICTURES = Path(os.environ["VITRINE_PICTURES"]) if "VITRINE_PICTURES" in os.environ else None
"""Where screenshots are put."""

WAIT_MS = 90_000
"""What a condition may take at most: a busy machine's PyTorch needs a minute to load."""

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}

LEVELS = {"": ("high", "medium", "low"), "sure": ("medium", "low"), "reliable on this data": ("",)}
"""Words for a confidence that may stand beside a warning, after its "not"."""

WATCH_FILTERS = """() => {
  window.filtersWereSeen = false;
  const look = () => {
    window.filtersWereSeen ||= document.querySelector('#search-model')?.checkVisibility() ?? false;
    requestAnimationFrame(look);
  };
  look();
}"""
"""Note in every frame whether the search's filters are shown."""


@pytest.fixture(scope="module")
def folder(shop_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(SHOP) if SHOP else shutil.copytree(shop_folder, tmp_path_factory.mktemp("browsed") / "shop")


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
    """The page's colors; a test that names its own is parametrized with them."""
    return "light"


@pytest.fixture(params=[WIDE], ids=["wide"])
def page(browser: Any, address: str, scheme: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The opened page; ends the test badly if it asked another host for anything or logged an error."""
    elsewhere, errors = [], []

    def note(request: Any) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            elsewhere.append(request.url)

    with closing(browser.new_page(viewport=request.param)) as opened:
        opened.set_default_timeout(WAIT_MS)
        opened.on("request", note)
        opened.on("console", lambda message: errors.append(message.text) if is_error(message) else None)
        opened.emulate_media(color_scheme=scheme)
        opened.goto(f"{address}/?__theme={scheme}")
        opened.wait_for_selector(".examples button")
        yield opened
    assert elsewhere == []
    assert errors == []


def is_error(message: Any) -> bool:
    """Say whether a console message tells of a fault; leaving the page aborts what Gradio still listens to."""
    return message.type == "error" and "abort" not in message.text.lower() and "Connection errored" not in message.text


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


@both_sizes
def test_an_example_is_classified_with_words_for_every_level(page: Any) -> None:
    page.locator(".examples button").first.click()
    page.wait_for_selector(".answer .bar.first")
    levels, warnings = [], []
    for task in page.locator(".answer .task").all():
        levels.append(task.locator(".bar.first .value").inner_text().split("%")[1].strip())
        warnings.append(task.locator("h4").inner_text().partition("not ")[2].strip())
    told = list(zip(levels, warnings, strict=True))
    assert told and all(level in LEVELS[warning] for level, warning in told), told
    assert SHOP or [warning for _, warning in told] == ["", "sure", "reliable on this data"]
    page.wait_for_selector(".cards.six button")
    sync_api.expect(page.locator(".answer .bar.first").first).to_be_in_viewport()
    assert no_sideways_scrolling(page)
    take(page, "look" if page.viewport_size == WIDE else "look_phone")


def test_a_photograph_that_was_looked_at_leads_to_the_search(page: Any) -> None:
    page.locator(".examples button").nth(1).click()
    page.get_by_role("button", name="Search for photographs like it").click()
    sync_api.expect(page.get_by_role("tab", name="Search", exact=True)).to_have_attribute("aria-selected", "true")
    sync_api.expect(page.locator("#results .why").first).to_contain_text("like it")
    sync_api.expect(page.locator("#like-photo img")).to_be_visible()
    likeness = [float(caption.rsplit("like it ", 1)[1]) for caption in captions(page)]
    assert likeness == sorted(likeness, reverse=True) and likeness[0] > 0.9


def test_a_similar_photograph_opens_and_leads_to_the_search(page: Any) -> None:
    page.locator(".examples button").first.click()
    page.locator("#similar .cards button").nth(1).click()
    source = page.locator(".detail img").get_attribute("src")
    page.get_by_role("button", name="Find photographs like this").click()
    sync_api.expect(page.locator("#results .why").first).to_contain_text("like it 1.00")
    assert page.locator("#results .cards img").first.get_attribute("src") == source


def test_an_uploaded_photograph_is_searched_with_words_and_forgotten(page: Any, folder: Path) -> None:
    image = next((folder / "data").glob("*/images/*"))
    open_tab(page, "Search")
    page.get_by_role("button", name="Like a photograph").click()
    page.locator("#like-photo input[type=file]").set_input_files(str(image))
    sync_api.expect(page.locator("#results .why").first).to_contain_text("like it")
    find(page, "red")
    sync_api.expect(page.locator("#results .why").first).to_contain_text("red")
    assert "like it" in captions(page)[0]
    take(page, "search_photo")
    page.locator("#results .cards button").nth(1).click()  # a hit takes the upload's place
    page.get_by_role("button", name="Find photographs like this").click()
    sync_api.expect(page.locator("#results .why").first).to_contain_text("like it 1.00")
    sync_api.expect(page.locator("#like-photo img")).to_have_count(0)
    page.get_by_role("button", name="Forget the photograph").click()
    sync_api.expect(page.locator("#results .why").first).not_to_contain_text("like it")


def test_a_file_is_uploaded_and_compared_side_by_side(page: Any, folder: Path) -> None:
    image = next((folder / "data").glob("*/images/*"))
    page.locator("#look-photo input[type=file]").set_input_files(str(image))
    page.wait_for_selector(".answer")
    page.locator("#look-model").get_by_label("Side by side").check()
    page.wait_for_selector('.answer[data-system="mobilevit"]')
    assert page.locator(".answer").count() == len(list((folder / "models").glob("*/model.json")))
    take(page, "compare")


def test_a_file_that_is_no_photograph_gets_a_sentence(page: Any, tmp_path: Path) -> None:
    (tmp_path / "page.png").write_text("<html>")
    page.locator("#look-photo input[type=file]").set_input_files(str(tmp_path / "page.png"))
    sync_api.expect(page.locator(".empty").first).to_contain_text("is not an image")


@both_sizes
def test_words_find_photographs_and_say_why(page: Any) -> None:
    open_tab(page, "Search")
    find(page, "blue bottle")
    sync_api.expect(page.locator("#results .cards .why").first).to_contain_text("blue")
    assert "%" in captions(page)[0]
    box = page.locator("#results .cards button").first.bounding_box()
    assert box["y"] < page.viewport_size["height"] - 150, "hits are below the first screen"
    assert no_sideways_scrolling(page)
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


def test_unknown_words_a_hint_a_filter_and_more(page: Any) -> None:
    open_tab(page, "Search")
    find(page, "zebra")
    sync_api.expect(page.locator("#results .empty")).to_contain_text("zebra")
    page.locator(".chips button").first.click()
    page.wait_for_selector("#results .cards button")
    assert page.locator("#results .cards button").count() == 24
    page.get_by_role("button", name="Show more").click()
    sync_api.expect(page.locator("#results .cards button").nth(24)).to_be_visible()
    page.get_by_role("button", name="Class").click()
    label = page.locator(".facet label").filter(has_text=re.compile(r"\([1-9]\d*\)$")).first
    count = int(label.inner_text().rsplit("(", 1)[1].rstrip(")"))
    label.locator("input").check()
    sync_api.expect(page.locator(".note[role=status]")).to_contain_text(f"{count} photographs")


def test_a_hit_opens_and_leads_to_others_like_it(page: Any) -> None:
    open_tab(page, "Search")
    page.locator("#results .cards button").nth(2).click()
    page.wait_for_selector(".detail img")
    source = page.locator(".detail img").get_attribute("src")
    take(page, "detail")
    page.get_by_role("button", name="Find photographs like this").click()
    sync_api.expect(page.locator("#results .why").first).to_contain_text("like it 1.00")
    assert page.locator("#results .cards img").first.get_attribute("src") == source
    find(page, "red")  # words and likeness together
    sync_api.expect(page.locator("#results .why").first).to_contain_text("red")
    assert "like it" in captions(page)[0]
    page.get_by_role("button", name="Forget the photograph").click()
    sync_api.expect(page.locator("#results .why").first).not_to_contain_text("like it")


def test_the_scores_and_their_pictures_are_shown(page: Any) -> None:
    open_tab(page, "How good is it")
    page.wait_for_selector("table.scores")
    assert "to" in page.locator("table.scores .interval").first.inner_text()
    page.locator(".figures img").first.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('.figures img').naturalWidth > 0")
    take(page, "quality")


def test_a_label_is_corrected_in_the_review(page: Any, folder: Path) -> None:
    open_tab(page, "Review")
    page.locator("#doubts .cards button").first.click()
    page.wait_for_selector('#doubts button[aria-pressed="true"]')
    take(page, "review")
    if SHOP:
        return
    page.get_by_label("Right label").click()
    page.get_by_role("option").first.click()
    page.get_by_role("button", name="Save the correction").click()
    sync_api.expect(page.get_by_text("in data/corrections.csv. dvc repro")).to_be_visible()
    lines = (folder / "data/corrections.csv").read_text().splitlines()
    assert lines[0] == "dataset,image_path,task,label" and len(lines) == 2


@pytest.mark.skipif(PICTURES is None, reason="made with `make pictures` alone")
@pytest.mark.parametrize("page", [{"width": 1100, "height": 760}], ids=["tour"], indirect=True)
def test_a_tour_of_the_page_is_a_film_of_twenty_seconds(page: Any) -> None:
    assert PICTURES is not None
    frames: list[tuple[bytes, float]] = []

    def shoot(seconds: float) -> None:
        page.wait_for_timeout(600)
        frames.append((page.screenshot(), seconds))

    shoot(1.5)
    shown = 0
    for example in page.locator(".examples button").all():
        example.click()
        page.wait_for_selector(".answer .bar.first")
        page.wait_for_timeout(1500)
        if shown < 2 and "high" in page.locator(".answer .bar.first .value").first.inner_text():
            shoot(2.5)
            shown += 1
    assert shown == 2, "too few examples that the model is sure of"
    page.get_by_role("button", name="Search for photographs like it").click()
    sync_api.expect(page.locator("#results .why").first).to_contain_text("like it")
    shoot(2.5)
    page.get_by_role("button", name="Forget the photograph").click()
    for words in ("blue bottle", "gold wrist watch"):
        page.get_by_label("Words").fill(words)
        shoot(1)
        find(page, words)
        sync_api.expect(page.locator("#results .why").first).to_contain_text(words.split()[0])
        shoot(2)
    page.locator("#results .cards button").first.click()
    page.wait_for_selector(".detail img")
    shoot(2)
    open_tab(page, "How good is it")
    page.wait_for_selector("table.scores")
    shoot(3)
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
    page.get_by_role("tab", name="Look", exact=True).focus()
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
    page.wait_for_selector(".detail")


LAST_DRAWN = {
    "Look": "#similar .cards button",
    "Search": "#results .cards button",
    "How good is it": "table.scores",
    "Review": "#doubts .cards button",
}
"""What a tab shows last."""


@pytest.mark.parametrize("tab", LAST_DRAWN)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Any, tab: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(reduced_motion="reduce")
    if tab == "Look":
        page.locator(".examples button").first.click()
    open_tab(page, tab)
    page.wait_for_selector(LAST_DRAWN[tab])
    page.wait_for_function("document.getAnimations().every((animation) => animation.playState !== 'running')")
    if scheme == "dark":
        take(page, f"dark_{tab.split()[0].lower()}")
    found = Axe().run(page).response["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    told = [(v["id"], v["help"], [node["html"][:160] for node in v["nodes"][:3]]) for v in serious]
    assert told == []
