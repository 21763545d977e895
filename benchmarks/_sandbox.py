"""The sandbox that workflows of the benchmarks run in."""

from __future__ import annotations

from dataclasses import replace

from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

__all__ = ["sandbox"]


def sandbox(*modules: str) -> SandboxedWorkflowRunner:
    """Return a sandbox that these modules pass through, as tierpool's own do."""
    runner = SandboxedWorkflowRunner()
    allowed = runner.restrictions.with_passthrough_modules(*modules)
    return replace(runner, restrictions=allowed)
