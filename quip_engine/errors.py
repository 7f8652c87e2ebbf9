"""Every error a person can meet, in one table: code, what happened, what to do.

The engine raises ``QuipError`` through ``fail(CODE, ...)``; command line and app show its fields as they are. A code
is stable, so it can be searched for and scripted against. Anything else that escapes is a defect of ours.
"""

from __future__ import annotations

import re
from typing import NoReturn

TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")


def without_tokens(text: str) -> str:
    """A text that may be shown and logged: libraries put what they sent into what they raise."""
    return TOKEN.sub("hf_…", text)


class QuipError(Exception):
    """A problem with a name: ``code``, ``message`` (what and why) and ``hint`` (what to do)."""

    def __init__(self, code: str, message: str, hint: str = "", details: str = "") -> None:
        super().__init__(without_tokens(message))
        self.code, self.message, self.hint, self.details = code, *map(without_tokens, (message, hint, details))

    def __reduce__(self) -> tuple[type[QuipError], tuple[str, ...]]:
        """So that it crosses from a process to its parent."""
        return type(self), (self.code, self.message, self.hint, self.details)

    def to_json(self) -> dict[str, str]:
        return {"error": self.code, "message": self.message, "hint": self.hint}


class Stopped(Exception):
    """The run was asked to stop; everything finished is saved and it can be resumed (exit status 75)."""


def fail(code: str, details: str = "", **values: object) -> NoReturn:
    """Raise the error of the table with its placeholders filled."""
    message, hint = CATALOGUE[code]
    raise QuipError(code, message.format(**values), hint.format(**values), details)


# code: (what happened, what to do). Placeholders are filled by ``fail``.
CATALOGUE: dict[str, tuple[str, str]] = {
    # -- the model folder
    "NO_MODEL": ("No model was given.", "Choose a model folder or a hub id."),
    "NOT_FOUND": ("No file or folder at {path}.", "Check the spelling, or choose another."),
    "NOT_A_FOLDER": ("{path} is a file.", "Give the folder that holds config.json."),
    "NO_PERMISSION": ("This program may not read {path}.", "Change its permissions, or choose another folder."),
    "BAD_PATH": ("The path has characters that cannot be used, or is too long.", "Type it again without them."),
    "BAD_HUB_ID": ("{name} is not a hub id.", "A hub id looks like owner/name.{suggestion}"),
    "HUB_NOT_FOUND": (
        "{name} is not on the hub, or private.",
        "Check the name, or sign in with a token that may read it.",
    ),
    "HUB_GATED": ("{name} asks for a licence.", "Accept the licence on its page first, then try again."),
    "HUB_OFFLINE": ("No connection to the hub, and {name} is not in the local cache.", "Local folders still work."),
    "HUB_SILENT": ("The hub gives no answer.", "Check the connection; what is on this computer still works."),
    "DOWNLOAD_INCOMPLETE": ("{have} of {want} files of {name} arrived.", "Start again to continue the download."),
    "HASH_MISMATCH": ("{file} is damaged.", "Download it again."),
    "NO_CONFIG": ("{path} has no config.json.", "Choose the folder of a Hugging Face model."),
    "BAD_CONFIG": ("config.json cannot be read{where}.", "Download it again."),
    "NO_MODEL_TYPE": ("config.json does not say which architecture this is (model_type).", "Download it again."),
    "UNSUPPORTED_ARCH": ("{architecture} is not supported: {reason}.", "Supported: {supported}."),
    "NOT_A_CHAT_MODEL": (
        "{architecture} does not generate text.",
        "Choose a causal language model; for encoders there is `embed`.",
    ),
    "NOT_AN_ENCODER": ("{architecture} is no encoder.", "Choose a BERT model, or use `generate`."),
    "CUSTOM_CODE": ("This model needs its own Python code.", "We do not run code from model folders."),
    "UNSAFE_CONFIG": ("config.json asks to load code ({key}: {value}).", "Remove the key, or use a trusted copy."),
    "PICKLE_ONLY": ("{path} holds only pickle weights.", "Convert them to safetensors first."),
    "WRONG_FORMAT": ("{path} holds {format} weights.", "Choose the original model in safetensors."),
    "NO_WEIGHTS": ("{path} has no weights.", "Download the model.safetensors files too."),
    "SHARD_MISSING": ("{count} of {total} weight files are missing: {names}.", "Download them again."),
    "SHARD_TRUNCATED": ("{file}: {have} of {want} bytes.", "Download it again."),
    "LFS_POINTER": ("{file} is a placeholder ({size} bytes).", "Run git lfs pull, or download it again."),
    "SHARD_EMPTY": ("{file} has no bytes.", "Download it again."),
    "BAD_SAFETENSORS": ("{file} is not a safetensors file: {reason}.", "Download it again."),
    "BAD_INDEX": ("model.safetensors.index.json cannot be read.", "Download it again."),
    "UNSAFE_INDEX": ("The index names a file outside the folder: {file}.", "Do not use this copy."),
    "TENSOR_MISSING": (
        "{name} is not in the files (first of {count}). The copy is not complete.",
        "Download the model again.",
    ),
    "TENSOR_EXTRA": ("config.json says {expected} {what}, the files have {found}.", "Use the config of this copy."),
    "SHAPE_MISMATCH": ("{name}: config.json says {expected}, the file says {found}.", "Use the config of this copy."),
    "TENSOR_DUPLICATE": ("{name} is in two files.", "Download the model again."),
    "DTYPE_UNSUPPORTED": ("{name} is stored as {dtype}.", "Choose a copy in float32, bfloat16 or float16."),
    "NON_FINITE_WEIGHT": ("{name} holds {count} NaN or infinite values. The model is damaged.", "Download it again."),
    "ALREADY_QUANTIZED": ("This model is already quantized ({method}).", "Choose the original model."),
    "OWN_OUTPUT": ("{path} was made by QuIP Studio.", "Choose the original model it was made from."),
    "HEAD_MISSING": ("{name} is not in the files, and config.json does not tie it.", "Download the model again."),
    "WIDTH_UNSUPPORTED": ("{name}: {reason}.", "{remedy}"),
    "BAD_CONFIG_VALUE": ("config.json: {key} is {value}.", "Use the config of this copy; {allowed}."),
    "ROPE_UNSUPPORTED": ("config.json asks for the unknown position encoding {value}.", "Update transformers."),
    "NO_TOKENIZER": ("{path} has no tokenizer.", "Download tokenizer.json and tokenizer_config.json too."),
    "BAD_TOKENIZER": ("The tokenizer of {path} could not be read safely: {reason}.", "Download it again."),
    "VOCAB_MISMATCH": ("The tokenizer has {tokens} tokens, the embedding {rows} rows.", "Use matching files."),
    "BAD_TEMPLATE": ("The chat template cannot be used: {reason}.", "The prompt is continued as plain text."),
    # -- calibration
    "CALIB_EMPTY": ("{source} has no text.", "Choose a .txt, .jsonl or .parquet file with text in it."),
    "CALIB_SMALL": (
        "{source} has {tokens} tokens; {needed} are needed for one window of {seqlen}.",
        "Use more text or a shorter window.",
    ),
    "CALIB_FORMAT": (
        "{source} cannot be read as text: {reason}.",
        "Use UTF-8 .txt, or .jsonl / .parquet with a text column.",
    ),
    # -- settings
    "BAD_REQUEST": ("This call cannot be meant: {reason}.", "Reload the page; programs find the calls in app/api.py."),
    "BAD_SETTING": ("{field}: {value} is not possible.", "Allowed: {allowed}."),
    "BAD_TARGET": ("{asked} cannot be met: {reason}.", "{remedy}"),
    "BAD_RECIPE": ("{reason}.", "The nearest that works: {remedy}."),
    "NOT_A_RECIPE": ("{path} cannot be used as a recipe: {reason}.", "Choose a file that was saved as a recipe."),
    "BAD_PROBLEM": ("{path}: {reason}.", "A problem file holds W (m x n) and H (n x n) in float32."),
    "OUTPUT_EXISTS": ("{path} exists and is not empty.", "Choose another name."),
    "OUTPUT_IN_SOURCE": ("{path} lies inside the model folder.", "Choose a folder outside of it."),
    "OUTPUT_NOT_WRITABLE": ("{path} cannot be written: {reason}.", "Choose another folder."),
    # -- resources
    "DISK_FULL": ("Needs {needed} GB, {free} GB free at {path}.", "Progress is kept; free space and resume."),
    "IO_ERROR": ("{path} cannot be written: {reason}.", "Progress is kept; mend the cause and resume."),
    "GPU_MEMORY": ("The GPU needs {needed} GB, {free} GB are free.", "Use fewer samples, shorter windows, or the CPU."),
    "HOST_MEMORY": ("Memory ran out{where}.", "Use fewer samples or shorter windows, then resume."),
    "GPU_LOST": ("The GPU has stopped working: {reason}.", "Restart it or the computer, then resume."),
    "NO_GPU": ("There is no usable GPU.", "Choose device cpu."),
    # -- runs
    "BUSY": ("'{name}' is running{where}.", "Wait for it, or stop it first."),
    "RUN_NOT_FOUND": ("There is no run {name}.", "List the runs with `runs`, or start a new one."),
    "NOT_QUEUED": ("{name} is not in the queue; it is {status}.", "List the queue with `runs --queue`."),
    "NOT_YOURS": ("{path} stays: {reason}.", "Delete the run alone, or the folder by hand."),
    "NOTHING_TO_RESUME": ("There is no unfinished run for {path}.", "Start without --resume."),
    "RESUME_MISMATCH": ("Changed since the start: {fields}.", "Start a new run, or restore what changed."),
    "CHECKPOINT_DAMAGED": ("{file} does not match its checksum.", "Start again, or restore the file."),
    "SOURCE_CHANGED": ("The model folder changed while it was read: {file}.", "Restore it, then resume."),
    "WORKER_DIED": ("The worker ended without a word{reason}.", "Finished blocks are saved; resume to continue."),
    "QUANT_UNSTABLE": ("{name}: {reason}.", "Use more calibration text, or raise the damping."),
    "NO_GRADIENT": ("{name}: {reason}, so weights of tokens cannot be measured.", "Set the option hessian to plain."),
    "TUNING_DIVERGED": ("A loss or gradient of tuning step {step} is not finite.", "Use a smaller learning rate."),
    "TUNING_MEMORY": ("Tuning needs {needed} GB of memory, {free} GB are free.", "{remedy}, or leave tuning out."),
    "TUNING_SMALL": (
        "{windows} windows are too few to tune by: {needed} are needed, a part of them to judge.",
        "Use more text, more samples or shorter windows.",
    ),
    "NOTHING_QUANTIZED": ("No layer of {name} could be quantized. The first: {reason}", "Use another method."),
    "NON_FINITE": ("{name} holds {count} NaN or infinite values.", "{remedy}"),
    "ACTIVATION_OVERFLOW": ("{rows} of {total} calibration rows overflow in {name}.", "Use float32, or another text."),
    # -- loading and chat
    "NOT_A_CHECKPOINT": ("{path} is not a checkpoint of QuIP Studio: {reason}.", "Choose its output folder."),
    "BAD_CHECKPOINT": ("{path}: {reason}.", "Quantize again, or copy the folder again."),
    "EVAL_EMPTY": (
        "{source} has {tokens} tokens, fewer than one window of {seqlen}.",
        "Use more text or a shorter window.",
    ),
    "EVALUATION_NOT_FOUND": ("There is no evaluation {name}.", "Choose one of the results table."),
    "TASK_FAILED": ("The task {task} could not be run: {reason}.", "Its data must be in the cache, or be fetched."),
    "LOAD_FAILED": ("{path} could not be loaded: {reason}.", "Download it again, or choose another model."),
    "MODEL_GONE": ("The files of {name} are gone.", "Choose another model."),
    "NO_TOKEN": ("No token for the hub is set.", "Give one that may write, or sign in with `hf auth login`."),
    "PUSH_REFUSED": ("The hub refuses {name}: {reason}.", "Use a token that may write there, or another name."),
    "PUSH_FAILED": ("{name} could not be uploaded: {reason}.", "Push again; what has arrived is not sent twice."),
    "PORT_BUSY": ("Port {port} is in use.", "Start with --port and another number."),
    "UPLOAD_LIMIT": ("The file is larger than {limit}.", "Give its path instead."),
}
