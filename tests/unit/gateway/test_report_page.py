"""The report as HTML: a run beside the paper's figures, and that the file stands alone."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace
from PIL import Image

from broker.submission import RunReport, report_run
from gateway.report.page import part_of_page, whole_page
from gateway.report.pictures import by_url, inside
from shared.published_figures import PublishedFigures
from shared.settings import Settings
from tests.miniatures.composed import write_circo, write_cirr, write_fashioniq
from tests.unit.broker.finished_runs import finish_run

KNOBS = {"top_k": 8, "baselines": True, "num_questions": 2}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("page")
    write_circo(home / "data")
    write_cirr(home / "data")
    write_fashioniq(home / "data")
    return Settings(home=home / "home", data_root=home / "data")


@pytest.fixture(scope="module")
def circo(settings: Settings) -> RunReport:
    return report_run(settings, finish_run(settings, "circo", "val", KNOBS, name="<mine> & yours"))


@pytest.fixture(scope="module")
def dress(settings: Settings) -> RunReport:
    return report_run(settings, finish_run(settings, "fashioniq-dress", "val", KNOBS))


def parsed(report: RunReport) -> ElementTree.Element:
    """The article. It is XML as well, so that no element is left open."""
    return ElementTree.fromstring(part_of_page(report, by_url(report.gallery), links=True))


def rows(article: ElementTree.Element, label: str) -> dict[str, list[str]]:
    """The cells of a table by the first of each row."""
    table = article.find(f".//div[@aria-label='{label}']/table")
    assert table is not None
    found = {}
    for row in table.iter("tr"):
        head, *cells = ["".join(cell.itertext()) for cell in row]
        found[head] = cells
    return found


def metrics(report: RunReport) -> dict[str, list[str]]:
    return rows(parsed(report), "Metrics of every ranking of the run")


def remarks(report: RunReport) -> str:
    return " ".join(
        "".join(one.itertext()) for one in parsed(report).findall(".//p[@class='note remark']")
    )


def test_the_table_has_every_ranking_with_its_figures(circo: RunReport) -> None:
    table = metrics(circo)
    columns = table[""]
    for stage in circo.stages:
        cells = dict(zip(columns, table[stage.title], strict=True))
        for name, value in stage.metrics.items():
            shown = name.replace("map@", "mAP@").replace("recall@", "Recall@")
            assert cells[shown].startswith(f"{100 * value:.2f}±")
        assert cells["median rank"] == f"{stage.median_rank:g}"


def test_figures_of_another_split_are_a_hint_without_a_difference(circo: RunReport) -> None:
    table = metrics(circo)
    cells = dict(zip(table[""], table["paper, CLIP ViT-B/32test"], strict=True))
    assert cells["mAP@5"] == "27.51"
    assert cells["Recall@5"] == "–"
    assert "about test, this run asked val: a hint" in remarks(circo)


def test_figures_of_the_same_split_have_the_difference_to_the_last_stage(dress: RunReport) -> None:
    # Given a run of all queries by the official protocol
    official = replace(dress, deviations=[])
    table = metrics(official)
    own = dress.stages[-1].metrics["recall@10"]
    cells = dict(zip(table[""], table["paper, CLIP ViT-L/14val"], strict=True))
    assert cells["Recall@10"] == f"28.71{100 * (own - 0.2871):+.2f}"
    # the mean of the three categories is not about this one
    mean = table["paper, CLIP ViT-B/32val, mean of the three categories"]
    assert dict(zip(table[""], mean, strict=True))["Recall@10"] == "36.66"
    assert "the last stage of this run minus it" in remarks(official)


def test_a_run_of_some_queries_is_not_held_against_the_paper(settings: Settings) -> None:
    some = report_run(settings, finish_run(settings, "fashioniq-dress", "val", KNOBS, limit=2))
    some = replace(some, deviations=[])
    assert "No difference is shown: the run asked 2 of 6 queries." in remarks(some)
    assert metrics(some)["paper, CLIP ViT-L/14val"][0] == "28.71"


def test_a_run_that_deviates_is_not_held_against_the_paper(dress: RunReport) -> None:
    assert dress.deviations  # a miniature has fewer queries and images than the official set
    assert "the run deviates from the official protocol" in remarks(dress)
    assert metrics(dress)["paper, CLIP ViT-L/14val"][0] == "28.71"


def test_the_best_is_marked_only_where_rankings_differ(circo: RunReport) -> None:
    same = [replace(stage, metrics={"map@5": 0.5}) for stage in circo.stages]
    assert parsed(replace(circo, stages=same)).findall(".//td[@class='best']") == []
    differing = [replace(same[0], metrics={"map@5": 0.6}), *same[1:]]
    (marked,) = parsed(replace(circo, stages=differing)).findall(".//td[@class='best']")
    assert (marked.text or "").startswith("60.00")


def test_cirr_is_compared_in_its_subset_metrics_too(settings: Settings) -> None:
    cirr = report_run(settings, finish_run(settings, "cirr", "val", KNOBS))
    table = metrics(cirr)
    cells = dict(zip(table[""], table["paper, CLIP ViT-B/32test1"], strict=True))
    assert cells["R_subset@1"] == "77.54"
    assert cells["Recall@1"] == "43.06"


def test_without_ground_truth_the_papers_figures_wait_for_the_servers(settings: Settings) -> None:
    test = report_run(settings, finish_run(settings, "circo", "test", KNOBS))
    table = metrics(test)
    assert list(table) == ["", "paper, CLIP ViT-B/32test", "paper, CLIP ViT-L/14test"]
    assert "the evaluation server says" in remarks(test)
    titles = [one.text for one in parsed(test).iter("h2")]
    assert titles == ["Metrics", "Failures", "Set-up"]  # nothing is drawn of ranks nobody knows
    nothing = replace(test, published=())
    assert "publishes no ground truth" in part_of_page(nothing, by_url("g"))


def test_a_data_set_the_paper_is_silent_about_has_no_remark(circo: RunReport) -> None:
    silent = replace(circo, published=())
    assert remarks(silent) == ""
    assert not any(name.startswith("paper") for name in metrics(silent))


def test_text_is_text_and_never_markup(circo: RunReport) -> None:
    article = parsed(circo)
    assert article.findtext(".//h1") == "<mine> & yours"
    evil = PublishedFigures(label="<script>", split="val", metrics={"map@5": 0.1})
    assert "<script>" not in part_of_page(replace(circo, published=(evil,)), by_url("g"))


def test_hardest_queries_have_pictures_ranks_and_links(circo: RunReport) -> None:
    article = parsed(circo)
    cards = article.findall(".//div[@class='query']")
    assert len(cards) == len(circo.hardest) + len(circo.losses)
    card, query = cards[0], circo.hardest[0]
    sources = [image.get("src", "") for image in card.iter("img")]
    assert len(sources) == 2 + len(query.hits)
    assert all(source.startswith(f"/v1/galleries/{circo.gallery}/images/") for source in sources)
    link = card.find(".//a")
    assert link is not None
    assert link.get("href") == f"#/runs/{circo.run}/queries/{query.query_id}"
    marked = [
        picture for picture in card.iter("figure") if picture.get("class") == "picture target"
    ]
    assert len(marked) == sum(hit in query.target_ids for hit in query.hits)


def test_failures_are_listed_with_reasons(settings: Settings, circo: RunReport) -> None:
    text = circo.hardest[0].modification_text
    failing = finish_run(settings, "circo", "val", KNOBS, refused_text=text)
    table = rows(parsed(report_run(settings, failing)), "Queries without an answer")
    ((shown, reason),) = [cells for name, cells in table.items() if name != "query"]
    assert shown == text
    assert "refuses" in reason
    assert "None: every query was answered." in part_of_page(circo, by_url("g"))


def test_a_run_without_any_answer_still_has_a_page(settings: Settings, circo: RunReport) -> None:
    first = "is blue and stands further left"
    run = finish_run(settings, "circo", "val", KNOBS, limit=1, refused_text=first)
    article = parsed(report_run(settings, run))
    assert "refuses" in "".join(article.itertext())
    assert article.find(".//dl[@class='figures']") is None
    assert "No query has an answer" in "".join(article.itertext())
    assert "no public ground truth" not in "".join(article.itertext())


def test_the_file_carries_everything_in_itself(circo: RunReport, settings: Settings) -> None:
    text = whole_page(circo, inside(settings.galleries_folder, circo.gallery))
    page = ElementTree.fromstring(text.partition("\n")[2])
    sources = {image.get("src", "") for image in page.iter("img")}
    assert sources
    for source in sources:
        head, _, content = source.partition(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            assert max(picture.size) <= 160
    for element in page.iter():
        assert element.tag not in ("script", "link")
        assert "href" not in element.attrib  # a link leads to a gateway that may not be there


def test_a_picture_that_is_not_to_be_had_says_so(
    circo: RunReport, settings: Settings, tmp_path: Path
) -> None:
    pictures = inside(settings.galleries_folder, circo.gallery)
    assert pictures("no such image") == ""
    article = ElementTree.fromstring(part_of_page(circo, lambda _: ""))
    assert article.find(".//img") is None
    assert any(one.text == "no picture" for one in article.iter("span"))
