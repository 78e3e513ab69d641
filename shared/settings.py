"""The settings of every service, read once at start from the environment (`XR_*`)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from shared.errors import ConfigurationError

_OTHER_NAMES = {"seed": "xr_SEED", "default_mllm_path": "DEFAULT_MLLM_PATH"}
"""Names some settings have in other programs of the field; XR_<FIELD> counts before them."""
_COUNTS = (
    *("window", "verify_chunk", "ask_attempts", "queue_limit", "max_batch", "max_deliveries"),
    *("max_pixels", "model_threads", "search_limit", "max_upload_mb", "rank_memory_mb"),
)
_DURATIONS = ("ask_timeout_s", "lease_s", "engine_timeout_s")
_LONGEST = 1e6
_SECRETS = re.compile(
    r"(?<=://)\S*(?=@)|(?<=[?&]password=)[^&\s]*|(?<=[?&]username=)[^&\s]*", re.IGNORECASE
)
"""Up to the last @: a password may hold a slash or an @ that nobody has escaped."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings common to all services; each field is the environment variable XR_<FIELD>.

    Attributes:
        redis_url: where the bus and RQ live.
        redis_password_file: file that holds the password of redis_url; empty = the URL has all.
        home: folder of everything the services write: image_db/, runs/, galleries/,
            prompts/.
        data_root: folder of the data sets.
        profile: name of a shipped profile or path of a profile file (TOML).
        gateway_url: where clients find the gateway.
        gateway_host, gateway_port: where the gateway listens.
        search_limit: searches under way in one gateway; more are refused with 429.
        api_keys: "required", "off", or "auto": required where others than this machine can reach
            the gateway.
        rate_limit_per_s: requests a second of one API key (of one address where keys are off) that
            all gateways of one Redis take together; 0 = any number.
        max_upload_mb: the largest gallery that is uploaded at once, also when unpacked.
        cors_origins: origins whose pages may use the API, with commas between; empty = none.
        window: queries in flight per coordinator.
        verify_chunk: candidates per verification message.
        route_images: with several question workers, each is asked about images of its own.
        ask_timeout_s: after this long without an answer the coordinator asks again.
        ask_attempts: how often it asks before the query is recorded as failed.
        queue_limit: messages one stream may hold; senders wait beyond it.
        max_batch: messages an agent takes at once.
        max_wait_ms: how long an agent waits for its batch to fill.
        lease_s: an agent's claim on a message lapses this long after its last renewal.
        max_deliveries: a message delivered this often without an answer is a dead letter.
        engine_timeout_s: a batch that is longer in the model ends its agent process; its messages
            are delivered again, each alone.
        grace_s: after SIGTERM an agent finishes its batch so long, then hands it back; a gateway
            finishes its requests.
        drain_s: after SIGTERM a gateway takes requests so much longer, its /readyz being red.
        canary_s: an agent that was idle so long sends a canary item through its models; 0 = never.
        health_port: where agents and coordinators answer /livez, /readyz and /metrics; 0 = nowhere.
        max_pixels: images of more pixels are refused before they are decoded.
        model_threads: threads of one agent process's engine.
        rank_device: where galleries are ranked: "numpy" (on the CPU, block by block), a device of
            torch ("cuda", "cuda:1", "cpu") that holds their embeddings, or "auto": the CLIP's
            device where that is a GPU, else numpy.
        rank_memory_mb: embeddings held on rank_device; what is larger is ranked on the CPU.
        qdrant_url: where Qdrant is, for galleries that are ranked by it; empty = nowhere.
        qdrant_api_key_file: file that holds its API key; empty = it asks for none.
        answer_cache: where answers given before are kept: "disk" (in home), the URL of a Redis,
            both with a comma between, or "off".
        worker_name: name of this process in replies and logs; empty = host-pid.
        log_level: debug, info, warning or error.
        otlp_endpoint: where OpenTelemetry traces go (OTLP over HTTP); empty = no traces are made.
        seed: seed of everything drawn at random; the default of the knob of that name.
        llm, mllm, captioner, evaluator, clip: the model of a role ("checkpoint" or
            "checkpoint@revision") where the profile leaves its checkpoint open.
        default_mllm_path: the model of every role but the CLIP that has no setting of its own.
    """

    redis_url: str = "redis://127.0.0.1:6379/0"
    redis_password_file: str = ""
    home: Path = Path(".xr")
    data_root: Path = Path(".xr/data")
    profile: str = "demo"
    gateway_url: str = "http://127.0.0.1:8000"
    gateway_host: str = "127.0.0.1"
    gateway_port: int = 8000
    search_limit: int = 64
    api_keys: str = "auto"
    rate_limit_per_s: float = 0.0
    max_upload_mb: int = 1000
    cors_origins: str = ""
    window: int = 32
    verify_chunk: int = 25
    route_images: bool = True
    ask_timeout_s: float = 120.0
    ask_attempts: int = 5
    queue_limit: int = 10_000
    max_batch: int = 32
    max_wait_ms: float = 5.0
    lease_s: float = 15.0
    max_deliveries: int = 3
    engine_timeout_s: float = 300.0
    grace_s: float = 25.0
    drain_s: float = 3.0
    canary_s: float = 60.0
    health_port: int = 0
    max_pixels: int = 100_000_000
    model_threads: int = 1
    rank_device: str = "auto"
    rank_memory_mb: int = 4000
    qdrant_url: str = ""
    qdrant_api_key_file: str = ""
    answer_cache: str = "disk"
    worker_name: str = ""
    log_level: str = "info"
    otlp_endpoint: str = ""
    seed: int = 42
    llm: str = ""
    mllm: str = ""
    captioner: str = ""
    evaluator: str = ""
    clip: str = ""
    default_mllm_path: str = ""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ConfigurationError(f"XR_{name.upper()} must be at least 1")
        for name in _DURATIONS:
            if not 0 < getattr(self, name) <= _LONGEST:
                raise ConfigurationError(
                    f"XR_{name.upper()} must be above 0 and at most {_LONGEST:g}"
                )
        for name in ("max_wait_ms", "grace_s", "drain_s", "canary_s", "rate_limit_per_s"):
            if not 0 <= getattr(self, name) <= _LONGEST:
                raise ConfigurationError(f"XR_{name.upper()} must be 0 to {_LONGEST:g}")
        for name, lowest in (("gateway_port", 1), ("health_port", 0)):
            if not lowest <= getattr(self, name) <= 65535:
                raise ConfigurationError(f"XR_{name.upper()} must be {lowest} to 65535")
        if self.api_keys not in ("auto", "required", "off"):
            raise ConfigurationError(f"XR_API_KEYS is {self.api_keys!r}: use auto, required or off")
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise ConfigurationError(
                f"XR_LOG_LEVEL is {self.log_level!r}: use debug, info, warning or error"
            )

    def masked(self) -> dict[str, Any]:
        """The settings for printing: credentials in URLs replaced by ***."""
        shown = msgspec.to_builtins(self, enc_hook=str)
        return {
            name: mask_secrets(value) if isinstance(value, str) else value
            for name, value in shown.items()
        }

    def __repr__(self) -> str:
        return f"Settings({self.masked()})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return list(self.masked().items())

    @property
    def image_db_folder(self) -> Path:
        return self.home / "image_db"

    @property
    def galleries_folder(self) -> Path:
        return self.home / "galleries"

    @property
    def reference_images_folder(self) -> Path:
        return self.home / "reference_images"

    @property
    def thumbnails_folder(self) -> Path:
        return self.home / "thumbnails"

    @property
    def uploaded_galleries_folder(self) -> Path:
        return self.home / "uploaded_galleries"

    @property
    def named_galleries_folder(self) -> Path:
        return self.home / "named_galleries"

    @property
    def runs_folder(self) -> Path:
        return self.home / "runs"

    @property
    def prompts_folder(self) -> Path:
        return self.home / "prompts"


def mask_secrets(text: str) -> str:
    """`text` with the credentials of URLs in it replaced by ***."""
    return _SECRETS.sub("***", text)


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from XR_* variables; paths are made absolute.

    Raises: ConfigurationError: a value has the wrong type or is out of range.
    """
    environment = os.environ if environment is None else environment
    given = {
        field: environment[name]
        for field in Settings.__struct_fields__
        for name in (_OTHER_NAMES.get(field, ""), f"XR_{field.upper()}")  # the last one counts
        if name in environment
    }
    try:
        settings = msgspec.convert(
            given, Settings, strict=False, dec_hook=lambda kind, value: kind(value)
        )
    except msgspec.ValidationError as error:
        cause = error.__cause__
        if isinstance(cause, ConfigurationError):
            raise cause from error
        raise ConfigurationError(f"settings: {error}") from error
    return msgspec.structs.replace(
        settings,
        home=settings.home.absolute(),
        data_root=settings.data_root.absolute(),
        redis_url=_with_password(settings.redis_url, settings.redis_password_file),
    )


def _with_password(redis_url: str, password_file: str) -> str:
    """The URL with the file's content as its password; a user in the URL stays.

    Raises: ConfigurationError: the file is missing, empty, or not readable for this user.
    """
    if not password_file:
        return redis_url
    try:
        password = Path(password_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise ConfigurationError(
            f"XR_REDIS_PASSWORD_FILE: {password_file} cannot be read ({reason}). Make it with"
            f" `make secrets`; it must be readable for user {os.getuid()} (mode 0444)"
        ) from None
    if not password:
        raise ConfigurationError(
            f"XR_REDIS_PASSWORD_FILE: {password_file} is empty. Put one line with the password of"
            " Redis into it, or make it with `make secrets`"
        )
    scheme, separator, rest = redis_url.partition("://")
    user = rest.rpartition("@")[0].partition(":")[0]
    return f"{scheme}{separator}{user}:{quote(password, safe='')}@{rest.rpartition('@')[2]}"
