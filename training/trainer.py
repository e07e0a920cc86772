"""The training loop: lists, loss and update, measured on dev, stopped when nothing is gained, resumed after a kill.

Plain torch: a learner places its own model, on several devices if transformers and accelerate spread it there, and what
is left is one process that calls it. What is trained is small beside what is read, so no optimiser needs to be sharded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import xxhash

from ..errors import InputError, TrainingError
from ..eval.provenance import dataset_hashes, git_revision, hardware, portable_command, portable_name, versions
from ..files import replace_file
from .card import Origin, model_card
from .checkpoint import STATE, RunRecord, TrainingState, check_settings, load_state, save_state
from .config import COLDEST, Objective, Sampling, TrainingConfig
from .dev import MEASURE, DevSet, PerQuery, gains, mean_of_collections, measure
from .examples import Example
from .learner import Learner
from .lists import ListSampler
from .loss import anchor_loss, list_losses
from .summary import Measurement, OriginRecord, TrainingSummary

if TYPE_CHECKING:
    import torch

__all__ = ["Progress", "train"]

logger = logging.getLogger(__name__)

_NO_LOSS = 5e-4  # a mean loss below this at the start is shown as zero, or nearly so
_RECORD_EVERY = 10  # steps whose losses are kept as one mean


class Progress(NamedTuple):
    """The progress of a run.

    Args:
        step: the number of updates that are done.
        steps: the number of updates that there will be.
        loss: the loss of the last update; NaN before the first.
        dev: the nDCG@10 by collection if it has just been measured, with their mean under ``mean``; else empty.
    """

    step: int
    steps: int
    loss: float
    dev: Mapping[str, float]


def train(
    learner: Learner,
    examples: Sequence[Example],
    out: str | Path,
    *,
    config: TrainingConfig,
    sampling: Sampling | None = None,
    objective: Objective | None = None,
    dev: Sequence[DevSet] = (),
    origin: Origin | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> TrainingSummary:
    """Train a learner, and save the result with a model card.

    A run that was killed continues from its last state if you call this again with the same arguments. Its weights are
    then those of an uninterrupted run. Measurements on ``dev`` are of the weights that would be kept: the current ones,
    or with ``config.alpha`` those part of the way to them. The best measured ones are saved, or without ``dev`` the
    last.

    Args:
        learner: the model to train, as `load_learner` returned it.
        examples: the examples that lists are drawn from.
        out: the folder for what `Learner.save` writes, ``README.md`` (a model card), ``training.json`` (settings,
            losses, dev figures), and during the run ``state.pt``, which is removed at the end.
        config: the length, the learning rate and other settings of the run.
        sampling: the way that lists are drawn.
        objective: the loss to minimise.
        dev: the collections to measure nDCG@10 on.
        origin: the facts for the model card about the base model, the data and the command.
        progress: a function that is called after every step and after every measurement.

    Returns:
        The summary that was written to ``training.json``.

    Raises:
        InputError: if the learner has nothing to train, ``out`` holds something else or a run with other settings, or
            the examples do not fit the settings.
        TrainingError: if the loss or the gradient is not finite (the error names the step), or the saved state is
            damaged.
        KeyboardInterrupt: if you interrupt the run. The state is saved before.

    Example:
        >>> from sightline.training import load_learner
        >>> examples = load_examples(Source("data/nq_train"))  # doctest: +SKIP
        >>> config = TrainingConfig(steps=500, learning_rate=1e-3)
        >>> train(load_learner("minilm"), examples, "trained", config=config)  # doctest: +SKIP
    """
    sampling, objective, origin = sampling or Sampling(), objective or Objective(), origin or Origin()
    return _Run(learner, examples, Path(out), config, sampling, objective, dev, origin, progress).go()


class _Run:
    """A run as it stands."""

    def __init__(
        self,
        learner: Learner,
        examples: Sequence[Example],
        out: Path,
        config: TrainingConfig,
        sampling: Sampling,
        objective: Objective,
        dev: Sequence[DevSet],
        origin: Origin,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        import torch

        temperature = learner.temperature if objective.temperature is None else objective.temperature
        objective = dataclasses.replace(objective, temperature=temperature)
        if config.learning_rate is None:
            config = dataclasses.replace(config, learning_rate=learner.learning_rate)
        self.learner, self.out, self.config, self.objective, self.dev = learner, out, config, objective, dev
        self.origin = origin
        self.sampling, self.progress = sampling, progress or (lambda _: None)
        self.sampler = ListSampler(examples, sampling, config.seed)
        self.lists = config.lists * config.accumulation
        self.steps = config.steps or max(1, math.ceil((config.epochs or 0) * self.sampler.epoch / self.lists))
        self.parameters = dict(learner.parameters())
        if not self.parameters:
            raise InputError(f"{learner.name} has nothing to train")
        if objective.distillation_weight and not any(example.teacher for example in examples):
            raise InputError(
                "distillation_weight is above 0, but no example has a teacher's scores; see sightline mine"
            )
        if sampling.in_batch and self.lists == 1:
            raise InputError("in_batch takes negatives from the other lists of a step; draw more than 1")
        if config.patience and not dev:
            raise InputError("patience is for measurements on dev; name a collection to measure on, or leave it at 0")
        if len({collection.name for collection in dev}) < len(dev):
            raise InputError(f"dev names a collection twice: {', '.join(collection.name for collection in dev)}")
        device = next(iter(self.parameters.values())).device
        self.device = device.type
        self.log_temperature = torch.nn.Parameter(
            torch.tensor(math.log(temperature), device=device), requires_grad=objective.learn_temperature
        )
        groups = [{"params": list(self.parameters.values()), "weight_decay": config.weight_decay}]
        if objective.learn_temperature:
            groups.append({"params": [self.log_temperature], "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(groups, lr=config.rate(0, self.steps))
        self.scaler = torch.amp.GradScaler(self.device, enabled=config.precision == "float16")
        self.settings = self._settings(examples)
        # What is below makes up the state.
        self.step = 0
        self.start = self._copy()
        self.best: dict[str, torch.Tensor] | None = None
        self.history: list[Measurement] = []
        self.per_query: dict[str, PerQuery] = {}  # at the start and at the best
        self.records: list[dict[str, int | float]] = []
        self.window: list[dict[str, int | float]] = []
        self.seconds = 0.0
        self._between = False

    # -- the loop ------------------------------------------------------------------------------------------------------

    def go(self) -> TrainingSummary:
        self._open()
        try:
            with _own_randomness():
                self._loop()
        except KeyboardInterrupt:
            if not self._between:  # half an update is no state; the last one that was written is
                self._save()
            raise
        return self._finish()

    def _loop(self) -> None:
        began = time.perf_counter() - self.seconds
        while True:
            if self.dev and self._due() and not any(past.step == self.step for past in self.history):
                self._measure()
                self.seconds = time.perf_counter() - began
                self._save()
            if self.step == self.steps or self._waited_enough():
                break
            loss = self._update()
            self.seconds = time.perf_counter() - began
            self.progress(Progress(self.step, self.steps, loss, {}))
            if self.step % self.config.save_every == 0:
                self._save()
        if self.window:
            self._record()

    def _due(self) -> bool:
        every = self.config.evaluate_every
        return self.step in (0, self.steps) or bool(every and self.step % every == 0)

    def _waited_enough(self) -> bool:
        if not self.config.patience or not self.history:
            return False
        best = max(range(len(self.history)), key=lambda i: (self.history[i].mean, -i))
        return len(self.history) - 1 - best >= self.config.patience

    def _measure(self) -> None:
        learnt, mixed = self._copy(), self._mixed()
        self._between = True  # while the learner holds other weights than the state
        self._put(mixed)
        try:
            with self._autocast():
                [values] = measure([self.learner.reranker()], self.dev)
        finally:
            self._put(learnt)
            self._between = False
        mean = mean_of_collections(values)
        if not self.history:
            self.per_query["start"] = values
        if not self.history or mean > max(past.mean for past in self.history):
            self.best, self.per_query["best"] = mixed, values
        by_name = {name: sum(by_query.values()) / len(by_query) for name, by_query in values.items()}
        self.history.append(Measurement(self.step, mean, by_name))
        figures = ", ".join(f"{name} {value:.4f}" for name, value in by_name.items())
        logger.info("step %d of %d: %s %.4f (%s)", self.step, self.steps, MEASURE, mean, figures)
        self.progress(Progress(self.step, self.steps, self._last_loss(), {"mean": mean, **by_name}))

    def _mixed(self) -> dict[str, torch.Tensor]:
        """What would be kept of the weights as they stand: they, or those part of the way from the start."""
        learnt, alpha = self._copy(), self.config.alpha
        if alpha == 1:
            return learnt
        return {name: start + alpha * (learnt[name] - start) for name, start in self.start.items()}

    def _last_loss(self) -> float:
        last = (self.window or self.records or [{"loss": math.nan}])[-1]
        return last["loss"]

    def _update(self) -> float:
        """Take one step, and return its loss."""
        import torch

        config = self.config
        rate = config.rate(self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed((config.seed << 32) + self.step)
        lists = self.sampler.batch(self.step, self.lists)
        self.optimizer.zero_grad(set_to_none=True)
        record = {"loss": 0.0}
        if self.objective.anchor_weight:
            anchor = anchor_loss(self.parameters, self.start)
            self.scaler.scale(self.objective.anchor_weight * anchor).backward()
            record |= {"loss": self.objective.anchor_weight * float(anchor.detach()), "anchor": float(anchor.detach())}
        for begin in range(0, self.lists, config.lists):
            part = lists[begin : begin + config.lists]
            with self._autocast():
                output = self.learner(part)
            losses = list_losses(output, part, self.objective, self.log_temperature.exp())
            for name, value in losses.items():
                record[name] = record.get(name, 0.0) + float(value.detach()) / config.accumulation
            if not math.isfinite(record["loss"]):
                raise TrainingError(
                    f"step {self.step + 1}: the loss is {record['loss']}; lower the learning rate, or train in float32"
                )
            self.scaler.scale(losses["loss"] / config.accumulation).backward()
        self.scaler.unscale_(self.optimizer)
        trained = [value for group in self.optimizer.param_groups for value in group["params"]]
        norm = float(torch.nn.utils.clip_grad_norm_(trained, config.clip or math.inf))
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            raise TrainingError(f"step {self.step + 1}: the gradient is {norm}; lower the learning rate")
        self._between = True
        self.scaler.step(self.optimizer)  # passed over where float16 has overflowed
        self.scaler.update()
        if self.objective.learn_temperature:
            with torch.no_grad():
                self.log_temperature.clamp_(min=math.log(COLDEST))
            record["temperature"] = math.exp(self.log_temperature.item())
        self.step += 1
        record |= {"learning_rate": rate} | ({"gradient": norm} if math.isfinite(norm) else {})
        self.window.append(record)
        if len(self.window) == _RECORD_EVERY:
            self._record()
        self._between = False
        return record["loss"]

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        import torch

        if self.config.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device, dtype=getattr(torch, self.config.precision))

    def _record(self) -> None:
        """Keep the means of the last steps."""
        values: dict[str, list[float]] = {}
        for losses in self.window:
            for name, value in losses.items():
                values.setdefault(name, []).append(value)
        means = {name: sum(past) / len(past) for name, past in values.items()}
        self.records.append({"step": self.step, **means})
        self.window = []
        if len(self.records) == 1 and means["loss"] < _NO_LOSS:
            logger.warning(
                "the loss is %.4f from the start, so that nothing can be learnt: the temperature %g is too low for the "
                "scores of %s (its own default is %g), or the negatives are too easy",
                means["loss"],
                math.exp(self.log_temperature.item()),
                self.settings["learner"],
                self.learner.temperature,
            )
        logger.info("step %d of %d: loss %.4f", self.step, self.steps, means["loss"])

    # -- the state -----------------------------------------------------------------------------------------------------

    def _settings(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Whatever a run that goes on must have in common with the one that began, as JSON has it."""
        options = {k: portable_name(v) if isinstance(v, str) else v for k, v in self.origin.options.items()}
        settings: dict[str, Any] = {"learner": portable_name(self.learner.name), "options": options}
        for part in (self.config, self.sampling, self.objective):
            settings |= dataclasses.asdict(part)
        settings["parameters"] = {name: list(value.shape) for name, value in self.parameters.items()}
        settings["examples"] = _fingerprint(examples)
        settings["dev"] = [
            f"{collection.name}, {len(collection.run)} queries, {collection.candidates}" for collection in self.dev
        ]
        return dict(json.loads(json.dumps(settings)))

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.parameters.items()}

    def _put(self, values: Mapping[str, torch.Tensor]) -> None:
        import torch

        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(values[name])

    def _open(self) -> None:
        """Take up the run in the folder, or begin one."""
        strangers = [path for path in self.out.iterdir() if path.suffix != ".new"] if self.out.is_dir() else []
        state = load_state(self.out)
        if state is None and strangers:
            raise InputError(f"{self.out}: is not empty, and holds no run to continue; choose another folder")
        self.out.mkdir(parents=True, exist_ok=True)
        if state is None:
            return
        check_settings(self.out, state.record.settings, self.settings)
        try:
            self._restore(state)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(
                f"{self.out / STATE}: does not fit this run ({type(error).__name__}: {reason}); remove it to start "
                "again"
            ) from error
        logger.info("going on from step %d of %d", self.step, self.steps)

    def _restore(self, state: TrainingState) -> None:
        record = state.record
        self.step, self.start, self.best = record.step, state.start, state.best
        self.history, self.per_query = record.history, record.per_query
        self.records, self.window, self.seconds = record.records, record.window, record.seconds
        self._put(state.parameters)
        with _no_gradient():
            self.log_temperature.copy_(state.log_temperature)
        self.optimizer.load_state_dict(state.optimizer)
        self.scaler.load_state_dict(state.scaler)

    def _save(self) -> None:
        state = TrainingState(
            record=RunRecord(
                settings=self.settings,
                step=self.step,
                history=self.history,
                per_query=self.per_query,
                records=self.records,
                window=self.window,
                seconds=self.seconds,
            ),
            parameters=self._copy(),
            log_temperature=self.log_temperature.detach().cpu(),
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            start=self.start,
            best=self.best,
        )
        save_state(self.out, state)

    # -- the result ----------------------------------------------------------------------------------------------------

    def _finish(self) -> TrainingSummary:
        best = max(self.history, key=lambda past: (past.mean, -past.step), default=None)
        kept = self.step if best is None else best.step
        self._put(self.best or self._mixed())
        if not kept:
            logger.warning("no step was better on dev than the start, which is kept")
        self.learner.save(self.out)
        summary = TrainingSummary(
            learner=self.settings["learner"],
            settings=self.settings,
            steps=self.step,
            kept_step=kept,
            seconds=self.seconds,
            temperature=math.exp(self.log_temperature.item()),
            dev=gains(self.per_query.get("start", {}), self.per_query.get("best", {})),
            history=self.history,
            losses=self.records,
            origin=OriginRecord(
                base=portable_name(self.origin.base),
                data=list(self.origin.data),
                command=portable_command(self.origin.command) if self.origin.command else None,
            ),
            hashes={collection.name: dataset_hashes(collection.dataset) for collection in self.dev},
            hardware=hardware(),
            versions=versions(),
            git=git_revision(),
        )
        replace_file(self.out / "README.md", model_card(summary, self.origin).encode())
        summary.save(self.out)
        (self.out / STATE).unlink(missing_ok=True)
        return summary


def _fingerprint(examples: Sequence[Example]) -> str:
    """XXH3-128 of all that lists are drawn from."""
    hasher, keys = xxhash.xxh3_128(), {}
    for example in examples:
        hasher.update(json.dumps([example.query, example.source]).encode())
        for pool in (example.positives, *example.pools, example.excluded):
            # Documents are shared among examples, so that each is hashed once.
            for document in pool:
                if id(document) not in keys:
                    keys[id(document)] = xxhash.xxh3_64_intdigest(document.contents.encode()).to_bytes(8, "big")
                hasher.update(keys[id(document)])
            hasher.update(b"/")
        hasher.update(json.dumps(sorted(example.teacher.items())).encode())
    return hasher.hexdigest()


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    """Leave torch's generators as they were found."""
    import torch

    with torch.random.fork_rng():
        yield


@contextlib.contextmanager
def _no_gradient() -> Iterator[None]:
    import torch

    with torch.no_grad():
        yield
