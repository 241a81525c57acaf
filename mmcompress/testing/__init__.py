"""The contract that methods and backbones are held to, for those of your own too.

    from mmcompress.testing import check_backbone, check_method

    def test_my_method() -> None:
        check_method(MyMethod(bits=4))

    def test_my_backbone() -> None:
        check_backbone(build_my_backbone())

Both raise an `AssertionError` of one sentence that says which promise is broken.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
