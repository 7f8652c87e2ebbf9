"""Load a model for evaluation and chat: originals, our checkpoints and published ones alike.

Folders are checked first, only local safetensors files are read, and no code of a folder is run. What goes wrong comes
out as an error with a name, whatever transformers, safetensors or the tokenizer raised.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from quip_engine.architecture import BUILDING
from quip_engine.errors import fail
from quip_engine.inference import prepare
from quip_engine.packed import check_packed
from quip_engine.probe import locate, probe
from quip_engine.probe.folder import weight_files
from quip_engine.probe.packing import packing_of
from quip_engine.probe.settings import check_defaults, check_use, read_config
from quip_engine.published import is_published, read_published

TRIED = "A text."


def load_model(
    name: str | Path,
    device: torch.device,
    dtype: torch.dtype | None = torch.float32,
    activations: str = "float",
    *,
    encoder: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of a folder (or hub id) in evaluation mode, and its tokenizer.

    ``dtype`` is that of activations and dense weights, None: what the folder says (``usual_dtype``); packed layers keep
    what they store. ``activations``: what these multiply single tokens as (``inference``). ``encoder``: a model that
    gives states is wanted, not one that writes text; the other kind is refused.
    """
    folder, tokenizer = checked_tokenizer(str(name))
    check_use(read_config(folder), encoder=encoder)
    dtype = dtype or usual_dtype(folder, device)
    logging.disable_progress_bar()
    try:
        with BUILDING:
            model = _read(folder, device, dtype, encoder=encoder)
    except torch.OutOfMemoryError:
        needed = sum(file.stat().st_size for file in weight_files(folder))
        free = torch.cuda.mem_get_info(device)[0]
        fail("GPU_MEMORY", needed=f"{needed / 1e9:.1f}", free=f"{free / 1e9:.1f}")
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, SafetensorError) as error:
        fail("LOAD_FAILED", details=str(error), path=folder, reason=str(error).partition("\n")[0][:200])
    model.eval()
    prepare(model, activations)
    return model, tokenizer


def _read(folder: Path, device: torch.device, dtype: torch.dtype, *, encoder: bool) -> PreTrainedModel:
    if is_published(folder):
        return read_published(folder, device, dtype)
    return (AutoModel if encoder else AutoModelForCausalLM).from_pretrained(
        folder,
        dtype=dtype,
        device_map={"": device},
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    )


def usual_dtype(folder: Path, device: torch.device) -> torch.dtype:
    """The type of a checked folder's weights; bfloat16 for float16 on a CPU, which is slow at it."""
    config = read_config(folder)
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    dtype = getattr(torch, name) if name in ("float32", "bfloat16", "float16") else torch.float32
    return torch.bfloat16 if dtype == torch.float16 and device.type == "cpu" else dtype


def checked_folder(name: str) -> Path:
    """The folder of a model that may be loaded; raises the coded error of what is wrong with it."""
    return _checked(name)[0]


def checked_tokenizer(name: str) -> tuple[Path, PreTrainedTokenizerBase]:
    """The same and its tokenizer, without a chat template that does not work."""
    folder, templated = _checked(name)
    tokenizer = load_tokenizer(folder)
    if not templated:  # it was tried where it cannot do harm
        tokenizer.chat_template = None
    return folder, tokenizer


def _checked(name: str) -> tuple[Path, bool]:
    """The folder, and whether it has a chat template that works."""
    folder, _ = locate(name)
    packed = packing_of(read_config(folder), folder)
    check_defaults(folder)
    return folder, (check_packed(folder) if packed else probe(str(folder))).chat_template


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder that was checked, tried once as it will be used."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer.decode(tokenizer(TRIED, verbose=False)["input_ids"], skip_special_tokens=True)
        return tokenizer
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the tokenizers library is no Exception
        fail("BAD_TOKENIZER", path=folder, reason=f"{type(error).__name__}: {error}"[:200])
