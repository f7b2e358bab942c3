"""The loop that trains every torch model: schedule, precision, checkpoints, early stopping.

A run that is killed at any moment and started again ends with the same weights, bit for bit, on the same
machine and number of threads: a checkpoint holds the weights that are trained, the optimiser, the scaler,
the step, all random states and the best weights so far, and the order of the steps follows from the seed
alone. Two things break that promise. Where `minutes_max` is what brings the learning rate down, the schedule
follows the clock; the time spent is kept in the checkpoint, so a killed run gets no more time than one that
was not (but for what came after its last checkpoint), and the two differ. And on CUDA some kernels add in no
fixed order.
"""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from training.models.networks import Stack
from training.tracking import Tracker

PRECISIONS = ("off", "auto", "bf16", "fp16")
DEVICES = ("auto", "cpu", "cuda")
_FORMAT = 1
_LOG_STEPS = 10

Batch = TypeVar("Batch")
BatchOf = TypeVar("BatchOf", covariant=True)


class CheckpointError(Exception):
    """A checkpoint cannot be written, read or gone on from; the message says what to do."""


class DeviceMemoryError(MemoryError):
    """The device has too little memory; the message says which settings to lower."""


@dataclass(frozen=True)
class LoopSettings:
    """How to train. Shares are 0 to 1; 0 switches a limit off.

    epochs: rounds over the batches; steps: updates instead of epochs where above 0. accumulate: batches whose
    gradients make one update. warm_up: share of the run in which the learning rate rises from 0; it then
    falls to 0 along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983). weight_decay: L2, decoupled
    from the gradient (Loshchilov & Hutter 2019, arXiv:1711.05101). dropout: rate of every dropout layer.
    clip_norm: of the clipped groups together. precision: one of PRECISIONS; "auto" is bf16 where the device
    computes in it. checkpointing: layers are computed again in the backward pass. minutes_max: the run stops
    there, with the learning rate already brought down. device: one of DEVICES; "auto" takes a CUDA GPU where
    there is one.
    evaluate_steps: updates between two evaluations; 0: only before and after. patience: evaluations without
    a better figure before the run stops. checkpoint_steps: updates between two checkpoints.
    Raises: ValueError naming the setting.
    """

    epochs: int = 1
    steps: int = 0
    accumulate: int = 1
    warm_up: float = 0.08
    weight_decay: float = 0.01
    dropout: float = 0.0
    clip_norm: float = 1.0
    precision: str = "auto"
    checkpointing: bool = False
    minutes_max: float = 0.0
    device: str = "auto"
    evaluate_steps: int = 0
    patience: int = 0
    checkpoint_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("steps", "evaluate_steps", "patience", "checkpoint_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0")
        for name in ("weight_decay", "clip_norm", "minutes_max"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0")
        for name in ("warm_up", "dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be at least 0 and below 1")
        for name, known in (("precision", PRECISIONS), ("device", DEVICES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate. clipped: they count towards, and are cut by, the clip norm."""

    parameters: Sequence[Tensor]
    learning_rate: float
    clipped: bool = True


class Batches(Protocol[BatchOf]):
    """What is trained on: any list, or steps made when they are asked for (`Drawn`)."""

    def __len__(self) -> int: ...

    def __getitem__(self, at: int, /) -> BatchOf: ...


class Drawn(Generic[BatchOf]):
    """Batches drawn at random, each from a generator of its own, so that none needs the ones before it."""

    def __init__(self, count: int, make: Callable[[torch.Generator], BatchOf], *, seed: int) -> None:
        self._count = count
        self._make = make
        self._seed = seed

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, at: int, /) -> BatchOf:
        if not 0 <= at < self._count:
            raise IndexError(at)
        return self._make(torch.Generator().manual_seed(_mixed(self._seed, at)))


class Companion(Protocol):
    """What must be told of each update, and has a state of its own (AdaLoRA's ranks)."""

    def after_update(self, step: int) -> None:
        """Called with the number of updates made, while gradients are still there."""

    def state(self) -> dict[str, Any]:
        """Tensors, numbers, texts and containers of them."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a state back."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    steps: updates made; stopped: "finished", "time" or "early"; best: the watched figure of the weights that
    were kept, None where nothing was watched; best_step: when it was measured. curves: [step, split, name,
    value]. memory_mib_max: of the GPU, or of the whole process on a CPU. parameters: how many were trained.
    """

    steps: int
    stopped: str
    minutes: float
    device: str
    precision: str
    memory_mib_max: float
    parameters: int
    best: float | None
    best_step: int
    curves: list[tuple[int, str, str, float]]


Figures = Mapping[tuple[str, str], float]
"""(split, name) to value."""


def train(
    model: nn.Module,
    batches: Batches[Batch],
    loss_of: Callable[[Batch], Tensor],
    groups: Sequence[ParameterGroup],
    settings: LoopSettings,
    *,
    name: str,
    seed: int,
    checkpoint: Path | None = None,
    about: Mapping[str, str | int | float] | None = None,
    evaluate: Callable[[], Figures] | None = None,
    watch: tuple[str, str] | None = None,
    companion: Companion | None = None,
    tracker: Tracker | None = None,
) -> Outcome:
    """Train a model in place; it ends on the device it came from, in evaluation mode.

    batches: every epoch goes through all of them in another random order. loss_of: batch to scalar loss, of
    the model where it now is (`device_of`). name: of stage and run, for messages. seed: of the order and of
    dropout. checkpoint: file to write to and to go on from; the caller removes it once the result is safe.
    about: what must be the same for a run to be gone on with, beside the settings. evaluate: figures of the
    model as it is, called in evaluation mode without gradients; it cannot change what training does. watch:
    the (split, name) among them, higher is better, whose best weights are kept. companion: see there.
    Progress through the schedule is whichever of updates and time is further on.
    Raises: FloatingPointError where a loss or gradient is no longer finite (the last checkpoint stays);
    CheckpointError; DeviceMemoryError; ValueError where there is nothing to train on.
    """
    if len(batches) == 0:
        raise ValueError(f"{name}: there is nothing to train on")
    if watch is None and settings.patience:
        raise ValueError(f"{name}: patience needs a figure to watch")
    home = device_of(model)
    run = _Run(model, groups, settings, name, seed, len(batches), about or {}, companion)
    try:
        with _dropout(model, settings.dropout), _recomputed(model, settings.checkpointing, name):
            outcome = _loop(run, batches, loss_of, checkpoint, evaluate, watch, tracker)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise DeviceMemoryError(
            f"{name}: {run.device.type} has too little memory at step {run.step + 1} ({_first_line(error)}). "
            "Lower the products of a step (group, random_products) or the tokens of a text and raise "
            'accumulate, set checkpointing = true, or use precision = "bf16" or a smaller model'
        ) from error
    finally:
        model.to(home)
        model.eval()
    return outcome


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are."""
    return next(model.parameters()).device


def chosen_device(wanted: str) -> torch.device:
    """The device of a setting. Raises: ValueError where CUDA is asked for and there is none."""
    has_cuda = torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        raise ValueError('device = "cuda", and no CUDA GPU is to be seen: use "auto" or "cpu"')
    return torch.device("cuda" if has_cuda and wanted != "cpu" else "cpu")


def chosen_precision(wanted: str, device: torch.device) -> str:
    """ "off", "bf16" or "fp16". Raises: ValueError for fp16 without CUDA: a CPU has no use for it."""
    if wanted == "fp16" and device.type != "cuda":
        raise ValueError('precision = "fp16" needs a CUDA GPU: use "auto", "bf16" or "off"')
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    # Without such instructions bf16 is slower than float32 on a CPU.
    supported: Callable[[], bool] = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bf16" if supported() else "off"


@contextlib.contextmanager
def half_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Matrix products in the chosen precision; nothing where it is "off"."""
    if precision == "off":
        yield
        return
    kind = torch.bfloat16 if precision == "bf16" else torch.float16
    with torch.autocast(device.type, dtype=kind):
        yield


def learning_share(progress: float, warm_up: float) -> float:
    """Share of the highest learning rate. progress: of the run, 0 to 1."""
    if progress < warm_up:
        return progress / warm_up
    return 0.5 * (1.0 + math.cos(math.pi * (progress - warm_up) / (1.0 - warm_up)))


class _Run:
    """The state of one run: what a checkpoint holds, and how to get back to it."""

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[ParameterGroup],
        settings: LoopSettings,
        name: str,
        seed: int,
        count: int,
        about: Mapping[str, str | int | float],
        companion: Companion | None,
    ) -> None:
        self.model, self.groups, self.settings, self.name = model, groups, settings, name
        self.count, self.companion, self.seed = count, companion, seed
        self.device = chosen_device(settings.device)
        self.precision = chosen_precision(settings.precision, self.device)
        self.batches_total = settings.steps * settings.accumulate or settings.epochs * count
        self.steps_total = math.ceil(self.batches_total / settings.accumulate)
        model.to(self.device)
        self.optimiser = torch.optim.AdamW(
            [{"params": list(group.parameters), "lr": group.learning_rate} for group in groups],
            weight_decay=settings.weight_decay,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.step = 0
        self.evaluated_at = -1
        self.curves: list[tuple[int, str, str, float]] = []
        self.loss_sum, self.loss_count, self.smooth = 0.0, 0, 0.0
        self.best: float | None = None
        self.best_step = 0
        self.best_weights: dict[str, Tensor] = {}
        self.without_gain = 0
        self._spent_before, self._started = 0.0, time.monotonic()
        self._about = self._description(about)
        self._epoch, self._order = -1, [0]

    def _description(self, about: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
        settings = asdict(self.settings)
        # How long a run may take and how often it is saved or measured does not change what it is.
        for free in ("minutes_max", "checkpoint_steps", "evaluate_steps"):
            del settings[free]
        shapes = ";".join(f"{key} {list(value.shape)}" for key, value in self.trained().items())
        rates = ";".join(str(group.learning_rate) for group in self.groups)
        return {
            **{f"setting {key}": value for key, value in settings.items()},
            **about,
            "batches": self.count,
            "seed": self.seed,
            "learning rates": rates,
            "trained parameters": shapes,
        }

    def minutes(self) -> float:
        """Spent so far, before a kill included."""
        return self._spent_before + (time.monotonic() - self._started) / 60.0

    def trained(self) -> dict[str, Tensor]:
        """Everything of the model that training can change."""
        found = {key: one.data for key, one in self.model.named_parameters() if one.requires_grad}
        return found | dict(self.model.named_buffers())

    def batch_at(self, position: int) -> int:
        """Which batch stands at a place of the whole run."""
        epoch = position // self.count
        if epoch != self._epoch:
            chooser = torch.Generator().manual_seed(_mixed(self.seed, epoch))
            self._order = torch.randperm(self.count, generator=chooser).tolist()
            self._epoch = epoch
        return self._order[position % self.count]

    def window(self) -> range:
        """Places of the batches of the next update."""
        start = self.step * self.settings.accumulate
        return range(start, min(start + self.settings.accumulate, self.batches_total))

    def progress(self) -> float:
        """Share of the run that lies behind."""
        done = self.step / self.steps_total
        limit = self.settings.minutes_max
        # In whole hundredths: a run that is in good time follows its steps alone, and is the same each time.
        return max(done, math.floor(100.0 * self.minutes() / limit) / 100.0) if limit else done

    def start_clock(self) -> None:
        """Time counts from the first update on."""
        self._started = time.monotonic()

    def keep_if_best(self, value: float) -> None:
        """Take note of a watched figure."""
        if self.best is None or value > self.best:
            self.best, self.best_step, self.without_gain = value, self.step, 0
            self.best_weights = {key: one.detach().cpu().clone() for key, one in self.trained().items()}
        else:
            self.without_gain += 1

    def take_best(self) -> None:
        """Put the best weights back."""
        self._put(self.best_weights)

    def _put(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for key, one in self.trained().items():
                one.copy_(weights[key])

    def save(self, path: Path) -> None:
        """Write the checkpoint. Raises: CheckpointError; the one before stays as it was."""
        _write_whole(
            path,
            {
                "format": _FORMAT,
                "about": self._about,
                "step": self.step,
                "minutes": self.minutes(),
                "weights": {key: one.detach().cpu() for key, one in self.trained().items()},
                "optimiser": self.optimiser.state_dict(),
                "scaler": self.scaler.state_dict(),
                "companion": self.companion.state() if self.companion else {},
                "random": _random_states(),
                "evaluated_at": self.evaluated_at,
                "curves": [list(point) for point in self.curves],
                "losses": [self.loss_sum, self.loss_count, self.smooth],
                "best": [self.best, self.best_step, self.without_gain],
                "best_weights": self.best_weights,
            },
            self.name,
            self.step,
        )

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint. Raises: CheckpointError where it is broken or of another run."""
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            format_of, about = saved["format"], saved["about"]
        except Exception as error:  # unpickling fails in many ways, and all of them mean the same
            raise CheckpointError(f"{path} is not a checkpoint ({_first_line(error)}): remove it") from error
        if format_of != _FORMAT:
            raise CheckpointError(f"{path} was written by another version: remove it to train from the start")
        keys = dict.fromkeys((*self._about, *about))
        changed = [key for key in keys if self._about.get(key) != about.get(key)]
        if changed:
            raise CheckpointError(
                f"{path} belongs to another run ({', '.join(changed)} changed): remove it to train from the "
                "start, or take the old settings to go on"
            )
        self._put(saved["weights"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.scaler.load_state_dict(saved["scaler"])
        if self.companion:
            self.companion.restore(saved["companion"])
        self.step, self.evaluated_at = saved["step"], saved["evaluated_at"]
        self.curves = [(at, split, of, value) for at, split, of, value in saved["curves"]]
        self.loss_sum, self.loss_count, self.smooth = saved["losses"]
        self.best, self.best_step, self.without_gain = saved["best"]
        self.best_weights = saved["best_weights"]
        self._spent_before, self._started = saved["minutes"], time.monotonic()
        _restore_random_states(saved["random"])


def _loop(
    run: _Run,
    batches: Batches[Batch],
    loss_of: Callable[[Batch], Tensor],
    checkpoint: Path | None,
    evaluate: Callable[[], Figures] | None,
    watch: tuple[str, str] | None,
    tracker: Tracker | None,
) -> Outcome:
    settings = run.settings
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)
    torch.manual_seed(run.seed)
    saved_at = 0
    if checkpoint is not None and checkpoint.is_file():
        run.restore(checkpoint)
        saved_at = run.step
    if tracker is not None:
        tracker.rewind(run.step if saved_at else -1)

    def measure() -> None:
        if evaluate is None or run.evaluated_at == run.step:
            return
        run.evaluated_at = run.step
        run.model.eval()
        # Whatever an evaluation draws, training goes on as if it had not been.
        with torch.no_grad(), torch.random.fork_rng(), half_precision(run.precision, run.device):
            figures = evaluate()
        run.model.train()
        for (split, figure), value in figures.items():
            note(split, figure, value)
        if watch is not None:
            run.keep_if_best(figures[watch])

    def note(split: str, figure: str, value: float) -> None:
        run.curves.append((run.step, split, figure, value))
        if tracker is not None:
            tracker.write(run.step, split, figure, value)

    run.model.train()
    stopped = "finished"
    if run.step == 0:
        measure()
        run.start_clock()
    with tqdm(total=run.steps_total, initial=run.step, desc=run.name, mininterval=10) as bar:
        while True:
            if settings.evaluate_steps and run.step % settings.evaluate_steps == 0:
                measure()
            due = settings.checkpoint_steps and run.step % settings.checkpoint_steps == 0
            if checkpoint is not None and due and run.step > saved_at:
                run.save(checkpoint)
                saved_at = run.step
            if run.step >= run.steps_total:
                break
            if settings.patience and run.without_gain >= settings.patience:
                stopped = "early"
                break
            progress = run.progress()
            if progress >= 1.0:
                stopped = "time"
                break
            _update(run, batches, loss_of, learning_share(progress, settings.warm_up))
            if run.step % _LOG_STEPS == 0:
                note("train", "loss", run.loss_sum / run.loss_count)
                run.loss_sum, run.loss_count = 0.0, 0
            bar.set_postfix(loss=f"{run.smooth:.4f}", refresh=False)
            bar.update()
    if run.loss_count:
        note("train", "loss", run.loss_sum / run.loss_count)
    measure()
    if watch is not None and run.best_weights:
        run.take_best()
    return Outcome(
        run.step,
        stopped,
        run.minutes(),
        run.device.type,
        run.precision,
        _memory_mib_max(run.device),
        sum(one.numel() for group in run.groups for one in group.parameters),
        run.best,
        run.best_step if watch is not None else run.step,
        run.curves,
    )


def _update(run: _Run, batches: Batches[Batch], loss_of: Callable[[Batch], Tensor], share: float) -> None:
    for part, group in zip(run.optimiser.param_groups, run.groups, strict=True):
        part["lr"] = group.learning_rate * share
    run.optimiser.zero_grad(set_to_none=True)
    window = run.window()
    at = run.step + 1
    total = 0.0
    for position in window:
        batch = batches[run.batch_at(position)]
        with half_precision(run.precision, run.device):
            loss = loss_of(batch)
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{run.name}: the loss is {value} at step {at}. Lower the learning rate or use "
                'precision = "off"; labels or texts that are not finite do it too'
            )
        total += value / len(window)
        run.scaler.scale(loss / len(window)).backward()  # type: ignore[no-untyped-call]
    run.scaler.unscale_(run.optimiser)
    clipped = [one for group in run.groups if group.clipped for one in group.parameters]
    others = [one for group in run.groups if not group.clipped for one in group.parameters]
    norms = [nn.utils.clip_grad_norm_(clipped, run.settings.clip_norm or math.inf)]
    norms += [nn.utils.get_total_norm([one.grad for one in others if one.grad is not None])]
    # With fp16 the scaler skips such an update by itself and scales less.
    if not run.scaler.is_enabled() and not all(math.isfinite(float(norm)) for norm in norms):
        raise FloatingPointError(
            f"{run.name}: a gradient is not finite at step {at}, though the loss is {total:.4g}. Lower the "
            'learning rate or use precision = "off"'
        )
    run.scaler.step(run.optimiser)
    run.scaler.update()
    run.step = at
    if run.companion is not None:
        run.companion.after_update(at)
    run.smooth = total if at == 1 else 0.98 * run.smooth + 0.02 * total
    run.loss_sum += total
    run.loss_count += 1


@contextlib.contextmanager
def _dropout(model: nn.Module, rate: float) -> Iterator[None]:
    layers = [one for one in model.modules() if isinstance(one, nn.Dropout)]
    before = [one.p for one in layers]
    for one in layers:
        one.p = rate
    try:
        yield
    finally:
        for one, rate_before in zip(layers, before, strict=True):
            one.p = rate_before


@contextlib.contextmanager
def _recomputed(model: nn.Module, wanted: bool, name: str) -> Iterator[None]:
    if not wanted:
        yield
        return
    stacks = [one for one in model.modules() if isinstance(one, Stack)]
    # Hugging Face's name for it; the outermost model sees to the modules inside.
    others: list[Any] = [one for one in model.modules() if hasattr(one, "activation_checkpointing_enable")][
        :1
    ]
    if not stacks and not others:
        raise ValueError(
            f"{name}: checkpointing is set, and this model cannot recompute its layers: switch it off"
        )
    for one in stacks:
        one.checkpointing = True
    for other in others:
        other.activation_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        for one in stacks:
            one.checkpointing = False
        for other in others:
            other.activation_checkpointing_disable()


def _write_whole(path: Path, value: Mapping[str, Any], name: str, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    held = io.BytesIO()
    torch.save(dict(value), held)
    try:
        with part.open("wb") as file:
            file.write(held.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        size = math.ceil(held.getbuffer().nbytes / 2**20)
        what = f"the disk is full, {size} MiB are needed" if error.errno == errno.ENOSPC else str(error)
        kept = f"{path} is still the one before" if path.is_file() else "there is none before it"
        raise CheckpointError(
            f"{name}: the checkpoint of step {step} cannot be written: {what}. Make room and start again: "
            f"the run goes on from its last checkpoint ({kept})"
        ) from error


def _random_states() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": _as_lists(random.getstate()),
        "numpy": [kind, [int(one) for one in keys], *rest],
    }


def _restore_random_states(saved: Mapping[str, Any]) -> None:
    torch.set_rng_state(saved["torch"])
    if saved["cuda"] and len(saved["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(saved["cuda"])
    version, keys, gauss = saved["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, keys, *rest = saved["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))


def _as_lists(value: Any) -> Any:
    return [_as_lists(one) for one in value] if isinstance(value, tuple) else value


def _mixed(seed: int, at: int) -> int:
    return int(np.random.SeedSequence([seed, at]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _memory_mib_max(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Kibibytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
