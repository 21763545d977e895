"""Local activities that tell a workflow what it cannot know by itself."""

from __future__ import annotations

from temporalio import activity

__all__ = ["HousekeepingActivities"]


class HousekeepingActivities:
    """Answers from the process's own fleet file."""

    def __init__(self, packed_fleet: str) -> None:
        """Take the packed snapshot of the whole fleet."""
        self._packed = packed_fleet

    @activity.defn(name="tierpool_fleet")
    async def fleet(self) -> str:
        """Return what a run of the user's own workflow will know of the fleet."""
        return self._packed
