"""The queries of a run one by one: their ranks by stage, their order, and the evidence of one."""

from __future__ import annotations

import pytest

from broker.run_queries import QueryRanks, RunQueries, in_order, query_evidence, run_queries
from broker.run_report import report_run
from broker.run_store import STATES, RunRequest, create_run, read_states, run_folder
from broker.stages import rankings_by_stage
from shared.errors import ConfigurationError
from shared.galleries import open_gallery
from shared.knobs import resolve
from shared.settings import Settings
from tests.miniatures.composed import write_circo
from tests.unit.broker.finished_runs import finish_run

KNOBS = {"top_k": 8, "num_questions": 2}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("queries")
    write_circo(home / "data")
    return Settings(home=home / "home", data_root=home / "data")


@pytest.fixture(scope="module")
def run(settings: Settings) -> str:
    return finish_run(settings, "circo", "val", KNOBS)


def test_every_query_is_there_in_the_data_sets_order_with_its_ranks(
    settings: Settings, run: str
) -> None:
    found = run_queries(settings, run)
    assert [query.query_id for query in found.queries] == [str(n) for n in range(6)]
    assert found.final_stage == "verified"
    assert found.stages[-2:] == ("coarse", "verified")
    gallery = open_gallery(settings.galleries_folder, found.gallery)
    states = read_states(settings.runs_folder, run)
    for query in found.queries:
        rows = {gallery.row_of(target) for target in query.target_image_ids}
        rankings = rankings_by_stage(states[query.query_id], resolve(KNOBS, {}, settings.seed))
        best = min(list(rankings["verified"]).index(row) for row in rows) + 1
        assert query.ranks["verified"] == best
        assert query.status == "ok"


def test_a_failed_query_is_listed_with_its_reason(settings: Settings, run: str) -> None:
    text = run_queries(settings, run).queries[2].modification_text
    failing = finish_run(settings, "circo", "val", KNOBS, refused_text=text)
    failed = run_queries(settings, failing).queries[2]
    assert (failed.status, failed.ranks) == ("failed", {})
    assert "refuses" in failed.reason
    with pytest.raises(ConfigurationError, match=r"query '2' of run .* failed: .*refuses"):
        query_evidence(settings, failing, "2")
    # it counts as worse than any query with a rank
    assert in_order(run_queries(settings, failing), "hardest")[0].query_id == "2"


def test_the_table_is_kept_until_the_states_change(settings: Settings, run: str) -> None:
    first = run_queries(settings, run)
    assert run_queries(settings, run) is first
    path = run_folder(settings.runs_folder, run) / STATES
    path.write_bytes(path.read_bytes()[:-5])  # as if the last record were being written
    again = run_queries(settings, run)
    assert again is not first
    assert [query.status for query in again.queries].count("missing") == 1


def test_evidence_of_one_query_has_its_targets_and_stages(settings: Settings) -> None:
    run = finish_run(settings, "circo", "val", KNOBS)
    ranks = {query.query_id: query.ranks for query in run_queries(settings, run).queries}
    found = query_evidence(settings, run, "2", k=4)
    assert len(found.hits) == 4
    assert len(found.targets) == 3
    best = min(target.ranks["verified"] or 999 for target in found.targets)
    assert best == ranks["2"]["verified"]
    assert found.stages["verified"][:4] == [hit.image_id for hit in found.hits]
    assert found.imagination.reference_caption.startswith("caption ")
    with pytest.raises(ConfigurationError, match="has no answer to a query 'x'"):
        query_evidence(settings, run, "x")


def test_a_run_that_has_asked_nothing_says_so(settings: Settings) -> None:
    queued = create_run(settings.runs_folder, RunRequest(dataset="circo", split="val"), "vit")
    with pytest.raises(ConfigurationError, match="has asked no query yet"):
        run_queries(settings, queued)


def ranked(query_id: str, coarse: int | None, verified: int | None) -> QueryRanks:
    return QueryRanks(
        query_id=query_id, status="ok", target_image_ids=("t",),
        ranks={"coarse": coarse, "verified": verified},
    )  # fmt: skip


TABLE = RunQueries(
    gallery="g",
    stages=("coarse", "verified"),
    final_stage="verified",
    queries=(
        ranked("same", 4, 4),
        ranked("won", 9, 1),
        ranked("lost", 2, 7),
        ranked("gone", 3, None),
        ranked("also-same", 4, 4),
        QueryRanks(query_id="no-target", status="ok"),
    ),
)


@pytest.mark.parametrize(
    ("order", "stage", "expected"),
    [
        ("dataset", "", ["same", "won", "lost", "gone", "also-same", "no-target"]),
        ("hardest", "", ["gone", "lost", "same", "also-same", "won"]),
        ("hardest", "coarse", ["won", "same", "also-same", "gone", "lost"]),
        ("gained", "", ["won"]),
        ("lost", "", ["gone", "lost"]),
        ("gained", "coarse", []),
    ],
)
def test_orders_look_at_a_stage_and_keep_ties(order: str, stage: str, expected: list[str]) -> None:
    found = in_order(TABLE, order, stage)  # type: ignore[arg-type]
    assert [query.query_id for query in found] == expected


def test_an_unknown_stage_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match="no stage 'lunch'; there are coarse, verified"):
        in_order(TABLE, "hardest", "lunch")


def test_the_report_and_the_table_agree(settings: Settings) -> None:
    run = finish_run(settings, "circo", "val", KNOBS)
    table = {
        query.query_id: query.ranks["verified"] for query in run_queries(settings, run).queries
    }
    for query in report_run(settings, run).hardest:
        # the report looks at the target recall looks at, the table at the best of all targets
        assert (table[query.query_id] or 999) <= (query.ranks["verified"] or 999)
