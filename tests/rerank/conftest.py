"""Small random decoders of several families, with a byte-level tokenizer made on the spot."""

import warnings

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

WORDS = """Cats purr when they are content and sleep a lot. Iron rusts in the rain. Dogs bark at strangers; they like
long walks. What do cats do? Which document is most relevant to answer the query? Print out the ID of the document.
You will be given a query and a list of documents. CONTENT END ID Query Documents Final Answer paragraphs."""
CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST]{{ m['content'] }}[/INST]"
    "{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
SHAPE = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "initializer_range": 0.3,  # peaked attention: a wrong mask or scale cannot hide
    "pad_token_id": 0,
}
FAMILIES = {
    "mistral": lambda **k: MistralConfig(**k, head_dim=16, sliding_window=None),
    "llama": lambda **k: LlamaConfig(**k, head_dim=12),
    "qwen2": lambda **k: Qwen2Config(**k),
    "qwen3": lambda **k: Qwen3Config(**k, head_dim=16),
    "gemma": lambda **k: GemmaConfig(**k, head_dim=16),
    "phi3": lambda **k: Phi3Config(**k, sliding_window=None),
    "granite": lambda **k: GraniteConfig(
        **k, attention_multiplier=0.2, residual_multiplier=0.7, embedding_multiplier=3.0
    ),
}
# Of "gemma3" the third layer sees everything; "mistral-window" sees no further in any layer.
WINDOWED = {
    "gemma3": lambda **k: Gemma3TextConfig(
        **{"sliding_window": 40} | k, head_dim=16, sliding_window_pattern=3, query_pre_attn_scalar=16
    ),
    "mistral-window": lambda **k: MistralConfig(**{"sliding_window": 540} | k, head_dim=16),
}


def make_tokenizer(chat=True):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "[INST]", "[/INST]"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([WORDS], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",  # the published fault: a pad that is also a real token
        additional_special_tokens=["[INST]", "[/INST]"],
    )
    if chat:
        fast.chat_template = CHAT
    return fast


def save_model(folder, family="qwen3", chat=True, seed=0, **shape):
    tokenizer = make_tokenizer(chat)
    config = (FAMILIES | WINDOWED)[family](**{**SHAPE, "vocab_size": len(tokenizer), **shape})
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(config)
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def model_of(tmp_path_factory):
    """A folder with a random model of a family, made once."""
    folders = {}

    def make(family="qwen3"):
        if family not in folders:
            folders[family] = save_model(tmp_path_factory.mktemp(family), family)
        return folders[family]

    return make
