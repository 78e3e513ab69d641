"""Trains the small checkpoints of the demo profile on the demo world."""
