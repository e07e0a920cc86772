"""Peers that know sequences of different lengths: torch's ``varlen_attn``, FlashAttention, FlashInfer; where installed.

Most of them know no prefix that sequences share. They compute each block's attention on itself and on its prefix apart,
and merge the two by their log-sum-exps, as a user of these libraries would (FlashInfer, 2025, section 2.2).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from ..kernels.packing import SEEN, Packing

__all__ = ["Attention", "Unable", "flash_attention_3", "flash_attention_4", "flashinfer_paged", "varlen"]

_WORKSPACE = 1 << 28  # bytes that FlashInfer asks for


class Unable(Exception):  # noqa: N818 - not an error of ours
    """A peer that cannot run here; the text says why."""


Attention = Callable[[], torch.Tensor]  # -> out (T, Hq, D)


class _Sequences(NamedTuple):
    """Where sequences of queries and of their keys end, int32 (N + 1,) each, and the longest of both."""

    queries: torch.Tensor
    keys: torch.Tensor
    longest_query: int
    longest_key: int
    causal: bool


# q (T, Hq, D), k and v (S, Hkv, D) -> out (T, Hq, D), lse (T, Hq) in natural logarithms
_Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, _Sequences], tuple[torch.Tensor, torch.Tensor]]


def varlen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing, scale: float) -> Attention:
    """`torch.nn.attention.varlen`: own blocks, then prefixes, merged."""
    try:
        from torch.nn.attention.varlen import AuxRequest, varlen_attn
    except ImportError:
        raise Unable("this torch has no torch.nn.attention.varlen") from None
    _need_cuda(q)
    attend_varlen: Any = varlen_attn  # its arguments differ between versions
    known = inspect.signature(attend_varlen).parameters
    group = q.shape[1] // k.shape[1]
    shared: dict[str, Any] = {"return_aux": AuxRequest(lse=True)}
    if "enable_gqa" in known:
        shared["enable_gqa"] = group > 1
    else:
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    if "scale" in known:
        shared["scale"] = scale
    elif abs(scale - q.shape[2] ** -0.5) > 1e-9:
        raise Unable("it takes no scale in this version of torch")

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, of: _Sequences) -> tuple[torch.Tensor, torch.Tensor]:
        causal: dict[str, Any] = {"window_size": (-1, 0 if of.causal else -1)}
        if "is_causal" in known:
            causal = {"is_causal": of.causal}
        ends = (of.queries, of.keys, of.longest_query, of.longest_key)
        out, lse = attend_varlen(q, k, v, *ends, **shared, **causal)
        return out, lse

    return _merged(attend, q, k, v, layout)


def flash_attention_3(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing, scale: float) -> Attention:
    """FlashAttention-3 (Shah et al., 2024), the module ``flash_attn_interface``: own blocks, then prefixes, merged."""
    return _flash_attention("flash_attn_interface", q, k, v, layout, scale)


def flash_attention_4(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing, scale: float) -> Attention:
    """FlashAttention-4, the module ``flash_attn.cute``: own blocks, then prefixes, merged."""
    return _flash_attention("flash_attn.cute", q, k, v, layout, scale)


def _flash_attention(
    module: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing, scale: float
) -> Attention:
    attend_varlen = getattr(_imported(module), "flash_attn_varlen_func", None)
    if attend_varlen is None:
        raise Unable(f"{module} has no flash_attn_varlen_func")
    _need_cuda(q)
    known = inspect.signature(attend_varlen).parameters
    asked = {name: True for name in ("return_lse", "return_attn_probs") if name in known}

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, of: _Sequences) -> tuple[torch.Tensor, torch.Tensor]:
        longest = {"max_seqlen_q": of.longest_query, "max_seqlen_k": of.longest_key}
        out, lse, *_ = attend_varlen(
            q,
            k,
            v,
            cu_seqlens_q=of.queries,
            cu_seqlens_k=of.keys,
            softmax_scale=scale,
            causal=of.causal,
            **{name: value for name, value in longest.items() if name in known},
            **asked,
        )
        return out, lse

    return _merged(attend, q, k, v, layout)


def flashinfer_paged(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing, scale: float) -> Attention:
    """FlashInfer's attention over pages of one token, which reads each block behind its prefix in one call.

    A causal sequence of queries stands at the end of its keys, so nothing has to be merged.
    """
    flashinfer = _imported("flashinfer")
    _need_cuda(q)
    workspace = torch.empty(_WORKSPACE, dtype=torch.uint8, device=q.device)
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
    pages = [
        np.concatenate([np.arange(first, stop), np.arange(start, end)])
        for start, end, first, stop in layout.blocks[SEEN].tolist()
    ]

    def as_int32(values: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values, dtype=np.int32), device=q.device)

    wrapper.plan(
        as_int32([0, *layout.blocks["stop"]]),
        as_int32(np.cumsum([0, *map(len, pages)])),
        as_int32(np.concatenate(pages)),
        as_int32(np.ones(len(pages))),
        q.shape[1],
        k.shape[1],
        q.shape[2],
        1,
        causal=layout.causal,
        sm_scale=scale,
        q_data_type=q.dtype,
    )
    cache = (k[:, None].contiguous(), v[:, None].contiguous())
    q = q.contiguous()
    return lambda: wrapper.run(q, cache)


def _merged(attend: _Attend, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing) -> Attention:
    """Attention of one context: own blocks, then the prefixes of documents and of the query block, merged."""
    (context,) = layout.contexts
    first, end = context.instruction, layout.tokens - context.queries[0]

    def ends(*at: int) -> torch.Tensor:
        return torch.tensor(at, dtype=torch.int32, device=q.device)

    blocks = ends(0, *layout.blocks["stop"].tolist())
    longest = int((layout.blocks["stop"] - layout.blocks["start"]).max())
    own = _Sequences(blocks, blocks, longest, longest, layout.causal)
    count = layout.tokens - end
    parts = [(slice(end, None), _Sequences(ends(0, count), ends(0, end), count, end, False), end)]
    if first and end > first:
        documents = _Sequences(ends(0, end - first), ends(0, first), end - first, first, False)
        parts.append((slice(first, end), documents, first))

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, of: _Sequences) -> tuple[torch.Tensor, torch.Tensor]:
        out, lse = attend(q, k, v, of)
        return out, lse if lse.shape[0] == len(out) else lse.T  # libraries differ in which comes first

    def compute() -> torch.Tensor:
        out, lse = call(q, k, v, own)
        for rows, sequences, keys in parts:
            far, far_lse = call(q[rows], k[:keys], v[:keys], sequences)
            weight = torch.sigmoid(far_lse - lse[rows])[..., None].to(out.dtype)
            out[rows] = out[rows] * (1 - weight) + far * weight
        return out

    return compute


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Unable(f"{module} cannot be imported: {error}") from None


def _need_cuda(q: torch.Tensor) -> None:
    if q.device.type != "cuda":
        raise Unable("it runs on CUDA only")
