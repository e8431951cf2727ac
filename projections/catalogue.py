"""The registry of read models: the engine, the commands and the tests run over it."""

from core.errors import InputError
from projections.channels import CHANNELS
from projections.deliveries import DELIVERIES
from projections.model import Projection
from projections.publications import PUBLICATIONS
from projections.subscribers import SUBSCRIBERS

PROJECTIONS: tuple[Projection, ...] = (PUBLICATIONS, SUBSCRIBERS, DELIVERIES, CHANNELS)


def projection(name: str) -> Projection:
    """Return a projection by its name; InputError lists the names that exist."""
    for item in PROJECTIONS:
        if item.name == name:
            return item
    raise InputError(f"there is no projection {name!r}; there are {', '.join(p.name for p in PROJECTIONS)}.")
