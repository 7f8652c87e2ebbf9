"""C kernels for the loops that plain torch is slow at: codeword search, Viterbi, index coding.

The C files of this folder are compiled into one library at first use, with the machine's own compiler and for its own
CPU, and kept in the data directory under a name made of their text, the compiler and the CPU's features: a new version
or another machine compiles anew. Calls go through ctypes, which releases the GIL, so threads run side by side
(``in_threads``). A kernel works on plain arrays and keeps no state.

Where there is no compiler, ``library()`` is None and callers use torch; ``status()`` says why. ``QUIP_KERNELS=off``
asks for that.
"""

from quip_engine.native.build import library, status
from quip_engine.native.calls import converted, fresh, in_threads, pointer

__all__ = ["converted", "fresh", "in_threads", "library", "pointer", "status"]
