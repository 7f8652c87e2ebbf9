"""Folders of a stranger: each is a good model that is up to something. ``FOLDERS[name](path)`` makes one."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from breaking import BACKTRACKS, EXPANDS, WEIGHTS, Break, both, config, header, instead, remove, tokenizer, write
from helpers import tiny_model
from safetensors.torch import load_file, save_file

GOOD = "a good one"
SECRET = "secret.json"  # beside the folder
INDEX = "model.safetensors.index.json"


class Evil:
    """What makes a canary file where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        import os

        return os.system, (f"touch {self.folder.parent}/canary-pickle",)


def pickled(name: str, *, alone: bool = True) -> Break:
    def apply(folder: Path) -> None:
        (folder / name).write_bytes(pickle.dumps(Evil(folder)))
        if alone and name != WEIGHTS:
            (folder / WEIGHTS).unlink()

    return apply


def code(name: str) -> Break:
    """A module that makes a canary file where it is imported."""
    return lambda folder: (folder / name).write_text(f"open({str(folder.parent / 'canary-code')!r}, 'w')")


def link(name: str, target: str) -> Break:
    def apply(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return apply


def indexed(file: str) -> Break:
    """An index that names a file for the weights."""

    def apply(folder: Path) -> None:
        names = load_file(folder / WEIGHTS)
        shard = folder / "model-00001-of-00001.safetensors"
        (folder / WEIGHTS).rename(shard)
        weight_map = dict.fromkeys(names, shard.name) | {"model.norm.weight": file}
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    return apply


def template(text: str, name: str = "chat_template.jinja") -> Break:
    if name.endswith(".jinja"):
        return write(name, text)
    return write("tokenizer_config.json", json.dumps({"chat_template": [{"name": "default", "template": text}]}))


def settings(name: str, **values: object) -> Break:
    def apply(folder: Path) -> None:
        path = folder / name
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, **values}))

    return apply


def archive(folder: Path) -> None:
    """A zip that would write beside the folder."""
    with zipfile.ZipFile(folder / WEIGHTS, "w") as file:
        file.writestr("../canary-zip", "x")


def bomb(folder: Path) -> None:
    """A header of 600,000 empty tensors."""
    entries = ",".join(f'"t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(600_000))
    header("{" + entries + "}")(folder)


def sparse(name: str, size: int) -> Break:
    def apply(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.truncate(size)

    return apply


def packed(folder: Path) -> None:
    """One that says it was packed by us, with a header bomb and code of its own."""
    packing = {"quant_method": "quip", "method": "quip#", "bits": 2, "recipe": {}, "layers": {}}
    config(quantization_config=packing, auto_map={"AutoModelForCausalLM": "modeling.Mine"})(folder)
    code("modeling.py")(folder)
    bomb(folder)


def huge(folder: Path) -> None:
    """A vocabulary in the tokenizer that no embedding has."""
    tensors = load_file(folder / WEIGHTS)
    tensors["model.embed_tokens.weight"] = torch.zeros(1, 32)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
ESCAPE = "{{ cycler.__init__.__globals__.os.system('touch canary-template') }}"
FORMAT = "{{ ('%s' | attr('format'))(messages.__class__.__mro__) }}{{ ''.__class__.__base__.__subclasses__() }}"
AUTO = {
    "AutoModelForCausalLM": "modeling.Mine",
    "AutoConfig": "modeling.Mine",
    "AutoTokenizer": ["modeling.Mine", None],
}
DEEP = "[" * 100_000
DAMAGE: dict[str, Break] = {
    GOOD: both(),
    "pickle .bin": pickled("pytorch_model.bin"),
    "pickle .pt": pickled("model.pt"),
    "pickle beside good weights": both(pickled("pytorch_model.bin", alone=False), pickled("a.pkl", alone=False)),
    "pickle named safetensors": pickled(WEIGHTS),
    "pickle in the index": both(pickled("pytorch_model.bin", alone=False), indexed("pytorch_model.bin")),
    "auto_map": both(config(auto_map=AUTO), code("modeling.py")),
    "custom code": both(config(auto_map=AUTO, model_type="mine"), code("modeling.py")),
    "custom pipelines": both(config(custom_pipelines={"x": {"impl": "modeling.Mine"}}), code("modeling.py")),
    "kernel": config(_attn_implementation="evil/kernel"),
    "kernel, internal key": config(_attn_implementation_internal="evil/kernel"),
    "kernel of experts, nested": config(text_config={"_experts_implementation": "evil/kernel"}),
    "weights elsewhere": config(transformers_weights="../other.safetensors"),
    "index, up": indexed(f"../{SECRET}"),
    "index, absolute": indexed("/etc/passwd"),
    "index, up, a safetensors file": indexed("../good/model.safetensors"),
    "linked weights": link(WEIGHTS, "/etc/passwd"),
    "linked weights without an end": link(WEIGHTS, "/dev/zero"),
    "linked config": link("config.json", f"../{SECRET}"),
    "linked tokenizer settings": link("tokenizer_config.json", f"../{SECRET}"),
    "linked template": link("chat_template.jinja", f"../{SECRET}"),
    "template that loops": template(LOOPS, "tokenizer_config.json"),
    "template that grows": template("{{ 'a' * 4000000000 }}"),
    "template that escapes": template(ESCAPE),
    "template that looks around": template(FORMAT, "tokenizer_config.json"),
    "template that includes": template(f"{{% include '/etc/passwd' %}}{{% import '../{SECRET}' as s %}}"),
    "tokenizer that backtracks": tokenizer(pre_tokenizer=BACKTRACKS),
    "tokenizer that expands": tokenizer(normalizer=EXPANDS),
    "tokenizer of 300 MB": sparse("tokenizer.json", 300 * 2**20),
    "tokenizer of its own code": both(settings("tokenizer_config.json", auto_map=AUTO), code("modeling.py")),
    "tokenizer class elsewhere": both(
        settings("tokenizer_config.json", tokenizer_class="../canary.Mine"), code("tokenization_canary.py")
    ),
    "header of 600,000 tensors": bomb,
    "header of 2^63 bytes": write(WEIGHTS, (2**63).to_bytes(8, "little") + b"{}"),
    "deep config": write("config.json", DEEP),
    "deep header": header(DEEP),
    "deep tokenizer settings": write("tokenizer_config.json", DEEP),
    "deep generation settings": write("generation_config.json", DEEP),
    "huge numbers": config(num_labels=10**18, vocab_size=10**9),
    "zip": archive,
    "embedding of one row": huge,
    "adapter of another model": both(
        settings("adapter_config.json", base_model_name_or_path="evil/base", peft_type="LORA", auto_mapping=AUTO),
        instead("adapter_model.safetensors"),
    ),
    "adapter beside good weights": both(
        settings("adapter_config.json", base_model_name_or_path="evil/base", peft_type="LORA", auto_mapping=AUTO),
        code("modeling.py"),
    ),
    "generation by its own code": both(
        settings("generation_config.json", custom_generate="evil/generate", auto_map=AUTO), code("generate.py")
    ),
    "special tokens of 10 MB": settings("special_tokens_map.json", pad_token="x" * 10 * 2**20),
    "packed by us, it says": packed,
    "no config, code alone": both(remove("config.json"), code("modeling.py"), code("setup.py")),
}
# One of each kind.
FAST = (
    *("pickle .bin", "auto_map", "kernel", "index, up", "linked config", "template that escapes"),
    *("tokenizer that expands", "adapter beside good weights"),
)


def maker(damage: Break) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        tiny_model(path.parent).rename(path)
        damage(path)

    return make


FOLDERS = {name: maker(damage) for name, damage in DAMAGE.items()}
