"""AIStructuredResponseGenerator through the real openai library, against a server on this machine that speaks OpenAI's protocol."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from autogpt_server.blocks.ai import AIStructuredResponseGeneratorBlock
from autogpt_server.data.block import BlockContext, BlockError
from autogpt_server.utils.settings import Settings
from support.blocks import context, run_block
from support.loopback import Reply
from support.openai_server import API_KEY, Chat, OpenAIServer, completion, failure
from support.running import free_port

PEN = {"title": "On pens", "stars": 4}
FORMAT = {"title": "a short title", "stars": "1 to 5"}


def lent(base_url: str, **changes: Any) -> BlockContext:
    return context(Settings(openai_base_url=base_url, **changes))


async def ask(server: OpenAIServer, **changes: Any) -> Any:
    """The block's response."""
    given = {"prompt": "Rate pens", "expected_format": FORMAT, "credentials": {"api_key": API_KEY}, **changes}
    outputs = await run_block(AIStructuredResponseGeneratorBlock(), given, lent(server.base_url))
    assert [pin for pin, _ in outputs] == ["response", "prompt"]
    return outputs[0][1]


def saying(*texts: str | Reply) -> OpenAIServer:
    """A server whose model says these, one after the other, and the last one for ever."""
    left = list(texts)
    return OpenAIServer(lambda _chat: left.pop(0) if len(left) > 1 else left[0])


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(PEN),
        f"Sure!\n```json\n{json.dumps(PEN)}\n```\nAnything else?",
        f"Here [as asked] is {json.dumps(PEN)}, have fun {{}}",
        json.dumps([PEN]),
    ],
)
async def test_json_is_found_where_models_put_it(text: str) -> None:
    with saying(text) as server:
        assert await ask(server) == PEN


async def test_the_model_is_told_the_shape_the_rules_and_what_was_said() -> None:
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    with saying(json.dumps(PEN)) as server:
        given = {"conversation_history": history, "sys_prompt": "You rate {{what}}.", "prompt_values": {"what": "pens"}}
        await ask(server, prompt="Rate {{what}}", model="some-model-of-tomorrow", max_tokens=50, **given)
    (chat,) = server.chats
    assert [message["role"] for message in chat["messages"]] == ["system", "user", "assistant", "user"]
    system = chat["messages"][0]["content"]
    assert system.startswith("You rate pens.")
    assert all(word in system for word in ("title", "a short title", "stars"))
    assert chat["messages"][-1]["content"] == "Rate pens"
    assert (chat["model"], chat["max_tokens"]) == ("some-model-of-tomorrow", 50)
    assert "response_format" not in chat


async def test_braces_in_a_prompt_without_values_stay() -> None:
    with saying(json.dumps(PEN)) as server:
        await ask(server, prompt='Rate {"pen": {{x}}}')
    assert server.chats[0]["messages"][-1]["content"] == 'Rate {"pen": {{x}}}'


async def test_a_wrong_answer_is_shown_to_the_model_and_asked_again() -> None:
    with saying("I like pens.", '{"title": "On pens"}', json.dumps(PEN)) as server:
        assert await ask(server) == PEN
    first, second, third = server.chats
    assert len(first["messages"]) == 2
    assert second["messages"][2] == {"role": "assistant", "content": "I like pens."}
    assert "no valid JSON" in second["messages"][3]["content"]
    assert 'lacks the keys "stars"' in third["messages"][5]["content"]


@pytest.mark.parametrize(("retry", "asked"), [(0, 1), (1, 1), (4, 4), (99, 10)])
async def test_asking_again_is_bounded(retry: int, asked: int) -> None:
    with saying("No.") as server, pytest.raises(BlockError, match=r"gave no usable answer.*no valid JSON"):
        await ask(server, retry=retry)
    assert len(server.chats) == asked


async def test_a_list_of_objects() -> None:
    with saying(json.dumps([PEN, {**PEN, "stars": 1}])) as server:
        assert await ask(server, list_result=True) == [PEN, {**PEN, "stars": 1}]
    with saying(json.dumps({"pens": [PEN]})) as server:
        assert await ask(server, list_result=True) == [PEN]
    with saying(json.dumps([PEN, {"title": "x"}])) as server, pytest.raises(BlockError, match="object 2 of the array"):
        await ask(server, list_result=True, retry=1)


async def test_without_a_format_the_answer_is_text() -> None:
    with saying("Pens are fine.") as server:
        assert await ask(server, expected_format={}) == {"response": "Pens are fine."}
    assert server.chats[0]["messages"] == [{"role": "user", "content": "Rate pens"}]


def knowing(formats: set[str | None], text: str) -> Callable[[Chat], str | Reply]:
    """A model whose endpoint knows only some response formats."""

    def model(chat: Chat) -> str | Reply:
        asked = chat.get("response_format", {}).get("type")
        if asked not in formats:
            return failure(
                400, f"'response_format' of type {asked} is not supported", "invalid", param="response_format"
            )
        return text

    return model


async def test_json_is_enforced_as_far_as_the_endpoint_can() -> None:
    with OpenAIServer(knowing({"json_schema"}, json.dumps({"items": [PEN]}))) as server:
        assert await ask(server, force_json_output=True, list_result=True) == [PEN]
    schema = server.chats[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["items"]["items"]["required"] == ["title", "stars"]
    with OpenAIServer(knowing({"json_object", None}, json.dumps(PEN))) as server:
        assert await ask(server, force_json_output=True) == PEN
    with OpenAIServer(knowing({None}, json.dumps(PEN))) as server:
        assert await ask(server, force_json_output=True) == PEN
    formats = [chat.get("response_format", {}).get("type") for chat in server.chats]
    assert formats == ["json_schema", "json_object", None]


async def test_a_prompt_that_is_too_long_is_shortened_in_the_middle() -> None:
    def model(chat: Chat) -> str | Reply:
        if sum(len(message["content"]) for message in chat["messages"]) > 3000:
            return failure(400, "This model's maximum context length is 1000 tokens.", "context_length_exceeded")
        return json.dumps(PEN)

    prompt = f"BEGIN {'x' * 9000} END"
    with OpenAIServer(model) as server:
        assert await ask(server, prompt=prompt) == PEN
        sent = server.chats[-1]["messages"][-1]["content"]
        assert sent.startswith("BEGIN")
        assert sent.endswith("END")
        with pytest.raises(BlockError, match="compress_prompt_to_fit"):
            await ask(server, prompt=prompt, compress_prompt_to_fit=False)


async def test_an_answer_that_was_cut_off_is_asked_again() -> None:
    def model(chat: Chat) -> str | Reply:
        if len(chat["messages"]) > 2:
            assert "cut off" in chat["messages"][-1]["content"]
            return json.dumps(PEN)
        return completion(chat, json.dumps(PEN)[:9], finish_reason="length")

    with OpenAIServer(model) as server:
        assert await ask(server) == PEN


async def test_a_refusal_is_told() -> None:
    with (
        OpenAIServer(lambda chat: completion(chat, None, refusal="I will not rate pens.")) as server,
        pytest.raises(BlockError, match=r"refuses to answer: I will not rate pens"),
    ):
        await ask(server)


async def test_a_wrong_key_is_told_without_being_shown() -> None:
    wrong = "sk-wrong-key-0987654321"
    with saying("x") as server, pytest.raises(BlockError, match=r"refused the API key \(401\)") as caught:
        await ask(server, credentials={"api_key": wrong})
    assert wrong not in str(caught.value)
    assert len(server.received) == 1


async def test_no_key_at_all() -> None:
    with saying("x") as server, pytest.raises(BlockError, match=r"api_key into the credentials, or set OPENAI_API_KEY"):
        await ask(server, credentials=None)
    with pytest.raises(BlockError, match=r"no key for groq: put api_key into the credentials\.$"):
        await ask(server, credentials={"provider": "groq"})
    with pytest.raises(BlockError, match="no provider 'nobody'"):
        await ask(server, credentials={"provider": "nobody", "api_key": "x"})


async def test_the_servers_own_key_and_a_bare_key() -> None:
    with saying(json.dumps(PEN)) as server:
        block = AIStructuredResponseGeneratorBlock()
        ctx = lent(server.base_url, openai_api_key=SecretStr(API_KEY))
        outputs = await run_block(block, {"prompt": "Rate pens", "expected_format": FORMAT}, ctx)
        assert outputs[0] == ("response", PEN)
        assert await ask(server, credentials=API_KEY) == PEN


async def test_too_many_requests_say_how_long_to_wait() -> None:
    reply = failure(429, "Rate limit reached for requests", "rate_limit_exceeded", retry_after="77", retry_after_ms="1")
    with saying(reply) as server, pytest.raises(BlockError, match=r"slow down \(429\): try again in 77 s") as caught:
        await ask(server)
    assert caught.value.details["retry_after_s"] == 77
    assert len(server.received) == 3, "the library repeats the call twice by itself"


async def test_a_short_rate_limit_is_waited_for() -> None:
    slow = failure(429, "Rate limit reached", "rate_limit_exceeded", retry_after_ms="1")
    with saying(slow, json.dumps(PEN)) as server:
        assert await ask(server) == PEN


async def test_a_used_up_quota() -> None:
    reply = failure(429, "You exceeded your current quota", "insufficient_quota", retry_after_ms="1")
    with (
        saying(reply) as server,
        pytest.raises(BlockError, match=r"quota of the API key at 127\.0\.0\.1:.* is used up"),
    ):
        await ask(server)


async def test_an_unknown_model() -> None:
    reply = failure(404, "The model `gpt-9` does not exist", "model_not_found")
    with saying(reply) as server, pytest.raises(BlockError, match=r"no model 'gpt-9' .*does not exist"):
        await ask(server, model="gpt-9")


async def test_a_model_that_does_not_answer_in_time() -> None:
    released = threading.Event()

    def model(_chat: Chat) -> str:
        released.wait(10)
        return "{}"

    with OpenAIServer(model) as server:
        given = {"prompt": "x", "expected_format": FORMAT, "credentials": API_KEY}
        with pytest.raises(BlockError, match=r"did not answer within 0.2 s \(setting LLM_TIMEOUT_S\)"):
            await run_block(AIStructuredResponseGeneratorBlock(), given, lent(server.base_url, llm_timeout_s=0.2))
        released.set()


async def test_an_address_from_the_graph_is_checked() -> None:
    with saying(json.dumps(PEN)) as server:
        credentials = {"api_key": API_KEY, "base_url": server.base_url}
        with pytest.raises(BlockError, match="OUTGOING_ALLOWED_HOSTS"):
            await ask(server, credentials=credentials)
        with pytest.raises(BlockError, match="OUTGOING_ALLOWED_HOSTS"):
            await ask(server, credentials={"provider": "ollama"}, ollama_host=f"127.0.0.1:{server.port}")
        assert server.received == []
        ctx = lent("http://unused.invalid/v1", outgoing_allowed_hosts=(f"127.0.0.1:{server.port}",))
        given = {"prompt": "x", "expected_format": FORMAT, "credentials": credentials}
        assert (await run_block(AIStructuredResponseGeneratorBlock(), given, ctx))[0] == ("response", PEN)


async def test_nobody_there() -> None:
    given = {"prompt": "x", "expected_format": FORMAT, "credentials": API_KEY}
    with pytest.raises(BlockError, match="cannot be reached"):
        await run_block(AIStructuredResponseGeneratorBlock(), given, lent(f"http://127.0.0.1:{free_port()}/v1"))
