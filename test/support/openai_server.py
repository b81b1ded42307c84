"""OpenAI's chat API, as far as the openai library needs it: https://platform.openai.com/docs/api-reference/chat."""

from collections.abc import Callable
from typing import Any

from support.loopback import Loopback, Received, Reply

API_KEY = "sk-test-0123456789abcdef"

Chat = dict[str, Any]
"""The body of a request: model, messages, response_format, ..."""


class OpenAIServer(Loopback):
    """Answers each chat by `model`: with text, or with a whole reply where something goes wrong."""

    def __init__(self, model: Callable[[Chat], str | Reply]) -> None:
        super().__init__()
        self.model = model

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def chats(self) -> list[Chat]:
        """The chats that came with the right key."""
        return [request.json for request in self.received if _knows_key(request)]

    def answer(self, request: Received) -> Reply:
        if request.path != "/v1/chat/completions":
            return failure(404, f"Unknown request URL: {request.method} {request.path}.", "unknown_url")
        if not _knows_key(request):
            said = request.headers.get("authorization", "").removeprefix("Bearer ")
            return failure(401, f"Incorrect API key provided: {said}.", "invalid_api_key")
        chat: Chat = request.json
        text = self.model(chat)
        return text if isinstance(text, Reply) else completion(chat, text)


def completion(chat: Chat, text: str | None, *, finish_reason: str = "stop", refusal: str | None = None) -> Reply:
    """A regular answer."""
    message = {"role": "assistant", "content": text, "refusal": refusal}
    return Reply(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_772_000_000,
            "model": chat["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": None}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
        }
    )


def failure(status: int, message: str, code: str, *, param: str | None = None, **headers: str) -> Reply:
    """An error as the API reports it."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return Reply({"error": error}, status, {name.replace("_", "-"): value for name, value in headers.items()})


def _knows_key(request: Received) -> bool:
    return request.headers.get("authorization") == f"Bearer {API_KEY}"
