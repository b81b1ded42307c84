"""Blocks that read and write on Reddit."""

from collections.abc import Iterator
from typing import Any, ClassVar, TypeAlias, cast

import pydantic

from autogpt_server.blocks._credentials import CredentialsField, read_credentials
from autogpt_server.blocks._upgrade import rename_pins, split_link
from autogpt_server.data.block import (
    Block,
    BlockCategory,
    BlockContext,
    BlockError,
    BlockOutput,
    BlockSchema,
    Effects,
    NodeWiring,
    OutputSchema,
    PinLink,
    SchemaField,
)
from autogpt_server.data.pins import parse_pin

_SAMPLE_CREDENTIALS = {
    "client_id": "an-app",
    "client_secret": "its secret",
    "username": "someone",
    "password": "pa55word",
    "user_agent": "python:test:v1 (by /u/someone)",
}
_CREDENTIALS_HELP = (
    "A Reddit app and the account it acts for: client_id, client_secret, username, password, user_agent."
)


JsonObject: TypeAlias = dict[str, Any]


class RedditPost(pydantic.BaseModel):
    post_id: str
    subreddit: str
    title: str
    body: str


def _sample_posts(_input: "GetRedditPostsBlock.Input", _ctx: BlockContext) -> Iterator[JsonObject]:
    yield {"post_id": "id2", "subreddit": "test", "title": "Second", "body": "Newer"}
    yield {"post_id": "id1", "subreddit": "test", "title": "First", "body": ""}


def _sample_comment(input_data: "PostRedditCommentBlock.Input", _ctx: BlockContext) -> str:
    return f"comment-on-{input_data.post_id}"


class GetRedditPostsBlock(Block):
    id = "c6731acb-4285-4ee1-bc9b-03d0766c370f"
    description = "Reads the newest posts of a subreddit."
    categories = frozenset({BlockCategory.SOCIAL})
    effects = Effects.IDEMPOTENT
    max_parallel = 2
    """Reddit counts requests per account."""

    class Input(BlockSchema):
        subreddit: str = SchemaField(
            "writingprompts", description="The subreddit's name, without r/.", placeholder="python"
        )
        credentials: dict[str, Any] = CredentialsField(
            providers=("reddit",), types=("oauth2",), description=_CREDENTIALS_HELP
        )
        last_minutes: int | None = SchemaField(None, description="Only posts of so many last minutes.", ge=1)
        last_post: str | None = SchemaField(
            None, description="The id of the newest post seen before: it and older ones are left out."
        )
        post_limit: int | None = SchemaField(
            10, description="At most so many posts; null for all that Reddit gives (about 1,000).", ge=1
        )

    class Output(OutputSchema):
        post: RedditPost = SchemaField(None, description="One post; sent once for each, the newest first.")
        posts: list[RedditPost] = SchemaField(default_factory=list, description="All of them as one list.")

    input_schema = Input
    output_schema = Output
    test_input = {"credentials": _SAMPLE_CREDENTIALS, "subreddit": "test", "post_limit": 2}
    test_output = [
        ("post", {"post_id": "id2", "subreddit": "test", "title": "Second", "body": "Newer"}),
        ("post", {"post_id": "id1", "subreddit": "test", "title": "First", "body": ""}),
        ("posts", list),
    ]
    test_mock: ClassVar = {"posts": _sample_posts}

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        posts: list[JsonObject] = []
        for post in self.posts(input_data, ctx):
            posts.append(post)
            yield "post", post
        yield "posts", posts

    def posts(self, input_data: Input, ctx: BlockContext) -> Iterator[JsonObject]:
        """The posts asked for, newest first; the one method that touches the network."""
        from autogpt_server.blocks._reddit import RedditCredentials, connect, newest_posts, reddit_errors  # noqa: PLC0415

        credentials = read_credentials(RedditCredentials, input_data.credentials, "Reddit")
        name = input_data.subreddit.strip().removeprefix("/").removeprefix("r/").strip("/")
        oldest = None if input_data.last_minutes is None else ctx.now().timestamp() - 60 * input_data.last_minutes
        last_post = _short_id(input_data.last_post) if input_data.last_post else None
        with reddit_errors(f"subreddit {name!r}"), connect(credentials, ctx.settings) as reddit:
            for post in newest_posts(reddit, name, input_data.post_limit):
                if post["post_id"] == last_post or (oldest is not None and post["created"] < oldest):
                    break
                yield {name: post[name] for name in RedditPost.model_fields}

    @classmethod
    def upgrade(cls, node: NodeWiring) -> NodeWiring:
        """2024: `creds`."""
        return rename_pins(node, inputs={"creds": "credentials"})


class PostRedditCommentBlock(Block):
    id = "4a92261b-701e-4ffb-8970-675fd28e261f"
    description = "Posts a comment under a Reddit post."
    categories = frozenset({BlockCategory.SOCIAL})
    effects = Effects.UNSAFE
    max_parallel = 1
    """Reddit refuses comments of one account that come close to each other."""

    class Input(BlockSchema):
        credentials: dict[str, Any] = CredentialsField(
            providers=("reddit",), types=("oauth2",), description=_CREDENTIALS_HELP
        )
        post_id: str = SchemaField(description="The id of the post.", placeholder="1abc2d")
        comment: str = SchemaField(description="The comment, in Reddit's Markdown.")

    class Output(OutputSchema):
        comment_id: str = SchemaField("", description="The id of the new comment; empty where Reddit does not tell it.")
        post_id: str = SchemaField("", description="The id of the post it stands under.")

    input_schema = Input
    output_schema = Output
    test_input = {"credentials": _SAMPLE_CREDENTIALS, "post_id": "id1", "comment": "Well said."}
    test_output = [("comment_id", "comment-on-id1"), ("post_id", "id1")]
    test_mock: ClassVar = {"post": _sample_comment}

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        if not input_data.comment.strip():
            raise BlockError("The comment is empty; Reddit takes no empty comments.")
        yield "comment_id", self.post(input_data, ctx)
        yield "post_id", _short_id(input_data.post_id)

    def post(self, input_data: Input, ctx: BlockContext) -> str:
        """Post the comment and return its id; the one method that touches the network."""
        from autogpt_server.blocks._reddit import RedditCredentials, comment_on, connect, reddit_errors  # noqa: PLC0415

        credentials = read_credentials(RedditCredentials, input_data.credentials, "Reddit")
        if not credentials.names_an_account:
            raise BlockError(
                "Reddit takes comments from accounts only: the credentials lack username and password, or a refresh_token."
            )
        post_id = _short_id(input_data.post_id)
        with reddit_errors(f"post {post_id!r}"), connect(credentials, ctx.settings) as reddit:
            return comment_on(reddit, post_id, input_data.comment)

    @classmethod
    def upgrade(cls, node: NodeWiring) -> NodeWiring:
        """2024: `creds`, and `data` with the entries post_id and comment."""
        renamed = rename_pins(node, inputs={"creds": "credentials"})
        defaults = dict(renamed.defaults)
        if isinstance(data := defaults.pop("data", None), dict):
            entries = cast("JsonObject", data)
            defaults = {pin: entries[pin] for pin in ("post_id", "comment") if pin in entries} | defaults
        renamed = NodeWiring(
            defaults, [link for old in renamed.incoming for link in _split_data(old)], renamed.outgoing
        )
        return _unnest(renamed, "data")


def _split_data(link: PinLink) -> list[PinLink]:
    """A whole-object link into `data` as one link per entry of it."""
    return split_link(link, {"post_id": "post_id", "comment": "comment"}) if link.sink_name == "data" else [link]


def _unnest(node: NodeWiring, pin: str) -> NodeWiring:
    """`data_#_post_id` as `post_id`."""

    def flat(name: str) -> str:
        parsed = parse_pin(name)
        return str(parsed.parts[0].key) if parsed.base == pin and parsed.parts else name

    return NodeWiring(
        {flat(name): value for name, value in node.defaults.items()},
        [PinLink(link.source_name, flat(link.sink_name)) for link in node.incoming],
        node.outgoing,
    )


def _short_id(post_id: str) -> str:
    """Reddit's base-36 id, without the `t3_` that full names of posts begin with."""
    return post_id.strip().removeprefix("t3_")
