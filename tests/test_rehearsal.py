"""What does not go together is found on a few items, and nothing is left of the trial."""

import logging

import pytest
import torch

from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.mlp import MLP
from mmcompress.data.base import PairData
from mmcompress.evaluation.agreement import Agreement
from mmcompress.evaluation.perplexity import Perplexity
from mmcompress.evaluation.retrieval import Retrieval
from mmcompress.evaluation.zeroshot import ZeroShot
from mmcompress.objectives.classification import CrossEntropy
from mmcompress.objectives.objective import Objective
from mmcompress.rehearsal import rehearse


def test_what_goes_together_leaves_no_trace(
    tiny_backbone: HFClip, tiny_data: PairData, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tiny_backbone.train()
    before = torch.get_rng_state()
    evaluators = {"retrieval": Retrieval(), "zeroshot": ZeroShot(), "agreement": Agreement()}
    rehearse(tiny_backbone, tiny_data, Objective(contrastive=1.0), evaluators, "test")
    assert torch.equal(torch.get_rng_state(), before)
    assert tiny_backbone.training
    assert all(parameter.grad is None for parameter in tiny_backbone.parameters())
    assert (tiny_data.eval_batch_size, tiny_data.num_workers) == (8, 0)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("objective", "evaluators", "sentence"),
    [
        (CrossEntropy(), {}, "needs a classifier"),
        (None, {"perplexity": Perplexity()}, "needs a generative model and HFClip is none"),
    ],
)
def test_what_does_not_go_together(
    tiny_backbone: HFClip, tiny_data: PairData, objective, evaluators, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        rehearse(tiny_backbone, tiny_data, objective, evaluators, "test")


def test_a_modality_that_is_missing_is_found_before_the_model_runs(tiny_data: PairData) -> None:
    classifier = MLP(size=32, hidden=[8], classes=4)
    tiny_data.backbone = classifier
    with pytest.raises(ValueError, match="needs text inputs and the backbone takes image alone"):
        rehearse(classifier, tiny_data, None, {"retrieval": Retrieval()}, "test")
