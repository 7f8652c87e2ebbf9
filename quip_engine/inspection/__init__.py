"""One layer under the microscope: plain numbers for figures, and what they say in words."""

from quip_engine.inspection.look import Inspection, inspection
from quip_engine.inspection.stored import read_layer
from quip_engine.inspection.words import in_words

__all__ = ["Inspection", "in_words", "inspection", "read_layer"]
