"""Replays histories with traces switched on, in a process of its own.

A process has one tracer for good, so this cannot be done beside other tests.
Arguments: a fleet file, then files of histories. Prints what does not replay.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner
from tests.histories.own_workflow import OWN

from tierpool import TierpoolPlugin, load_fleet
from tierpool.tracing import tracing


async def main(fleet_file: str, *histories: str) -> None:
    fleet = load_fleet(fleet_file)
    with tracing(fleet) as plugins:
        assert plugins, "nothing is traced"
        replayer = Replayer(
            workflows=OWN,
            plugins=[*plugins, TierpoolPlugin(fleet)],
            workflow_runner=SandboxedWorkflowRunner(),
        )
        for path in map(Path, histories):
            events = json.loads(path.read_text())
            begun = events["events"][0]["workflowExecutionStartedEventAttributes"]
            history = WorkflowHistory.from_json(begun["workflowId"], json.dumps(events))
            result = await replayer.replay_workflow(
                history, raise_on_replay_failure=False
            )
            if result.replay_failure is not None:
                print(f"{path.name}: {result.replay_failure!r}")  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
