"""`muster train`, `evaluate`, `fairness`, `label`, `clicks`, `effect`: training reads their command lines."""

from __future__ import annotations

import typer

from muster.commands.failures import reported, room


@reported
def evaluate(context: typer.Context) -> None:
    """Measures nDCG@10 of a bundle: BUNDLE --data DIR [--split dev] [--json]; --help lists all."""
    module = room("training.evaluate", "Install what training needs with `make build-all`")
    raise typer.Exit(module.main(list(context.args)) or 0)


@reported
def fairness(context: typer.Context) -> None:
    """Exposure of groups of products beside their merit: BUNDLE --data DIR [--by brand]; --help lists all."""
    module = room("training.fairness", "Install what training needs with `make build-all`")
    raise typer.Exit(module.main(list(context.args)) or 0)


@reported
def train(context: typer.Context) -> None:
    """Trains, measures and exports a bundle: --data DIR --out BUNDLE [--deadline 50ms]; --help lists all."""
    module = room("training.train", "Install what training needs with `make build-all`")
    raise typer.Exit(module.main(list(context.args)) or 0)


@reported
def label(context: typer.Context) -> None:
    """Which pairs to judge next, and judging: suggest, ask or merge; --help lists all."""
    module = room("training.label", "Install what training needs with `make build-all`")
    raise typer.Exit(module.main(list(context.args)) or 0)


@reported
def clicks(context: typer.Context) -> None:
    """Learns from clicks: bias, judgements or off-policy; --help lists all."""
    module = room("training.clicks.commands", "Install what training needs with `make build-all`")
    raise typer.Exit(module.main(list(context.args)) or 0)


@reported
def effect(context: typer.Context) -> None:
    """Effect of a badge, price or place on buying: FILE --treatment C --outcome C --covariates C,C."""
    module = room("training.causal.command", "Install what training needs with `make build-all`")
    raise typer.Exit(module.main(list(context.args)) or 0)
