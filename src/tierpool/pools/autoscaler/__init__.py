"""Sizes the pools of a running fleet: observe, decide, act; one process leads."""
