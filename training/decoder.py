"""Decoders that learn to attend: the engine that ranks, run with gradients (BlockRank, 2025, section 3.4)."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from ..documents import Document
from ..errors import InputError
from ..extras import importing
from ..files import share_files
from ..models.checkpoints import load_config, load_weights, revision_of
from ..models.decoder import Decoder, Pass, cut_off
from ..rerank.decoder.forward import Packed, pack
from ..rerank.decoder.prompt import Prompt, QueryBlock
from ..rerank.decoder.reranker import DecoderReranker, saved_layout, with_heads
from ..rerank.layout import Layout, load_layout
from ..rerank.readout import document_scores
from .learner import Output, TrainingList

if TYPE_CHECKING:
    from peft import LoraConfig

__all__ = ["DecoderLearner"]

logger = logging.getLogger(__name__)

_ADAPTER = "default"  # peft's own name for the only one


class DecoderLearner:
    """Trains a decoder's attention up to its signal layer; implements `Learner`.

    Scores are those that `DecoderReranker` ranks by, from the same prompts, forward pass and readout, for every decoder
    layout. Without ``next_token``, the pass ends at the signal layer, above which nothing is loaded. With it, the whole
    model is loaded and reads on to the answer. The layers above the signal layer and the head do not change and are not
    saved, since no ranking reads them.

    A layout's ``shuffles`` are for ranking only: lists are learned in the order in which they come. Ids that are
    ``random`` are drawn anew each time, from torch's global generator.

    Args:
        model: the name of the model on the hub, or its folder.
        layout: a `Layout` or the name of one. If None, the layout that was saved with the model, else ``icr``.
        lora: the rank of the low-rank adapters (Hu et al. 2021) that are trained in the place of the weights. If None,
            the weights are trained: embeddings, and all layers up to the signal layer.
        alpha: the factor of the adapters' product, which is divided by the rank. If None, twice the rank.
        targets: the linear maps of the layers that get adapters, such as ``q_proj``. If None, all those of the
            attention and the MLP.
        first_layer: the first layer that is trained. The layers below it and the embeddings do not change, and no
            gradient is computed for them, which makes a step cheaper.
        dropout: the dropout of the adapters' inputs.
        next_token: whether the model also learns to write the layout's ``target``, the ids of the documents that
            answer.
        gradient_checkpointing: whether to keep only the input of each layer, and compute the layer again for its
            gradients.
        heads: the heads to read, as `DecoderReranker` takes them.
        seed: the seed of the adapters' initial weights.
        loading: arguments of `load_decoder`: ``revision``, ``dtype`` (None as there, but float32 to train the weights)
            and ``device``.

    Attributes:
        name: the name of the model.
        temperature: the temperature of the loss, 0.05, since scores are shares of attention (BlockRank, 2025).
        learning_rate: the highest learning rate, 1e-4.
        layout: the layout as it is saved, with the number of its signal layer.

    Raises:
        MissingExtraError: if you give ``lora`` and peft is not installed.
        ModelError: if the model cannot be loaded, or the layout does not fit it.
        InputError: if an option cannot be used.

    Example:
        >>> from sightline.recipes.tiny_decoder import TINY_DECODER
        >>> learner = DecoderLearner(str(TINY_DECODER), "blockrank", lora=4)
        >>> documents = (Document("a", "sime is the code of veba"), Document("b", "diri is the code of keka"))
        >>> output = learner([TrainingList("what is the code of keka", documents, (False, True))])
        >>> output.scores[0].shape, round(output.scores[0].sum().item(), 6)
        (torch.Size([2]), 1.0)
        >>> sum(parameter.numel() for parameter in learner.parameters().values())
        18176
    """

    temperature = 0.05
    learning_rate = 1e-4

    def __init__(
        self,
        model: str,
        layout: Layout | str | None = None,
        *,
        lora: int | None = None,
        alpha: float | None = None,
        targets: Sequence[str] | None = None,
        dropout: float = 0.0,
        first_layer: int = 0,
        next_token: bool = False,
        gradient_checkpointing: bool = False,
        heads: str | Path | Sequence[str] | None = None,
        seed: int = 0,
        **loading: Any,
    ) -> None:
        if lora is None and (alpha is not None or targets is not None or dropout):
            raise InputError(
                "alpha, targets and dropout belong to the adapters; give the rank of those too, such as lora=16"
            )
        if lora is not None and (lora < 1 or not 0 <= dropout < 1 or (alpha is not None and alpha <= 0)):
            raise InputError("lora and alpha must be above 0, dropout at least 0 and below 1")
        if unknown := set(loading) - {"revision", "dtype", "device"}:
            raise InputError(f"a decoder that learns takes no {sorted(unknown)[0]!r}")
        config = load_config(model, loading.get("revision"))
        revision = revision_of(model, config, loading.get("revision"))
        layout = saved_layout(model) if layout is None else layout
        layout = load_layout(layout) if isinstance(layout, str) else layout
        prompt = layout.require_prompt()
        if layout.readout.hidden or layout.stride > 1:
            what = f"reads hidden states ({layout.readout.readout})" if layout.readout.hidden else "forgets tokens"
            raise InputError(
                f"layout {layout.name!r} {what}, which training cannot; take a layout that reads attention over all "
                "tokens, such as blockrank"
            )
        if next_token and (not prompt.target or prompt.ids == "none"):
            lacks = "ids" if prompt.target else "target"
            raise InputError(f"layout {layout.name!r} has no {lacks} to write; take blockrank, or no next-token loss")
        layout = with_heads(load_layout(layout, shuffles=0), heads, model, revision)
        self.layers = layout.readout.signal_layers(int(config.num_hidden_layers))[-1] + 1
        if isinstance(layout.readout.layers, float):  # of the saved model it would be another layer
            layout = load_layout(layout, layers=self.layers - 1)
        if lora is None and loading.get("dtype") is None:
            loading["dtype"] = torch.float32
        if not 0 <= first_layer < self.layers:
            raise InputError(
                f"first_layer must be from 0 to {self.layers - 1}, the signal layer of layout {layout.name!r}, "
                f"not {first_layer}"
            )
        layer_count = None if next_token else self.layers
        self.model, self.tokenizer = load_weights(model, layers=layer_count, head=next_token, **loading)
        self.name, self.layout, self.next_token = model, layout, next_token
        self.base = self.model.base_model if next_token else self.model
        self.model.requires_grad_(False)
        self.adapter = None if lora is None else self._adapt(lora, alpha, targets, dropout, first_layer, seed)
        if lora is None:
            self.base.get_input_embeddings().requires_grad_(not first_layer)
            self.base.layers[first_layer : self.layers].requires_grad_(True)
        # Modules are shared from here on, so nothing may take another's place any more.
        self.ranker = DecoderReranker(Decoder(cut_off(self.base, self.layers), self.tokenizer, model, revision), layout)
        if gradient_checkpointing:
            # The reentrant kind loses what leaves a layer by another way than its result, as the signal does.
            _checkpoint(self.model)
        self._freeze_the_unreached()
        self._parameters = {
            name: parameter for name, parameter in self.base.named_parameters() if parameter.requires_grad
        }

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Return the trained parameters; see `Learner.parameters`.

        Of the signal layer, only those for queries and keys.
        """
        return self._parameters

    def __call__(self, lists: Sequence[TrainingList]) -> Output:
        """Score lists in one forward pass; see `Learner.__call__`.

        Raises:
            InputError: if a list is longer than the model's positions, or a query has no token.
        """
        decoder, next_token, scores = self.ranker.decoder, None, []
        wide = torch.promote_types(decoder.dtype, torch.float32)
        self.model.train()
        laid = [self._lay_out(training_list) for training_list in lists]
        packed = pack([prompt for prompt, _, _ in laid], self.ranker.wanted)
        if self.next_token:
            next_token = self._write(packed, [target for _, _, target in laid])
        else:
            decoder.run(packed.ids, packed.positions, packed.call)
        for reading, (_, order, _) in zip(packed.readings(), laid, strict=True):
            back = torch.tensor(order).argsort()
            scores.append(document_scores(reading, self.layout.readout)[back].to(decoder.device, wide))
        return Output(scores, next_token)

    def reranker(self) -> DecoderReranker:
        """Return the reranker, with adapters merged as in the saved model; see `Learner.reranker`."""
        decoder = self.ranker.decoder
        return DecoderReranker(Decoder(self._merged(), self.tokenizer, self.name, decoder.revision), self.layout)

    def save(self, folder: Path) -> None:
        """Save what rankings need; see `Learner.save`.

        These are the weights up to the signal layer, with adapters merged, the tokenizer, and the layout. The adapters
        alone, for the whole model and other tools of peft, are in the folder ``adapter``.
        """
        self._merged().save_pretrained(folder)
        share_files(*folder.glob("*.safetensors"))
        self.tokenizer.save_pretrained(folder)
        (folder / "layout.yaml").write_text(
            yaml.safe_dump(self.layout.as_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        if self.adapter is not None:
            beside = folder / "adapter"
            self.adapter.save_pretrained(str(beside))
            prefix = f"base_model.model.{self.base.base_model_prefix}."
            weights = {
                prefix + name.replace(f".{_ADAPTER}.", "."): parameter.detach().cpu().contiguous()
                for name, parameter in self.base.named_parameters()
                if f".{_ADAPTER}." in name
            }
            save_file(weights, beside / "adapter_model.safetensors", metadata={"format": "pt"})
            share_files(beside)

    # -- parts -------------------------------------------------------------------------------------------------------

    def _lay_out(self, training_list: TrainingList) -> tuple[Prompt, list[int], tuple[int, ...]]:
        """The prompt of a list, the order in which its documents stand, and the tokens that are to be written."""
        ranker, documents = self.ranker, list(training_list.documents)
        order, seed = next(ranker.orders(documents))
        if self.ranker.template.spec.ids == "random":
            seed = int(torch.randint(2**31, ()))
        prompt = ranker.prompt(training_list.query, [documents[place] for place in order], seed)
        target: tuple[int, ...] = ()
        if self.next_token:
            answers = [at for at, place in enumerate(order) if training_list.positive[place]]
            target = ranker.template.target(len(documents), answers, seed)
            first, *rest = prompt.queries
            prompt = dataclasses.replace(prompt, queries=(QueryBlock(first.ids + target, first.signal), *rest))
        if misfit := ranker.misfit(prompt):
            raise InputError(f"the list of {training_list.query[:80]!r} cannot be learnt from: {misfit}")
        return prompt, order, target

    def _write(self, packed: Packed, targets: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """Run the whole model; the mean loss over the tokens of the targets."""
        rows: list[int] = []
        for end, target in zip(packed.answers, targets, strict=True):
            rows += range(end - len(target) - 1, end - 1)  # what stands before a token predicts it
        device = self.ranker.decoder.device
        logits = self.model(
            input_ids=packed.ids[None].to(device),
            position_ids=packed.positions[None].to(device),
            use_cache=False,
            sightline=Pass(packed.call),
            logits_to_keep=torch.tensor(rows, device=device),
        ).logits[0]
        expected = torch.tensor([i for target in targets for i in target], device=device)
        wide = torch.promote_types(logits.dtype, torch.float32)
        return nn.functional.cross_entropy(logits.to(wide), expected)

    def _adapt(
        self,
        rank: int,
        alpha: float | None,
        targets: Sequence[str] | None,
        dropout: float,
        first_layer: int,
        seed: int,
    ) -> LoraConfig:
        """Put adapters into the layers that are trained."""
        with importing("peft", extra="training"):
            from peft import LoraConfig, inject_adapter_in_model
        linear = {
            f"layers.{at}.{name}"
            for at, layer in enumerate(self.base.layers[: self.layers])
            if at >= first_layer
            for name, module in layer.named_modules()
            if isinstance(module, nn.Linear)
        }
        known = {name.rpartition(".")[2] for name in linear}
        if targets is not None and (unknown := set(targets) - known):
            raise InputError(
                f"{self.name!r} has no linear map {sorted(unknown)[0]!r} in its layers; there are "
                f"{', '.join(sorted(known))}"
            )
        chosen = sorted(name for name in linear if targets is None or name.rpartition(".")[2] in targets)
        config = LoraConfig(
            r=rank,
            lora_alpha=2 * rank if alpha is None else alpha,  # type: ignore[arg-type]  # need not be whole
            target_modules=chosen,
            lora_dropout=dropout,
            base_model_name_or_path=self.name,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            inject_adapter_in_model(config, self.base, _ADAPTER)
        for parameter in self.base.parameters():
            if parameter.requires_grad:  # in half precision small steps would be lost
                parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        return config

    def _freeze_the_unreached(self) -> None:
        """No gradient reaches what comes after the signal layer's queries and keys, whatever the model calls it."""
        probe = TrainingList("What is it?", (Document("a", "This."), Document("b", "That.")), (True, False))
        scores, next_token = self([probe])
        (scores[0].sum() + (0.0 if next_token is None else next_token)).backward()
        for parameter in self.model.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None

    @torch.no_grad()
    def _merged(self) -> Any:
        """The model up to its signal layer with modules of its own, which share all weights that no adapter changes."""
        return cut_off(_merge(self.base), self.layers).eval()


def _checkpoint(model: Any) -> None:
    """Turn on gradient checkpointing, under the name that the installed transformers has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _merge(module: nn.Module) -> nn.Module:
    """A copy whose adapters are merged into the weights of a linear map; other weights are shared."""
    if hasattr(module, "get_delta_weight"):
        base: Any = module.get_base_layer()  # type: ignore[operator]
        delta = module.get_delta_weight(_ADAPTER)  # type: ignore[operator]
        twin: nn.Module = copy.copy(base)
        weight = (base.weight.to(delta.dtype) + delta).to(base.weight.dtype)
        twin._parameters = base._parameters | {"weight": nn.Parameter(weight, requires_grad=False)}
        return twin
    twin = copy.copy(module)
    twin._modules = {name: None if child is None else _merge(child) for name, child in module._modules.items()}
    return twin
