"""Record what a function has torch and Triton do on the CPU, and do it again on the same memory, like a CUDA graph.

What a function decides in Python, or reads from a tensor to decide, is decided once, when it is recorded.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import GridExecutor

# They bring numbers from or to the host, or give results whose size depends on numbers: a graph cannot hold them.
_REFUSED = (
    "aten::_local_scalar_dense",
    "aten::is_nonzero",
    "aten::item",
    "aten::lift_fresh",
    "aten::masked_select",
    "aten::nonzero",
    "aten::_unique",
)


def _memory(values):
    return [x for x in tree_leaves(values) if isinstance(x, torch.Tensor) and not x.is_mkldnn]  # of packed weights


class Tape(TorchDispatchMode):
    """What was done: functions that do it again, in order; and the memory that was taken for it."""

    def __init__(self):
        super().__init__()
        self.steps, self.taken = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name
        if name.startswith(_REFUSED):
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        out = func(*args, **kwargs)
        given = {x.untyped_storage().data_ptr() for x in _memory([args, kwargs])}
        # A view, or what is made of its own tensor, needs no copy: it is where it was.
        fresh = [x.untyped_storage().data_ptr() not in given and x.numel() > 0 for x in _memory(out)]
        self.taken += [x for x, is_fresh in zip(_memory(out), fresh, strict=True) if is_fresh and x.is_floating_point()]

        def again():
            for is_fresh, mine, new in zip(fresh, _memory(out), _memory(func(*args, **kwargs)), strict=True):
                if is_fresh:
                    mine.copy_(new)

        if "empty" not in name and (any(fresh) or func._schema.is_mutable):
            self.steps.append(again)
        return out

    def play(self):
        """Do it all again, in memory that holds anything before."""
        for tensor in self.taken:
            tensor.fill_(float("nan"))
        for step in self.steps:
            step()


def record(run):
    """See `sightline.rerank.decoder.graphs.Recorder`."""
    tape, launch = Tape(), GridExecutor.__call__

    def launched(executor, *args, **kwargs):
        with _disable_current_modes():
            launch(executor, *args, **kwargs)
        tape.steps.append(lambda: launch(executor, *args, **kwargs))

    GridExecutor.__call__ = launched
    try:
        with tape:
            result = run()
    finally:
        GridExecutor.__call__ = launch
    return tape.play, result
