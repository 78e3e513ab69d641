"""The password of Redis from a mounted secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.settings import load_settings


def url(redis_url: str, password: str, folder: Path) -> str:
    (folder / "secret").write_text(password)
    given = {"XR_REDIS_URL": redis_url, "XR_REDIS_PASSWORD_FILE": str(folder / "secret")}
    return load_settings(given).redis_url


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("redis://redis:6379/0", "redis://:p%2F%40ss@redis:6379/0"),
        ("redis://xr@redis:6379/0", "redis://xr:p%2F%40ss@redis:6379/0"),
        ("rediss://:old@redis:6379/0", "rediss://:p%2F%40ss@redis:6379/0"),
    ],
)
def test_the_password_of_the_file_becomes_that_of_the_url(
    before: str, after: str, tmp_path: Path
) -> None:
    assert url(before, "p/@ss\n", tmp_path) == after


def test_it_is_not_printed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush")
    given = {"XR_REDIS_PASSWORD_FILE": str(tmp_path / "secret")}
    settings = load_settings(given)
    assert "hush" in settings.redis_url
    assert "hush" not in repr(settings)


def test_a_missing_or_empty_file_is_told_with_what_to_do(tmp_path: Path) -> None:
    missing = {"XR_REDIS_PASSWORD_FILE": str(tmp_path / "none")}
    with pytest.raises(ConfigurationError, match=r"none cannot be read.*make secrets"):
        load_settings(missing)
    with pytest.raises(ConfigurationError, match=r"is empty.*make secrets"):
        url("redis://redis", " \n", tmp_path)
