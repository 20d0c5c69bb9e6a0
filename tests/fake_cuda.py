"""CUDA tensors without values on a machine without a GPU, and a count of what they would cost.

Such tensors refuse to be mixed with CPU tensors. They know no autograd, so that a test with a
backward pass has to stand in for it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from builders import tiny_spec
from difftori.config import Config
from difftori.model.world_model import WorldModel
from difftori.planning import noise, trajectory


def model_on(device: str, config: Config) -> WorldModel:
    """Its parameters have no values."""
    model = WorldModel(tiny_spec(config.env.modality), config.model)
    move_weights(model, device)
    return model


def move_weights(model: nn.Module, device: str) -> None:
    """Without their values."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            empty = torch.empty(parameter.shape, device=device)
            module._parameters[name] = nn.Parameter(empty, requires_grad=device == "meta")


def index(tensor: Tensor, key: object) -> Tensor:
    """``tensor[key]`` by operations that fake CUDA tensors know without a CUDA build."""
    keys = key if isinstance(key, tuple) else (key,)
    dim, gathered = 0, []
    for k in keys:
        if k is None:
            tensor = tensor.unsqueeze(dim)
        elif isinstance(k, int):
            tensor = tensor.select(dim, k)
            continue
        elif isinstance(k, slice):
            start, stop, step = k.indices(tensor.shape[dim])
            assert step == 1
            tensor = tensor.narrow(dim, start, stop - start)
        else:
            assert isinstance(k, Tensor)
            assert k.device == tensor.device
            gathered += [None] * (dim - len(gathered)) + [k]
        dim += 1
    return torch.ops.aten.index.Tensor(tensor, gathered) if gathered else tensor


class FakeIndexing(TorchFunctionMode):
    """Lets the operators of Python that need a CUDA build go by others."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__getitem__:
            return index(*args)
        if func is Tensor.__setitem__:
            tensor, key, value = args
            assert tensor.device == value.device
            return torch.ops.aten.copy_.default(index(tensor, key), value)
        if func is Tensor.copy_:
            return torch.ops.aten.copy_.default(*args, **(kwargs or {}))
        if func is Tensor.__invert__:
            return torch.logical_not(*args)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def fake_cuda() -> Iterator[None]:
    """A mode in which ``device="cuda"`` makes tensors without values."""
    with FakeTensorMode(), FakeIndexing(), torch.no_grad():
        yield


def fake_noise(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    def normal(shape: Sequence[int], generators: Sequence[object]) -> Tensor:
        return torch.empty(len(generators), *shape, device=device)

    def exponential(count: int, generators: Sequence[object]) -> Tensor:
        return torch.empty(len(generators), count, device=device)

    monkeypatch.setattr(noise, "normal", normal)
    monkeypatch.setattr(noise, "exponential", exponential)
    monkeypatch.setattr(trajectory, "normal", normal)


WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "multinomial", "unique"}
"""operations that read a value, or a size that depends on values, of their tensors"""
NOT_LAUNCHED = {"empty", "empty_like", "empty_strided", "detach", "alias", "lift_fresh"}


class Traffic(TorchDispatchMode):
    """Counts what fake CUDA tensors ask of a GPU; values read of them are ones."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        """for which the CPU would stand still until the GPU has done all before"""
        self.copies: list[str] = []
        """between the devices, which nothing waits for"""
        self.launches = 0
        """operations on the GPU"""
        self.replays = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_gpu = any(tensor.is_cuda for tensor in given)
        by_mask = name == "index" and any(
            leaf.dtype == torch.bool for leaf in tree_leaves(args[1]) if leaf is not None
        )
        if on_gpu and (name in WAITING or by_mask):
            self.waits.append(name)
        if name == "_local_scalar_dense":
            return 1.0 if args[0].is_floating_point() else 1
        if name == "_fused_adam_":  # fake tensors do not know it
            self.launches += 1
            return None
        out = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        moved = {tensor.device.type for tensor in [*given, *made]} == {"cpu", "cuda"}
        if name in ("copy_", "_to_copy") and moved:
            # between a pinned buffer and a GPU, non_blocking is the third argument of copy_
            asynchronous = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2)
            (self.copies if asynchronous else self.waits).append(name)
        on_gpu = on_gpu or any(tensor.is_cuda for tensor in made)
        self.launches += on_gpu and not func.is_view and name not in NOT_LAUNCHED
        return out


class FakeUploads(TorchFunctionMode):
    """What a CPU build of torch refuses: moving to CUDA, and pages that are locked for it."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self.traffic = traffic

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.is_pinned:
            return True
        to = args[1] if func is Tensor.to and len(args) > 1 else None
        if isinstance(to, torch.device) and to.type == "cuda" and not args[0].is_cuda:
            (self.traffic.copies if kwargs.get("non_blocking") else self.traffic.waits).append("to")
            return torch.empty(args[0].shape, dtype=args[0].dtype, device="cuda")
        if func in (torch.randn, torch.randint, torch.rand):  # generators are of real devices only
            return func(*args, **{**kwargs, "generator": None, "device": "cuda"})
        if func is Tensor.numpy:
            return np.ones(args[0].shape, dtype=np.float32)
        if func is Tensor.tolist:
            assert args[0].is_cpu
            return np.ones(args[0].shape).tolist()
        return func(*args, **kwargs)


class FakeEvent:
    """Of what is read late, which has come by then."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...
