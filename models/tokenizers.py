"""Functions over the tokenizers of transformers."""

from __future__ import annotations

from typing import Any

__all__ = ["token_offsets"]


def token_offsets(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """Return the character span of every token of the whole text, without special tokens.

    Args:
        tokenizer: a fast tokenizer of transformers.
        text: any text. It is not truncated.
    """
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False)
    return list(encoding["offset_mapping"])
