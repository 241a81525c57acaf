"""Magnitude pruning, W ⊙ M: the smallest weights become zero.

At once, or gradually while training as in "To prune, or not to prune: exploring the efficacy of
pruning for model compression", Zhu & Gupta 2017, arXiv:1710.01878. Where we differ: the sparsity of
each layer is fixed once, on the dense weights, and the schedule scales it; a weight that is masked
stays masked. N:M patterns: "Accelerating Sparse Deep Neural Networks", Mishra et al. 2021,
arXiv:2104.08378.
"""

from mmcompress.compression.pruning.scored import ScoredPruning


class Magnitude(ScoredPruning):
    """Weights without the smallest: score |W|, by default compared across the tensor."""
