"""Replays recorded or invented calls through a policy; pure and repeatable.

A pool of instances serves calls first come first served, one call per instance;
a policy decides on its size from what a running fleet would tell it.
"""

from tierpool.scaling.simulator.engine import simulate
from tierpool.scaling.simulator.oracle import Oracle
from tierpool.scaling.simulator.outcome import Moment, Outcome
from tierpool.scaling.simulator.workload import Setup, Workload

__all__ = ["Moment", "Oracle", "Outcome", "Setup", "Workload", "simulate"]
