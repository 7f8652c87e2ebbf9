"""A model that is never whole in memory: built on meta, filled and emptied one decoder block at a time.

Files are opened anew for each block. A mapping that stays open keeps every page it has touched resident, which would
let the peak grow with the depth of the model.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging

from quip_engine.architecture import BUILDING, build_on_meta, decoder_blocks
from quip_engine.errors import fail
from quip_engine.experts import unfused_names
from quip_engine.finite import check_weights
from quip_engine.probe.folder import weight_files
from quip_engine.probe.headers import read_all


class Skeleton:
    """The model of a checked folder with weights only where they are needed now."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.folder, self.device, self.dtype = folder, device, dtype
        logging.disable_progress_bar()  # of transformers: a bar for every block
        self.config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self.files = {name: info.file for name, info in read_all(weight_files(folder)).items()}  # as they were checked
        self.instead: dict[str, Tensor] = {}  # by name: what blocks are, where that is not what the files say
        self.model = build_on_meta(self.config, dtype, self.files)
        self.prefix, self.blocks = decoder_blocks(self.model)
        self._move_buffers()

    def block_keys(self, index: int) -> list[str]:
        """Checkpoint keys of one block. The list's own name is enough: files may lack the base model's prefix."""
        pattern = re.compile(rf"(?:^|\.){re.escape(self.prefix.rsplit('.', 1)[-1])}\.{index}\.")
        return [key for key in self.files if pattern.search(key)]

    def outside_keys(self) -> list[str]:
        """Checkpoint keys of everything that is in no block: embeddings, final norm, head."""
        inside = {key for index in range(len(self.blocks)) for key in self.block_keys(index)}
        return [key for key in self.files if key not in inside]

    def load_block(self, index: int) -> nn.Module:
        """Fill a block. Raises ``TENSOR_MISSING``, ``SOURCE_CHANGED`` and ``NON_FINITE_WEIGHT``."""
        self._load(self.block_keys(index))
        block, prefix = self.blocks[index], f"{self.prefix}.{index}."
        self._refuse_meta(prefix, block)
        for name, tensor in self.instead.items():
            if name.startswith(prefix):
                self.model.get_parameter(name).data.copy_(tensor)
        check_weights((prefix + name, parameter) for name, parameter in block.named_parameters())
        return block

    def load_outside(self) -> None:
        """Fill embeddings, norms and head, tied where the config ties them. Raises like ``load_block``."""
        self._load(self.outside_keys())
        with BUILDING:  # transformers ties nothing anywhere while it builds a model
            self.model.tie_weights()
        check_weights(self.model.named_parameters())

    def release_block(self, index: int) -> None:
        """Give a finished block's memory back, with all that was built in it."""
        self.blocks[index] = nn.Module()

    def release_outside(self) -> None:
        inside = {id(p) for p in self.blocks.parameters()}
        for owner in self.model.modules():
            for name, parameter in list(owner.named_parameters(recurse=False)):
                if id(parameter) not in inside:
                    setattr(owner, name, nn.Parameter(parameter.to("meta"), requires_grad=False))

    def _load(self, keys: list[str]) -> None:
        handles = {}
        try:
            for path in {self.files[key] for key in keys}:
                handles[path] = safe_open(path, framework="pt")
            lazy = {key: handles[self.files[key]].get_slice(key) for key in keys}
            settings = LoadStateDictConfig(
                dtype=self.dtype,
                device_map={"": self.device},
                weight_mapping=unfused_names(get_model_conversion_mapping(self.model)),
            )
            convert_and_load_state_dict_in_model(self.model, lazy, settings)
        except (FileNotFoundError, SafetensorError) as error:
            fail("SOURCE_CHANGED", file=self.folder, details=str(error))
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)

    def _refuse_meta(self, prefix: str, module: nn.Module) -> None:
        missing = [prefix + name for name, p in module.named_parameters() if p.is_meta]
        if missing:
            fail("TENSOR_MISSING", name=missing[0], count=len(missing))

    def _move_buffers(self) -> None:
        for owner in self.model.modules():
            for name, buffer in owner.named_buffers(recurse=False):
                setattr(owner, name, buffer.to(self.device))
