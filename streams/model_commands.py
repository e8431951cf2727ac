"""`newswire model`: fit the ranking's model from the log, look at what was fitted, put a version to use, and go back."""

from typing import TYPE_CHECKING

import click

from core.errors import InputError
from runtime.output import Output
from runtime.settings import Settings

if TYPE_CHECKING:
    from streams.training import Trainer


@click.group()
def model() -> None:
    """Fit ranking models, and choose which one is used."""


@model.command(epilog="Example: newswire model fit")
@click.pass_obj
def fit(output: Output) -> None:
    """Fit a model of everything in the log, publish it, and use it unless it is worse than the one in use.

    The comparison is on the newest tenth of the engagement, which neither may see. The exit code is 2 when it is refused, or
    when there is too little to fit a model by.
    """
    trainer = _trainer()
    fitted = trainer.fit()
    refused = trainer.publish(fitted)
    dropped = trainer.drop_superseded()
    if refused:
        raise InputError(refused)
    item = {"model": fitted.model.version, "ndcg@10": fitted.ndcg, "before": fitted.before, "replaces": fitted.in_use}
    output.item(item | {"items": len(fitted.model.items), "readers judged by": fitted.readers, "dropped": dropped})
    output.say("It is used from the next slot on; `newswire model rollback` goes back.")


@model.command("list", epilog="Example: newswire model list")
@click.pass_obj
def list_(output: Output) -> None:
    """List the models that were published, the newest last."""
    published, activations = _trainer().models.read()
    used = activations[-1].version if activations else None
    columns = ["model", "fitted_at", "ndcg@10", "items", "kB", "in use"]
    rows = [
        (name, one.fitted_at, one.metrics.get("ndcg@10"), one.metrics.get("items"), one.size_bytes // 1000, name == used)
        for name, one in sorted(published.items())
    ]
    output.table("Models", columns, rows)


@model.command(epilog="Example: newswire model show 20261122-170500")
@click.argument("version")
@click.pass_obj
def show(output: Output, version: str) -> None:
    """Show the figures of a model, and whether it can be used."""
    from runtime.models import opened

    published, activations = _trainer().models.read()
    if version not in published:
        raise InputError(f"There is no model {version}. Published: {', '.join(sorted(published)) or 'none'}.")
    one = published[version]
    try:
        opened(one)
        usable = "yes"
    except InputError as error:
        usable = str(error)
    item = {"model": version, "fitted_at": one.fitted_at, "usable": usable, "parts": one.parts, "bytes": one.size_bytes}
    output.item(item | {"in use": bool(activations and activations[-1].version == version)} | one.metrics)


@model.command(epilog="Example: newswire model activate 20261122-170500")
@click.argument("version")
@click.pass_obj
def activate(output: Output, version: str) -> None:
    """Use a published model from the next slot on, whatever its figures."""
    trainer = _trainer()
    trainer.activate(version, Settings.load().actor)
    output.say(f"From the next slot on, model {version} is used.")


@model.command(epilog="Example: newswire model rollback")
@click.pass_obj
def rollback(output: Output) -> None:
    """Use the model that was fitted before the one in use; before the first there is none, and ranking goes on without."""
    trainer = _trainer()
    used = trainer.in_use()
    version = trainer.before(used)
    trainer.activate(version, Settings.load().actor)
    output.item({"model": version, "replaces": used})
    output.say(f"From the next slot on, {f'model {version}' if version else 'no model'} is used instead of {used}.")


def _trainer() -> "Trainer":
    from runtime.reach import require_kafka
    from streams.training import Trainer

    settings = Settings.load()
    require_kafka(settings.kafka_bootstrap_servers)
    return Trainer(settings)
