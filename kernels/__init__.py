"""Attention read block by block, on tensors only: plain references and fast implementations, behind one dispatch.

- `Packing`: which token of a packed context sees which.
- `block_attention`: attention over such a context; with it, models run and train.
- `Pages`: keys and values that lie in a tensor for each block of text; kernels read them there.
- `block_lse`, `row_lse`, `mass`, `block_max`, `token_mass`: what a query pays to each document, and to its tokens.
- `states_lse`, `states_max`, `states_attention`, `states_products`: the same over kept token states, one tensor per
  document.

Nothing here imports the rest of Sightline at import time: with the repository root as working directory, Hugging Face
code that probes for its own optional package ``kernels`` finds this one first.
"""

from .attention import block_attention
from .dispatch import Backend, Choice, choose
from .lse import block_lse, block_max, mass, row_lse, token_mass
from .packing import Context, Packing
from .paged import Paged, Pages
from .states import (
    Keys,
    Products,
    QuantizedKeys,
    quantized,
    states_attention,
    states_backend,
    states_lse,
    states_max,
    states_products,
)

__all__ = [
    "Backend",
    "Choice",
    "Context",
    "Keys",
    "Packing",
    "Paged",
    "Pages",
    "Products",
    "QuantizedKeys",
    "block_attention",
    "block_lse",
    "block_max",
    "choose",
    "mass",
    "quantized",
    "row_lse",
    "states_attention",
    "states_backend",
    "states_lse",
    "states_max",
    "states_products",
    "token_mass",
]
