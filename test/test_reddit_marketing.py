"""The Reddit marketing graph on the whole server, with the real praw and openai clients, against loopback servers that speak their protocols."""

import json
import re
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from autogpt_server import seeds
from support.live_server import LiveServer, live_server
from support.loopback import Reply
from support.openai_server import API_KEY, Chat, OpenAIServer, failure
from support.reddit_server import CREDENTIALS, Comment, Mood, Post, RedditServer, too_many_requests

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.timeout(240)

POSTS = [
    Post("p3", "How do I automate my reports?", "Every Monday I copy numbers by hand."),
    Post("p2", "My cat", "Look at this cat."),
    Post("p1", "Agents?", "Which platform runs agents while I sleep?"),
]
COMMENTS = [Comment("p3", "For p3: an agent could do that."), Comment("p1", "For p1: an agent could do that.")]


def marketer(chat: Chat) -> str:
    """A model that finds every post relevant but those about cats."""
    prompt = chat["messages"][-1]["content"]
    match = re.search(r"post id: (\w+)", prompt, re.IGNORECASE)
    assert match, prompt
    post_id = match[1]
    relevant = "cat" not in prompt
    text = f"For {post_id}: an agent could do that." if relevant else ""
    return json.dumps({"post_id": post_id, "is_relevant": relevant, "marketing_text": text})


@dataclass
class World:
    """The server, and what it talks to."""

    server: LiveServer
    reddit: RedditServer
    openai: OpenAIServer

    def marketing(self, **changes: Any) -> dict[str, Any]:
        """The graph, with credentials that work."""
        told: dict[str, Any] = {
            "subreddit": self.reddit.subreddit,
            "reddit_credentials": CREDENTIALS,
            "llm_credentials": {"provider": "openai", "api_key": API_KEY},
            **changes,
        }
        return seeds.reddit_marketing_graph(seeds.RedditMarketing(**told))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Generator[World]:
    with RedditServer(list(POSTS)) as reddit, OpenAIServer(marketer) as openai:
        changes: dict[str, Any] = {
            "reddit_url": reddit.url,
            "reddit_oauth_url": reddit.url,
            "openai_base_url": openai.base_url,
        }
        with live_server(tmp_path_factory.mktemp("server"), **changes) as server:
            yield World(server, reddit, openai)


@pytest.fixture
def world(running: World) -> World:
    """The world as it was in the beginning."""
    running.reddit.comments.clear()
    running.reddit.mood = Mood()
    running.openai.model = marketer
    running.openai.received.clear()
    return running


def test_relevant_posts_are_commented_and_the_other_is_not(world: World) -> None:
    environment = {f"REDDIT_{name.upper()}": value for name, value in CREDENTIALS.items()} | {"OPENAI_API_KEY": API_KEY}
    done = world.server.cli(
        "test", "reddit", world.server.url, "--subreddit", world.reddit.subreddit, "--run", **environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].split() == ["Status", "COMPLETED"]
    assert sorted(world.reddit.comments, key=lambda comment: comment.post_id, reverse=True) == COMMENTS
    assert len(world.openai.chats) == 3

    graph_id = next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("Graph"))
    (run,) = world.server.get(f"/graphs/{graph_id}/executions")
    posted = world.server.node_executions({**run, "graph_id": graph_id}, seeds.POST_REDDIT_COMMENT)
    assert [node["status"] for node in posted] == ["COMPLETED", "COMPLETED"]
    assert [node["output_data"]["post_id"] for node in posted] == [["p3"], ["p1"]]

    secrets = (CREDENTIALS["client_secret"], CREDENTIALS["password"], API_KEY)
    shown = [
        done.stdout,
        world.server.output,
        json.dumps(world.server.get(f"/graphs/{graph_id}/executions/{run['id']}")),
    ]
    assert not [(secret, text) for secret in secrets for text in shown if secret in text]


def test_the_graph_of_july_2024_runs_unchanged(world: World) -> None:
    graph = json.loads((EXAMPLES / "july_2024" / "reddit_marketing.json").read_text())
    for node in graph["nodes"]:
        given = node["input_default"]
        if "creds" in given:
            given["creds"] = CREDENTIALS
        if "subreddit" in given:
            given["subreddit"] = world.reddit.subreddit
        if "config" in given:
            given["config"]["api_key"] = API_KEY
    run = world.server.run(graph)
    assert run["status"] == "COMPLETED", run
    assert sorted(world.reddit.comments, key=lambda comment: comment.post_id, reverse=True) == COMMENTS
    prompt = world.openai.chats[0]["messages"][-1]["content"]
    assert 'Answer like {"post_id": "...", "is_relevant": true}.' in prompt
    assert world.openai.chats[0]["model"] == "gpt-4o"


def test_the_example_script(world: World) -> None:
    environment = {f"REDDIT_{name.upper()}": value for name, value in CREDENTIALS.items()} | {"OPENAI_API_KEY": API_KEY}
    script = subprocess.run(
        [sys.executable, str(EXAMPLES / "reddit_marketing.py"), world.server.url, world.reddit.subreddit],
        env=world.server.environment | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert script.returncode == 0, script.stderr
    assert [line.split()[0:2] for line in script.stdout.splitlines()] == [
        ["COMPLETED"],
        ["COMPLETED", "p3"],
        ["COMPLETED", "p1"],
    ]


def test_wrong_reddit_credentials_are_told(world: World) -> None:
    run = world.server.run(world.marketing(reddit_credentials={**CREDENTIALS, "password": "wrong-password"}))
    assert run["status"] == "FAILED"
    (read,) = world.server.node_executions(run, seeds.GET_REDDIT_POSTS)
    assert read["status"] == "FAILED"
    assert "check username and password" in json.dumps(read["error"])
    assert "wrong-password" not in json.dumps(world.server.get(f"/graphs/{run['graph_id']}/executions/{run['id']}"))
    assert world.reddit.comments == []


def test_a_wrong_model_key_is_told(world: World) -> None:
    run = world.server.run(world.marketing(llm_credentials={"api_key": "sk-wrong-key-0987654321"}))
    assert run["status"] == "FAILED"
    errors = [json.dumps(node["error"]) for node in world.server.node_executions(run, seeds.AI_STRUCTURED_RESPONSE)]
    assert len(errors) == 3
    assert all("refused the API key (401)" in error and "sk-wrong" not in error for error in errors)
    assert world.reddit.comments == []


def test_too_many_requests_are_told(world: World) -> None:
    world.reddit.mood.listing = too_many_requests(42)
    run = world.server.run(world.marketing())
    (read,) = world.server.node_executions(run, seeds.GET_REDDIT_POSTS)
    assert (run["status"], read["status"]) == ("FAILED", "FAILED")
    assert "slow down (429); try again in 42 s" in json.dumps(read["error"])

    world.reddit.mood = Mood()
    limit: Reply = failure(429, "Rate limit reached", "rate_limit_exceeded", retry_after="77", retry_after_ms="1")

    def busy_with_cats(chat: Chat) -> str | Reply:
        return limit if "cat" in chat["messages"][-1]["content"] else marketer(chat)

    world.openai.model = busy_with_cats
    run = world.server.run(world.marketing())
    judged = world.server.node_executions(run, seeds.AI_STRUCTURED_RESPONSE)
    assert (run["status"], [node["status"] for node in judged]) == ("FAILED", ["COMPLETED", "FAILED", "COMPLETED"])
    assert "slow down (429): try again in 77 s" in json.dumps(judged[1]["error"])
    assert sorted(comment.post_id for comment in world.reddit.comments) == ["p1", "p3"], "the others were not held up"


def test_without_credentials_the_graph_is_saved_and_says_what_it_lacks(world: World) -> None:
    done = world.server.cli("test", "reddit", world.server.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "It has no credentials for Reddit yet" in done.stdout
    assert "REDDIT_CLIENT_ID, REDDIT_CLIENT_SECRET, REDDIT_USERNAME, REDDIT_PASSWORD" in done.stdout
    run = world.server.run(seeds.reddit_marketing_graph())
    (read,) = world.server.node_executions(run, seeds.GET_REDDIT_POSTS)
    assert "The credentials for Reddit lack client_id" in json.dumps(read["error"])
    done = world.server.cli("test", "reddit", world.server.url, "--run")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot run without credentials" in done.stderr
