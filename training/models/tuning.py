"""Which weights of a pretrained encoder are trained, and how adapters become part of it again.

"full": all of them. "lora": low-rank additions to linear layers (Hu et al. 2021, arXiv:2106.09685).
"adalora": the same with ranks moved to where they matter (Zhang et al. 2023, arXiv:2303.10512). "adapter":
IA3, vectors that rescale keys, values and feed-forward inputs (Liu et al. 2022, arXiv:2205.05638); unlike
bottleneck adapters these can be merged, so the saved model is as fast as the one it came from.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NAMES = {"full": "full", "lora": "LoRA", "adalora": "AdaLoRA", "adapter": "adapter (IA3)"}
_SHORTEST_ADALORA = 4


class TuningError(Exception):
    """Adapters cannot be put on this model; the message says what to set."""


@dataclass(frozen=True)
class TuningSettings:
    """kind: in NAMES. rank: of the additions; alpha / rank scales them. dropout: before them.

    target_modules: ends of the names of the layers that are changed; none: all linear layers, or, for
    "adapter", peft's choice for the model. freeze_words: the word table stays as pretrained.
    """

    kind: str = "full"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: Sequence[str] = ()
    freeze_words: bool = True


class Tuning:
    """An encoder made ready for training: what to train, what to add to the loss, how to merge.

    It is the loop's companion: AdaLoRA moves ranks after each update, and its state is in the checkpoint.
    """

    def __init__(self, encoder: nn.Module, settings: TuningSettings, *, steps_total: int) -> None:
        """Raises: TuningError where peft finds nothing to change."""
        self.settings = settings
        self._adapted = settings.kind != "full"
        whole: Any = encoder
        if settings.freeze_words:
            whole.get_input_embeddings().weight.requires_grad_(False)
        self.encoder: nn.Module = _adapt(encoder, settings, steps_total) if self._adapted else encoder

    def penalty(self) -> Tensor | float:
        """AdaLoRA's pull of its factors towards orthogonality, to be added to the loss; 0 for the others."""
        if self.settings.kind != "adalora":
            return 0.0
        gaps = []
        for name, factor in self.encoder.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                gram = factor @ factor.T if "lora_A" in name else factor.T @ factor
                gaps.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
        weight: float = self._config().orth_reg_weight
        return weight * torch.stack(gaps).mean()

    def merged(self) -> nn.Module:
        """The plain encoder with the adapters' effect in its own weights."""
        if not self._adapted:
            return self.encoder
        adapted: Any = self.encoder
        plain: nn.Module = adapted.merge_and_unload()
        return plain

    def after_update(self, step: int) -> None:
        """Tell AdaLoRA of an update, while its gradients are there."""
        if self.settings.kind == "adalora":
            adapted: Any = self.encoder
            adapted.base_model.update_and_allocate(step)

    def state(self) -> dict[str, Any]:
        """AdaLoRA's importance of each factor, and which ranks are left."""
        if self.settings.kind != "adalora":
            return {}
        allocator = self._allocator()
        held = {
            name: {key: value.cpu() for key, value in getattr(allocator, name).items()}
            for name in _IMPORTANCES
        }
        return {**held, "rank_pattern": self._config().rank_pattern or {}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the state of a checkpoint back."""
        if self.settings.kind != "adalora":
            return
        device = next(self.encoder.parameters()).device
        for name in _IMPORTANCES:
            setattr(self._allocator(), name, {key: value.to(device) for key, value in state[name].items()})
        self._config().rank_pattern = state["rank_pattern"] or None

    def _allocator(self) -> Any:
        adapted: Any = self.encoder
        return adapted.base_model.rankallocator

    def _config(self) -> Any:
        adapted: Any = self.encoder
        return adapted.peft_config["default"]


_IMPORTANCES = ("ipt", "exp_avg_ipt", "exp_avg_unc")


def _adapt(encoder: nn.Module, settings: TuningSettings, steps_total: int) -> nn.Module:
    try:
        peft: Any = importlib.import_module("peft")
    except ModuleNotFoundError as error:
        raise TuningError(
            f'tuning = "{settings.kind}" needs the package peft: `pip install peft`, or use "full"'
        ) from error
    targets: Any = list(settings.target_modules) or "all-linear"
    if settings.kind == "lora":
        config = peft.LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=targets
        )
    elif settings.kind == "adalora":
        if steps_total < _SHORTEST_ADALORA:
            raise TuningError(
                f'tuning = "adalora" needs at least {_SHORTEST_ADALORA} updates, not {steps_total}'
            )
        # A tenth of the run with all ranks, a fifth with the last ones; between, half of the ranks go.
        config = peft.AdaLoraConfig(
            init_r=max(2, settings.rank * 3 // 2),
            target_r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=targets,
            tinit=steps_total // 10,
            tfinal=steps_total // 5,
            deltaT=max(1, steps_total // 100),
            total_step=steps_total,
        )
    else:
        named = _rescaled(encoder, settings.target_modules)
        config = peft.IA3Config(**named)
    try:
        with warnings.catch_warnings():
            # peft asks transformers by a name that the latter is about to drop.
            warnings.simplefilter("ignore", FutureWarning)
            adapted: nn.Module = peft.get_peft_model(encoder, config)
    except ValueError as error:
        raise TuningError(
            f'tuning = "{settings.kind}": {error} Set target_modules to the ends of the names of its linear '
            f"layers ({', '.join(_linear_names(encoder))})"
        ) from error
    return adapted


def _rescaled(encoder: nn.Module, targets: Sequence[str]) -> dict[str, Any]:
    if not targets:
        return {}
    narrowing = {
        target
        for target in targets
        for name, one in encoder.named_modules()
        if name.endswith(target) and isinstance(one, nn.Linear) and one.in_features > one.out_features
    }
    return {"target_modules": list(targets), "feedforward_modules": sorted(narrowing)}


def _linear_names(encoder: nn.Module) -> list[str]:
    names = {name.split(".")[-1] for name, one in encoder.named_modules() if isinstance(one, nn.Linear)}
    return sorted(names)
