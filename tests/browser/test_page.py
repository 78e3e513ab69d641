"""What people do on the web page, in headless Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import ARTEFACTS, IMAGES, Stack, check_accessible, keep_picture

CHANGE = "add one red star in the upper left corner"


def search(page: Page) -> None:
    page.get_by_label("What should change?").fill(CHANGE)
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator(".results[data-stage=complete] .grid > li").first).to_be_visible()


def test_search_by_a_click_and_see_why(page: Page) -> None:
    # Given the gallery's pictures
    page.goto("/")
    pictures = page.get_by_role("list", name="Pictures of the gallery").get_by_role("button")
    expect(pictures.first).to_be_visible()
    keep_picture(page, "search-gallery")
    check_accessible(page)

    # When one is clicked and a change is typed
    pictures.nth(4).click()
    expect(page.locator(".slot figure img")).to_be_visible()
    search(page)

    # Then the results are there, verified, each with a picture that is one
    results = page.get_by_role("list", name="Results").locator("> li")
    assert 10 < results.count() <= 24
    expect(page.locator(".state")).to_contain_text("Verified")
    loaded = "nodes => nodes.slice(0, 6).every(node => node.complete && node.naturalWidth > 0)"
    page.wait_for_function(
        "() => [...document.querySelectorAll('.results img')].slice(0, 6)"
        ".every(node => node.complete && node.naturalWidth > 0)"
    )
    assert page.locator(".results img").evaluate_all(loaded)
    keep_picture(page, "search-results")
    check_accessible(page)

    # And the panel says why the first one is there
    results.first.get_by_role("button").click()
    panel = page.get_by_role("dialog")
    expect(panel.get_by_role("heading", name="Rank 1")).to_be_visible()
    questions = panel.get_by_role("region", name="Propositions").locator("tbody tr")
    assert 1 <= questions.count() <= 3
    assert questions.first.locator(".mark").count() == 2
    expect(panel).to_contain_text("%")
    expect(panel.get_by_role("heading", name="Its rank in every list")).to_be_visible()
    keep_picture(page, "search-evidence")
    check_accessible(page)
    page.keyboard.press("Escape")
    expect(panel).to_have_count(0)


def test_search_by_an_upload(page: Page, stack: Stack) -> None:
    page.goto("/#/search")
    file = sorted((stack.data / "demo" / "images").glob("*.png"))[7]
    page.locator("input[type=file]").set_input_files(file)
    expect(page.locator(".slot figcaption")).to_contain_text(file.name)
    search(page)
    assert page.get_by_role("list", name="Results").locator("> li").count() > 10


def test_an_upload_that_is_no_picture_is_refused_in_words(
    page: Page, complaints: list[str], tmp_path: Path
) -> None:
    page.goto("/#/search")
    file = tmp_path / "words.png"
    file.write_text("no picture")
    page.locator("input[type=file]").set_input_files(file)
    expect(page.get_by_role("alert")).to_contain_text("image")
    complaints.clear()  # the browser itself tells of the refused request


def test_the_keyboard_alone_finds_something(page: Page) -> None:
    page.goto("/#/search")
    expect(page.get_by_label("What should change?")).to_be_visible()
    page.get_by_label("What should change?").focus()
    page.keyboard.type("two blue hearts on pink")
    page.keyboard.press("Enter")
    first = page.locator(".results[data-stage=complete] .grid > li button").first
    expect(first).to_be_visible()
    first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(first).to_be_focused()


def test_start_a_benchmark_watch_it_and_cancel_it(page: Page) -> None:
    # Given the form
    page.goto("/#/benchmarks")
    expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
    check_accessible(page)
    page.get_by_label("Name").fill("cancel-me")
    page.get_by_text("Knobs", exact=True).click()
    page.get_by_label("top k", exact=True).fill(str(IMAGES))
    page.get_by_role("button", name="Start").click()

    # When it is under way
    item = page.locator(".runs > li", has_text="cancel-me")
    bar = item.get_by_role("progressbar", name="queries")
    expect(bar).to_be_visible()
    page.wait_for_function(
        "() => [...document.querySelectorAll('.runs progress')].some(bar => bar.value > 0)"
    )
    expect(item.locator(".phase .figure").last).to_contain_text("of 12")
    keep_picture(page, "benchmark-progress")

    # Then it can be cancelled, and says so
    item.get_by_role("button", name="Cancel").click()
    expect(item.locator(".badge")).to_have_text("cancelled")


def test_a_finished_run_has_a_report_queries_and_files(page: Page, stack: Stack) -> None:
    page.goto("/#/benchmarks")
    page.locator(".runs > li", has_text="whole").get_by_role("link").click()
    report = page.locator("article.report")
    for title in ("Metrics", "Recall by depth", "What each stage adds", "Rank changes"):
        expect(report.get_by_role("heading", name=title, exact=True)).to_be_visible()
    expect(report.get_by_role("img", name="Recall at K of every stage")).to_be_visible()
    keep_picture(page, "run-report")
    check_accessible(page)

    # Its queries, hardest first, and one of them with its evidence
    page.get_by_role("link", name="Queries", exact=True).click()
    queries = page.locator(".query-list > li")
    expect(queries.first).to_be_visible()
    assert queries.count() == 12
    check_accessible(page)
    queries.first.get_by_role("link").click()
    expect(page.get_by_role("heading", name="Rank of the target")).to_be_visible()
    page.get_by_role("list", name="Results").get_by_role("button").first.click()
    expect(page.get_by_role("dialog")).to_contain_text("expected")
    keep_picture(page, "query-evidence")
    page.keyboard.press("Escape")

    # The report as a file of its own
    page.goto(f"/#/runs/{stack.first}?show=files")
    with page.expect_download() as download:
        page.get_by_role("link", name="report.html").click()
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    file = ARTEFACTS / "report.html"
    download.value.save_as(file)
    text = file.read_text()
    assert "data:image/jpeg;base64," in text
    assert 'src="/' not in text
    assert "http://127" not in text
    page.goto(file.as_uri())
    expect(page.get_by_role("heading", name="Hardest queries")).to_be_visible()


def test_two_runs_compared(page: Page, stack: Stack) -> None:
    page.goto(f"/#/compare?first={stack.first}&second={stack.second}")
    table = page.get_by_role("region", name="Metrics compared")
    expect(table.get_by_role("rowheader", name="Recall@1", exact=True)).to_be_visible()
    expect(page.get_by_role("region", name="Differences").first).to_contain_text("num_questions")
    keep_picture(page, "compare")
    check_accessible(page)


def test_the_system_page_shows_every_agent(page: Page) -> None:
    page.goto("/#/system")
    expect(page.get_by_text("Everything is up.")).to_be_visible()
    for agent in ("imagination", "similarity", "question"):
        expect(page.get_by_role("heading", name=agent)).to_be_visible()
    keep_picture(page, "system")
    check_accessible(page)


@pytest.mark.parametrize("place", ["search", "benchmarks", "compare", "system"])
def test_narrow_and_dark_nothing_sticks_out(page: Page, place: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme="dark")
    page.goto(f"/#/{place}")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.wait_for_timeout(500)
    wide = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
    keep_picture(page, f"narrow-{place}")
    assert not wide
    check_accessible(page)


def test_a_page_that_is_not_there_leads_to_the_search(page: Page) -> None:
    page.goto("/#/nowhere")
    expect(page.get_by_role("heading", name="Search", exact=True)).to_be_visible()


def test_an_unknown_run_is_told_in_words(page: Page, complaints: list[str]) -> None:
    page.goto("/#/runs/demo_val~no-such-run")
    expect(page.get_by_role("alert")).to_contain_text("demo_val~no-such-run")
    check_accessible(page)
    complaints.clear()  # the browser itself tells of the refused request
