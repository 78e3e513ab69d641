"""Tests through real vLLM; they need the environment of `make test-vllm`."""
