"""Checkpoints of transformers whose weights stay integers, in the format compressed-tensors.

https://github.com/vllm-project/compressed-tensors: transformers and vLLM load them.
"""
