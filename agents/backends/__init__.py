"""The engines behind the agents, one per file. torch and vllm are imported here and nowhere else."""
