"""Example graphs, as plain JSON: what `cli test` posts, what `examples/` shows, and what tests run. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Graph: TypeAlias = dict[str, Any]
"""A graph as `POST /graphs` takes it."""

STORE_VALUE = "1ff065e9-88e8-4358-9d82-8dc91f622ba9"
PRINT_TO_CONSOLE = "f3b1c1b2-4c4f-4f0d-8d2f-4c4f0d8d2f4c"
FILL_TEXT_TEMPLATE = "db7d8f02-2f44-4c55-ab7a-eae0941f0c30"
MATCH_TEXT_PATTERN = "3060088f-6ed9-4928-9ba7-9c92823a7ccd"
AI_STRUCTURED_RESPONSE = "ed55ac19-356e-4243-a6cb-bc599e9b716f"
GET_REDDIT_POSTS = "c6731acb-4285-4ee1-bc9b-03d0766c370f"
POST_REDDIT_COMMENT = "4a92261b-701e-4ffb-8970-675fd28e261f"

HELLO_INPUT: Mapping[str, Any] = {"input": "Hello, World!"}
"""Run input for `hello_graph`: both start nodes take it."""

HELLO_OUTPUT = "Hello, World!,Hello, World!,!!!"
"""What `hello_graph` prints."""

HELLO_CRON = "*/5 * * * *"


def node(name: str, block_id: str, /, **input_default: Any) -> Graph:
    """A node; its id is local to the graph."""
    return {"id": name, "block_id": block_id, "input_default": input_default, "metadata": {}}


def link(source: str, sink: str) -> Graph:
    """A link, written as `node.pin` at both ends."""
    (source_id, source_name), (sink_id, sink_name) = source.split(".", 1), sink.split(".", 1)
    return {"source_id": source_id, "source_name": source_name, "sink_id": sink_id, "sink_name": sink_name}


def hello_graph() -> Graph:
    """Two values and a third of its own make a line, and the line is printed."""
    template = {"format": "{texts[0]},{texts[1]},{texts[2]}", "values_#_texts_$_3": "!!!"}
    return {
        "name": "Hello, World!",
        "description": "Joins what it is given, twice, and prints it.",
        "nodes": [
            node("first", STORE_VALUE),
            node("second", STORE_VALUE),
            node("line", FILL_TEXT_TEMPLATE, **template),
            node("print", PRINT_TO_CONSOLE),
        ],
        "links": [
            link("first.output", "line.values_#_texts_$_1"),
            link("second.output", "line.values_#_texts_$_2"),
            link("line.output", "print.text"),
        ],
    }


EMPTY_REDDIT_CREDENTIALS: Mapping[str, str] = {
    "client_id": "",
    "client_secret": "",
    "username": "",
    "password": "",
    "user_agent": "",
}


@dataclass(frozen=True, slots=True)
class RedditMarketing:
    """What the Reddit marketing graph is told."""

    subreddit: str = "startups"
    product: str = "AutoGPT, an open-source platform to build and run AI agents"
    model: str = "gpt-5.2-2025-12-11"
    post_limit: int = 3
    last_minutes: int | None = 60
    reddit_credentials: Mapping[str, str] | None = field(default=None, repr=False)
    llm_credentials: Mapping[str, str] | None = field(default=None, repr=False)


_MARKETING_RULES = """\
You do the marketing for {product}.
You are shown a post on Reddit. Decide whether the product helps its author. If it does, write a short, honest comment that
answers the post first, names the product second, and says that you work for it. Repeat the post's id as it is."""

_MARKETING_PROMPT = """\
Post id: {{post_id}}
Subreddit: {{subreddit}}
Title: {{title}}

{{body}}"""


def reddit_marketing_graph(told: RedditMarketing | None = None) -> Graph:
    """Reads a subreddit, asks a model which posts are relevant to a product, and comments on those.

    Without credentials for Reddit, empty ones are there to be filled in: such a graph can be saved and edited, and says what it lacks when
    it runs. Without a key for the model, the server's own is used.
    """
    told = told or RedditMarketing()
    reddit = {"credentials": dict(told.reddit_credentials or EMPTY_REDDIT_CREDENTIALS)}
    llm = {"credentials": dict(told.llm_credentials)} if told.llm_credentials else {}
    read = {"subreddit": told.subreddit, "post_limit": told.post_limit, "last_minutes": told.last_minutes, **reddit}
    judge = {
        "model": told.model,
        "sys_prompt": _MARKETING_RULES.replace("{product}", told.product),
        "prompt": _MARKETING_PROMPT,
        "expected_format": {
            "post_id": "the id of the post, as it was given",
            "is_relevant": "true or false",
            "marketing_text": "the comment; empty if the post is not relevant",
        },
        "retry": 3,
        **llm,
    }
    return {
        "name": "Reddit marketing",
        "description": "Comments on posts of a subreddit that a product is relevant to.",
        "nodes": [
            node("read", GET_REDDIT_POSTS, **read),
            node("judge", AI_STRUCTURED_RESPONSE, **judge),
            node("relevant", MATCH_TEXT_PATTERN, match="^true$", case_sensitive=False),
            node("comment", POST_REDDIT_COMMENT, **reddit),
        ],
        "links": [
            link("read.post", "judge.prompt_values"),
            link("judge.response_#_is_relevant", "relevant.text"),
            link("judge.response", "relevant.data"),
            link("relevant.positive_#_post_id", "comment.post_id"),
            link("relevant.positive_#_marketing_text", "comment.comment"),
        ],
    }
