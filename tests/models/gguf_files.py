"""A tiny Llama, as a transformers folder and as a GGUF file."""

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

CHAT = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}<|assistant|>"
CONTROL = ["<|end|>", "<|user|>", "<|assistant|>"]
LAYERS, HEADS, KEY_HEADS, WIDTH, INNER = 3, 4, 2, 64, 96


def vocabulary():
    return [*CONTROL, *bytes_to_unicode().values(), "th"]


def tiny_llama():
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=32_768,
        rope_theta=10_000.0,
        rms_norm_eps=1e-5,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def interleaved(weight, heads):
    """Rows of each head in the order in which llama.cpp rotates pairs: neighbours, not halves."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path, *, quantized=(), without=(), architecture="llama", tokenizer=True, extra=lambda writer: None):
    """Write the tiny Llama; tensors whose names end in ``quantized`` as Q8_0, and none that end in ``without``."""
    model = tiny_llama()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(32_768)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    if tokenizer:
        tokens = vocabulary()
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(tokens)
        writer.add_token_types([3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL)))
        writer.add_token_merges(["t h"])
        writer.add_eos_token_id(0)
        writer.add_chat_template(CHAT)
    extra(writer)
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "mlp": "ffn"}
    for name, value in model.model.state_dict().items():
        array = value.numpy()
        if name.startswith("layers."):
            _, layer, *parts, _ = name.split(".")
            last = parts[-1]
            own = names.get(last) or {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}.get(last)
            own = own or "ffn_" + last.removesuffix("_proj")
            if own in ("attn_q", "attn_k"):
                array = interleaved(array, HEADS if own == "attn_q" else KEY_HEADS)
            name = f"blk.{layer}.{own}.weight"
        else:
            name = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}[name]
        stem = name.removesuffix(".weight")
        if stem.endswith(tuple(without) or ("\0",)):
            continue
        kind = gguf.GGMLQuantizationType.Q8_0
        if stem.endswith(tuple(quantized) or ("\0",)):
            writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_folder(folder, file):
    """The same model as transformers saves it, with the tokenizer of the file as transformers itself reads it."""
    tiny_llama().save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(str(file.parent), gguf_file=file.name).save_pretrained(folder)
    return folder
