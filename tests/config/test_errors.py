import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from mmcompress.config.errors import in_one_sentence, one_sentence, root_cause

BAD = {"_target_": "mmcompress.compression.quantization.integer.Integer", "bits": 99}


def test_the_cause_inside_a_constructor_is_found() -> None:
    with pytest.raises(InstantiationException) as raised:
        instantiate({"steps": {"int": BAD}})
    assert str(root_cause(raised.value)) == "bits=99 must be a whole number from 2 to 8"


def test_what_a_user_can_mend_ends_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit) as stopped:
        in_one_sentence(lambda: instantiate(BAD))()
    assert stopped.value.code == "error: bits=99 must be a whole number from 2 to 8"


def test_a_function_that_a_configuration_calls_by_mistake_is_named_with_the_fix() -> None:
    with pytest.raises(InstantiationException) as raised:
        instantiate({"transform": {"_target_": "textwrap.dedent"}})
    assert one_sentence(raised.value) == (
        "transform: dedent() missing 1 required positional argument: 'text'; `_target_` calls a "
        "function: add `_partial_: true` to give the function itself"
    )


def test_a_constructor_without_its_argument_is_no_such_function() -> None:
    with pytest.raises(InstantiationException) as raised:
        instantiate({"layer": {"_target_": "torch.nn.Linear"}})
    assert "_partial_" not in one_sentence(raised.value)


def test_bugs_keep_their_traceback() -> None:
    def bug() -> None:
        raise AssertionError("ours")

    with pytest.raises(AssertionError, match="ours"):
        in_one_sentence(bug)()


def test_tracebacks_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(InstantiationException):
        in_one_sentence(lambda: instantiate(BAD))()


def test_what_lightning_refuses_ends_in_one_sentence() -> None:
    def refused() -> None:
        raise MisconfigurationException("no such accelerator")

    with pytest.raises(SystemExit, match="error: no such accelerator"):
        in_one_sentence(refused)()
