"""Small models of random weights, saved as sentence-transformers saves the published ones of each family."""

import json

import torch

SENTENCES = [
    "Cats purr when they are content, and dogs bark at strangers.",
    "Iron rusts in wet air; a star shines: query and passage, title or text?",
    "Where do cows eat grass? In the meadow, said the farmer (twice).",
]
_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_DECODER = _SMALL | {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128}


def word_pieces():
    """BERT's tokenizer, with the published vocabulary."""
    from transformers import AutoTokenizer

    from sightline.models.minilm import find_minilm

    return AutoTokenizer.from_pretrained(find_minilm())


def byte_pairs(end=True):
    """A tokenizer over bytes as decoders have it: a blank belongs to the word behind it; some append an end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet)
    made.train_from_iterator(SENTENCES, trainer)
    if end:
        made.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", padding_side="left", model_max_length=128
    )


def sentence_pieces(begin="<s>", end="</s>"):
    """A tokenizer whose tokens carry the blank before them, as SentencePiece's do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>", show_progress=False)
    made.train_from_iterator(SENTENCES, trainer)
    template = f"{begin} $A {end}".strip()
    made.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        mask_token="<mask>", cls_token="<s>", sep_token="</s>", model_max_length=128,
    )  # fmt: skip


def backbone(family, folder):
    """Save a transformer and its tokenizer."""
    import transformers as hf

    tokenizer = {
        "bert": word_pieces,
        "modernbert": word_pieces,
        "mpnet": sentence_pieces,
        "xlm-r": sentence_pieces,
        "qwen3": byte_pairs,
        "gemma3": lambda: sentence_pieces(),
    }[family]()
    torch.manual_seed(7)
    vocabulary = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if family == "bert":
        model = hf.BertModel(hf.BertConfig(**_SMALL, **vocabulary, max_position_embeddings=128, initializer_range=0.3))
    elif family == "modernbert":
        ends = {"bos_token_id": 101, "cls_token_id": 101, "eos_token_id": 102, "sep_token_id": 102}
        model = hf.ModernBertModel(
            hf.ModernBertConfig(**_SMALL, **vocabulary, **ends, max_position_embeddings=8192, initializer_range=0.3)
        )
        tokenizer.model_max_length = 8192
    elif family == "mpnet":
        sizes = _SMALL | {"max_position_embeddings": 130, "initializer_range": 0.3}
        model = hf.MPNetModel(hf.MPNetConfig(**sizes, **vocabulary))
    elif family == "xlm-r":
        sizes = _SMALL | {"max_position_embeddings": 130, "initializer_range": 0.3, "type_vocab_size": 1}
        model = hf.XLMRobertaModel(hf.XLMRobertaConfig(**sizes, **vocabulary))
    elif family == "qwen3":
        model = hf.Qwen3Model(hf.Qwen3Config(**_DECODER, **vocabulary, initializer_range=0.3))
    else:
        model = hf.Gemma3TextModel(
            hf.Gemma3TextConfig(**_DECODER, **vocabulary, initializer_range=0.3, use_bidirectional_attention=True)
        )
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bi_encoder(family, folder, *, pooling="mean", prompts=None, heads=(), include_prompt=True):
    """Save a bi-encoder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    modules = [Transformer(str(backbone(family, folder / "backbone")))]
    modules.append(Pooling(32, pooling, include_prompt=include_prompt))
    torch.manual_seed(8)
    modules += [Dense(size, out, bias=False, activation_function=activation) for size, out, activation in heads]
    model = SentenceTransformer(modules=[*modules, Normalize()], prompts=prompts, device="cpu")
    model.save_pretrained(str(folder / "saved"))
    return folder / "saved"


def multi_vector(family, folder, *, dim=16, expansion=None, skip=(), prompts=None, query_length=None, length=None):
    """Save a late-interaction model as sentence-transformers does."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Transformer

    transformer = Transformer(
        str(backbone(family, folder / "backbone")),
        query_length=query_length,
        document_length=length,
        query_expansion=expansion,
    )
    torch.manual_seed(8)
    tokens = {"module_input_name": "token_embeddings"}
    dense = Dense(32, dim, bias=False, activation_function=torch.nn.Identity(), **tokens)
    modules = [transformer, dense, MultiVectorMask(skiplist_words=list(skip)), Normalize(**tokens)]
    model = MultiVectorEncoder(modules=modules, prompts=prompts, device="cpu")
    model.save_pretrained(str(folder / "saved"))
    return folder / "saved"


def pylate(family, folder, *, dim=16, **settings):
    """Save a late-interaction model as PyLate 1 does: two modules, and the rest in one configuration."""
    from safetensors.torch import save_file

    backbone(family, folder)
    (folder / "1_Dense").mkdir()
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 44, "do_lower_case": false}')
    dense = {"in_features": 32, "out_features": dim, "bias": False}
    dense["activation_function"] = "torch.nn.modules.linear.Identity"
    (folder / "1_Dense" / "config.json").write_text(json.dumps(dense))
    torch.manual_seed(8)
    save_file({"linear.weight": torch.randn(dim, 32)}, folder / "1_Dense" / "model.safetensors")
    saved = {"model_type": "ColBERT", "prompts": {}, "similarity_fn_name": "MaxSim"} | settings
    (folder / "config_sentence_transformers.json").write_text(json.dumps(saved))
    return folder


def sparse_encoder(folder, *, inference_free=False, similarity="dot", prompts=None):
    """Save a learned sparse encoder: SPLADE, or with a table of weights in the place of the queries' network."""
    import transformers as hf
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import Router, SparseStaticEmbedding, SpladePooling, Transformer

    tokenizer = sentence_pieces()
    torch.manual_seed(7)
    vocabulary = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config = hf.BertConfig(**_SMALL, **vocabulary, max_position_embeddings=128, initializer_range=0.3)
    model = hf.BertForMaskedLM(config).eval()
    with torch.no_grad():
        model.cls.predictions.decoder.bias.fill_(-3.0)  # so that most weights are zero
    model.save_pretrained(folder / "backbone")
    tokenizer.save_pretrained(folder / "backbone")
    reads = [Transformer(str(folder / "backbone"), transformer_task="fill-mask"), SpladePooling()]
    if inference_free:
        table = SparseStaticEmbedding(tokenizer, torch.rand(len(tokenizer)) + 0.5, frozen=True)
        reads = [Router.for_query_document(query_modules=[table], document_modules=reads)]
    made = SparseEncoder(modules=reads, prompts=prompts, similarity_fn_name=similarity, device="cpu")
    made.save_pretrained(str(folder / "saved"))
    return folder / "saved"


def stanford(family, folder, *, dim=16, **settings):
    """Save a late-interaction model as Stanford's ColBERT does: one file of weights, and settings beside it."""
    from safetensors.torch import load_file, save_file

    backbone(family, folder)
    weights = {f"bert.{name}": weight for name, weight in load_file(folder / "model.safetensors").items()}
    torch.manual_seed(8)
    save_file(weights | {"linear.weight": torch.randn(dim, 32)}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["HF_ColBERT"]}))
    (folder / "artifact.metadata").write_text(json.dumps(settings))
    return folder
