"""The garbage collector rests while libraries are imported, and is as it was afterwards."""

import gc

import pytest

from mmcompress.system.imports import collector_paused


def test_the_collector_goes_on_as_before() -> None:
    assert gc.isenabled()
    with collector_paused():
        assert not gc.isenabled()
    with pytest.raises(ImportError), collector_paused():
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
