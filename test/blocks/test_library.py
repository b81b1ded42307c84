"""What the outside knows of the library: names, ids and pins, which must not change, and the page that lists them."""

import json
from pathlib import Path
from typing import Any

from autogpt_server.blocks import get_blocks
from autogpt_server.blocks.__main__ import MARK, reference

ROOT = Path(__file__).parents[2]


def public_face() -> dict[str, Any]:
    """Id -> what graphs and clients rely on."""
    return {
        block.id: {
            "name": block.name,
            "static_output": block.static_output,
            "required": sorted(block.input_schema.required_pins()),
            "inputs": sorted(block.input_schema.pins()),
            "outputs": sorted(block.output_schema.pins()),
        }
        for block in get_blocks().values()
    }


def test_ids_names_and_pins_stay() -> None:
    # A block may gain pins with defaults. Everything else breaks graphs that people have; see `Block.upgrade`.
    known: dict[str, Any] = json.loads((Path(__file__).parent / "public_face.json").read_text())
    now = public_face()
    assert now.keys() >= known.keys()
    for block_id, face in known.items():
        assert now[block_id]["name"] == face["name"]
        assert now[block_id]["static_output"] == face["static_output"]
        assert set(now[block_id]["required"]) <= set(face["required"])
        assert set(now[block_id]["inputs"]) >= set(face["inputs"])
        assert set(now[block_id]["outputs"]) >= set(face["outputs"])


def test_the_page_lists_the_blocks_as_they_are() -> None:
    page = (ROOT / "docs" / "library.md").read_text()
    written = page[page.index(MARK) :].strip()
    assert written == reference(get_blocks()).strip(), (
        "run: python -m autogpt_server.blocks, and put it in docs/library.md"
    )
