"""The Reddit blocks through the real praw, against a server on this machine that speaks Reddit's protocol."""

from collections.abc import Generator
from datetime import UTC, datetime
from typing import Any

import pytest

from autogpt_server.blocks.reddit import GetRedditPostsBlock, PostRedditCommentBlock
from autogpt_server.data.block import BlockContext, BlockError, EffectNotStarted, EffectUnknown
from autogpt_server.utils.settings import Settings
from support.blocks import context, run_block
from support.loopback import Reply
from support.reddit_server import CREDENTIALS, Comment, Post, RedditServer, refused, too_many_requests
from support.running import free_port

POSTS = [Post("p3", "Third", "c", 1), Post("p2", "Second", "b", 10), Post("p1", "First", "a", 100)]


@pytest.fixture
def reddit() -> Generator[RedditServer]:
    with RedditServer(list(POSTS)) as server:
        yield server


def lent(url: str) -> BlockContext:
    """A context whose Reddit is at `url`, with the real time."""
    return context(Settings(reddit_url=url, reddit_oauth_url=url), now=datetime.now(UTC))


async def read(reddit: RedditServer, **changes: Any) -> list[str]:
    """The ids of the posts that the block sends."""
    given = {"subreddit": reddit.subreddit, "credentials": CREDENTIALS, **changes}
    outputs = await run_block(GetRedditPostsBlock(), given, lent(reddit.url))
    posts = [value for pin, value in outputs if pin == "post"]
    assert outputs[-1] == ("posts", posts)
    return [post["post_id"] for post in posts]


async def comment(reddit: RedditServer | str, **changes: Any) -> list[tuple[str, Any]]:
    given = {"credentials": CREDENTIALS, "post_id": "p1", "comment": "Well said.", **changes}
    return await run_block(PostRedditCommentBlock(), given, lent(reddit if isinstance(reddit, str) else reddit.url))


async def test_posts_come_newest_first_with_their_text(reddit: RedditServer) -> None:
    outputs = await run_block(
        GetRedditPostsBlock(), {"subreddit": "startups", "credentials": CREDENTIALS}, lent(reddit.url)
    )
    assert outputs[0] == ("post", {"post_id": "p3", "subreddit": "startups", "title": "Third", "body": "c"})
    assert [pin for pin, _ in outputs] == ["post", "post", "post", "posts"]
    assert reddit.received[-1].headers["user-agent"].startswith(CREDENTIALS["user_agent"])


async def test_limit_age_and_last_post_narrow_what_is_read(reddit: RedditServer) -> None:
    assert await read(reddit, post_limit=2) == ["p3", "p2"]
    assert await read(reddit, last_minutes=30) == ["p3", "p2"]
    assert await read(reddit, last_post="p2") == ["p3"]
    assert await read(reddit, last_post="t3_p1") == ["p3", "p2"]
    assert await read(reddit, subreddit="r/startups", last_post="p3") == []


async def test_more_than_a_page_is_read(reddit: RedditServer) -> None:
    reddit.posts = [Post(f"n{number}", "T", "b") for number in range(130)]
    assert len(await read(reddit, post_limit=120)) == 120
    assert len(await read(reddit, post_limit=None)) == 130


async def test_reading_needs_no_account(reddit: RedditServer) -> None:
    app = {name: CREDENTIALS[name] for name in ("client_id", "client_secret")}
    assert await read(reddit, credentials=app) == ["p3", "p2", "p1"]


async def test_a_comment_is_posted_once(reddit: RedditServer) -> None:
    assert await comment(reddit, post_id="t3_p1") == [("comment_id", "c1"), ("post_id", "p1")]
    assert reddit.comments == [Comment("p1", "Well said.")]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"client_secret": "wrong"}, r"refused the app \(401\): check client_id and client_secret"),
        ({"password": "wrong"}, r"refused the account: check username and password"),
        ({"client_id": ""}, r"credentials for Reddit lack client_id"),
        ({"client_secret": None}, r"credentials for Reddit lack client_secret"),
    ],
)
async def test_wrong_credentials_are_told_without_being_shown(
    reddit: RedditServer, changes: dict[str, Any], said: str
) -> None:
    wrong = {**CREDENTIALS, **changes}
    for attempt in (read(reddit, credentials=wrong), comment(reddit, credentials=wrong)):
        with pytest.raises(BlockError, match=said) as caught:
            await attempt
        assert not isinstance(caught.value, EffectNotStarted | EffectUnknown)
        assert CREDENTIALS["client_secret"] not in str(caught.value)
        assert CREDENTIALS["password"] not in str(caught.value)
    assert reddit.comments == []


async def test_a_comment_needs_an_account(reddit: RedditServer) -> None:
    with pytest.raises(BlockError, match="from accounts only"):
        await comment(reddit, credentials={"client_id": "a", "client_secret": "b"})
    with pytest.raises(BlockError, match="empty"):
        await comment(reddit, comment=" \n")
    assert reddit.received == []


async def test_a_subreddit_that_is_not_there(reddit: RedditServer) -> None:
    with pytest.raises(BlockError, match="no subreddit 'nowhere'"):
        await read(reddit, subreddit="nowhere")
    # Reddit sends who asks for an unknown subreddit to its search.
    reddit.mood.listing = Reply(b"", 302, {"location": f"{reddit.url}/subreddits/search"})
    with pytest.raises(BlockError, match="no subreddit 'startups'"):
        await read(reddit)


async def test_a_private_subreddit(reddit: RedditServer) -> None:
    reddit.mood.listing = Reply({"reason": "private", "message": "Forbidden", "error": 403}, 403)
    with pytest.raises(BlockError, match=r"does not allow it \(403\)"):
        await read(reddit)


async def test_too_many_requests_say_how_long_to_wait(reddit: RedditServer) -> None:
    reddit.mood.listing = too_many_requests(42)
    with pytest.raises(EffectNotStarted, match=r"slow down \(429\); try again in 42 s") as caught:
        await read(reddit)
    assert caught.value.details["retry_after_s"] == 42
    reddit.mood.comment = [too_many_requests(7)]
    with pytest.raises(EffectNotStarted, match="try again in 7 s"):
        await comment(reddit)
    reddit.mood.comment = [refused("RATELIMIT", "You are doing that too much. Take a break for 4 minutes.")]
    with pytest.raises(EffectNotStarted, match="Take a break for 4 minutes"):
        await comment(reddit)
    assert reddit.comments == []


async def test_a_refused_comment_is_no_retry(reddit: RedditServer) -> None:
    reddit.mood.comment = [refused("THREAD_LOCKED", "Comments are locked.")]
    with pytest.raises(BlockError, match=r"Comments are locked. \(THREAD_LOCKED\)") as caught:
        await comment(reddit)
    assert not isinstance(caught.value, EffectNotStarted | EffectUnknown)


async def test_a_lost_answer_is_unknown_and_not_repeated(reddit: RedditServer) -> None:
    reddit.mood.commented_then_dropped = True
    with pytest.raises(EffectUnknown, match="may have been posted"):
        await comment(reddit)
    assert reddit.comments == [Comment("p1", "Well said.")]


async def test_a_failing_server_leaves_the_outcome_unknown(reddit: RedditServer) -> None:
    reddit.mood.comment = [Reply(b"", 503)]
    with pytest.raises(EffectUnknown, match="503"):
        await comment(reddit)
    assert sum(request.path.startswith("/api/comment") for request in reddit.received) == 1


async def test_an_unreachable_reddit_has_done_nothing() -> None:
    with pytest.raises(EffectNotStarted, match="cannot be reached"):
        await comment(f"http://127.0.0.1:{free_port()}")
