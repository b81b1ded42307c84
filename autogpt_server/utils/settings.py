"""Every setting of the server: its name, what it means, its default, and what values it may have.

Settings come from the environment, then from a `.env` file in the working directory, then from the defaults below. They
are read once, where a program starts, and handed on; nothing reads them at import time. `.env.example` lists them all
(`test/utils/test_settings.py` compares).
"""

import difflib
import ipaddress
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from autogpt_server.utils.errors import AutoGPTServerError

KIB = 1024
MIB = 1024 * KIB

CommaSeparated = NoDecode
"""Marks a setting whose text is a list of words with commas between them, not JSON."""


class SettingsError(AutoGPTServerError):
    """A setting is wrong; correct it in the environment or in `.env`."""

    code = "invalid_settings"


class Settings(BaseSettings):
    """The settings of one server (one database file). Immutable; safe to pickle to a child process."""

    model_config = SettingsConfigDict(
        case_sensitive=False,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    # Database
    database_url: str = Field(
        default="file:./autogpt.db",
        description="The SQLite database file, as `file:` and a path; a relative one starts at the working directory.",
    )
    sqlite_synchronous: Literal["FULL", "EXTRA", "NORMAL"] = Field(
        default="FULL",
        description="SQLite's `synchronous`. FULL: what was committed survives a power failure. NORMAL is faster and covers "
        "the death of processes only.",
    )
    sqlite_busy_timeout_s: float = Field(
        default=10.0,
        gt=0,
        le=300,
        description="How long a writer waits for another process's write to end, in seconds.",
    )

    # API
    agent_server_host: str = Field(
        default="127.0.0.1", description="The address the API listens on. Anything but loopback needs API_KEYS."
    )
    agent_server_port: int = Field(default=8000, ge=1, le=65535, description="The port the API listens on.")
    api_keys: Annotated[tuple[SecretStr, ...], CommaSeparated] = Field(
        default=(),
        description="Keys that clients send as `X-API-Key`, with commas between them. Empty: no key is asked for.",
    )
    allowed_hosts: Annotated[tuple[str, ...], CommaSeparated] = Field(
        default=(),
        description="Host names besides the loopback ones under which the API may be reached, with commas between them.",
    )
    max_request_bytes: int = Field(
        default=16 * MIB, ge=KIB, description="The largest request body the API accepts, in bytes."
    )

    # Services
    pyro_host: str = Field(
        default="127.0.0.1",
        description="The address the name server and the services listen on. Anything but loopback needs the PYRO_TLS_ settings.",
    )
    pyro_port: int = Field(
        default=9090, ge=1, le=65535, description="The port of the name server; the services choose free ones."
    )
    pyro_tls_cert: Path | None = Field(
        default=None, description="PEM certificate that each service shows to the others."
    )
    pyro_tls_key: Path | None = Field(default=None, description="PEM key of PYRO_TLS_CERT, without a password.")
    pyro_tls_ca: Path | None = Field(
        default=None, description="PEM certificates of the authority that signed PYRO_TLS_CERT."
    )
    rpc_timeout_s: float = Field(
        default=5.0, gt=0, le=600, description="How long a call from one service to another may take, in seconds."
    )
    rpc_max_message_bytes: int = Field(
        default=16 * MIB, ge=64 * KIB, description="The largest message between services, in bytes."
    )

    # Processes
    num_graph_workers: int = Field(default=2, ge=1, le=256, description="How many worker processes perform runs.")
    worker_threads: int = Field(
        default=128,
        ge=1,
        le=1024,
        description="How many blocks with a plain `run` a worker process performs at once; each has a thread, made when it is needed.",
    )
    worker_hung_limit_s: float = Field(
        default=60.0,
        gt=0,
        description="A worker process whose event loop has not moved for so long, in seconds, is killed; others take its runs over.",
    )
    cancel_grace_s: float = Field(
        default=10.0,
        gt=0,
        description="How long a block may go on after it was told to stop, in seconds; then its worker process ends, and another takes its place.",
    )
    start_limit_s: float = Field(
        default=60.0, gt=0, description="How long a service may take to become ready, in seconds."
    )
    drain_limit_s: float = Field(
        default=8.0,
        gt=0,
        le=600,
        description="How long the processes together may take to finish what they do at a stop, in seconds.",
    )

    # Logs
    log_format: Literal["text", "json"] = Field(
        default="text", description="`text` for people, `json` for machines: one object a line."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="What is logged: this level and above."
    )
    log_dir: Path | None = Field(
        default=None, description="The folder for `server.log`. Default: `logs` in the folder beside the database file."
    )
    log_max_bytes: int = Field(
        default=32 * MIB,
        ge=64 * KIB,
        description="At this size, in bytes, the log is moved to `server.log.1` (of which 5 are kept).",
    )

    # Limits
    max_graph_nodes: int = Field(default=10_000, ge=1, description="The largest number of nodes in a graph.")
    max_graph_bytes: int = Field(default=8 * MIB, ge=KIB, description="The largest graph, as JSON, in bytes.")
    inline_value_bytes: int = Field(
        default=256 * KIB,
        ge=KIB,
        description="Values larger than this many bytes are stored apart and shown as a preview.",
    )
    max_value_bytes: int = Field(default=32 * MIB, ge=KIB, description="The largest single value in a run, in bytes.")
    max_run_bytes: int = Field(
        default=1024 * MIB, ge=KIB, description="The most that all values of one run may take, in bytes."
    )
    max_run_node_executions: int = Field(
        default=1_000_000,
        ge=1,
        description="With more node executions than this a run ends as FAILED, `limit_exceeded`.",
    )
    max_run_duration_s: float = Field(
        default=7 * 24 * 3600.0,
        gt=0,
        description="A run ends as FAILED after this many seconds, not counting those spent WAITING.",
    )
    max_run_depth: int = Field(default=10, ge=1, description="How deep runs may start runs.")

    # Blocks
    block_modules: Annotated[tuple[str, ...], CommaSeparated] = Field(
        default=(),
        description="Python modules whose blocks are offered besides the server's own, with commas between them.",
    )

    # What blocks reach
    outgoing_allow_private: bool = Field(
        default=False,
        description="Whether blocks may reach private, loopback and link-local addresses: the server's own network.",
    )
    outgoing_allowed_hosts: Annotated[tuple[str, ...], CommaSeparated] = Field(
        default=("localhost:11434",),
        description="Hosts (`name` or `name:port`) that blocks may reach wherever they are, with commas between them. "
        "The default is where Ollama listens.",
    )
    outgoing_timeout_s: float = Field(
        default=60.0, gt=0, le=3600, description="How long one web request of a block may take, in seconds."
    )
    outgoing_max_bytes: int = Field(
        default=16 * MIB, ge=KIB, description="The largest answer to a web request that a block reads, in bytes."
    )
    openai_api_key: SecretStr | None = Field(
        default=None, description="The key for OPENAI_BASE_URL where a node has no credentials of its own."
    )
    openai_base_url: str = Field(
        default="https://api.openai.com/v1",
        description="The OpenAI-compatible API that AI blocks call for credentials of the provider `openai`.",
    )
    llm_timeout_s: float = Field(
        default=300.0, gt=0, le=3600, description="How long one answer of a language model may take, in seconds."
    )
    reddit_url: str = Field(
        default="https://www.reddit.com", description="Where Reddit blocks get their access tokens."
    )
    reddit_oauth_url: str = Field(
        default="https://oauth.reddit.com", description="Where Reddit blocks send their requests."
    )

    # -- where things are -------------------------------------------------

    @cached_property
    def database_path(self) -> Path:
        """The database file: absolute, symbolic links resolved."""
        return Path(self.database_url.removeprefix("file:"))

    @property
    def state_dir(self) -> Path:
        """The folder beside the database file that holds what belongs to the running server: locks, secret, logs.

        It is derived from the database alone, because whoever opens the same file must meet the same locks.
        """
        return self.database_path.with_name(f"{self.database_path.name}.d")

    @property
    def log_file(self) -> Path:
        """The file that all processes of the server log to."""
        return (self.log_dir or self.state_dir / "logs") / "server.log"

    @property
    def api_url(self) -> str:
        """Where a client on this machine reaches the API."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.agent_server_host, self.agent_server_host)  # noqa: S104
        return f"http://[{host}]:{self.agent_server_port}" if ":" in host else f"http://{host}:{self.agent_server_port}"

    # -- validation -------------------------------------------------------

    @field_validator("database_url")
    @classmethod
    def _resolve_database(cls, url: str) -> str:
        scheme, colon, path = url.partition(":")
        if scheme != "file" or not colon:
            raise ValueError("must be `file:` and the path of an SQLite file, as in file:./autogpt.db")
        path, question, _ = path.partition("?")
        if question:
            raise ValueError("must not have parameters after `?`; SQLITE_ settings take their place")
        if path.startswith("//"):
            path = "/" + path.lstrip("/")
        if not path or path.endswith("/"):
            raise ValueError("names no file; as in file:./autogpt.db")
        return f"file:{Path(path).resolve()}"

    @field_validator("api_keys", "allowed_hosts", "block_modules", "outgoing_allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value

    @field_validator("sqlite_synchronous", "log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("log_format", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("log_dir", "pyro_tls_cert", "pyro_tls_key", "pyro_tls_ca")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return path and path.expanduser().resolve()

    @model_validator(mode="after")
    def _refuse_open_doors(self) -> Self:
        if not is_loopback(self.agent_server_host) and not self.api_keys:
            raise ValueError(
                f"AGENT_SERVER_HOST={self.agent_server_host} would let others on the network in without a key: "
                "set API_KEYS, or use 127.0.0.1"
            )
        tls = (self.pyro_tls_cert, self.pyro_tls_key, self.pyro_tls_ca)
        if any(tls) and not all(tls):
            raise ValueError("PYRO_TLS_CERT, PYRO_TLS_KEY and PYRO_TLS_CA belong together: set all three or none")
        if not is_loopback(self.pyro_host) and not all(tls):
            raise ValueError(
                f"PYRO_HOST={self.pyro_host} would carry calls between services over the network unencrypted: "
                "set PYRO_TLS_CERT, PYRO_TLS_KEY and PYRO_TLS_CA, or use 127.0.0.1"
            )
        if self.pyro_host in {"0.0.0.0", "::"}:  # noqa: S104 - refused, not used
            raise ValueError(f"PYRO_HOST={self.pyro_host} is no address to connect to: name one of this machine")
        if self.agent_server_port == self.pyro_port:
            raise ValueError(f"AGENT_SERVER_PORT and PYRO_PORT are both {self.pyro_port}: change one")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # `Settings(...)` is exactly what it is given (a test's, a child process's); only `load_settings` looks around.
        return (init_settings,)


def load_settings(env_file: Path | None = None) -> Settings:
    """Read the settings from the environment and from `env_file` (default: `.env` in the working directory, if any).

    Raises `SettingsError`, naming each wrong setting and what to do.
    """
    if env_file is not None and not env_file.is_file():
        raise SettingsError(f"there is no settings file {env_file}")
    path = env_file or Path(".env")
    if path.is_file():
        _refuse_near_misses(path)
    try:
        from_file = DotEnvSettingsSource(Settings, env_file=path, env_file_encoding="utf-8")()
        from_environment = EnvSettingsSource(Settings)()
        return Settings.model_validate(from_file | from_environment)
    except ValidationError as error:
        raise SettingsError("; ".join(_describe(problem) for problem in error.errors())) from None


def setting_names() -> tuple[str, ...]:
    """The names of all settings as they are written in the environment."""
    return tuple(name.upper() for name in Settings.model_fields)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a socket bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Current:
    """The settings that this process runs with, once it has been told or has read them."""

    settings: Settings | None = None


def get_settings() -> Settings:
    """The settings of this process: those its parent gave it, else read from the environment, once."""
    if _Current.settings is None:
        _Current.settings = load_settings()
    return _Current.settings


def use_settings(settings: Settings | None) -> None:
    """Make `settings` those of this process (None: read them again when next asked for)."""
    _Current.settings = settings


def _refuse_near_misses(path: Path) -> None:
    """Unknown names in an env file are other programs' business, unless they look like one of ours, misspelt."""
    known = setting_names()
    for name in dotenv_values(path, interpolate=False):
        if name.upper() in known:
            continue
        near = difflib.get_close_matches(name.upper().replace("-", "_"), known, n=1, cutoff=0.85)
        if near:
            raise SettingsError(f"{path}: {name} is not a setting. Did you mean {near[0]}?")


def _describe(problem: Any) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:] if message.startswith("Input") else message
    where = str(problem["loc"][0]).upper() if problem["loc"] else ""
    return f"{where}: {message}" if where else message
