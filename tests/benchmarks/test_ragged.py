"""Peers by sequences of different lengths; what stands for the libraries does what they document."""

import sys
import types

import pytest
import torch

from sightline.benchmarks import ragged
from sightline.benchmarks.peers import PEERS
from sightline.kernels import Context, Packing
from sightline.kernels.attention.reference import block_attention

from ..kernels.shapes import tensors

pytestmark = pytest.mark.filterwarnings("ignore")


def attend_one(q, k, v, scale, causal):
    """Attention of one sequence, whose causal queries stand at the end of the keys: out (T, H, D), lse (T, H)."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    logits = torch.einsum("qhd,khd->hqk", q, k) * scale
    if causal:
        logits = logits.masked_fill(~torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q)), -torch.inf)
    return torch.einsum("hqk,khd->qhd", logits.softmax(-1), v), logits.logsumexp(-1).T


def sequences(q, k, v, ends_q, ends_k, scale, causal):
    pairs = zip(ends_q[:-1], ends_q[1:], ends_k[:-1], ends_k[1:], strict=True)
    outs, sums = zip(*(attend_one(q[a:b], k[c:d], v[c:d], scale, causal) for a, b, c, d in pairs), strict=True)
    return torch.cat(outs), torch.cat(sums)


def with_heads_first(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal,
                     return_attn_probs=False):  # fmt: skip
    """FlashAttention-3's way to call it."""
    assert (cu_seqlens_q.diff().max(), cu_seqlens_k.diff().max()) == (max_seqlen_q, max_seqlen_k) and return_attn_probs
    out, lse = sequences(q, k, v, cu_seqlens_q, cu_seqlens_k, softmax_scale, causal)
    return out, lse.T


def without_longest(q, k, v, cu_seqlens_q, cu_seqlens_k, softmax_scale, causal, return_lse=False):
    """FlashAttention-4's."""
    assert return_lse
    out, lse = sequences(q, k, v, cu_seqlens_q, cu_seqlens_k, softmax_scale, causal)
    return out, lse.T


class Paged:
    """FlashInfer's wrapper, for pages of one token."""

    def __init__(self, workspace, layout):
        assert layout == "NHD" and workspace.dtype == torch.uint8

    def plan(self, qo, kv, pages, last, query_heads, key_heads, dim, page_size, *, causal, sm_scale, q_data_type):
        assert (
            page_size == 1 and last.tolist() == [1] * len(last) and len(kv) == len(qo) and query_heads % key_heads == 0
        )
        self.planned = (qo, kv, pages.long(), sm_scale, causal)

    def run(self, q, cache):
        qo, kv, pages, scale, causal = self.planned
        k, v = (x[pages, 0] for x in cache)
        return sequences(q, k, v, qo, kv, scale, causal)[0]


def varlen_attn(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1),
                enable_gqa=False):  # fmt: skip
    assert return_aux.lse and enable_gqa
    return sequences(q, k, v, cu_seq_q, cu_seq_k, scale, window_size == (-1, 0))


@pytest.fixture
def libraries(monkeypatch):
    monkeypatch.setattr(ragged, "_need_cuda", lambda q: None)
    monkeypatch.setattr(ragged, "_WORKSPACE", 1)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    for name, members in {
        "flash_attn_interface": {"flash_attn_varlen_func": with_heads_first},
        "flash_attn": {},
        "flash_attn.cute": {"flash_attn_varlen_func": without_longest},
        "flashinfer": {"BatchPrefillWithPagedKVCacheWrapper": Paged},
    }.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)


RAGGED = ["varlen_attn + merge", "FlashAttention-3 + merge", "FlashAttention-4 + merge", "FlashInfer, pages"]


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("instruction", [0, 12])
@pytest.mark.parametrize("name", RAGGED)
def test_they_compute_the_same(name, causal, instruction, libraries):
    layout = Packing([Context([30, 7, 51, 1], [9], instruction)], causal=causal)
    q, k, v = tensors(layout)
    torch.testing.assert_close(
        PEERS[name](q, k, v, layout, 0.25)(), block_attention(q, k, v, layout, 0.25)[0], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", RAGGED)
def test_what_is_absent_or_needs_a_gpu_says_so(name):
    layout = Packing([Context([3], [2], 1)])
    with pytest.raises(ragged.Unable, match="cannot be imported|CUDA only"):
        PEERS[name](*tensors(layout), layout, 0.25)
