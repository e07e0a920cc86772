"""ICR, QRHead and CoRe as their published code computes them, by transformers' eager attention; nothing of ours."""

import torch

LATE = "Please find information that are relevant to the following query in the paragraphs above."
REVERSED = {"icr": True, "qrhead": True, "core": False}


def prompt_of(system, query, documents, before, after):
    """The text; the characters that count as each document; those whose tokens attend."""
    text, spans = before + " Here are some paragraphs:", []
    for number, document in enumerate(documents, 1):
        contents = "\n".join(filter(None, [document.get("title"), document["text"]]))
        label = f"[document {number}] " if system == "core" else f"[{number}] "
        start = len(text) + 2
        text += "\n\n" + label + contents
        # CoRe looks at what stands behind the number, the others at the number too.
        spans.append((start + len(label) if system == "core" else start, len(text)))
    start = len(text) + 2
    text += f"\n\n{LATE}\n\nQuery: {query}"
    stop = len(text)  # CoRe leaves out the end of the turn
    text += after
    return text, spans, (start, stop if system == "core" else len(text))


def covered(offsets, span):
    """Places of the first and behind the last token that cover some of the characters."""
    inside = [i for i, (a, b) in enumerate(offsets) if a < span[1] and b > span[0]]
    return inside[0], inside[-1] + 1


def published_scores(system, model, tokenizer, query, documents, before, after, heads=None):
    """Scores of documents in the order in which they stand, best first as they are given."""
    stand = documents[::-1] if REVERSED[system] else documents
    attention = []
    for asked in (query, "N/A"):
        text, spans, rows = prompt_of(system, asked, stand, before, after)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        offsets = encoded["offset_mapping"]
        spans = [covered(offsets, span) for span in spans]
        first, last = covered(offsets, rows)
        with torch.no_grad():
            out = model(torch.tensor([encoded["input_ids"]]), output_attentions=True, use_cache=False)
        layers = torch.stack([a[0, :, first:last].double().mean(1) for a in out.attentions])  # (L, H, T)
        chosen = layers.flatten(0, 1) if heads is None else torch.stack([layers[at, head] for at, head in heads])
        attention.append(chosen.sum(0)[: spans[-1][1]])
    excess = attention[0] - attention[1]
    scores = []
    for start, stop in spans:
        part = excess[start:stop]
        if stop - start > 1:  # one token has no spread: the code gives it 0, we keep it
            part = part[part > part.mean() - 2 * part.std()]
        scores.append(float(part.sum()))
    count = len(heads) if heads is not None else layers.shape[0] * layers.shape[1]
    scores = [score / count for score in scores]  # a sum there, a mean here
    return scores[::-1] if REVERSED[system] else scores
