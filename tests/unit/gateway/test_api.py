"""The HTTP API over fakes: what it answers when all is well."""

from __future__ import annotations

from gateway.records import PhaseProgress
from tests.unit.gateway.fakes import Api


async def submit(api: Api) -> str:
    response = await api.http.post("/v1/benchmarks", json={"dataset": "demo", "split": "val"})
    benchmark_id: str = response.json()["id"]
    return benchmark_id


async def test_a_submission_is_accepted_with_its_id_and_where_to_watch_it(api: Api) -> None:
    body = {"dataset": "demo", "split": "val", "name": "mine", "knobs": {"top_k": 5}, "limit": 3}
    response = await api.http.post("/v1/benchmarks", json=body)
    assert response.status_code == 202
    assert response.json()["state"] == "queued"
    assert response.headers["location"] == f"/v1/benchmarks/{response.json()['id']}"
    watched = await api.http.get(response.headers["location"])
    assert watched.json() == response.json()


async def test_runs_are_listed_newest_first(api: Api) -> None:
    first, second = await submit(api), await submit(api)
    response = await api.http.get("/v1/benchmarks")
    assert [run["id"] for run in response.json()["benchmarks"]] == [second, first]


async def test_progress_is_shown_by_phase(api: Api) -> None:
    benchmark_id = await submit(api)
    phase = PhaseProgress(phase="queries", done=2, total=9, failed=1, rate_per_s=1.5)
    running = api.benchmarks.runs[benchmark_id].model_copy(
        update={"state": "running", "phase": "queries", "progress": [phase]}
    )
    api.benchmarks.runs[benchmark_id] = running
    response = await api.http.get(f"/v1/benchmarks/{benchmark_id}")
    assert response.json()["progress"] == [phase.model_dump()]


async def test_a_finished_run_offers_its_files(api: Api) -> None:
    # Given a finished run with its files in the runs folder
    benchmark_id = await submit(api)
    folder = api.settings.runs_folder / "demo_val" / "clip-run"
    folder.mkdir(parents=True)
    contents = {"predictions.jsonl": "{}\n", "manifest.json": "{}", "metrics.txt": "Recall@1  50\n"}
    for name, text in contents.items():
        (folder / name).write_text(text)
    api.benchmarks.runs[benchmark_id] = api.benchmarks.runs[benchmark_id].model_copy(
        update={"state": "finished", "run_folder": str(folder)}
    )
    # Then each is downloaded as it is
    for kind, name in (
        ("predictions", "predictions.jsonl"),
        ("manifest", "manifest.json"),
        ("metrics-table", "metrics.txt"),
    ):
        response = await api.http.get(f"/v1/benchmarks/{benchmark_id}/{kind}")
        assert response.status_code == 200
        assert response.text == contents[name]


async def test_no_file_outside_the_runs_folder_is_served(api: Api) -> None:
    benchmark_id = await submit(api)
    outside = api.settings.home / "elsewhere"
    outside.mkdir()
    (outside / "manifest.json").write_text("{}")
    api.benchmarks.runs[benchmark_id] = api.benchmarks.runs[benchmark_id].model_copy(
        update={"state": "finished", "run_folder": str(outside)}
    )
    response = await api.http.get(f"/v1/benchmarks/{benchmark_id}/manifest")
    assert response.status_code == 404


async def test_cancelling_stops_a_run_and_leaves_a_finished_one(api: Api) -> None:
    running, finished = await submit(api), await submit(api)
    api.benchmarks.runs[finished] = api.benchmarks.runs[finished].model_copy(
        update={"state": "finished"}
    )
    assert (await api.http.delete(f"/v1/benchmarks/{running}")).json()["state"] == "cancelled"
    assert (await api.http.delete(f"/v1/benchmarks/{finished}")).json()["state"] == "finished"


async def test_a_cancelled_run_is_taken_up_again_and_a_queued_one_is_not(api: Api) -> None:
    benchmark_id = await submit(api)
    refused = await api.http.post(f"/v1/benchmarks/{benchmark_id}/resume")
    assert refused.status_code == 409
    await api.http.delete(f"/v1/benchmarks/{benchmark_id}")
    resumed = await api.http.post(f"/v1/benchmarks/{benchmark_id}/resume")
    assert resumed.json()["state"] == "queued"


async def test_the_same_idempotency_key_gives_the_same_run(api: Api) -> None:
    ids = []
    for key in ("a", "a", "b"):
        body = {"dataset": "demo", "split": "val"}
        headers = {"Idempotency-Key": key}
        response = await api.http.post("/v1/benchmarks", json=body, headers=headers)
        ids.append(response.json()["id"])
    assert ids[0] == ids[1] != ids[2]


async def test_ready_means_every_agent_has_a_worker(api: Api) -> None:
    assert (await api.http.get("/readyz")).status_code == 200
    api.board.views[1] = api.board.views[1].model_copy(update={"workers": [], "details": []})
    response = await api.http.get("/readyz")
    assert response.status_code == 503
    assert response.json() == {
        "ready": False,
        "reasons": ["no similarity agent is up"],
        "redis": True,
        "draining": False,
        "coordinators": 1,
        "agents": {"imagination": 1, "similarity": 0, "question": 1},
    }


async def test_without_a_living_coordinator_benchmarks_would_not_run(api: Api) -> None:
    api.benchmarks.coordinators_now = []
    response = await api.http.get("/readyz")
    assert response.status_code == 503
    assert response.json()["reasons"] == ["no coordinator is up"]


async def test_an_agent_whose_models_are_stuck_is_not_ready(api: Api) -> None:
    view = api.board.views[2]
    stuck = view.details[0].model_copy(update={"ready": False})
    api.board.views[2] = view.model_copy(update={"details": [stuck]})
    response = await api.http.get("/readyz")
    assert response.status_code == 503
    assert response.json()["reasons"] == [
        "no question agent is ready: nothing passes through its model"
    ]


async def test_a_gateway_that_was_told_to_stop_is_red_and_still_answers(api: Api) -> None:
    api.services.draining.set()
    response = await api.http.get("/readyz")
    assert response.status_code == 503
    assert response.json()["draining"] is True
    assert "told to stop" in response.json()["reasons"][0]
    body = {"dataset": "demo", "split": "val"}
    assert (await api.http.post("/v1/benchmarks", json=body)).status_code == 202
    assert "xr_draining 1.0" in (await api.http.get("/metrics")).text


async def test_a_dead_letter_is_listed_and_queued_again(api: Api) -> None:
    listed = await api.http.get("/v1/agents/question/dead-letters")
    assert [letter["entry_id"] for letter in listed.json()["dead_letters"]] == ["1-0"]
    left = await api.http.post("/v1/agents/question/dead-letters/1-0/retry")
    assert left.status_code == 202
    assert left.json()["dead_letters"] == []
    again = await api.http.post("/v1/agents/question/dead-letters/1-0/retry")
    assert again.status_code == 404


async def test_all_dead_letters_of_an_agent_are_queued_again_at_once(api: Api) -> None:
    letter = api.board.letters["question"][0]
    api.board.letters["question"] = [
        letter.model_copy(update={"entry_id": f"{n}-0"}) for n in range(3)
    ]
    left = await api.http.post("/v1/agents/question/dead-letters/retry")
    assert (left.status_code, left.json()["dead_letters"]) == (202, [])


async def test_a_search_is_passed_on_and_its_answer_back(api: Api) -> None:
    body = {"gallery": "g", "reference_image_id": "3", "modification_text": "red", "k": 5}
    found = await api.http.post("/v1/search", json=body)
    assert found.status_code == 200
    assert found.json()["hits"][0]["image_id"] == "7"
    assert found.json()["propositions"] == [{"question": "is the cup red?", "expected": True}]
    assert (api.searches.asked[0].k, api.searches.asked[0].timeout_s) == (5, 60.0)
    assert (await api.http.post("/v1/search", json={"gallery": "g"})).status_code == 422


async def test_metrics_tell_queues_runs_and_requests(api: Api) -> None:
    benchmark_id = await submit(api)
    await api.http.get(f"/v1/benchmarks/{benchmark_id}")
    text = (await api.http.get("/metrics")).text
    assert 'xr_queue_depth{agent="question"} 4.0' in text
    assert 'xr_queue_lag{agent="question"} 3.0' in text
    assert 'xr_queue_pending{agent="question"} 1.0' in text
    assert 'xr_agent_workers{agent="similarity"} 1.0' in text
    assert 'xr_queue_oldest_age_seconds{agent="question"} 1.5' in text
    assert 'xr_agent_busy_share{agent="question",worker="question-1"} 0.5' in text
    assert 'xr_agent_batch_fill{agent="question",worker="question-1"} 0.25' in text
    assert 'xr_agent_redelivered_total{agent="question",worker="question-1"} 2.0' in text
    assert 'xr_agent_retried_total{agent="question",worker="question-1"} 1.0' in text
    assert 'xr_agent_cache_hits_total{cache="texts",worker="question-1"} 6.0' in text
    assert 'xr_agent_cache_misses_total{cache="texts",worker="question-1"} 4.0' in text
    assert 'xr_benchmark_jobs{state="waiting"} 2.0' in text
    assert 'xr_coordinator_heartbeat_age_seconds{coordinator="c-1"} 1.5' in text
    assert 'xr_runs{state="queued"} 1.0' in text
    assert "xr_redis_up 1.0" in text
    # the template, not the path: ids would make a series each
    route = "/v1/benchmarks/{benchmark_id}"
    assert f'xr_http_requests_total{{method="GET",route="{route}",status="200"}} 1.0' in text


async def test_the_description_names_every_operation(api: Api) -> None:
    paths = (await api.http.get("/openapi.json")).json()["paths"]
    described = {(method, path) for path, methods in paths.items() for method in methods}
    run, dead = "/v1/benchmarks/{benchmark_id}", "/v1/agents/{agent}/dead-letters"
    gallery = "/v1/galleries/{key}"
    assert described == {
        ("get", f"{gallery}/versions"),
        ("post", f"{gallery}/refresh"),
        ("post", f"{gallery}/images"),
        ("post", f"{gallery}/removals"),
        ("delete", f"{gallery}/images/{{image_id}}"),
        ("get", "/livez"),
        ("get", "/readyz"),
        ("get", "/metrics"),
        ("post", "/v1/benchmarks"),
        ("get", "/v1/benchmarks"),
        ("get", run),
        ("delete", run),
        ("post", f"{run}/resume"),
        ("get", f"{run}/predictions"),
        ("get", f"{run}/report"),
        ("get", f"{run}/manifest"),
        ("get", f"{run}/metrics-table"),
        ("get", f"{run}/submissions"),
        ("get", f"{run}/submissions/{{name}}"),
        ("get", "/v1/agents"),
        ("get", dead),
        ("post", f"{dead}/retry"),
        ("post", f"{dead}/{{entry_id}}/retry"),
        ("post", "/v1/search"),
        ("post", "/v1/search/stream"),
        ("post", "/v1/uploads"),
        ("get", "/v1/uploads/{upload_id}"),
        ("get", f"{run}/events"),
        ("get", f"{run}/queries"),
        ("get", f"{run}/queries/{{query_id}}"),
        ("get", "/v1/runs"),
        ("get", "/v1/runs/{run_id}"),
        ("get", "/v1/runs/{run_id}/comparison/{other_id}"),
        ("get", "/v1/galleries"),
        ("post", "/v1/galleries"),
        ("get", gallery),
        ("delete", gallery),
        ("get", f"{gallery}/fields"),
        ("get", f"{gallery}/images"),
        ("get", f"{gallery}/images/{{image_id}}"),
        ("get", "/v1/system"),
        ("get", "/v1/profiles"),
        ("get", "/v1/knobs"),
    }


async def test_a_search_too_many_is_refused_before_anything_of_it_is_read(api: Api) -> None:
    api.searches.full = True
    for path in ("/v1/search", "/v1/search/stream"):
        answer = await api.http.post(path, content=b"this is no JSON")
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["type"] == "urn:xr:problem:too-many-searches"
    assert api.searches.asked == []
    assert (await api.http.get("/v1/benchmarks")).status_code == 200
