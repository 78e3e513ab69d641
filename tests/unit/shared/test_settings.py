"""Settings come from XR_* variables, are checked once, and are printed without secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.settings import Settings, load_settings


def test_without_variables_every_setting_has_its_default() -> None:
    settings = load_settings({})
    assert settings.window == 32
    assert settings.redis_url == "redis://127.0.0.1:6379/0"


def test_variables_are_read_by_name_and_converted() -> None:
    settings = load_settings(
        {
            "XR_WINDOW": "8",
            "XR_LEASE_S": "2.5",
            "XR_PROFILE": "paper",
            "XR_HOME": "/data/xr",
            "UNRELATED": "x",
        }
    )
    assert (settings.window, settings.lease_s, settings.profile) == (8, 2.5, "paper")
    assert settings.home == Path("/data/xr")
    assert settings.runs_folder == Path("/data/xr/runs")
    assert settings.galleries_folder == Path("/data/xr/galleries")
    assert settings.image_db_folder == Path("/data/xr/image_db")


def test_folders_are_absolute_whatever_is_given() -> None:
    settings = load_settings({"XR_HOME": "here"})
    assert settings.home == Path("here").absolute()
    assert settings.data_root.is_absolute()


def test_the_environment_is_read_when_nothing_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XR_SEED", "7")
    assert load_settings().seed == 7


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("XR_WINDOW", "many", "window"),
        ("XR_WINDOW", "0", "XR_WINDOW must be at least 1"),
        ("XR_QUEUE_LIMIT", "-1", "XR_QUEUE_LIMIT must be at least 1"),
        ("XR_LEASE_S", "long", "lease_s"),
        *(
            (name, value, f"{name} must be above 0")
            for name in (
                "XR_LEASE_S",
                "XR_ASK_TIMEOUT_S",
                "XR_ENGINE_TIMEOUT_S",
            )
            for value in ("0", "-1", "nan", "inf")
        ),
        ("XR_MAX_DELIVERIES", "0", "XR_MAX_DELIVERIES must be at least 1"),
        ("XR_MODEL_THREADS", "0", "XR_MODEL_THREADS must be at least 1"),
        ("XR_MAX_WAIT_MS", "-0.1", "XR_MAX_WAIT_MS must be 0 to"),
        ("XR_GRACE_S", "nan", "XR_GRACE_S must be 0 to"),
        ("XR_CANARY_S", "-5", "XR_CANARY_S must be 0 to"),
        ("XR_GATEWAY_PORT", "0", "XR_GATEWAY_PORT must be 1 to 65535"),
        ("XR_HEALTH_PORT", "65536", "XR_HEALTH_PORT must be 0 to 65535"),
        ("XR_LOG_LEVEL", "loud", "debug, info, warning or error"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        load_settings({name: value})


@pytest.mark.parametrize(
    "url", ["redis://user:hunter2@redis:6379/0", "rediss://:hunter2@redis", "unix://:hunter2@/sock"]
)
def test_credentials_are_masked_when_settings_are_printed(url: str) -> None:
    shown = Settings(redis_url=url, gateway_url="http://me:hunter2@host:80/").masked()
    assert "hunter2" not in str(shown)
    assert shown["redis_url"] == url.split("://")[0] + "://***@" + url.split("@")[1]
    assert shown["gateway_url"] == "http://***@host:80/"


def test_every_field_is_described_in_the_docstring() -> None:
    documented = Settings.__doc__ or ""
    missing = [name for name in Settings.__struct_fields__ if name not in documented]
    assert missing == []


def test_some_settings_are_known_by_the_names_of_other_programs() -> None:
    assert load_settings({}).seed == 42
    assert load_settings({"xr_SEED": "7"}).seed == 7
    assert load_settings({"xr_SEED": "7", "XR_SEED": "8"}).seed == 8
    assert load_settings({"DEFAULT_MLLM_PATH": "a/b"}).default_mllm_path == "a/b"
    assert load_settings({"XR_EVALUATOR": "c/d@main"}).evaluator == "c/d@main"
