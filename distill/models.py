"""Models and tokenizers: read from a folder or the hub, or made new from a recipe.

Everything of transformers that the worker needs is met here. Weights are never run as code: a model
that brings code of its own needs the recipe's word and the person's.
"""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError

from distill.context import WorkerError
from distill.failures import is_out_of_memory
from recipes.recipe import NewStudent
from recipes.rundir import Limits

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

END, PADDING, UNKNOWN = "<eos>", "<pad>", "<unk>"

# A chat is its contents, one after the other: a one-character-a-token model knows no roles.
PLAIN_CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"

Dtype = Literal["float32", "bfloat16"]


def pick_device() -> str:
    """This process's GPU, by torchrun's LOCAL_RANK, or `cpu`."""
    if torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return "cpu"


def device_name(device: str) -> str:
    """The device for people: `cpu`, or the GPU's own name."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def start_transformers() -> None:
    """Import what every stage needs, and no progress bars: the worker's output is a log."""
    with _quick_import():
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401
        from transformers.utils import logging
    logging.disable_progress_bar()


def free_memory() -> None:
    """Give back what a stage's models held: teacher and student need not fit side by side."""
    gc.collect()  # models with hooks are cycles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def remote_code_allowed(wanted: bool, limits: Limits) -> bool:
    """Whether code that comes with a model may run: the recipe wants it *and* the person said so.

    Raises:
        WorkerError: the recipe wants it and nobody allowed it.
    """
    if wanted and not limits.allow_remote_code:
        raise WorkerError(
            "remote_code",
            "the recipe says trust_remote_code, and that was not allowed on the command line",
            "Read the model's code, then launch with --trust-remote-code; or take a model that "
            "transformers knows.",
        )
    return wanted


def load_tokenizer(
    ref: str, revision: str | None = None, trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """Read a tokenizer from a folder or the hub.

    Raises:
        WorkerError: not there, or not a tokenizer.
    """
    with _quick_import():
        from transformers import AutoTokenizer
    with _reading("tokenizer", ref):
        return AutoTokenizer.from_pretrained(
            _folder_or_id(ref), revision=revision, trust_remote_code=trust_remote_code
        )


def load_model(
    ref: str,
    revision: str | None = None,
    dtype: Dtype = "float32",
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> "PreTrainedModel":
    """Read a causal language model from a folder or the hub, ready to answer (`eval`).

    Raises:
        WorkerError: not there, or not a causal language model; its weights do not fit in memory.
    """
    with _quick_import():
        from transformers import AutoModelForCausalLM
    with _reading("model", ref), _fitting(ref):
        model, loaded = AutoModelForCausalLM.from_pretrained(
            _folder_or_id(ref),
            revision=revision,
            dtype=getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
        if loaded["missing_keys"]:
            # transformers would fill these with random numbers, and only say so in a log.
            missing = ", ".join(sorted(loaded["missing_keys"])[:3])
            raise ValueError(
                f"{len(loaded['missing_keys'])} weights are missing, such as {missing}"
            )
        return model.to(device).eval()


def load_shape(
    ref: str, revision: str | None = None, trust_remote_code: bool = False
) -> "PreTrainedModel":
    """A causal language model without its weights, on the device `meta`, float32.

    Raises:
        WorkerError: not there, or not a causal language model.
    """
    with _quick_import():
        from transformers import AutoConfig, AutoModelForCausalLM
    with _reading("model", ref):
        config = AutoConfig.from_pretrained(
            _folder_or_id(ref), revision=revision, trust_remote_code=trust_remote_code
        )
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, trust_remote_code=trust_remote_code
            )


def new_student(student: NewStudent) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A Qwen3 model with random weights (of PyTorch's global generator) and its tokenizer.

    Ids follow the order of the recipe's characters; end of text, padding and unknown come after.
    Embedding and head share their weights, as in the small Qwen3 models.
    """
    with _quick_import():
        from transformers import Qwen3Config, Qwen3ForCausalLM
    tokenizer = character_tokenizer(student)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=student.hidden_size,
        intermediate_size=student.intermediate_size,
        num_hidden_layers=student.layers,
        num_attention_heads=student.heads,
        num_key_value_heads=student.heads,
        head_dim=student.hidden_size // student.heads,
        max_position_embeddings=student.context_tokens,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config), tokenizer


def character_tokenizer(student: NewStudent) -> "PreTrainedTokenizerBase":
    """The tokenizer of a new student: one token a character."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    with _quick_import():
        from transformers import PreTrainedTokenizerFast

    pieces = [*student.characters, END, PADDING, UNKNOWN]
    ids = {piece: number for number, piece in enumerate(pieces)}
    characters = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    characters.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters,
        eos_token=END,
        pad_token=PADDING,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=student.context_tokens,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = PLAIN_CHAT
    return tokenizer


def context_tokens(model: "PreTrainedModel") -> int | None:
    """Longest text the model was made for [tokens]; `None` where its config does not say."""
    return _context_tokens(model.config)


def read_context_tokens(
    ref: str, revision: str | None = None, trust_remote_code: bool = False
) -> int | None:
    """The same of a model in a folder or on the hub, of which only the config is read.

    Raises:
        WorkerError: not there, or not a model.
    """
    with _quick_import():
        from transformers import AutoConfig
    with _reading("model", ref):
        return _context_tokens(
            AutoConfig.from_pretrained(
                _folder_or_id(ref), revision=revision, trust_remote_code=trust_remote_code
            )
        )


def _context_tokens(config: Any) -> int | None:
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    return longest if isinstance(longest, int) and longest > 0 else None


def _folder_or_id(ref: str) -> str:
    if ref.startswith(("/", ".", "~")):
        folder = Path(ref).expanduser()
        if not folder.is_dir():
            raise WorkerError(
                "model_missing",
                f"the model folder {ref} is not there",
                "Correct the path, or make the model first.",
            )
        return str(folder)
    return ref


@contextmanager
def _reading(what: str, ref: str) -> Iterator[None]:
    """transformers tells a wrong name, a broken file and no network by these errors."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        first_line = str(error).strip().split("\n")[0]
        raise WorkerError(
            "model_unreadable",
            f"the {what} {ref} cannot be read: {first_line}",
            "Check the name, the revision and the network; a folder must hold a whole Hugging Face "
            "model with its tokenizer.",
        ) from error


@contextmanager
def _fitting(ref: str) -> Iterator[None]:
    """Where the weights alone are too much, no smaller batch helps."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        first_line = str(error).strip().split("\n")[0]
        raise WorkerError(
            "out_of_memory",
            f"memory ran out while the weights of the model {ref} were loaded: {first_line}",
            "Take a machine with more memory (for the GPU: a larger one), or a smaller model.",
        ) from error


@contextmanager
def _quick_import() -> Iterator[None]:
    """Import transformers without what it takes along when it finds it, and we never use.

    scikit-learn and SciPy serve assisted decoding and object detection; they double the start of a
    worker (measured on two cores: 8.3 s of CPU with them, 4.7 s without).
    """
    hidden: dict[str, Any] = {}
    for name in ("sklearn", "scipy", "pandas"):
        if name not in sys.modules:
            hidden[name] = sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
