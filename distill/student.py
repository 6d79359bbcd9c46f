"""The student: opened as the recipe says, saved as an ordinary Hugging Face model.

Beside the model lies a note of how many steps are behind it (`distill.trained`).
"""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distill.context import Context
from distill.disk import sync_tree, writing
from distill.models import load_model, load_shape, load_tokenizer, new_student, remote_code_allowed
from distill.trained import NOTE, Trained
from recipes.recipe import NewStudent
from recipes.rundir import sync_folder, write_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def open_student(context: Context) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The student before training, float32, and its tokenizer.

    On this process's device where it trains alone. Of several, the first has the weights, on its
    CPU, and the others a model of that shape, which takes no memory until it is filled.
    """
    student = context.recipe.student
    device = context.device if context.world == 1 else "cpu"
    shape_only = context.rank > 0
    if isinstance(student, NewStudent):
        with torch.device("meta" if shape_only else "cpu"):
            model, tokenizer = new_student(student)
    else:
        trusted = remote_code_allowed(student.trust_remote_code, context.limits)
        reference = student.model, student.revision
        tokenizer = load_tokenizer(*reference, trusted)
        load = load_shape if shape_only else load_model
        model = load(*reference, trust_remote_code=trusted)
    if shape_only:
        model.to_empty(device="cpu")
        model.tie_weights()
    return model.to(device), tokenizer


def load_student(context: Context) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The student that was saved, ready to answer, in the format it was trained in."""
    student, folder = context.recipe.student, str(context.run.student)
    wanted = student.kind == "pretrained" and student.trust_remote_code
    trusted = remote_code_allowed(wanted, context.limits)
    dtype = context.recipe.training.dtype
    tokenizer = load_tokenizer(folder, None, trusted)
    return load_model(folder, None, dtype, context.device, trusted), tokenizer


def save_student(
    folder: Path,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    weights: dict[str, Any],
    dtype: torch.dtype,
    trained: Trained,
) -> None:
    """Write the student, in place of what stood there before.

    Args:
        weights: the state to save, on any device.
        dtype: what the weights are rounded to: the format they were trained in.

    Raises:
        WorkerError: the disk is full; what stood there before still does.
    """
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    rounded = {name: tensor.to(dtype) for name, tensor in weights.items()}
    with writing("the student", aside):
        model.save_pretrained(aside, state_dict=rounded, max_shard_size="2GB")
        # Again, since save_pretrained names the format that the model itself has.
        model.config.dtype = dtype
        model.config.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        write_model(aside / NOTE, trained)
        sync_tree(aside)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(aside, folder)
        sync_folder(folder.parent)
