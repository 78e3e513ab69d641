"""Files for the servers: what is built passes, and everything wrong in a file is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared.datasets import Benchmark, Protocol, Query
from shared.errors import ConfigurationError
from shared.submission import (
    SubmissionProblems,
    build_submission,
    check_content,
    check_file,
    shown,
)

NAMES = [f"dev-{number}-img0" for number in range(60)]
NUMBERS = [str(1000 + number) for number in range(60)]


def benchmark(kind: str, gallery: list[str], queries: int = 3) -> Benchmark:
    """Query n has image n as its reference, and the six from there on as its set."""
    return Benchmark(
        name=kind.upper(),
        split="test",
        images=[(image_id, Path(image_id)) for image_id in gallery],
        searchable=len(gallery),
        queries=tuple(
            Query(
                query_id=str(n),
                reference_id=gallery[n],
                modification_text="t",
                target_ids=(),
                subset_ids=tuple(gallery[n + 1 : n + 6]) if kind == "cirr" else (),
            )
            for n in range(queries)
        ),
        protocol=Protocol(exclude_reference=kind == "cirr", submission=kind),  # type: ignore[arg-type]
    )


CIRR, CIRCO = benchmark("cirr", NAMES), benchmark("circo", NUMBERS)


def test_cirrs_two_files_hold_50_and_3_names_and_never_the_reference() -> None:
    rankings = {str(n): NAMES[::-1] for n in range(3)}
    recall = build_submission(CIRR, "recall", rankings, NAMES).content
    assert list(recall) == ["version", "metric", "0", "1", "2"]
    assert (recall["version"], recall["metric"]) == ("rc2", "recall")
    assert recall["0"] == NAMES[::-1][:50]
    subsets = {str(n): NAMES[n + 1 : n + 6][::-1] for n in range(3)}
    subset = build_submission(CIRR, "recall_subset", subsets, NAMES).content
    assert subset["metric"] == "recall_subset"
    assert subset["2"] == ["dev-7-img0", "dev-6-img0", "dev-5-img0"]


def test_a_reference_that_was_ranked_is_left_out_of_cirrs_file_and_kept_in_circos() -> None:
    recall = build_submission(CIRR, "recall", {str(n): NAMES for n in range(3)}, NAMES)
    assert recall.content["1"] == [NAMES[0], *NAMES[2:51]]
    found = build_submission(CIRCO, "map", {str(n): NUMBERS for n in range(3)}, NUMBERS)
    assert found.content["1"] == list(range(1000, 1050))
    assert (found.filled, found.completed) == ((), ())


def test_failed_queries_are_filled_from_the_gallery_and_named() -> None:
    rankings = {"0": None, "1": NUMBERS[::-1], "2": NUMBERS[5:7]}
    submission = build_submission(CIRCO, "map", rankings, NUMBERS)
    assert submission.filled == ("0",)
    assert submission.completed == ("2",)
    assert submission.content["0"] == list(range(1000, 1050))
    assert submission.content["2"] == [1005, 1006, *range(1000, 1005), *range(1007, 1050)]
    missing = build_submission(CIRR, "recall_subset", {}, NAMES)
    assert missing.filled == ("0", "1", "2")
    assert missing.content["2"] == NAMES[3:6]


def test_a_gallery_smaller_than_the_file_asks_for_is_named_as_far_as_it_goes() -> None:
    small = benchmark("cirr", NAMES[:10])
    submission = build_submission(small, "recall", {"0": NAMES[5:8]}, NAMES[:10])
    assert submission.content["0"] == [*NAMES[5:8], *NAMES[1:5], *NAMES[8:10]]


CIRR_FILE = build_submission(CIRR, "recall", {str(n): NAMES for n in range(3)}, NAMES).content
SUBSET_FILE = build_submission(CIRR, "recall_subset", {}, NAMES).content
CIRCO_FILE = build_submission(CIRCO, "map", {}, NUMBERS).content


@pytest.mark.parametrize(
    ("of", "changes", "complaint"),
    [
        (CIRR_FILE, {"version": "rc1"}, '"version" is \'rc1\': it must be "rc2"'),
        (CIRR_FILE, {"metric": "subset"}, "\"metric\" is 'subset'"),
        (CIRR_FILE, {"0": NAMES[1:50]}, "pairid 0: 49 names instead of 50"),
        (CIRR_FILE, {"0": [*NAMES[1:50], NAMES[1]]}, "pairid 0: dev-1-img0 stands twice"),
        (CIRR_FILE, {"0": NAMES[:50]}, "pairid 0: the reference image dev-0-img0 is among"),
        (CIRR_FILE, {"0": [*NAMES[1:50], "x.png"]}, "x.png is not in the gallery (names have no"),
        (CIRR_FILE, {"0": list(range(50))}, "pairid 0: not a list of image names"),
        (CIRR_FILE, {"0": "dev"}, "pairid 0: not a list of image names"),
        (CIRR_FILE, {"7": NAMES[1:51]}, "1 keys are no queries of CIRR test: 7"),
        (CIRR_FILE, {"0": None}, "not a list"),
        (SUBSET_FILE, {"0": NAMES[1:5]}, "pairid 0: 4 names instead of 3"),
        (SUBSET_FILE, {"0": NAMES[4:7]}, "dev-6-img0 is not in the query's set"),
        (CIRCO_FILE, {"0": NUMBERS[:50]}, "query 0: '1000' is no whole number"),
        (CIRCO_FILE, {"0": [True, *range(1001, 1050)]}, "query 0: True is no whole number"),
        (CIRCO_FILE, {"0": [*range(1000, 1049), 1000]}, "query 0: 1000 stands twice"),
        (CIRCO_FILE, {"0": [*range(1000, 1049), 7]}, "query 0: 7 is not in the gallery"),
        (CIRCO_FILE, {"0": list(range(1000, 1051))}, "query 0: 51 ids instead of 50"),
        (CIRCO_FILE, {"a": list(range(1000, 1050))}, "'a' is no query id"),
    ],
)
def test_what_the_server_would_refuse_is_named(
    of: dict[str, Any], changes: dict[str, Any], complaint: str
) -> None:
    split, gallery = (CIRR, NAMES) if "version" in of else (CIRCO, NUMBERS)
    assert check_content(of, split, gallery) == ()
    found = check_content({**of, **changes}, split, gallery)
    assert any(complaint in problem for problem in found), found


def test_missing_queries_are_counted_and_the_first_named() -> None:
    many = benchmark("circo", NUMBERS, queries=40)
    assert check_content({"3": list(range(1000, 1050))}, many, NUMBERS) == (
        "39 of 40 queries are missing: 0, 1, 2, 4, 5, ...",
    )


def test_a_file_for_the_other_server_is_recognised() -> None:
    assert check_content(CIRCO_FILE, CIRR, NAMES) == (
        "it has the form of a file for CIRCO, not for CIRR",
    )


def test_a_file_is_checked_by_its_form_alone_where_the_split_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(CIRCO_FILE))
    checked = check_file(path)
    assert (checked.kind, checked.metric, checked.queries) == ("circo", "map", 3)
    assert checked.problems == ()
    path.write_text('{"0": [1, 2], "0": [3]}')
    assert check_file(path).problems == ("'0' stands twice", "query 0: 1 ids instead of 50")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"[1]", "must be an object"), (b"{", "no JSON"), (b"\xff\xfe{}", "no JSON")],
)
def test_what_is_no_json_object_is_an_error_that_names_the_file(
    content: bytes, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"mine.json .*{complaint}"):
        check_file(path)
    with pytest.raises(ConfigurationError, match=r"absent.json can't be read"):
        check_file(tmp_path / "absent.json")


def test_a_file_that_would_be_refused_is_never_built_and_the_list_of_reasons_is_bounded() -> None:
    numbers = [*NUMBERS[:59], "1000"]
    with pytest.raises(SubmissionProblems, match="the server would refuse") as refused:
        build_submission(CIRCO, "map", {"0": ["99", *NUMBERS]}, numbers)
    assert refused.value.problems == ("query 0: 99 is not in the gallery",)
    assert shown(("a",) * 30).splitlines()[-1] == "... and 10 more"
    broken: dict[str, Any] = {str(n): [] for n in range(5000)}
    assert len(check_content(broken)) == 1000
