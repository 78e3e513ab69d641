"""The engines behind the agents, one per file. torch and vllm are imported only here."""
