import pytest

from mmcompress.evaluation.evaluate import evaluate
from mmcompress.evaluation.retrieval import Retrieval
from mmcompress.evaluation.zeroshot import ZeroShot


def test_metrics_of_a_perfect_model(model, data):
    metrics = evaluate(model, data, {"retrieval": Retrieval(), "zeroshot": ZeroShot()}, "test")
    assert list(metrics) == [
        "retrieval/mean_r@1",
        "retrieval/mean_recall",
        *(f"retrieval/{way}_r@{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)),
        "zeroshot/acc@1",
        "zeroshot/balanced_acc@1",
    ]
    assert set(metrics.values()) == {1.0}


def test_metrics_of_a_model_that_confuses_two_of_three(confused, data):
    metrics = evaluate(confused, data, {"retrieval": Retrieval(ks=[1, 2])}, "test")
    # Blue is right. For red and green all wrong candidates tie with or beat the right one.
    assert metrics == {
        "retrieval/mean_r@1": pytest.approx(1 / 3, abs=1e-12),
        "retrieval/mean_recall": pytest.approx(1 / 3, abs=1e-12),
        **{
            f"retrieval/{way}_r@{k}": pytest.approx(1 / 3, abs=1e-12)
            for way in ("i2t", "t2i")
            for k in (1, 2)
        },
    }


def test_runs_in_eval_mode_and_restores_every_mode(model, data):
    model.train()
    model.model["text"].eval()
    evaluate(model, data, {"retrieval": Retrieval()}, "test")
    assert [training for _, _, training in model.calls] == [False] * 4
    assert [size for modality, size, _ in model.calls if modality == "image"] == [2, 1]
    assert model.training
    assert model.model["image"].training
    assert not model.model["text"].training


def test_no_gradients_are_recorded(model, data):
    seen = []

    def spy(encode, data, split):
        batch = next(iter(data.eval_dataloader(split)))
        seen.append(encode("image", batch["image"]).requires_grad)
        return []

    evaluate(model, data, {"spy": spy}, "test")
    assert seen == [False]


def test_two_evaluators_of_one_name_are_refused(model, data):
    twice = {"a": Retrieval(), "b": Retrieval()}
    with pytest.raises(ValueError, match=r"evaluators\.b yields retrieval/mean_r@1"):
        evaluate(model, data, twice, "test")


def test_unknown_split_names_the_known_ones(model, data):
    with pytest.raises(ValueError, match=r"split='tset' .* colors: choose one of train, val, test"):
        evaluate(model, data, {}, "tset")


@pytest.mark.parametrize("ks", [[], [0, 1]])
def test_bad_ks_are_refused(ks):
    with pytest.raises(ValueError, match="at least 1"):
        Retrieval(ks)
