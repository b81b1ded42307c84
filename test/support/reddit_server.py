"""Reddit, as far as praw needs it to read a subreddit and to comment: https://www.reddit.com/dev/api."""

import base64
import time
from dataclasses import dataclass, field

from support.loopback import Loopback, Received, Reply

CREDENTIALS = {
    "client_id": "reddit-app",
    "client_secret": "reddit-app-secret",
    "username": "marketer",
    "password": "hunter2hunter2",
    "user_agent": "python:autogpt_server.test:v1 (by /u/marketer)",
}
_TOKEN = "an-access-token"


@dataclass
class Post:
    """A post of the subreddit."""

    id: str
    title: str
    body: str
    age_minutes: float = 1.0


@dataclass
class Comment:
    """A comment that was posted."""

    post_id: str
    text: str


@dataclass
class Mood:
    """How the server behaves when not as it should."""

    listing: Reply | None = None
    comment: list[Reply] = field(default_factory=list[Reply])
    """Answers to the next comments, before they are posted as usual."""
    commented_then_dropped: bool = False


class RedditServer(Loopback):
    """One subreddit with posts, one app, one account."""

    def __init__(self, posts: list[Post], subreddit: str = "startups") -> None:
        super().__init__()
        self.posts = posts
        self.subreddit = subreddit
        self.comments: list[Comment] = []
        self.mood = Mood()

    def answer(self, request: Received) -> Reply:
        if request.path == "/api/v1/access_token":
            return self._token(request)
        if request.headers.get("authorization") != f"bearer {_TOKEN}":
            return Reply({"message": "Unauthorized", "error": 401}, 401, {"www-authenticate": 'Bearer realm="reddit"'})
        if request.path.rstrip("/") == "/api/comment":
            return self._comment(request)
        if request.path == f"/r/{self.subreddit}/new":
            return self.mood.listing or self._listing(request)
        return Reply({"message": "Not Found", "error": 404}, 404)

    def _token(self, request: Received) -> Reply:
        app = base64.b64encode(f"{CREDENTIALS['client_id']}:{CREDENTIALS['client_secret']}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {app}":
            return Reply({"message": "Unauthorized", "error": 401}, 401)
        form = request.form
        if form["grant_type"] == "password":
            if (form["username"], form["password"]) != (CREDENTIALS["username"], CREDENTIALS["password"]):
                return Reply({"error": "invalid_grant"})
        elif form["grant_type"] != "client_credentials":
            return Reply({"error": "unsupported_grant_type"})
        return Reply({"access_token": _TOKEN, "token_type": "bearer", "expires_in": 86_400, "scope": "*"})

    def _listing(self, request: Received) -> Reply:
        limit = int(request.query.get("limit", "25"))
        first = 0
        if after := request.query.get("after"):
            first = [f"t3_{post.id}" for post in self.posts].index(after) + 1
        page = self.posts[first : first + limit]
        more = first + limit < len(self.posts)
        data = {
            "after": f"t3_{page[-1].id}" if page and more else None,
            "before": None,
            "dist": len(page),
            "modhash": None,
            "children": [{"kind": "t3", "data": self._post(post)} for post in page],
        }
        return Reply({"kind": "Listing", "data": data}, headers=_RATE)

    def _post(self, post: Post) -> dict[str, object]:
        return {
            "id": post.id,
            "name": f"t3_{post.id}",
            "subreddit": self.subreddit,
            "subreddit_id": "t5_2qh26",
            "title": post.title,
            "selftext": post.body,
            "author": "somebody",
            "created_utc": time.time() - 60 * post.age_minutes,
            "permalink": f"/r/{self.subreddit}/comments/{post.id}/",
            "url": f"{self.url}/r/{self.subreddit}/comments/{post.id}/",
        }

    def _comment(self, request: Received) -> Reply:
        if self.mood.comment:
            return self.mood.comment.pop(0)
        form = request.form
        self.comments.append(Comment(form["thing_id"].removeprefix("t3_"), form["text"]))
        if self.mood.commented_then_dropped:
            return Reply(dropped=True)
        comment_id = f"c{len(self.comments)}"
        data = {
            "id": comment_id,
            "name": f"t1_{comment_id}",
            "parent_id": form["thing_id"],
            "link_id": form["thing_id"],
            "subreddit": self.subreddit,
            "author": CREDENTIALS["username"],
            "body": form["text"],
        }
        return Reply({"json": {"errors": [], "data": {"things": [{"kind": "t1", "data": data}]}}}, headers=_RATE)


def refused(error_type: str, message: str) -> Reply:
    """Reddit's way to refuse a comment: with status 200."""
    return Reply({"json": {"errors": [[error_type, message, "parent"]]}}, headers=_RATE)


def too_many_requests(retry_after_s: int) -> Reply:
    """Reddit asks to slow down."""
    return Reply({"message": "Too Many Requests", "error": 429}, 429, {"retry-after": str(retry_after_s)})


_RATE = {"x-ratelimit-used": "1", "x-ratelimit-remaining": "995.0", "x-ratelimit-reset": "1"}
