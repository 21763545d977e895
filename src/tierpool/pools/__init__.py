"""Pools: all workers that poll one tier's task queues."""
