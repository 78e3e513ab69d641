"""The message bus, the benchmark job queue, the coordinator and the run store."""
