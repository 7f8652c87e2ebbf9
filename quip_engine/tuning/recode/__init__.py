"""Codes chosen again piece by piece; a recoder is known as soon as its file is here."""

from quip_engine.parts import import_modules
from quip_engine.tuning.recode.base import Recoder, recoder_of, recodes

import_modules(__name__, __path__)

__all__ = ["Recoder", "recoder_of", "recodes"]
