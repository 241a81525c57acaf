"""The version of what results mean."""

NUMERICS = 2
"""Raised when the same command gives other numbers on purpose; every `run.json` carries it.

1. Version 0.1; its records have no such field.
2. What is not compressed is stored in float16, not float32. The headline is `mean_r@1`. Pictures
   with equal pixels count as one; of classes with one name CLIP_benchmark's choice is the hit.
   Inputs are what the source library's own processor makes of them; long sounds are cut at the
   same place every time.
"""
