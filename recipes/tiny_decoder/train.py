"""The recipe: a decoder of a few layers learns, in minutes on a CPU, to find one fact among many documents.

    python -m sightline.recipes.tiny_decoder.train OUT

Each document of a list says which code a key has, among filler words; several queries ask for a key each, and read the
same documents without seeing one another. For the first fifth the lists stand alone, then as rerankers lay them out:
the layouts ``icr`` and ``core`` (full attention, the answer is the code), ``blockrank`` (block mask, the answer is the
document's id) and ``blockrank-cached`` (block mask, the code) take turns. All carry an auxiliary loss on the attention
of one middle layer, as BlockRank does (2025, section 3.4). Keys and codes of a list are drawn anew each time.

`sightline train` cannot do this, since it trains one layout on what that layout reads: here the answers of four
layouts, codes among them, have to make heads that retrieve from random weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from ...documents import Document
from ...kernels import Context, Packing
from ...rerank.decoder.forward import positions_of
from ...rerank.decoder.prompt import Template
from ...rerank.layout import load_layout
from .lists import make_list, words

__all__ = ["make_tokenizer", "train"]

logger = logging.getLogger(__name__)

_CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
_LAYER = 2  # the layer of the four that `blockrank` reads
_AUXILIARY = 1.0  # BlockRank was published with 0.1, for a model that could already read


def make_tokenizer() -> Any:
    """Words and punctuation, each a token: those of the lists, of all layouts that ship, and numbers to 9999."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    known = [word for group in words() for word in group]
    for name in ("blockrank", "blockrank-cached", "icr", "core"):
        prompt = load_layout(name).require_prompt()
        text = " ".join((prompt.instruction, prompt.block, prompt.query, prompt.answer, prompt.completion))
        known += re.findall(r"\w+|[^\w\s]+", text)
    known += ["what", "code", "is", "of", "the", "N", "A", "/", "]", *map(str, range(100))]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*special, *known]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["[INST]", "[/INST]"],
    )
    fast.chat_template = _CHAT
    return fast


def train(
    out: Path,
    *,
    steps: int = 3200,
    lists: int = 8,
    queries: int = 4,
    rate: float = 2e-3,
    seed: int = 0,
) -> dict[str, float]:
    """Train from scratch and save model, tokenizer and figures.

    Args:
        out: the folder to write.
        steps: optimiser steps; 0 leaves the weights as they begin.
        lists: contexts in a batch.
        queries: query blocks in a context.
        rate: the highest learning rate; it warms up over the first hundredth of the steps, and falls to zero as a
            cosine.
        seed: seed of the weights and the lists.

    Returns:
        The last losses and the share of right answers, by layout.
    """
    torch.manual_seed(seed)
    draw = random.Random(seed)
    tokenizer = make_tokenizer()
    model = _make_model(len(tokenizer))
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    full = [load_layout(name) for name in ("icr", "blockrank", "core", "blockrank-cached")]
    alone: dict[str, Any] = {
        "block": "{text}",
        "query": "{query}",
        "instruction": "",
        "answer": "",
        "completion": "",
        "chat": False,
    }
    bare = [load_layout(layout, name=f"bare-{layout.name}", ids="none", **alone) for layout in full[:2]]
    templates = {layout: Template(layout, tokenizer, "tiny") for layout in (*bare, *full)}
    figures: dict[str, float] = {}
    started = time.perf_counter()
    for step in range(steps):
        early = step < steps // 5
        turn = bare if early else full
        layout = turn[step % len(turn)]
        count = draw.randint(2, 4 + min(16, step * 32 // steps))  # short lists first
        batch = [make_list(count, draw) for _ in range(4 * lists if early else lists)]
        answer, attention, right = _loss(model, templates[layout], batch, min(queries, count), draw)
        name = layout.name
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / (0.02 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.zero_grad()
        (answer + _AUXILIARY * attention).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        for key, value in (
            (f"{name} answer", answer.item()),
            (f"{name} attention", attention.item()),
            (f"{name} right", right),
        ):
            figures[key] = 0.98 * figures.get(key, value) + 0.02 * value
        if step % 100 == 99:
            averages = ", ".join(f"{key} {value:.3f}" for key, value in figures.items())
            logger.info("step %d, %.0f s: %s", step + 1, time.perf_counter() - started, averages)
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    return figures


def _make_model(vocabulary: int) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},  # position 16384 is still near in its slow turns
        tie_word_embeddings=True,
    )
    model = Qwen3ForCausalLM(config)
    model.set_attn_implementation("eager")  # returns the attention that the auxiliary loss is on
    return model


def _loss(
    model: Any,
    template: Template,
    batch: Sequence[tuple[list[Document], list[str], list[str]]],
    queries: int,
    draw: random.Random,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The answers' cross-entropy, the negative logarithm of gold's share of attention, the share of right answers."""
    layout = template.layout
    rows, targets, golds = [], [], []
    context = None
    for documents, texts, answers in batch:
        blocks = template.documents(documents)
        first = template.instruction(texts[0]) if "{query}" not in template.spec.instruction else None
        places = draw.sample(range(len(documents)), queries)
        if first is None:  # the instruction holds the query, so that a context has but one
            places = places[:1]
            first = template.instruction(texts[places[0]])
        ends = [template.query(texts[i]) for i in places]
        tokens = [*first, *(i for block in blocks for i in block.ids), *(i for end in ends for i in end.ids)]
        context = Context([len(block.ids) for block in blocks], [len(end.ids) for end in ends], len(first))
        rows.append(tokens)
        answer = answers if layout.name != "blockrank" else [str(i) for i in range(len(documents))]
        targets.append([template.tokenizer.convert_tokens_to_ids(answer[i]) for i in places])
        golds.append(places)
        signal = ends[0].signal
    assert context is not None
    key = Template(load_layout(layout, signal_tokens="query"), template.tokenizer, "tiny").query(texts[0]).signal[-1]
    ids = torch.tensor(rows)  # words are tokens, so that all lists of a batch have one shape
    whole = Context((), context.queries, context.instruction + sum(context.documents))
    seen = Packing([whole if template.spec.mask == "causal" else context]).mask()
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    output = model(
        input_ids=ids,
        position_ids=torch.from_numpy(positions_of(context, layout))[None],
        attention_mask=mask.expand(len(ids), 1, -1, -1),
        output_attentions=True,
        use_cache=False,
    )
    before = context.instruction + sum(context.documents)
    lasts = before + torch.tensor(context.queries).cumsum(0) - 1
    logits, target = output.logits[:, lasts].flatten(0, 1), torch.tensor(targets).flatten()
    loss = functional.cross_entropy(logits, target)
    right = float((logits.argmax(-1) == target).float().mean())
    attention = output.attentions[_LAYER]
    auxiliary, start = [], before
    for number, length in enumerate(context.queries):
        # The key itself, which can look for its like at once, and what the layout will read.
        looking = [start + key] + [start + i for i in signal[-2:]]
        reads = attention[:, :, looking, context.instruction : before]  # (B, H, R, K)
        parts = torch.stack([part.sum(-1) for part in reads.split(list(context.documents), dim=-1)], dim=-1)
        shares = (parts / parts.sum(-1, keepdim=True)).mean((1, 2))  # (B, N)
        auxiliary.append(functional.nll_loss(shares.log(), torch.tensor(golds)[:, number]))
        start += length
    return loss, torch.stack(auxiliary).mean(), right


def main() -> None:
    """Train, and log the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logger.info(json.dumps(train(args.out, steps=args.steps, seed=args.seed)))


if __name__ == "__main__":
    main()
