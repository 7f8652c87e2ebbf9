"""Matrix products with packed layers; importing this package makes the products of all codebooks known.

``packed_product`` is the one way in. Its truth is ``reference``: decode, then multiply.
"""

from quip_engine.parts import import_modules
from quip_engine.products.base import (
    Packed,
    Product,
    RowProduct,
    form_of,
    packed_product,
    product_of,
    products,
    reference,
    rounds_to,
)

import_modules(__name__, __path__)

__all__ = [
    "Packed",
    "Product",
    "RowProduct",
    "form_of",
    "packed_product",
    "product_of",
    "products",
    "reference",
    "rounds_to",
]
