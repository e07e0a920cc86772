"""Run any causal language model of the Hugging Face hub over packed blocks, with Sightline's attention.

The modelling code is transformers' own. It calls the attention function that Sightline registers, for every layer, with
queries and keys to which the positions have been applied. To read attention, the model runs up to a signal layer: above
it nothing is loaded, and at it only the queries of the signal tokens and the keys that they look at are computed. To
read hidden states, the model runs whole; only a few rows of its head are kept.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import textwrap
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import nn

from ..errors import ModelError
from ..kernels.threads import all_threads
from ..wording import quoted
from .linears import PackedLinear

__all__ = [
    "Call",
    "Decoder",
    "Enough",
    "Pass",
    "cut_off",
    "register_attention",
    "shorten",
]

# Not a name with "flash", "sdpa", "flex" or "/" in it: transformers reads a meaning into those.
ATTENTION = "sightline"
_TRIED = 97  # tokens of the pass that compiles: torch would take a dimension of the same size for their number
_REASON = 300  # characters of a compiler's message, which may go on for pages
_NAMESPACE = __name__.partition(".")[0]  # of torch's operators; see `sightline.kernels.operators`


class Call(Protocol):
    """One forward pass: how attention is computed in it, and what is read.

    Attributes:
        signal_rows: int64 (R,), the places of the signal tokens among the tokens of the pass. May be empty.
        key_rows: int64, the places of the tokens whose keys the signal layer needs. If None, all of them.
    """

    signal_rows: torch.Tensor
    key_rows: torch.Tensor | None

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        """Compute the attention of a layer below the signal layer.

        Args:
            layer: the number of the layer, from 0.
            q: the queries (T, Hq, D).
            k: the keys (T, Hkv, D), not repeated for grouped heads.
            v: the values (T, Hkv, D), not repeated for grouped heads.
            scale: the factor by which the model multiplies the products of queries and keys.
            window: the number of positions back that the layer sees; see `sightline.kernels.Packing`. If None, it sees
                everything.

        Returns:
            (T, Hq, D).
        """
        ...

    def signal(self, layer: int, q: torch.Tensor, k: torch.Tensor, scale: float, window: int | None) -> None:
        """Take what the signal layer sees: q (R, Hq, D) of the signal rows and k (K, Hkv, D) of the key rows."""
        ...


class Enough(Exception):  # noqa: N818 - not an error
    """Raised by a `Call` that has read all it needs, to end the pass."""


class Pass:
    """Takes a `Call` through a model, as its argument ``sightline``.

    It has one type whatever the call, so that one compiled graph serves all calls. The graph also serves all layers and
    cannot know which of them it is: it asks for the attention of the next one.

    Args:
        call: the object that computes attention.
    """

    def __init__(self, call: Call) -> None:
        self.call, self._layers = call, itertools.count()

    def attend_next(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        """Compute the attention of the layer after the one that asked before; see `Call.attend`."""
        return self.call.attend(next(self._layers), q, k, v, scale, window)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Make this the pass of the thread, where `_attend` finds it: a graph cannot hold it."""
        before = _PASS.set(self)
        try:
            yield
        finally:
            _PASS.reset(before)


class _Blind:
    """A `Call` that reads nothing."""

    signal_rows = torch.empty(0, dtype=torch.int64)
    key_rows: torch.Tensor | None = None

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        return q.clone()

    def signal(self, layer: int, q: torch.Tensor, k: torch.Tensor, scale: float, window: int | None) -> None:
        pass


_PASS: ContextVar[Pass] = ContextVar("sightline_pass")


@torch.library.custom_op(
    f"{_NAMESPACE}::attend",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, float scale, int? window) -> Tensor",
)
def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None) -> torch.Tensor:
    """The attention of the next layer of this thread's pass; an operator, so that no compiler looks inside."""
    return _PASS.get().attend_next(q, k, v, scale, window).contiguous()


@_attend.register_fake
def _(q: Any, k: Any, v: Any, scale: float, window: int | None) -> Any:
    return q.new_empty(q.shape)


class Decoder:
    """A causal language model, cut off at its signal layer, or whole for its hidden states.

    Args:
        model: a transformers model with ``signal_layer + 1`` layers that uses Sightline's attention; `load_decoder`
            makes one. It is a base model (without head), unless there are ``outputs``. The decoder changes it.
        tokenizer: the fast tokenizer of the model.
        name: the name that the model was loaded by.
        revision: the revision of the model's weights.
        outputs: the tokens whose logits are wanted. With them, or with an empty list, the model runs whole and gives
            hidden states. If None, it is cut off at the signal layer.

    Attributes:
        signal_layer: the last layer. Unless the model runs whole, only its queries and keys are computed.
        outputs: the tokens whose logits it gives; None if it gives no hidden states.
        positions: the number of positions that the model was made for; None if it does not say.
        windows: how far back each layer sees; None for a layer that sees everything.
        heads: the number of query heads of a layer.
        head_dim: the number of dimensions of a head.
        compiled: whether `compile` was called.

    Raises:
        ModelError: if the model is not built of decoder layers as transformers builds them, or an output is not one
            token.
    """

    def __init__(
        self, model: Any, tokenizer: Any, name: str, revision: str = "", outputs: Sequence[str] | None = None
    ) -> None:
        register_attention()
        self.outputs = None if outputs is None else tuple(outputs)
        self._head = _Head(model.eval(), token_ids(outputs, tokenizer, name), name) if outputs else None
        model = model.base_model if outputs else model
        layers = getattr(model, "layers", None)
        if not isinstance(layers, nn.ModuleList) or not all(hasattr(layer, "self_attn") for layer in layers):
            raise ModelError(f"{name!r} ({type(model).__name__}) is not a decoder with layers of self-attention")
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(f"{name!r} has no fast tokenizer; one is needed to tell which characters a token covers")
        self.model, self.tokenizer, self.name, self.revision = model.eval(), tokenizer, name, revision
        self.config = model.config
        self.signal_layer = len(layers) - 1
        self._norm = getattr(model, "norm", None)
        if outputs is None:
            model.layers[-1] = _SignalLayer(layers[-1], self.signal_layer)
        elif self._norm is None:
            raise ModelError(f"{name!r} ({type(model).__name__}) has no norm behind its layers; choose another model")
        model.norm = nn.Identity()  # only the rows that are read are normalised
        self.positions: int | None = getattr(self.config, "max_position_embeddings", None)
        self.windows = _windows(self.config, len(layers))
        self.heads = int(self.config.num_attention_heads)
        self.head_dim = int(getattr(self.config, "head_dim", None) or self.config.hidden_size // self.heads)
        self.compiled = False

    @property
    def device(self) -> torch.device:
        """The device that the tokens must be on."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The number format that the model computes in."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    def run(self, ids: torch.Tensor, positions: torch.Tensor, call: Call) -> None:
        """Run one forward pass over packed tokens.

        Args:
            ids: the token ids, int64 (T,).
            positions: the position of each token, int64 (T,).
            call: the object that computes attention and sees each layer.
        """
        with contextlib.suppress(Enough):
            self._forward(ids, positions, call)

    def states(self, ids: torch.Tensor, positions: torch.Tensor, call: Call, rows: torch.Tensor) -> torch.Tensor:
        """Run one forward pass through all layers of a model with `outputs`, for the states of some tokens.

        Args:
            ids: the token ids, int64 (T,).
            positions: the position of each token, int64 (T,).
            call: the object that computes attention.
            rows: int64 (R,), the places of the tokens whose states are wanted.

        Returns:
            The states (R, D), normalised by the model's last norm; float32, or wider if the model is.
        """
        assert self.outputs is not None and self._norm is not None
        hidden = self._forward(ids, positions, call).last_hidden_state[0]
        chosen = hidden.index_select(0, rows.to(hidden.device))
        # In half precision a logit of 20 would be known to an eighth only, and documents be tied.
        states: torch.Tensor = self._norm(chosen.to(_wide(chosen)))
        return states

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Compute the logits (R, len(outputs)) of the `outputs` from `states` (R, D)."""
        assert self._head is not None
        logits: torch.Tensor = self._head(states)
        return logits

    def compile(self, backend: str = "inductor") -> None:
        """Let `torch.compile` fuse what stands between the matrix products of a layer: norms, positions, activations.

        That takes some ten seconds, which are spent here and not in the first pass. All layers share one graph, which
        holds for any number of tokens; layers that differ, such as those with a sliding window, have one each. The
        signal layer is left as it is. Compiled code has no gradients, and rounds in other places. On a CPU it takes all
        threads of torch, however busy the machine is.

        Args:
            backend: the name of a compiler, as `torch.compile` takes it.

        Raises:
            ModelError: if the compiler fails, for instance because there is no C compiler; or the linear layers are
                packed for the CPU, as those are that `load_decoder` loads there without ``compile``.
        """
        if any(isinstance(module, PackedLinear) for module in self.model.modules()):
            raise ModelError(
                f"{self.name!r} cannot be compiled: its linear layers are packed for this CPU; load it with "
                "compile=True"
            )
        self.compiled = True
        for layer in self.model.layers:
            if not isinstance(layer, _SignalLayer):
                layer.compile(fullgraph=True, dynamic=True, backend=backend)
        # Threads whose first passes meet would each compile a graph of their own, and torch keeps only some.
        with torch.inference_mode():
            self.run(torch.zeros(_TRIED, dtype=torch.int64), torch.arange(_TRIED), _Blind())

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, call: Call) -> Any:
        through = Pass(call)
        with through.running(), self._compiling():
            return self.model(
                input_ids=ids[None].to(self.device),
                position_ids=positions[None].to(self.device),
                use_cache=False,
                sightline=through,
            )

    @contextlib.contextmanager
    def _compiling(self) -> Iterator[None]:
        """Tell of a compiler that fails."""
        if not self.compiled:
            yield
            return
        from torch._dynamo import config
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        try:
            with all_threads():
                yield
        except TorchDynamoException as error:
            reason = textwrap.shorten(str(error).split("\n\n")[0], _REASON, placeholder=" ...")
            raise ModelError(
                f"{self.name!r} cannot be compiled: {reason}; load it without compile=True (serve: without --compile)"
            ) from error
        except FailOnRecompileLimitHit as error:
            raise ModelError(
                f"{self.name!r} cannot be compiled: torch keeps {config.recompile_limit} graphs of layers in a "
                "process, and others have taken them, such as those of decoders of other shapes; raise "
                "torch._dynamo.config.recompile_limit"
            ) from error


def token_ids(texts: Sequence[str], tokenizer: Any, name: str) -> list[int]:
    """Return the ids of texts that are one token each.

    Args:
        texts: the texts, as they stand in the vocabulary or in a prompt.
        tokenizer: a fast tokenizer of transformers.
        name: the name of the model, for the message.

    Raises:
        ModelError: if one of them is not a single token.
    """
    vocabulary, ids = tokenizer.get_vocab(), []
    for text in texts:
        found = [vocabulary[text]] if text in vocabulary else tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(found) != 1:
            raise ModelError(f"{quoted(text)} is not one token of {name!r}, but {len(found)}, so it has no logit")
        ids.append(found[0])
    return ids


class _Head(nn.Module):
    """A model's own way from states to logits, for a few tokens: some models scale or cap what their head gives."""

    def __init__(self, model: Any, ids: Sequence[int], name: str) -> None:
        super().__init__()
        head = model.get_output_embeddings()
        names = [key for key, module in model.named_children() if module is head]
        weight: Any = getattr(head, "weight", torch.empty(0))
        plain = weight.is_floating_point() and weight.ndim == 2 and not weight.is_meta
        if not plain or len(names) != 1:
            what = "has no head that predicts tokens, or it is quantized or offloaded"
            raise ModelError(f"{name!r} ({type(model).__name__}) {what}")
        rows = nn.Linear(weight.shape[1], len(ids), bias=head.bias is not None, device="meta")
        for key in ("weight", "bias")[: 1 if head.bias is None else 2]:
            chosen = getattr(head, key).detach()[list(ids)]
            setattr(rows, key, nn.Parameter(chosen.to(_wide(chosen)), requires_grad=False))
        twin = copy.copy(model)
        twin._modules = model._modules | {model.base_model_prefix: _Given(), names[0]: rows}
        self._rows, self._twin = rows, (twin,)  # in a tuple, so that it is not registered

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        [twin] = self._twin
        logits: torch.Tensor = twin(inputs_embeds=states[None].to(self._rows.weight)).logits[0]
        return logits


class _Given(nn.Module):
    """Stands in for a base model whose states are there already."""

    def forward(self, inputs_embeds: torch.Tensor, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import MoeModelOutputWithPast

        return MoeModelOutputWithPast(last_hidden_state=inputs_embeds)


def _wide(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _windows(config: Any, layers: int) -> tuple[int | None, ...]:
    """Sliding windows by layer, as transformers' own masks have them: every layer's unless their types are named."""
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None) or ["sliding_attention"] * layers
    return tuple(int(window) if window and kind == "sliding_attention" else None for kind in types[:layers])


class _SignalLayer(nn.Module):
    """A decoder layer of which only the projections that the signal needs are computed."""

    def __init__(self, layer: nn.Module, index: int) -> None:
        super().__init__()
        self.layer, self.index = layer, index
        self._queries = _without(layer, "k_proj", "v_proj")
        self._keys = _without(layer, "q_proj", "v_proj")

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # models ask their layers for their type, such as attention_type
            return getattr(super().__getattr__("layer"), name)

    def forward(self, hidden_states: torch.Tensor, sightline: Pass, **kwargs: Any) -> torch.Tensor:
        call = sightline.call
        rows, key_rows = call.signal_rows, call.key_rows
        keys = _capture(self._keys[0], hidden_states, key_rows, kwargs)
        queries = _capture(self._queries[0], hidden_states, rows, kwargs) if len(rows) else keys
        q = queries.q if len(rows) else keys.q[:0]
        with _without_autocast(q):
            call.signal(self.index, q, keys.k, keys.scale, keys.window)
        return hidden_states


class _Captured(Exception):  # noqa: N818 - it carries a result out of transformers' code; nothing went wrong
    """Queries and keys as the attention function got them."""

    def __init__(self, q: torch.Tensor, k: torch.Tensor, scale: float, window: int | None) -> None:
        self.q, self.k, self.scale, self.window = q, k, scale, window


class _Capture:
    """Stands in for a `Pass`: it ends the layer as soon as queries and keys are there."""


def _capture(layer: nn.Module, hidden: torch.Tensor, rows: torch.Tensor | None, kwargs: dict[str, Any]) -> _Captured:
    tokens = hidden.shape[1]
    if rows is not None and len(rows) < tokens:

        def cut(value: Any) -> Any:
            """Whatever has one entry for each token along its second dimension."""
            if isinstance(value, torch.Tensor) and value.ndim > 1 and value.shape[1] == tokens:
                return value.index_select(1, rows.to(value.device))
            if isinstance(value, tuple):
                return tuple(map(cut, value))
            return {key: cut(item) for key, item in value.items()} if isinstance(value, dict) else value

        hidden, kwargs = cut(hidden), {name: cut(value) for name, value in kwargs.items()}
    try:
        layer(hidden, sightline=_Capture(), **kwargs)
    except _Captured as captured:
        return captured
    raise ModelError(f"{type(layer).__name__} did not call the attention function; transformers has changed")


class _Nothing(nn.Module):
    """Stands in for a projection whose result nobody looks at: it gives zeros of its shape, which take no memory."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(1).expand(*x.shape[:-1], self.width)


def _without(layer: nn.Module, *names: str) -> tuple[nn.Module]:
    """The same layer, sharing its weights, without some projections; in a tuple, so that it is not registered twice.

    It is the layer itself where a model fuses its projections, or accelerate has bound the modules to their devices.
    """
    attention: Any = layer.self_attn
    projections = {name: getattr(attention, name, None) for name in names}
    widths = {name: getattr(projection, "out_features", None) for name, projection in projections.items()}
    if None in widths.values() or hasattr(attention, "_hf_hook") or hasattr(layer, "_hf_hook"):
        return (layer,)
    twin, twin_attention = copy.copy(layer), copy.copy(attention)
    twin_attention._modules = attention._modules | {name: _Nothing(width) for name, width in widths.items() if width}
    twin._modules = layer._modules | {"self_attn": twin_attention}
    return (twin,)


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    sightline: Pass | _Capture | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in every layer: query (1, Hq, T, D), key and value (1, Hkv, T, D), positions applied."""
    if sightline is None:
        raise ModelError("the attention implementation 'sightline' runs only through sightline's own rerankers")
    if softcap is not None or s_aux is not None:
        what = "caps its logits" if softcap is not None else "has attention sinks"
        raise ModelError(
            f"{type(module).__name__} {what}, which block attention does not support; choose another model"
        )
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    # Under autocast positions are applied in float32, but values are not made so.
    q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    if torch.compiler.is_dynamo_compiling():
        return _attend(q, k, v, scale, sliding_window)[None], None
    if isinstance(sightline, _Capture):
        raise _Captured(q, k, scale, sliding_window)
    with _without_autocast(q):
        out = sightline.call.attend(module.layer_idx, q, k, v, scale, sliding_window)
    return out[None], None


def _without_autocast(x: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
    """Turn autocast off for the kernels: they know themselves what to compute in a wider format than their input's."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else contextlib.nullcontext()


def register_attention() -> None:
    """Make Sightline's attention known to transformers, under the name ``sightline``. Doing it again does no harm."""
    from transformers import AttentionInterface

    # It has no mask function, so transformers makes no mask, and does not look for one in the positions.
    AttentionInterface.register(ATTENTION, _attention)


def cut_off(model: Any, layers: int) -> Any:
    """Make a model that ends at a layer and shares its weights; for a `Decoder`, which changes the model it is given.

    Args:
        model: a transformers base model (without head).
        layers: the number of layers to keep, from the first.
    """
    twin, config = copy.copy(model), copy.deepcopy(model.config)
    shorten(config, layers)
    twin.config = config
    twin._modules = model._modules | {"layers": nn.ModuleList(list(model.layers)[:layers])}
    return twin


def shorten(config: Any, layers: int) -> None:
    """Change a configuration to that of a model with fewer layers."""
    config.num_hidden_layers = layers
    if isinstance(getattr(config, "layer_types", None), list):
        config.layer_types = config.layer_types[:layers]
