"""What the search page offers beyond a picture and a text, as people use it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Request, expect

from tests.browser.conftest import MAKERS, SHAPES, Stack, check_accessible, keep_picture

CHANGE = "add one red star"


@pytest.fixture
def asked(page: Page) -> list[dict[str, Any]]:
    """The bodies of the searches the page asks for."""
    bodies: list[dict[str, Any]] = []

    def note(request: Request) -> None:
        if request.url.endswith("/v1/search/stream"):
            bodies.append(json.loads(request.post_data or "{}"))

    page.on("request", note)
    return bodies


def open_gallery(page: Page) -> None:
    page.goto("/#/search?gallery=shapes")
    expect(pictures(page).first).to_be_visible()
    expect(page.locator(".filter")).to_be_visible()  # it comes later and moves what is below it


def pictures(page: Page) -> Locator:
    return page.get_by_role("list", name="Pictures of the gallery").get_by_role("button")


def results(page: Page) -> Locator:
    complete = page.locator(".results[data-stage=complete]")
    expect(complete.locator(".grid > li").first).to_be_visible()
    return complete.locator(".grid > li")


def search(page: Page, text: str = CHANGE) -> Locator:
    page.get_by_label("What should change?").fill(text)
    page.get_by_role("button", name="Search", exact=True).click()
    return results(page)


def refine(page: Page, text: str) -> Locator:
    page.get_by_label("And what else?").fill(text)
    page.get_by_role("button", name="Refine").click()
    expect(rounds(page).last).to_contain_text(text)
    return results(page)


def rounds(page: Page) -> Locator:
    return page.get_by_role("list", name="Rounds of this search").get_by_role("button")


def ids(found: Locator) -> list[str]:
    return [str(one.get_attribute("data-image")) for one in found.all()]


def drag(page: Page, place: Locator, start: tuple[float, float], end: tuple[float, float]) -> None:
    """The mouse pressed at one place of an element and released at another, as fractions of it."""
    place.scroll_into_view_if_needed()
    box = place.bounding_box()
    assert box is not None
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=4)
    page.mouse.up()


def test_a_part_of_the_reference_drawn_with_the_mouse(
    page: Page, asked: list[dict[str, Any]]
) -> None:
    # Given a reference
    open_gallery(page)
    pictures(page).nth(4).click()
    picture = page.locator(".cropper")
    expect(picture.locator("img")).to_be_visible()
    page.wait_for_function("() => document.querySelector('.cropper img').naturalWidth > 0")

    # When a rectangle is drawn from the upper left of it
    drag(page, picture, (0.1, 0.2), (0.6, 0.7))
    expect(page.locator(".frame")).to_be_visible()
    keep_picture(page, "search-crop")
    check_accessible(page)
    search(page)

    # Then that part is the reference, in the request and in the panel
    assert asked[-1]["crop"] == pytest.approx([0.1, 0.2, 0.5, 0.5], abs=0.02)
    assert "compare" not in asked[-1]["knobs"]["stages"]
    results(page).first.get_by_role("button").click()
    cut = page.get_by_role("dialog").locator(".pair img").first
    inset = str(cut.evaluate("image => image.style.objectViewBox"))
    assert inset.startswith("inset(")
    page.keyboard.press("Escape")

    # And dragging inside moves it, without the size
    drag(page, picture, (0.3, 0.4), (0.5, 0.4))
    search(page)
    assert asked[-1]["crop"] == pytest.approx([0.3, 0.2, 0.5, 0.5], abs=0.02)


def test_a_part_of_the_reference_by_the_keyboard(page: Page, asked: list[dict[str, Any]]) -> None:
    open_gallery(page)
    pictures(page).nth(4).click()
    page.get_by_role("button", name="Use a part").focus()
    page.keyboard.press("Enter")
    frame = page.get_by_role("application", name="The part that is meant")
    expect(frame).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+ArrowRight")
    expect(page.locator("#said")).to_contain_text("65 % wide and 60 % high, 15 % from the left")
    search(page)
    assert asked[-1]["crop"] == pytest.approx([0.15, 0.25, 0.65, 0.6])

    # At the edge it stays inside; Delete means all of the picture again
    for _ in range(9):
        frame.press("ArrowRight")
    frame.press("Shift+ArrowRight")
    frame.press("Delete")
    expect(frame).to_have_count(0)
    search(page)
    assert asked[-1]["crop"] is None


def test_a_part_cannot_be_compared_and_the_page_knows(page: Page) -> None:
    open_gallery(page)
    pictures(page).nth(4).click()
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Stages").select_option("coarse,verify,compare")
    page.get_by_role("button", name="Use a part").click()
    expect(page.get_by_label("Stages")).to_have_value("coarse,verify")
    expect(page.get_by_label("Likeness to the reference")).to_be_disabled()
    page.get_by_role("button", name="Use all of it").click()
    expect(page.get_by_label("Likeness to the reference")).to_be_enabled()


def test_further_rounds_keep_what_was_said(page: Page, asked: list[dict[str, Any]]) -> None:
    open_gallery(page)
    pictures(page).nth(4).click()
    first = ids(search(page))

    # When something else should change
    refine(page, "on a pink background")
    assert rounds(page).count() == 2
    assert asked[1]["modification_text"] == "on a pink background"
    assert asked[1]["earlier"]["texts"] == [CHANGE]
    assert asked[1]["earlier"]["description"]
    assert asked[1]["reference_image_id"] == asked[0]["reference_image_id"]
    keep_picture(page, "search-rounds")
    check_accessible(page)

    # And once more, then all that was said is kept
    refine(page, "without the square")
    assert asked[2]["earlier"]["texts"] == [CHANGE, "on a pink background"]

    # And an earlier round can be gone back to, and be refined otherwise
    rounds(page).first.click()
    expect(rounds(page).first).to_have_attribute("aria-current", "step")
    assert ids(results(page)) == first
    assert len(asked) == 3
    refine(page, "two of them")
    expect(rounds(page)).to_have_text([f"1 {CHANGE}", "2 two of them"])
    assert asked[3]["earlier"]["texts"] == [CHANGE]

    # And a new search begins anew
    search(page, "three green hearts")
    assert "earlier" not in asked[4]
    expect(rounds(page)).to_have_count(0)


def test_this_one_is_the_target(page: Page, asked: list[dict[str, Any]]) -> None:
    open_gallery(page)
    pictures(page).nth(4).click()
    found = ids(search(page))
    marked = found[7]
    results(page).nth(7).get_by_role("button").click()
    page.get_by_role("button", name="This one is it").click()
    expect(rounds(page).last).to_contain_text(f"like {marked}")
    again = ids(results(page))
    assert asked[1]["target_feedback"] == {"image_id": marked}
    assert asked[1]["modification_text"] == CHANGE
    assert again.index(marked) < found.index(marked)
    keep_picture(page, "search-feedback")


def test_weights_and_less_of(page: Page, asked: list[dict[str, Any]]) -> None:
    open_gallery(page)
    pictures(page).nth(4).click()
    search(page)
    assert asked[-1]["weights"] == {}
    page.get_by_text("More", exact=True).click()
    less = page.get_by_label("What there is less of")
    expect(less).to_be_disabled()
    page.get_by_label("Less of", exact=True).fill("squares")
    expect(less).to_be_enabled()
    page.get_by_label("The words themselves").fill("1.5")
    less.fill("2")
    keep_picture(page, "search-weights")
    check_accessible(page)
    search(page)
    assert asked[-1]["negative_text"] == "squares"
    assert asked[-1]["weights"] == {"text": 1.5, "negative": 2}


def test_a_filter_by_what_is_known_of_the_pictures(
    page: Page, asked: list[dict[str, Any]], complaints: list[str]
) -> None:
    # Given the fields of the gallery, and nothing to filter in another
    open_gallery(page)
    page.get_by_text("Filter", exact=True).click()
    page.get_by_label(MAKERS[0]).check()
    page.get_by_label("price, at most").fill("12")
    expect(page.get_by_text("Filter · 2 set")).to_be_visible()
    keep_picture(page, "search-filter")
    check_accessible(page)

    # When something is looked for, then only those pictures are found
    found = ids(search(page, "one red star"))
    assert asked[-1]["filter"] == {"maker": [MAKERS[0]], "price": {"lte": 12}}
    wanted = [n for n in range(SHAPES) if n % 3 == 0 and 5 + n <= 12]
    assert sorted(found) == [f"{n:05d}.png" for n in wanted]

    # And where none is left, it says so
    page.get_by_label("price, at most").fill("1")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("no image meets the filter")
    check_accessible(page)
    complaints.clear()  # the browser itself tells of the refused request
    demo = page.get_by_label("Gallery").locator("option", has_text="demo")
    page.get_by_label("Gallery").select_option(value=demo.get_attribute("value"))
    expect(page.locator(".filter")).to_be_hidden()


def drop(page: Page, file: Path, place: Locator) -> None:
    """A file dragged from outside the browser and dropped, as the browser itself sees it."""
    box = place.bounding_box()
    assert box is not None
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send(
            "Input.dispatchDragEvent",
            {
                "type": kind,
                "x": box["x"] + box["width"] / 2,
                "y": box["y"] + box["height"] / 2,
                "data": {"items": [], "files": [str(file)], "dragOperationsMask": 1},
            },
        )


def test_a_file_dropped_anywhere_is_the_reference(
    page: Page, stack: Stack, asked: list[dict[str, Any]]
) -> None:
    open_gallery(page)
    file = sorted((stack.data / "demo" / "images").glob("*.png"))[7]
    for place in (page.locator(".slot"), page.get_by_role("list", name="Pictures of the gallery")):
        drop(page, file, place)
        expect(page.locator(".slot figcaption")).to_contain_text(file.name)
        page.get_by_role("button", name="Remove").click()
    drop(page, file, page.locator(".slot"))
    expect(page.locator(".slot figcaption")).to_contain_text(file.name)
    search(page)
    assert asked[-1]["reference_upload"]


def test_a_picture_of_the_gallery_dragged_to_the_slot(page: Page) -> None:
    open_gallery(page)
    pictures(page).nth(2).drag_to(page.locator(".slot"))
    expect(page.locator(".slot figcaption")).to_have_text("00002.png")


def test_a_pasted_picture_is_the_reference(page: Page, stack: Stack) -> None:
    open_gallery(page)
    file = sorted((stack.data / "demo" / "images").glob("*.png"))[7]
    page.evaluate(
        """content => {
          const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
          const clipboardData = new DataTransfer();
          clipboardData.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
          const pasted = new ClipboardEvent("paste", { clipboardData, bubbles: true });
          document.body.dispatchEvent(pasted);
        }""",
        base64.b64encode(file.read_bytes()).decode(),
    )
    expect(page.locator(".slot figcaption")).to_contain_text("pasted.png")


def test_narrow_with_everything_open_nothing_sticks_out(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    open_gallery(page)
    pictures(page).nth(4).click()
    page.get_by_role("button", name="Use a part").click()
    page.get_by_text("Filter", exact=True).click()
    page.get_by_text("More", exact=True).click()
    search(page)
    refine(page, "a rather long text that says what else there should be in the picture")
    wide = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
    page.locator(".rounds").scroll_into_view_if_needed()
    keep_picture(page, "narrow-rounds")
    assert not wide
    check_accessible(page)
