"""Blocks that ask language models."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, cast

from autogpt_server.blocks._chat import Ask, Completion, Message
from autogpt_server.blocks._credentials import ApiKeyCredentials, CredentialsField, read_credentials
from autogpt_server.blocks._lazy import load
from autogpt_server.blocks._structured import Shape, ask_for_json, ask_for_text, instructions
from autogpt_server.blocks._template import render
from autogpt_server.blocks._upgrade import rename_pins, split_link, used_inputs, uses_pin
from autogpt_server.data.block import (
    Block,
    BlockCategory,
    BlockContext,
    BlockSchema,
    Effects,
    JsonValue,
    NodeWiring,
    OutputSchema,
    PinLink,
    SchemaField,
)
from autogpt_server.data.pins import parse_pin
from autogpt_server.utils import json

LLM_PROVIDERS = ("aiml_api", "anthropic", "groq", "ollama", "openai", "open_router", "llama_api", "v0")

KNOWN_MODELS = (
    "gpt-5.2-2025-12-11",
    "gpt-5.1-2025-11-13",
    "gpt-4o",
    "gpt-4o-mini",
    "o3-2025-04-16",
    "o3-mini",
    "claude-sonnet-4-5-20250929",
)
"""Offered to people; any other name is taken as well, since models come and go faster than servers are updated."""

MAX_ATTEMPTS = 10


@asynccontextmanager
async def _sample_model(_input: "AIStructuredResponseGeneratorBlock.Input", _ctx: BlockContext) -> AsyncGenerator[Ask]:
    async def ask(messages: Sequence[Message], _format: Mapping[str, Any] | None) -> Completion:
        assert messages[-1]["content"] == "Rate pens"
        return Completion('Here it is:\n```json\n{"title": "On pens", "stars": 4}\n```')

    yield ask


class AIStructuredResponseGeneratorBlock(Block):
    id = "ed55ac19-356e-4243-a6cb-bc599e9b716f"
    description = "Asks a language model and makes sure that its answer has the keys you name."
    categories = frozenset({BlockCategory.AI})
    # Asking again costs, and harms nobody.
    effects = Effects.IDEMPOTENT

    class Input(BlockSchema):
        prompt: str = SchemaField(
            description="What to ask; {{name}} stands for one of `prompt_values`.", placeholder="Sum up: {{text}}"
        )
        expected_format: dict[str, Any] = SchemaField(
            description="Key -> what its value should be. Without keys the answer is taken as it is.",
            placeholder='{"title": "a short title", "stars": "1 to 5"}',
        )
        list_result: bool = SchemaField(False, description="Whether the answer is a list of such objects.")
        model: str = SchemaField(
            "gpt-5.2-2025-12-11", description="The model's name at the provider.", examples=list(KNOWN_MODELS)
        )
        force_json_output: bool = SchemaField(
            False,
            description="Whether the provider is made to enforce JSON; some models answer less well then.",
            advanced=True,
        )
        credentials: dict[str, Any] | str | None = CredentialsField(
            None,
            providers=LLM_PROVIDERS,
            types=("api_key",),
            description="provider and api_key, or just the key; with base_url, any OpenAI-compatible service. "
            "The server's OPENAI_API_KEY is used where this is empty.",
        )
        sys_prompt: str = SchemaField("", description="What the model is told before: its role, the rules.")
        conversation_history: list[dict[str, Any]] | None = SchemaField(
            default_factory=list, description="Earlier messages, as {role, content}.", advanced=True
        )
        retry: int = SchemaField(
            3, description="How often to ask until the answer has its keys; each time costs.", ge=0
        )
        prompt_values: dict[str, Any] = SchemaField(
            default_factory=dict, description="Name -> value, for the prompts.", advanced=True
        )
        max_tokens: int | None = SchemaField(
            None, description="How long the answer may be, in tokens.", ge=1, advanced=True
        )
        compress_prompt_to_fit: bool = SchemaField(
            True,
            description="Whether a prompt that is too long for the model is shortened in the middle.",
            advanced=True,
        )
        ollama_host: str = SchemaField(
            "localhost:11434", description="Where Ollama listens, for its models.", advanced=True
        )

    class Output(OutputSchema):
        response: dict[str, Any] | list[dict[str, Any]] = SchemaField(
            default_factory=dict, description="The answer: an object with the keys, or a list of them."
        )
        prompt: list[Any] = SchemaField(default_factory=list, description="The messages that were sent.")

    input_schema = Input
    output_schema = Output
    test_input = {
        "prompt": "Rate {{thing}}",
        "prompt_values": {"thing": "pens"},
        "expected_format": {"title": "a short title", "stars": "1 to 5"},
        "credentials": {"provider": "openai", "api_key": "a-key"},
    }
    test_output = [
        ("response", {"title": "On pens", "stars": 4}),
        ("prompt", list),
    ]
    test_mock: ClassVar = {"model": _sample_model}

    async def run(self, input_data: Input, ctx: BlockContext) -> AsyncIterator[tuple[str, JsonValue]]:
        shape = Shape(input_data.expected_format, as_list=input_data.list_result)
        messages = opening(input_data, shape)
        async with self.model(input_data, ctx) as ask:
            if shape.expected:
                answer = await ask_for_json(
                    ask,
                    messages,
                    shape,
                    enforce=input_data.force_json_output,
                    attempts=min(max(input_data.retry, 1), MAX_ATTEMPTS),
                    shorten=input_data.compress_prompt_to_fit,
                )
            else:
                answer = await ask_for_text(ask, messages, shorten=input_data.compress_prompt_to_fit)
        yield "response", answer.value
        yield "prompt", answer.messages

    @asynccontextmanager
    async def model(self, input_data: Input, ctx: BlockContext) -> AsyncGenerator[Ask]:
        """Something to ask; the one method that touches the network."""
        await load("autogpt_server.blocks._llm")
        from autogpt_server.blocks._llm import chat_client, complete, find_endpoint  # noqa: PLC0415

        credentials = _read_key(input_data.credentials)
        endpoint = find_endpoint(credentials, ctx.settings, ollama_host=input_data.ollama_host)
        async with chat_client(endpoint, ctx.settings) as client:

            async def ask(messages: Sequence[Message], response_format: Mapping[str, Any] | None) -> Completion:
                completion = await complete(
                    client,
                    endpoint,
                    model=input_data.model,
                    messages=messages,
                    max_tokens=input_data.max_tokens,
                    response_format=response_format,
                    timeout_s=ctx.settings.llm_timeout_s,
                )
                ctx.logger.info(
                    "model %s answered: %d prompt tokens, %d completion tokens",
                    input_data.model,
                    completion.prompt_tokens,
                    completion.completion_tokens,
                )
                return completion

            yield ask

    @classmethod
    def upgrade(cls, node: NodeWiring) -> NodeWiring:
        """2024: `config` {model, api_key}, later `api_key` alone; `usr_prompt`; an expected format that could be left out."""
        if not uses_pin(node, ("config", "api_key", "usr_prompt")):
            return node
        renamed = rename_pins(
            _without_config(node), inputs={"usr_prompt": "prompt", "api_key": "credentials_#_api_key"}
        )
        defaults = dict(renamed.defaults)
        key = defaults.pop("credentials_#_api_key", None)
        if key:
            held = defaults.get("credentials")
            defaults["credentials"] = {
                **(cast("dict[str, Any]", held) if isinstance(held, dict) else {}),
                "api_key": key,
            }
        if "expected_format" not in used_inputs(renamed) or defaults.get("expected_format", {}) is None:
            defaults["expected_format"] = {}
        return NodeWiring(defaults, renamed.incoming, renamed.outgoing)


def opening(input_data: AIStructuredResponseGeneratorBlock.Input, shape: Shape) -> list[Message]:
    """The messages that open the conversation: what the model is, what was said before, the prompt."""
    system, prompt = input_data.sys_prompt, input_data.prompt
    if input_data.prompt_values:
        system, prompt = render(system, input_data.prompt_values), render(prompt, input_data.prompt_values)
    rules = [text for text in (system, instructions(shape) if shape.expected else "") if text]
    messages: list[Message] = [{"role": "system", "content": "\n\n".join(rules)}] if rules else []
    return [*messages, *(input_data.conversation_history or []), {"role": "user", "content": prompt}]


def _read_key(credentials: dict[str, Any] | str | None) -> ApiKeyCredentials:
    given: Any = credentials or {}
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except json.InvalidJSONValue:
            given = {"api_key": given}
    return read_credentials(ApiKeyCredentials, given, "the language model")


def _without_config(node: NodeWiring) -> NodeWiring:
    """`config` and its parts as the pins that took their place."""
    places = {"model": "model", "api_key": "credentials_#_api_key"}

    def flat(name: str) -> str | None:
        pin = parse_pin(name)
        if pin.base != "config":
            return name
        return places.get(str(pin.parts[0].key)) if pin.parts else None

    defaults: dict[str, JsonValue] = {}
    config: Any = node.defaults.get("config")
    if isinstance(config, dict):
        entries = cast("dict[str, Any]", config)
        defaults = {pin: entries[key] for key, pin in places.items() if key in entries}
    defaults |= {flat(name) or name: value for name, value in node.defaults.items() if flat(name) is not None}
    incoming: list[PinLink] = []
    for link in node.incoming:
        if link.sink_name == "config":
            incoming += split_link(link, {"model": "model", "credentials": ""})
        elif (sink_name := flat(link.sink_name)) is not None:
            incoming.append(PinLink(link.source_name, sink_name))
    return NodeWiring(defaults, incoming, node.outgoing)
