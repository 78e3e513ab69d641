"""The loaders against the field's own annotation files, where these are at hand."""

from __future__ import annotations

from itertools import pairwise

import pytest

from shared.datasets import Benchmark, load_dataset
from shared.datasets.inspection import inspect_dataset
from shared.datasets.registry import SOURCES
from tests.official_files import DATA, needs_official_files

pytestmark = needs_official_files


def benchmark(name: str, split: str = "val") -> Benchmark:
    return load_dataset(name, split, DATA)


@pytest.mark.parametrize("name", SOURCES)
def test_every_set_has_its_official_counts_and_is_in_order_without_images(name: str) -> None:
    for report in inspect_dataset(name, DATA):
        assert report.state == "ok", report.problems
        if name == "mscoco":  # the list at hand is a derived one
            assert (report.queries, report.expected_queries) == (25_009, 25_010)
            assert "one caption fewer" in report.notes[0]
        else:
            assert report.queries == report.expected_queries
        if name == "circo":  # its gallery list comes with the images
            assert report.gallery is None
            assert "image_info_unlabeled2017.json" in report.notes[0]
        else:
            assert report.gallery == report.expected_gallery
            assert report.images == 0


def test_cirr_keeps_its_empty_caption_and_ranks_the_five_others_of_a_set() -> None:
    test1 = benchmark("CIRR", "test1")
    empty = [query.query_id for query in test1.queries if not query.modification_text.strip()]
    assert empty == ["27098"]
    for split in (test1, benchmark("CIRR", "val")):
        for query in split.queries:
            assert len(query.subset_ids) == 5
            assert query.reference_id not in query.subset_ids
    first = benchmark("CIRR", "val").queries[0]
    assert (first.query_id, first.reference_id) == ("12060", "dev-244-0-img0")
    assert first.target_ids == ("dev-1028-1-img1",)
    assert first.subset_ids[:2] == ("dev-430-3-img0", "dev-63-0-img1")
    assert test1.images[0][1] == DATA / "CIRR" / "test1" / "test1-147-1-img1.png"
    assert test1.protocol.exclude_reference
    assert test1.protocol.submission == "cirr"
    assert not any(query.target_ids for query in test1.queries)


def test_fashioniq_joins_its_captions_in_order_and_skips_the_three_empty_ones() -> None:
    dress = benchmark("FashionIQ-dress")
    assert dress.queries[0].modification_text == (
        "is shiny and silver with shorter sleeves and fit and flare"
    )
    joined = {
        (query.reference_id, query.modification_text)
        for category in ("shirt", "toptee")
        for query in benchmark(f"fashioniq-{category}").queries
    }
    assert ("B005PQ02G6", "is grey with a design on the back") in joined
    assert ("B00A13DXIW", "is an off the shoulder top") in joined
    assert ("B00BM9J4TG", "fades from red to orange") in joined
    assert not dress.protocol.exclude_reference


def test_circo_queries_name_the_single_target_first_and_their_aspects() -> None:
    source = SOURCES["circo"]
    queries = [query for _, query in source.read_queries("val", DATA)]
    assert queries[0].target_ids == ("355099", "528417", "534704")
    assert queries[0].aspects[:2] == ("cardinality", "statement_with_conjunction")
    assert len({aspect for query in queries for aspect in query.aspects}) == 9
    assert source.protocol.recall_targets == "first"
    assert source.protocol.submission == "circo"


def test_visdial_has_eleven_rounds_that_point_back_to_each_other() -> None:
    queries = benchmark("VisDial").queries
    assert len({query.dialogue_id for query in queries}) == 2_064
    for before, query in pairwise(queries):
        if query.round:
            assert (query.previous_id, query.round) == (before.query_id, (before.round or 0) + 1)
            assert query.target_ids == before.target_ids
        else:
            assert query.previous_id == ""
            assert before.round == 10
    assert queries[1].modification_text == "is the photo in color? yes"


def test_captions_search_without_a_reference() -> None:
    for name in ("Flickr30K", "MSCOCO"):
        found = benchmark(name, "test")
        assert all(query.reference_id is None for query in found.queries)
        assert all(len(query.target_ids) == 1 for query in found.queries)
    assert "25,009 queries instead of the official 25,010" in found.protocol.deviations
