"""How many instances a pool should have: policies, simulator and planner; pure."""
