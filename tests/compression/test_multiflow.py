import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Target
from mmcompress.compression.pruning.multiflow import MultiFlow
from mmcompress.compression.statistics import Statistic, input_statistic


def slow_multiflow(weight: Tensor, x: Tensor) -> Tensor:
    """Equations 6 and 8: a node is as important as the mean of what flows through its edges."""
    outputs, inputs = weight.shape
    n = [float((x[:, i] ** 2).mean().sqrt()) for i in range(inputs)]
    flow = [[abs(float(weight[o, i])) * n[i] for i in range(inputs)] for o in range(outputs)]
    b = [sum(flow[o]) / inputs for o in range(outputs)]
    a = [sum(flow[o][i] for o in range(outputs)) / outputs for i in range(inputs)]
    return torch.tensor(
        [[b[o] * a[i] * abs(float(weight[o, i])) for i in range(inputs)] for o in range(outputs)]
    )


def test_against_the_paper():
    torch.manual_seed(0)
    layer, x = nn.Linear(10, 7), torch.randn(30, 10) * torch.logspace(-1, 1, 10)
    target = Target("layer", "weight", "image", "mlp.up", "linear")
    multiflow = MultiFlow(sparsity=0.6, allocation="modality")
    decision = multiflow.plan([target], {target.name: layer.weight.detach()}, {})[target.name]
    mask = multiflow.apply(
        layer, "weight", decision, Statistic(inputs=input_statistic(layer, x, None))
    ).mask
    scores = slow_multiflow(layer.weight.detach(), x)
    assert int((~mask).sum()) == 42
    assert scores[mask].min() > scores[~mask].max()
