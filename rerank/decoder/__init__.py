"""Reranking with decoders: any causal language model and any layout, over one engine.

`sightline.models.decoder` runs a transformers model over packed blocks up to its signal layer; `prompt` turns texts
into blocks; `forward` makes the forward passes and reads attention; `sightline.rerank.readout` makes scores of it;
`sightline.models.cache` keeps documents; `reranker` is the whole.
"""

from ...models.cache import DocumentCache
from ...models.checkpoints import load_decoder
from ...models.decoder import Decoder
from .reranker import DecoderReranker

__all__ = ["Decoder", "DecoderReranker", "DocumentCache", "load_decoder"]
