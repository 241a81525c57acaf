"""The names that artifacts give to backbones."""

import pytest

from mmcompress.backbones.adapters import ADAPTERS, find_adapter


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_name_finds_the_class_that_bears_it(name: str) -> None:
    assert find_adapter(name).adapter == name


@pytest.mark.parametrize("name", ["os", "base", "hf.clip", "HF", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"adapter='{name}' is no backbone of this mmcompress"):
        find_adapter(name)


def test_names_of_0_1_stay() -> None:
    stored = {"custom", "hf", "hf_clip", "hf_generative", "hf_text", "mlp", "open_clip"}
    assert stored <= set(ADAPTERS)
