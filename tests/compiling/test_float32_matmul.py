"""Float32 products by the faster kernels, where these are as accurate."""

import pytest
import torch

from builders import random_batch, tiny_config, tiny_model
from difftori.compiling import float32_matmul
from difftori.compiling.float32_matmul import LARGE_PRODUCT, fast_large_products, set_tf32
from difftori.learning import learner, losses
from difftori.training.start import prepare_process

LARGE = (LARGE_PRODUCT, 1, torch.device("cpu"))


def test_keep_float32_accuracy() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    with fast_large_products(*LARGE):
        product = a @ b
    assert float((product - exact).norm() / exact.norm()) < 1e-6


def test_kernels_that_would_round_to_bf16_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for accurate, setting in ((True, "medium"), (False, "highest")):
        monkeypatch.setattr(
            float32_matmul, "medium_is_accurate", lambda accurate=accurate: accurate
        )
        with fast_large_products(*LARGE):
            assert torch.get_float32_matmul_precision() == setting
        assert torch.get_float32_matmul_precision() == "highest"


def test_the_setting_is_put_back_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="in between"), fast_large_products(*LARGE):
        raise RuntimeError("in between")
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(("large", "setting"), [(4 * 16, "medium"), (4 * 16 + 1, "highest")])
def test_updates_use_them_for_large_products(
    monkeypatch: pytest.MonkeyPatch, large: int, setting: str
) -> None:
    seen = []
    model_loss = losses.model_loss

    def recorded(*args, **kwargs):  # type: ignore[no-untyped-def]
        seen.append(torch.get_float32_matmul_precision())
        return model_loss(*args, **kwargs)

    monkeypatch.setattr(losses, "model_loss", recorded)
    monkeypatch.setattr(float32_matmul, "medium_is_accurate", lambda: True)
    monkeypatch.setattr(float32_matmul, "LARGE_PRODUCT", large)
    config = tiny_config("mode=default")
    generator = torch.Generator().manual_seed(0)
    new = learner.Learner(tiny_model(config), config.learner, generator=generator, max_nonfinite=1)
    new.update(random_batch(), step=0)
    assert seen == [setting]


@pytest.mark.parametrize(("rows", "setting"), [(128, "medium"), (16, "highest")])
def test_only_large_products_use_them(
    monkeypatch: pytest.MonkeyPatch, rows: int, setting: str
) -> None:
    monkeypatch.setattr(float32_matmul, "medium_is_accurate", lambda: True)
    with fast_large_products(rows, 256, torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == setting
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("enabled", [False, True])
def test_a_run_rounds_to_tf32_only_if_asked_to(enabled: bool) -> None:
    """torch's own choice for convolutions is on."""
    torch.backends.cudnn.allow_tf32 = not enabled
    prepare_process(tiny_config(tf32=enabled))
    try:
        assert torch.backends.cudnn.allow_tf32 == enabled
        assert torch.backends.cuda.matmul.allow_tf32 == enabled
        with fast_large_products(*LARGE):
            pass
        assert torch.backends.cuda.matmul.allow_tf32 == enabled
    finally:
        set_tf32(False)
