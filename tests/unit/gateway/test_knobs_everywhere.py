"""One definition of the knobs: the API's schema, the command line's options, the documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer.main

from gateway.app import create_app
from gateway.cli import app, run
from gateway.commands import benchmarks
from gateway.commands.knob_options import given
from gateway.records import BenchmarkView
from gateway.redis_client import gateway_redis
from shared.errors import ConfigurationError
from shared.knob_descriptions import describe_knobs, with_table
from shared.knobs import Knobs, from_mapping, to_mapping
from shared.settings import Settings
from tests.unit.gateway.fakes import Api

ROOT = Path(__file__).resolve().parents[3]


async def test_the_api_describes_every_knob_with_type_bounds_default_and_help(api: Api) -> None:
    schema = (await api.http.get("/openapi.json")).json()
    knobs = schema["components"]["schemas"]["BenchmarkRequest"]["properties"]["knobs"]
    assert set(knobs["properties"]) == set(Knobs.__struct_fields__)
    assert knobs["additionalProperties"] is False
    defaults = json.loads(json.dumps(to_mapping(Knobs())))
    for name, described in knobs["properties"].items():
        assert described["description"]
        assert described.get("default") == defaults[name]  # null is "not given"
    assert knobs["properties"]["rrf_k"]["minimum"] == 1
    assert knobs["properties"]["text_weight"]["maximum"] == 1
    assert set(knobs["properties"]["fusion"]["enum"]) == {"rrf", "sum", "interleave", "none"}


def test_the_command_line_has_an_option_for_every_knob() -> None:
    bench = typer.main.get_command(app).commands["bench"]  # type: ignore[attr-defined]
    options = {name: option for option in bench.params for name in option.opts}
    for knob in describe_knobs():
        assert f"--{knob.option}" in options
        assert knob.help in (options[f"--{knob.option}"].help or "")


class FakeClient:
    """Takes one submission and shows it as finished."""

    def __init__(self) -> None:
        self.submitted: dict[str, Any] = {}

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def submit(self, dataset: str, split: str, **request: Any) -> BenchmarkView:
        self.submitted = request
        return BenchmarkView(id="r", dataset=dataset, split=split, name="", state="finished")


def test_options_given_are_sent_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeClient()
    monkeypatch.setattr(benchmarks, "connect", lambda _url: client)
    line = (
        "bench --dataset demo --no-wait --knob rrf_k=10 --rrf-k 60 --text-weight 0.2"
        " --stages coarse,verify --record-lists v1.visual --no-imagine-text --llm a/b --seed 7"
        " --restore other --skip-stages 2"
    )
    assert run(line.split()) == 0
    assert client.submitted["knobs"] == {
        "rrf_k": 60, "text_weight": 0.2, "stages": ["coarse", "verify"],
        "record_lists": ["v1.visual"], "imagine_text": False, "llm": "a/b", "seed": 7,
    }  # fmt: skip
    assert (client.submitted["restore"], client.submitted["skip_stages"]) == ("other", 2)
    from_mapping(client.submitted["knobs"])
    assert given({"top_k": None, "record_lists": ""}) == {"record_lists": []}


@pytest.mark.parametrize(
    ("option", "words"),
    [("--rrf-k 0", "--rrf-k"), ("--text-weight 1.5", "--text-weight"), ("--top-k x", "--top-k")],
)
def test_bounds_are_checked_before_anything_is_sent(
    option: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "--dataset", "demo", *option.split()]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"topk": 5}, ["no knob 'topk'", "did you mean top_k"]),
        ({"fusion": "borda"}, ["fusion is 'borda'", "rrf, sum, interleave, none"]),
        ({"rrf_k": 0}, ["rrf_k is 0", ">= 1"]),
        ({"stages": ["verify"]}, ["stages is"]),
    ],
)
async def test_a_wrong_knob_is_422_and_named(
    knobs: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, data_root=tmp_path / "nowhere")
    transport = httpx.ASGITransport(app=create_app(settings, gateway_redis(settings)))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        body = {"dataset": "demo", "split": "val", "knobs": knobs}
        response = await http.post("/v1/benchmarks", json=body)
    assert response.status_code == 422
    for word in words:
        assert word in response.json()["detail"]


def test_the_documented_table_of_knobs_is_up_to_date() -> None:
    document = (ROOT / "docs/settings.md").read_text()
    assert with_table(document) == document, "run `make docs-settings`"
    with pytest.raises(ConfigurationError, match="no lines"):
        with_table("# Settings")
