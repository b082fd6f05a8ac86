"""A GPU that is not there: the values of all tensors stay on the CPU, and each tensor knows on which device it would be.

In `with gpu(monkeypatch):` a script finds a GPU, moves its networks there and trains on them. A device is a label on a tensor's
storage, which its views have, too, and a parameter when it moves. Two modes keep the labels: `Calls` sees what Python calls, takes
device arguments out and answers questions after devices; `Operations` sees what is computed then, refuses what a GPU refuses, and
labels the results. The values are real, so that loops which look at them, evaluations and pictures run as they would.

FakeTensorMode has the rules too, but does not get so far: without a driver it has neither backward passes nor autocast, all tensors
lose their values, and it lets an index on the GPU into a tensor on the CPU, or another device's generator, pass.
"""

import contextlib
import functools
import sys
from collections.abc import Iterator
from types import MethodWrapperType
from typing import Any, NamedTuple

import accelerate.state
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
aten = torch.ops.aten
ANY = {aten._to_copy, aten.copy_, aten._foreach_copy_}  # whatever the devices
INDEX = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index, aten._unsafe_index_put}


class Refused(RuntimeError):
    """What a GPU would refuse, or would silently not do."""


def tensors_of(*values: Any) -> list[Tensor]:
    """The tensors among them, and in their lists, tuples and dictionaries."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors_of(*value)
        elif isinstance(value, dict):
            found += tensors_of(*value.values())
    return found


class Call(NamedTuple):
    """A call of Python's that is under way."""

    device: torch.device | None  # that it asks for
    on_cuda: bool  # one of its tensors is there


class Operations(TorchDispatchMode):
    """Every operation on tensors: checks the devices of its arguments, labels what it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.labels: dict[int, StorageWeakRef] = {}  # storages on the GPU; a weak reference keeps its address from being used again
        self.calls: list[Call] = []
        self.types: set[torch.dtype] = set()  # of what was computed on the GPU

    def device(self, tensor: Tensor) -> torch.device:
        while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            tensor = torch._C._functorch.get_unwrapped(tensor)
        return CUDA if tensor.untyped_storage()._cdata in self.labels else CPU

    def put(self, tensor: Tensor, device: torch.device) -> None:
        storage = tensor.untyped_storage()
        if device.type == "cpu":
            self.labels.pop(storage._cdata, None)
        else:
            self.labels[storage._cdata] = StorageWeakRef(storage)
            if len(self.labels) % 4096 == 0:
                self.labels = {key: ref for key, ref in self.labels.items() if not ref.expired()}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        tensors = tensors_of(args, kwargs)
        storages = [x.untyped_storage()._cdata for x in tensors]
        wanted, on_cuda = self.calls[-1] if self.calls else (None, False)
        device = wanted or self.result(func, args, tensors, [CUDA if each in self.labels else CPU for each in storages], on_cuda)
        out = func(*args, **kwargs)
        for x in tensors_of(out):
            if x.untyped_storage()._cdata not in storages:
                self.put(x, device)
            if device.type == "cuda":
                self.types.add(x.dtype)
        return out

    def result(
        self, func: Any, args: tuple, tensors: list[Tensor], devices: list[torch.device], call_on_cuda: bool
    ) -> torch.device:
        """Where what the operation returns lies."""
        if not tensors:  # made inside of a call, it lies where the call's tensors do
            return CUDA if call_on_cuda else CPU
        op = func.overloadpacket
        if CUDA not in devices or op in ANY:
            return devices[0]
        if op in INDEX:
            self.check_index(func, args)
            return devices[0]
        if CPU in devices:
            writes = func._schema.is_mutable and devices[0] == CPU
            scalars_pass = (torch.Tag.pointwise in func.tags or op is aten.fill_) and not writes
            if any(d == CPU and (x.dim() or not scalars_pass) for x, d in zip(tensors, devices, strict=True)):
                shapes = ", ".join(f"{tuple(x.shape)} on {d.type}" for x, d in zip(tensors, devices, strict=True))
                raise Refused(f"{func}: tensors on different devices: {shapes}")
        return CUDA

    def check_index(self, func: Any, args: tuple) -> None:
        """Indices may lie on the CPU; values that are put where they point to may be CPU scalars."""
        target, _, *values = args
        if self.device(target) == CPU:
            raise Refused(f"{func}: an index or value on cuda for a tensor on the cpu")
        if any(isinstance(x, Tensor) and x.dim() and self.device(x) == CPU for x in values[:1]):
            raise Refused(f"{func}: values on the cpu for a tensor on cuda")


class Calls(TorchFunctionMode):
    """Every call of Python's that concerns tensors: device arguments and questions after devices."""

    def __init__(self, operations: Operations) -> None:
        super().__init__()
        self.operations = operations
        device = operations.device
        self.answers = {  # what is not left to PyTorch, for which all tensors are on the CPU
            Tensor.device.__get__: device,
            Tensor.is_cuda.__get__: lambda x: device(x) == CUDA,
            Tensor.is_cpu.__get__: lambda x: device(x) == CPU,
            Tensor.get_device: lambda x: 0 if device(x) == CUDA else -1,
            Tensor.is_pinned: lambda x, *_: False,
            Tensor.pin_memory: self.pin_memory,
            Tensor.numpy: functools.partial(self.numpy, Tensor.numpy),
            Tensor.__array__: functools.partial(self.numpy, Tensor.__array__),
            Tensor.to: self.to,
            Tensor.cpu: lambda x, **_: self.moved(x, CPU),
            Tensor.cuda: lambda x, *_, **__: self.moved(x, CUDA),
            Tensor.backward: self.backward,
        }

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in self.answers:
            return self.answers[func](*args, **kwargs)
        if isinstance(func, MethodWrapperType):  # shape, dtype and their like
            return func(*args)
        device = None
        if "device" in kwargs:
            kwargs = dict(kwargs)
            device = kwargs.pop("device")
            device = None if device is None else torch.device(device)
        on_cuda = any(self.operations.device(x) == CUDA for x in tensors_of(args, kwargs))
        if isinstance(generator := kwargs.get("generator"), torch._C.Generator):
            there = device.type if device else "cuda" if on_cuda else "cpu"
            if generator.device.type != there:
                raise Refused(f"{func}: a generator on {generator.device.type} for a tensor on {there}")
        with self.call(device, on_cuda):
            out = func(*args, **kwargs)
        return out if device is None else tree_map_only(Tensor, lambda x: self.moved(x, device), out)

    @contextlib.contextmanager
    def call(self, device: torch.device | None, on_cuda: bool) -> Iterator[None]:
        self.operations.calls.append(Call(device, on_cuda))
        try:
            yield
        finally:
            self.operations.calls.pop()

    def moved(self, x: Tensor, device: torch.device) -> Tensor:
        """A copy on that device, or the tensor itself."""
        if self.operations.device(x).type != device.type:
            with self.call(device, False):
                x = x.clone()
        return x

    def to(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        args, device = list(args), kwargs.pop("device", None)
        if args and isinstance(args[0], str | torch.device):
            device, args[0] = args[0], CPU
        elif args and isinstance(args[0], Tensor):
            device = self.operations.device(args[0])
        x = x.to(*args, **kwargs) if args or kwargs.keys() - {"non_blocking"} else x
        return x if device is None else self.moved(x, torch.device(device))

    def pin_memory(self, x: Tensor, *_: Any) -> Tensor:
        if self.operations.device(x) == CUDA:
            raise Refused("pin_memory of a tensor on cuda")
        return x

    def numpy(self, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.operations.device(x) == CUDA:
            raise Refused("a tensor on cuda cannot be an array of numpy: use .cpu()")
        return func(x, *args, **kwargs)

    def backward(
        self, x: Tensor, gradient: Tensor | None = None, retain_graph: bool | None = None, create_graph: bool = False,
        inputs: Any = None,
    ) -> None:  # fmt: skip
        """What backward passes and hooks that are written in Python call is seen, too."""
        gradient = torch.ones_like(x) if gradient is None else gradient
        keep, inputs = create_graph if retain_graph is None else retain_graph, tuple(inputs or ())
        with self.call(None, self.operations.device(x) == CUDA), self:
            run = torch.autograd.graph._engine_run_backward
            run((x,), (gradient,), keep, create_graph, inputs, allow_unreachable=True, accumulate_grad=True)


class Generator(torch._C.Generator):
    """A generator of numbers for either device."""

    def __new__(cls, device: Any = "cpu") -> "Generator":
        made = super().__new__(cls, "cpu")
        made.where = torch.device(device)
        return made

    def __init__(self, device: Any = "cpu") -> None:
        super().__init__()

    @property
    def device(self) -> torch.device:
        return self.where


class Autocast(torch.autocast):
    """torch.autocast("cuda"), by the CPU's; one for the CPU would do nothing on a GPU, and say nothing."""

    def __init__(self, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None) -> None:
        if enabled and device_type != "cuda":
            raise Refused(f"autocast for {device_type} in a run on cuda")
        super().__init__("cpu", dtype, enabled, cache_enabled)


group = torch._C._group_tensors_by_device_and_dtype


def grouped(operations: Operations, lists: list[list], indices: bool = False) -> dict:
    """Tensors by their devices and types, as optimizers and the clipping of gradients ask for them."""
    found = {}
    for (_, dtype), (tensors, *rest) in group(lists, indices).items():
        devices = {operations.device(x) for x in tensors[0] if x is not None}
        if len(devices) != 1:
            raise Refused(f"tensors of one list on different devices: {devices}")
        found[devices.pop(), dtype] = (tensors, *rest)
    return found


def forget() -> None:
    """What functions of ours keep for a device does not outlive it, nor does accelerate's idea of the machine."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("common", "papers", "tests"):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


@contextlib.contextmanager
def gpu(monkeypatch: Any) -> Iterator[Operations]:
    """Within, torch has one GPU, which is pretended. Nothing is compiled, and no picture is rendered."""
    operations = Operations()
    answers = {
        "is_available": True, "device_count": 1, "current_device": 0, "get_device_name": "pretended GPU", "manual_seed": None,
        "set_device": None, "synchronize": None, "empty_cache": None, "max_memory_allocated": 0, "is_bf16_supported": True,
        "is_current_stream_capturing": False,
    }  # fmt: skip
    with monkeypatch.context() as patch:
        for name, value in answers.items():
            patch.setattr(torch.cuda, name, lambda *_, value=value, **__: value)
        patch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: None)  # nothing is captured in graphs
        patch.setattr(torch.backends.cudnn, "is_acceptable", lambda tensor: False)
        patch.setattr(torch._C, "_group_tensors_by_device_and_dtype", functools.partial(grouped, operations))
        patch.setattr(torch, "compile", lambda function, **_: function)
        patch.setattr(torch, "Generator", Generator)
        patch.setattr(torch, "autocast", Autocast)
        patch.setattr(torch.amp, "autocast", Autocast)
        patch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, **_: file.write(b"a picture"))  # half a second each
        forget()
        try:
            with operations, Calls(operations):
                yield operations
        finally:
            forget()
