"""Exceptions as people see them, and the secrets that they do not see."""

from typing import Any

import pydantic
import pytest
from pydantic import SecretStr

from autogpt_server.data.block import BlockError, BlockSchema, EffectNotStarted, SchemaField
from autogpt_server.execution.failures import MAX_MESSAGE_CHARS, describe_failure, traceback_text
from autogpt_server.execution.secrets import input_secrets, mask, settings_secrets
from autogpt_server.utils import json
from autogpt_server.utils.settings import Settings


class Login(BlockSchema):
    user: str = SchemaField(description="Who.")
    code: str = SchemaField("", description="A secret that does not look like one.", secret=True)
    creds: dict[str, Any] = SchemaField(default_factory=dict[str, Any], description="Some secrets.")
    nested: Any = SchemaField(None, description="Any value.")


def not_json() -> Exception:
    with pytest.raises(json.InvalidJSONValue) as caught:
        json.dumps({1})
    return caught.value


def not_valid() -> Exception:
    with pytest.raises(pydantic.ValidationError) as caught:
        Login.model_validate({"creds": "secret text", "user": 5})
    return caught.value


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("no luck"), "block_failed", "ValueError: no luck"),
        (ValueError(), "block_failed", "ValueError"),
        (KeyError("a"), "block_failed", "KeyError: 'a'"),
        (BlockError("Reddit said no."), "block_failed", "Reddit said no."),
        (EffectNotStarted("No connection."), "effect_not_started", "No connection."),
        (MemoryError(), "out_of_memory", "The block ran out of memory."),
        (SystemExit(3), "block_failed", "The block tried to end the process (SystemExit)."),
        (not_json(), "invalid_json_value", "The block yielded a value that is not JSON: a set"),
        (
            not_valid(),
            "invalid_input",
            "user: Input should be a valid string; creds: Input should be a valid dictionary",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_each_exception_has_a_code_and_words(error: BaseException, code: str, message: str) -> None:
    failure = describe_failure(error)
    assert failure.code == code
    assert message in failure.message
    assert "secret text" not in failure.message


def test_messages_are_bounded_and_can_be_stored() -> None:
    failure = describe_failure(RuntimeError("x" * 100_000 + "\ud800"))
    assert len(failure.message) < MAX_MESSAGE_CHARS + 100
    json.check(describe_failure(RuntimeError("\ud800")).message)


def test_a_traceback_says_where_and_not_what() -> None:
    def fail(password: str) -> None:
        raise ValueError(f"{len(password)} characters")

    password = "hunter" + "2"
    with pytest.raises(ValueError, match="characters") as caught:
        fail(password)
    text = traceback_text(caught.value)
    assert "in fail" in text
    assert text.endswith("ValueError: 7 characters")
    assert password not in text


def test_secrets_are_found_by_pin_and_by_name() -> None:
    values = {
        "user": "Ann Example",
        "code": "4711-code",
        "creds": {"client_id": "public", "client_secret": "hush-hush", "scopes": ["read"]},
        "nested": [
            {
                "Api-Key": "sk-1234",
                "headers": {"Authorization": ["Bearer abcd"]},
                "keyboard": "qwertz",
                "accessToken": "ya29",
            },
            5,
            None,
        ],
        "password": "on a pin of that name",
    }
    assert set(input_secrets(Login, values)) == {
        "4711-code",
        "hush-hush",
        "sk-1234",
        "Bearer abcd",
        "ya29",
        "on a pin of that name",
    }


def test_masking_hides_the_longest_first_and_leaves_short_ones() -> None:
    assert mask("token abcdef and abcd, a b", ["abcd", "abcdef", "a", ""]) == "token *** and ***, a b"
    assert mask("nothing", []) == "nothing"


def test_the_servers_own_secrets_are_known() -> None:
    settings = Settings(openai_api_key=SecretStr("sk-server"), api_keys=(SecretStr("key-one"), SecretStr("key-two")))
    assert set(settings_secrets(settings)) == {"sk-server", "key-one", "key-two"}
