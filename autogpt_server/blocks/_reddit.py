"""Reddit through praw (https://praw.readthedocs.io): a client per call, and its many errors in our few."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, cast

import praw
import prawcore
import pydantic
import requests
import urllib3.exceptions
from praw.exceptions import PRAWException, RedditAPIException
from prawcore.exceptions import (
    Forbidden,
    InsufficientScope,
    InvalidToken,
    NotFound,
    OAuthException,
    PrawcoreException,
    Redirect,
    RequestException,
    ResponseException,
    ServerError,
    TooManyRequests,
)

from autogpt_server.blocks._credentials import Credentials
from autogpt_server.data.block import BlockError, EffectNotStarted, EffectUnknown
from autogpt_server.utils.settings import Settings

_COMMENT_PATH = "/api/comment"


class RedditCredentials(Credentials):
    """A script app of https://www.reddit.com/prefs/apps with the account that it acts for, or with a refresh token of it."""

    client_id: str = pydantic.Field(min_length=1)
    client_secret: pydantic.SecretStr
    username: str | None = None
    password: pydantic.SecretStr | None = None
    refresh_token: pydantic.SecretStr | None = None
    user_agent: str | None = None

    @property
    def names_an_account(self) -> bool:
        """Whether they are enough to write in somebody's name."""
        return bool((self.username and self.password) or self.refresh_token)


class _OnceRequestor(prawcore.Requestor):
    """Sends a comment once. prawcore repeats requests whose answer was lost; a comment that did arrive would stand there twice.

    Where no connection came about, it gives up at once: to wait and try again is the server's business, which holds no thread for it.
    """

    def request(self, *args: Any, timeout: float | None = None, **kwargs: Any) -> requests.Response:
        url = str(kwargs.get("url", args[1] if len(args) > 1 else ""))
        is_comment = url.partition("?")[0].rstrip("/").endswith(_COMMENT_PATH)
        try:
            response = super().request(*args, timeout=timeout, **kwargs)
        except RequestException as error:
            if _never_connected(error):
                raise _unreachable(error) from error
            if is_comment:
                raise EffectUnknown("Reddit's answer was lost; the comment may have been posted.") from error
            raise
        if is_comment and (response.status_code >= 500 or response.status_code == requests.codes["request_timeout"]):
            raise EffectUnknown(f"Reddit failed ({response.status_code}); the comment may have been posted.")
        return response


@contextmanager
def connect(credentials: RedditCredentials, settings: Settings) -> Generator[praw.Reddit]:
    """A client for these credentials. It connects when it is first used; its connections end with the context."""
    account: dict[str, Any] = {
        "username": credentials.username or None,
        "password": _text(credentials.password) or None,
        "refresh_token": _text(credentials.refresh_token) or None,
    }
    with requests.Session() as session:
        yield praw.Reddit(
            client_id=credentials.client_id,
            client_secret=_text(credentials.client_secret),
            user_agent=credentials.user_agent or _user_agent(credentials.username),
            reddit_url=settings.reddit_url.rstrip("/"),
            oauth_url=settings.reddit_oauth_url.rstrip("/"),
            timeout=int(max(1, settings.outgoing_timeout_s)),
            check_for_updates=False,
            check_for_async=False,
            ratelimit_seconds=0,
            requestor_class=_OnceRequestor,
            requestor_kwargs={"session": session},
            **{name: value for name, value in account.items() if value is not None},
        )


def _text(secret: pydantic.SecretStr | None) -> str:
    return secret.get_secret_value() if secret else ""


def _user_agent(username: str | None) -> str:
    """As Reddit asks for it: https://github.com/reddit-archive/reddit/wiki/API."""
    return f"python:autogpt_server:v1 (by /u/{username or 'unknown'})"


def newest_posts(reddit: praw.Reddit, subreddit: str, limit: int | None) -> Iterator[dict[str, Any]]:
    """The subreddit's posts, newest first: {post_id, subreddit, title, body}, and `created` in seconds since 1970."""
    posts = reddit.subreddit(subreddit).new(limit=limit)
    for post in posts:
        yield {
            "post_id": str(post.id),
            "subreddit": str(post.subreddit.display_name),
            "title": str(post.title),
            "body": str(post.selftext),
            "created": float(post.created_utc),
        }


def comment_on(reddit: praw.Reddit, post_id: str, text: str) -> str:
    """Post a comment; its id, empty where Reddit tells none (a quarantined subreddit)."""
    comment = cast("Any", reddit.submission(id=post_id)).reply(text)
    return str(comment.id) if comment is not None else ""


@contextmanager
def reddit_errors(subject: str) -> Generator[None]:
    """Turn what praw raises into a `BlockError` that says what to do; `subject` is what was asked for (a subreddit, a post).

    `EffectNotStarted` where waiting may help; in all other cases Reddit refused, and nothing has happened.
    """
    try:
        yield
    except RedditAPIException as error:
        raise _refusal(error) from error
    except OAuthException as error:
        raise BlockError(
            f"Reddit refused the account: check username and password, or the refresh token ({error.error})."
        ) from error
    except TooManyRequests as error:
        wait = error.response.headers.get("retry-after") or error.response.headers.get("x-ratelimit-reset")
        raise EffectNotStarted(
            f"Reddit asks to slow down (429){f'; try again in {wait} s' if wait else ''}.", retry_after_s=_seconds(wait)
        ) from error
    except (Redirect, NotFound) as error:
        raise BlockError(f"Reddit has no {subject}.") from error
    except (Forbidden, InsufficientScope) as error:
        raise BlockError(f"Reddit does not allow it (403): the account has no access to {subject}.") from error
    except RequestException as error:
        raise _unreachable(error) from error
    except ResponseException as error:
        raise _failed_response(error) from error
    except (PrawcoreException, PRAWException) as error:
        raise BlockError(f"Reddit: {type(error).__name__}.") from error


def _unreachable(error: RequestException) -> EffectNotStarted:
    return EffectNotStarted(f"Reddit cannot be reached ({type(error.original_exception).__name__}).")


def _failed_response(error: ResponseException) -> BlockError:
    status = error.response.status_code
    if isinstance(error, InvalidToken) or status == requests.codes["unauthorized"]:
        return BlockError("Reddit refused the app (401): check client_id and client_secret.")
    if isinstance(error, ServerError) or status >= 500:
        return EffectNotStarted(f"Reddit fails at the moment ({status}); try again later.")
    return BlockError(f"Reddit refused the request ({status}).")


def _refusal(error: RedditAPIException) -> BlockError:
    items = error.items
    reasons = "; ".join(f"{item.message or 'no reason given'} ({item.error_type})" for item in items)
    if any(item.error_type == "RATELIMIT" for item in items):
        return EffectNotStarted(f"Reddit asks to slow down: {reasons}")
    return BlockError(f"Reddit refused: {reasons}")


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _never_connected(error: RequestException) -> bool:
    """Whether no connection came about, so that nothing can have been sent."""
    original: Any = error.original_exception
    if isinstance(original, requests.exceptions.ConnectTimeout):
        return True
    reason = getattr(original.args[0], "reason", None) if getattr(original, "args", None) else None
    return isinstance(reason, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError)
