"""Language models behind OpenAI's chat API, through the openai library: one call, and its many errors in our few.

Most providers offer this API at an address of their own (`PROVIDERS`); credentials may name any other by `base_url`.
"""

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import openai

from autogpt_server.blocks._chat import Completion, ContextTooLong, Message, UnsupportedFormat
from autogpt_server.blocks._credentials import ApiKeyCredentials
from autogpt_server.data.block import BlockError
from autogpt_server.utils.addresses import AddressPolicy, ForbiddenAddress
from autogpt_server.utils.http import open_client
from autogpt_server.utils.settings import Settings

PROVIDERS: Mapping[str, str] = {
    "aiml_api": "https://api.aimlapi.com/v1",
    "anthropic": "https://api.anthropic.com/v1",
    "groq": "https://api.groq.com/openai/v1",
    "llama_api": "https://api.llama.com/compat/v1",
    "open_router": "https://openrouter.ai/api/v1",
    "v0": "https://api.v0.dev/v1",
}
"""Where providers offer OpenAI's chat API, as their documentation says. `openai` and `ollama` are in the settings and the node."""

RETRIES = 2
"""How often the library repeats a call by itself, after the time a 429 or 503 asks for or with back-off."""


@dataclass(frozen=True, slots=True, repr=False)
class Endpoint:
    """Where to send a call, and the key for it."""

    base_url: str
    api_key: str
    trusted: bool
    """Whether the address comes from the server's settings and not from a graph."""

    @property
    def host(self) -> str:
        return urlsplit(self.base_url).netloc.rpartition("@")[2]

    @property
    def is_openai(self) -> bool:
        return self.host == "api.openai.com"


def find_endpoint(credentials: ApiKeyCredentials, settings: Settings, *, ollama_host: str) -> Endpoint:
    """The endpoint of these credentials; `BlockError` where the provider is unknown or there is no key for it."""
    provider = (credentials.provider or "openai").lower()
    key = credentials.api_key.get_secret_value() if credentials.api_key else ""
    if credentials.base_url:
        return Endpoint(credentials.base_url.rstrip("/"), key or "none", trusted=False)
    if provider == "ollama":
        return Endpoint(f"{_with_scheme(ollama_host)}/v1", key or "ollama", trusted=False)
    if provider == "openai":
        key = key or (settings.openai_api_key.get_secret_value() if settings.openai_api_key else "")
        base_url = settings.openai_base_url.rstrip("/")
    elif provider in PROVIDERS:
        base_url = PROVIDERS[provider]
    else:
        known = ", ".join(sorted([*PROVIDERS, "ollama", "openai"]))
        raise BlockError(f"There is no provider {provider!r}; use one of {known}, or give the credentials a base_url.")
    if not key:
        also = ", or set OPENAI_API_KEY for the server" if provider == "openai" else ""
        raise BlockError(f"There is no key for {provider}: put api_key into the credentials{also}.")
    return Endpoint(base_url, key, trusted=True)


def _with_scheme(host: str) -> str:
    return (host if "://" in host else f"http://{host}").rstrip("/")


@asynccontextmanager
async def chat_client(endpoint: Endpoint, settings: Settings) -> AsyncGenerator[openai.AsyncOpenAI]:
    """A client for the endpoint that goes only where blocks may go."""
    policy = AddressPolicy.of(settings, *([endpoint.base_url] if endpoint.trusted else []))
    async with open_client(policy, timeout_s=settings.llm_timeout_s) as http_client:
        yield openai.AsyncOpenAI(
            api_key=endpoint.api_key,
            base_url=endpoint.base_url,
            http_client=http_client,
            timeout=settings.llm_timeout_s,
            max_retries=RETRIES,
        )


async def complete(
    client: openai.AsyncOpenAI,
    endpoint: Endpoint,
    *,
    model: str,
    messages: Sequence[Message],
    max_tokens: int | None,
    response_format: Mapping[str, Any] | None,
    timeout_s: float,
) -> Completion:
    """One answer of the model; `BlockError` with what to do where there is none."""
    options: dict[str, Any] = {"response_format": dict(response_format)} if response_format else {}
    if max_tokens is not None:
        # OpenAI has given the limit another name; those who offer the same API mostly know the old one.
        options["max_completion_tokens" if endpoint.is_openai else "max_tokens"] = max_tokens
    create: Any = client.chat.completions.create
    with llm_errors(endpoint, model, timeout_s):
        async with asyncio.timeout(timeout_s):
            answer: Any = await create(model=model, messages=list(messages), **options)
    if not getattr(answer, "choices", None):
        raise BlockError(f"{endpoint.host} answered without a choice; is it OpenAI's chat API?")
    choice = answer.choices[0]
    if refusal := getattr(choice.message, "refusal", None):
        raise BlockError(f"The model {model} refuses to answer: {refusal}")
    usage = answer.usage
    return Completion(
        text=choice.message.content or "",
        finish_reason=str(choice.finish_reason or "stop"),
        prompt_tokens=usage.prompt_tokens if usage else 0,
        completion_tokens=usage.completion_tokens if usage else 0,
    )


@contextmanager
def llm_errors(endpoint: Endpoint, model: str, timeout_s: float) -> Generator[None]:
    """Turn what the openai library raises into a `BlockError` that says what to do and holds no key."""
    host = endpoint.host
    try:
        yield
    except ForbiddenAddress as error:
        raise BlockError(str(error)) from error
    except openai.AuthenticationError as error:
        raise BlockError(f"{host} refused the API key (401): check the credentials.") from error
    except openai.PermissionDeniedError as error:
        raise BlockError(f"{host} does not allow it (403): {_said(error, endpoint)}") from error
    except openai.NotFoundError as error:
        raise BlockError(f"{host} has no model {model!r} for this key (404): {_said(error, endpoint)}") from error
    except openai.RateLimitError as error:
        raise _rate_limit(error, endpoint) from error
    except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
        raise _bad_request(error, endpoint) from error
    except (openai.APITimeoutError, TimeoutError) as error:
        raise BlockError(f"{host} did not answer within {timeout_s:g} s (setting LLM_TIMEOUT_S).") from error
    except openai.APIConnectionError as error:
        raise BlockError(f"{host} cannot be reached: {error.__cause__ or error}") from error
    except openai.APIStatusError as error:
        raise BlockError(f"{host} failed ({error.status_code}): {_said(error, endpoint)}") from error
    except openai.OpenAIError as error:
        raise BlockError(f"{host}: {_without_key(str(error), endpoint)}") from error


def _rate_limit(error: openai.RateLimitError, endpoint: Endpoint) -> BlockError:
    if error.code == "insufficient_quota":
        return BlockError(f"The quota of the API key at {endpoint.host} is used up (429): check its plan and billing.")
    wait = error.response.headers.get("retry-after")
    hint = f"try again in {wait} s" if wait and wait.isdigit() else "try again later"
    return BlockError(
        f"{endpoint.host} asks to slow down (429): {hint}. {_said(error, endpoint)}",
        retry_after_s=float(wait) if wait and wait.isdigit() else None,
    )


def _bad_request(error: openai.APIStatusError, endpoint: Endpoint) -> BlockError:
    said = _said(error, endpoint)
    if error.code == "context_length_exceeded" or "context length" in said.lower():
        return ContextTooLong(f"{ContextTooLong.default_message()} {said}")
    if error.param == "response_format" or "response_format" in said:
        return UnsupportedFormat(f"{endpoint.host} does not take response_format: {said}")
    return BlockError(f"{endpoint.host} refused the request ({error.status_code}): {said}")


def _said(error: openai.APIStatusError, endpoint: Endpoint) -> str:
    """The server's own words."""
    body: Any = error.body
    said = cast("dict[str, Any]", body).get("message") if isinstance(body, dict) else None
    return _without_key(str(said or error.message), endpoint)[:500]


def _without_key(text: str, endpoint: Endpoint) -> str:
    return text.replace(endpoint.api_key, "***") if len(endpoint.api_key) >= 6 else text
