"""An agent from Python, with nothing but an HTTP client: build it, post it, run it, follow it live, print its output.

python examples/greeting.py http://127.0.0.1:8000 Ada
"""

import json
import sys

import httpx

AGENT_INPUT = "c0a8e994-ebf1-4a9c-a4d8-89d09c86741b"
AGENT_OUTPUT = "363ae599-353e-4804-937e-b2ee3cef3da4"
FILL_TEXT_TEMPLATE = "db7d8f02-2f44-4c55-ab7a-eae0941f0c30"

GRAPH = {
    "name": "Greeting",
    "description": "Greets somebody.",
    "nodes": [
        {"id": "name", "block_id": AGENT_INPUT, "input_default": {"name": "name"}},
        {"id": "text", "block_id": FILL_TEXT_TEMPLATE, "input_default": {"format": "Hello, {{name}}!"}},
        {"id": "out", "block_id": AGENT_OUTPUT, "input_default": {"name": "text"}},
    ],
    "links": [
        {"source_id": "name", "source_name": "result", "sink_id": "text", "sink_name": "values_#_name"},
        {"source_id": "text", "source_name": "output", "sink_id": "out", "sink_name": "value"},
    ],
}


def main(url: str, name: str) -> None:
    with httpx.Client(base_url=url, timeout=30) as api:
        graph = api.post("/graphs", json=GRAPH).raise_for_status().json()
        run = api.post(f"/graphs/{graph['id']}/execute", json={"name": name}).raise_for_status().json()
        # Server-sent events: one per change, until the run has ended.
        with api.stream("GET", f"/executions/{run['id']}/events") as events:
            kind = ""
            for line in events.iter_lines():
                if line.startswith("event:"):
                    kind = line.removeprefix("event:").strip()
                elif line.startswith("data:") and kind == "node":
                    node = json.loads(line.removeprefix("data:"))
                    print(f"{node['status']:<10} {node['output_data']}")
        ended = api.get(f"/executions/{run['id']}").raise_for_status().json()
    print(ended["status"], ended["outputs"]["text"][0])


if __name__ == "__main__":
    main(*sys.argv[1:3])
