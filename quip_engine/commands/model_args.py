"""Models named on the command line."""

from __future__ import annotations

from quip_engine.probe.folder import local_folder
from quip_engine.probe.settings import check_use, read_config


def check_name(model: str, *, encoder: bool | None = None) -> None:
    """Refuse what is no model folder at once: the imports that a full check needs take seconds.

    ``encoder``: whether an encoder is wanted; None: any model will do.
    """
    folder = local_folder(model)
    if folder is not None:
        config = read_config(folder)
        if encoder is not None:
            check_use(config, encoder=encoder)
