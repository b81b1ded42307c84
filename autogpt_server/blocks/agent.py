"""Blocks that have other agents work."""

from dataclasses import replace
from typing import Any

from autogpt_server.data.block import (
    Block,
    BlockCategory,
    BlockContext,
    BlockKind,
    BlockOutput,
    BlockSchema,
    CallGraph,
    ChildResult,
    Effects,
    NodeWiring,
    OutputSchema,
    PermanentError,
    SchemaField,
)
from autogpt_server.data.pins import parse_pin


def _example(call: CallGraph, ctx: BlockContext) -> ChildResult:  # noqa: ARG001 - stands for `_outcome_of`
    """What the agent of the block's tests gives."""
    greeting = f"Hello, {call.run_input.get('who', 'nobody')}!"
    return ChildResult("run", "COMPLETED", None, {"greeting": [greeting], "Subject Line": ["1", "2"]})


class AgentExecutorBlock(Block):
    id = "e189baac-8c20-45a1-94a7-55177ea42565"
    description = "Runs another graph, and gives what its agent outputs give, each on a pin of its name."
    categories = frozenset({BlockCategory.AGENT})
    effects = Effects.PURE
    """All it does itself is to ask for a run, which comes into being with its wait, and to pass on what that gave; the run answers for its own blocks."""
    kind = BlockKind.AGENT

    class Input(BlockSchema):
        graph_id: str = SchemaField(description="The graph to run.", min_length=1)
        graph_version: int | None = SchemaField(None, description="Its version; without one, the active version.", ge=1)
        inputs: dict[str, Any] = SchemaField(
            default_factory=dict[str, Any],
            description="Its input, by the names of its agent inputs. A link to a pin of such a name fills that entry.",
        )
        agent_name: str | None = SchemaField(None, description="What to call it, for people.", advanced=True)
        # Editors save these with every use of an agent.
        user_id: str = SchemaField("", description="Whose agent it is, where it was made.", hidden=True)
        input_schema: dict[str, Any] = SchemaField(
            default_factory=dict[str, Any], description="What its inputs are, as JSON schema.", hidden=True
        )
        output_schema: dict[str, Any] = SchemaField(
            default_factory=dict[str, Any],
            description="What its outputs are, as JSON schema; the names of its output pins.",
            hidden=True,
        )
        nodes_input_masks: dict[str, dict[str, Any]] | None = SchemaField(
            None, description="Values for single nodes in it: not possible here.", hidden=True, secret=True
        )

    class Output(OutputSchema):
        pass

    input_schema = Input
    output_schema = Output
    test_input = (
        {"graph_id": "greeting", "inputs": {"who": "Ada"}},
        {"graph_id": "newsletter", "graph_version": 3, "inputs": {}, "agent_name": "Newsletter"},
    )
    test_output = (
        [("greeting", "Hello, Ada!"), ("Subject Line", "1"), ("Subject Line", "2")],
        [("greeting", "Hello, nobody!"), ("Subject Line", "1"), ("Subject Line", "2")],
    )
    test_mock = {"_outcome_of": _example}

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        if input_data.nodes_input_masks:
            raise PermanentError(
                "nodes_input_masks cannot be used here: give the nodes of the agent their values in the agent itself, or by its inputs."
            )
        call = CallGraph(input_data.graph_id, input_data.inputs, graph_version=input_data.graph_version)
        outcome = self._outcome_of(call, ctx)
        for name, values in outcome.outputs.items():
            for value in values:
                yield name, value
        if outcome.status != "COMPLETED":
            # Calling the block again would find the same run.
            raise PermanentError(
                f"The run {outcome.run_id} of the agent is {outcome.status}: {outcome.error or 'no reason is known'}"
            )

    @staticmethod
    def _outcome_of(call: CallGraph, ctx: BlockContext) -> ChildResult:
        """How the run has ended; in the first call, the wish to have it performed."""
        if not ctx.is_resumed:
            raise call
        result: ChildResult = ctx.resumed_with
        return result

    @classmethod
    def upgrade(cls, node: NodeWiring) -> NodeWiring:
        """Links to pins named like the agent's inputs lead to the entries of `inputs`, which they stand for."""
        own = cls.input_schema.pins()
        return NodeWiring(
            node.defaults,
            tuple(
                link if parse_pin(link.sink_name).base in own else replace(link, sink_name=f"inputs_#_{link.sink_name}")
                for link in node.incoming
            ),
            node.outgoing,
        )
