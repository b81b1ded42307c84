"""The Reddit marketing graph with credentials from the environment: create it, run it, say what it did.

    REDDIT_CLIENT_ID=... REDDIT_CLIENT_SECRET=... REDDIT_USERNAME=... REDDIT_PASSWORD=... OPENAI_API_KEY=... \
        python examples/reddit_marketing.py http://127.0.0.1:8000 startups

It comments on Reddit! Try it on a subreddit of your own.
"""

import os
import sys
import time

import httpx

from autogpt_server.seeds import POST_REDDIT_COMMENT, RedditMarketing, reddit_marketing_graph


def main(url: str, subreddit: str) -> None:
    told = RedditMarketing(
        subreddit=subreddit,
        reddit_credentials={
            name: os.environ[f"REDDIT_{name.upper()}"]
            for name in ("client_id", "client_secret", "username", "password")
        },
        llm_credentials={"provider": "openai", "api_key": os.environ["OPENAI_API_KEY"]},
    )
    with httpx.Client(base_url=url, timeout=30) as api:
        graph = api.post("/graphs", json=reddit_marketing_graph(told)).raise_for_status().json()
        run = api.post(f"/graphs/{graph['id']}/execute", json={}).raise_for_status().json()
        while (status := api.get(f"/executions/{run['id']}").raise_for_status().json()["status"]) in {
            "QUEUED",
            "RUNNING",
        }:
            time.sleep(1)
        nodes = api.get(f"/graphs/{graph['id']}/executions/{run['id']}").raise_for_status().json()
    print(status)
    for node in nodes:
        if node["block_id"] == POST_REDDIT_COMMENT:
            print(node["status"], node["input_data"]["post_id"], node["output_data"], node["error"] or "")


if __name__ == "__main__":
    main(*sys.argv[1:3])
