"""Benchmark jobs as `broker.submission` runs them, in the words of the HTTP API. (pending)"""
