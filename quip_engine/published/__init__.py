"""Models that others published in the formats of QuIP# and QTIP, read as they are and run packed.

``read_published`` checks a folder, builds its model and puts a ``QuantizedLinear`` where the files have codes. Codes
are laid out anew while they are read, bit for bit the same; nothing is dequantized.
"""

from quip_engine.published.folder import check_published, is_published, model_config, read_published

__all__ = ["check_published", "is_published", "model_config", "read_published"]
