"""Settings."""

import pickle
import re
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import SecretStr

from autogpt_server.utils.settings import (
    Settings,
    SettingsError,
    get_settings,
    is_loopback,
    load_settings,
    setting_names,
    use_settings,
)

EXAMPLE = Path(__file__).parents[2] / ".env.example"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in setting_names():
        monkeypatch.delenv(name, raising=False)


def test_defaults_need_nothing(tmp_path: Path) -> None:
    settings = load_settings()
    assert settings.database_path == tmp_path.resolve() / "autogpt.db"
    assert settings.state_dir == tmp_path.resolve() / "autogpt.db.d"
    assert settings.log_file == tmp_path.resolve() / "autogpt.db.d" / "logs" / "server.log"
    assert settings.api_url == "http://127.0.0.1:8000"


def test_the_database_path_is_fixed_when_settings_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert settings.database_path == tmp_path.resolve() / "autogpt.db"
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_two_names_of_one_file_are_one_database(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    one, other = Settings(database_url="file:./real/a.db"), Settings(database_url=f"file://{tmp_path}/link/a.db")
    assert one.database_path == other.database_path


def test_the_environment_goes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("NUM_GRAPH_WORKERS=3\nAGENT_SERVER_PORT=8001\nSOMETHING_ELSE=1\nLOG_DIR=\n")
    monkeypatch.setenv("AGENT_SERVER_PORT", "8002")
    settings = load_settings()
    assert settings.num_graph_workers == 3
    assert settings.agent_server_port == 8002
    assert settings.log_dir is None


def test_a_named_file_is_read_instead_and_must_exist() -> None:
    Path(".env").write_text("NUM_GRAPH_WORKERS=3")
    Path("other.env").write_text("NUM_GRAPH_WORKERS=4")
    assert load_settings(Path("other.env")).num_graph_workers == 4
    with pytest.raises(SettingsError, match=r"no settings file missing\.env"):
        load_settings(Path("missing.env"))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("NUM_GRAPH_WORKER", "NUM_GRAPH_WORKERS"),
        ("AGENT-SERVER-PORT", "AGENT_SERVER_PORT"),
        ("AGENTSERVER_PORT", "AGENT_SERVER_PORT"),
        ("DATABASE_URI", "DATABASE_URL"),
        ("PYRO_PORTS", "PYRO_PORT"),
        ("api_key", "API_KEYS"),
    ],
)
def test_a_near_miss_in_the_file_is_an_error_that_suggests_the_name(name: str, meant: str) -> None:
    Path(".env").write_text(f"{name}=1\n")
    with pytest.raises(SettingsError, match=f"{name} is not a setting. Did you mean {meant}?"):
        load_settings()


def test_unknown_names_of_other_programs_are_left_alone() -> None:
    Path(".env").write_text("REDIS_URL=x\nAWS_PROFILE=me\nexport HOME_DIR=/x\n")
    assert load_settings() == Settings()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"NUM_GRAPH_WORKERS": "many"}, "NUM_GRAPH_WORKERS: input should be a valid integer"),
        ({"AGENT_SERVER_PORT": "70000"}, "AGENT_SERVER_PORT: input should be less than or equal to 65535"),
        ({"LOG_FORMAT": "xml"}, "LOG_FORMAT: input should be 'text' or 'json'"),
        ({"DATABASE_URL": "postgresql://me:hunter2@db/x"}, "DATABASE_URL: must be `file:`"),
        ({"DATABASE_URL": "file:"}, "DATABASE_URL: names no file"),
        ({"DATABASE_URL": "file:./a.db?mode=ro"}, "DATABASE_URL: must not have parameters"),
        ({"AGENT_SERVER_PORT": "9090"}, "AGENT_SERVER_PORT and PYRO_PORT are both 9090"),
        ({"AGENT_SERVER_HOST": "0.0.0.0"}, "set API_KEYS, or use 127.0.0.1"),
        ({"PYRO_HOST": "192.0.2.1"}, "PYRO_TLS_CERT, PYRO_TLS_KEY and PYRO_TLS_CA"),
        ({"PYRO_TLS_CERT": "c.pem"}, "belong together"),
        (
            {"PYRO_HOST": "0.0.0.0", "PYRO_TLS_CERT": "c", "PYRO_TLS_KEY": "k", "PYRO_TLS_CA": "a"},
            "PYRO_HOST=0.0.0.0 is no address to connect to",
        ),
    ],
)
def test_a_wrong_setting_is_named_with_what_to_do(
    values: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=re.escape(message)) as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_wrong_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "loud")
    monkeypatch.setenv("WORKER_THREADS", "0")
    with pytest.raises(SettingsError, match=r"WORKER_THREADS.*LOG_LEVEL"):
        load_settings()


def test_with_keys_the_api_may_be_open() -> None:
    settings = Settings(agent_server_host="0.0.0.0", api_keys=(SecretStr("secret-key"),))
    assert settings.api_url == "http://127.0.0.1:8000"
    assert "secret-key" not in repr(settings)
    assert "secret-key" not in str(settings.model_dump_json())


def test_lists_are_words_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", " a, b ,")
    monkeypatch.setenv("ALLOWED_HOSTS", "example.org")
    settings = load_settings()
    assert [key.get_secret_value() for key in settings.api_keys] == ["a", "b"]
    assert settings.allowed_hosts == ("example.org",)


def test_settings_made_in_code_do_not_look_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUM_GRAPH_WORKERS", "7")
    Path(".env").write_text("WORKER_THREADS=7")
    assert Settings().num_graph_workers != 7
    assert Settings().worker_threads != 7


def test_a_process_keeps_the_settings_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        use_settings(None)
        monkeypatch.setenv("WORKER_THREADS", "7")
        assert get_settings().worker_threads == 7
        given = Settings(worker_threads=9)
        use_settings(given)
        assert get_settings() is given
    finally:
        use_settings(None)


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.org", False),
    ],
)
def test_loopback(host: str, *, answer: bool) -> None:
    assert is_loopback(host) is answer


def test_the_example_lists_every_setting_with_its_description_and_default() -> None:
    text = EXAMPLE.read_text()
    listed = re.findall(r"^# ?([A-Z_]+)=", text, flags=re.MULTILINE)
    assert listed == list(setting_names())
    words = " ".join(text.replace("\n#", " ").split())
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert " ".join(field.description.split()) in words, name
        assert f"# {name.upper()}={shown(field.default)}\n" in text


def shown(default: Any) -> str:
    match default:
        case None:
            return ""
        case tuple():
            return ",".join(cast("tuple[str, ...]", default))
        case bool():
            return str(default).lower()
        case SecretStr():
            return default.get_secret_value()
        case float():
            return f"{default:.15g}"
        case _:
            return str(default)


def test_the_example_is_valid_as_it_stands() -> None:
    Path(".env").write_text(EXAMPLE.read_text())
    assert load_settings() == Settings()


def test_the_example_is_valid_with_everything_switched_on() -> None:
    lines = [re.sub(r"^# ?(?=[A-Z_]+=)", "", line) for line in EXAMPLE.read_text().splitlines()]
    Path(".env").write_text("\n".join(lines))
    assert load_settings() == Settings()
