"""What went wrong, in words a person can act on: any error becomes one with a remedy."""

from distill.context import WorkerError
from distill.disk import is_disk_full
from recipes.errors import StillhouseError
from recipes.recipe import Recipe
from recipes.rundir import Stage

OUT_OF_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def as_worker_error(error: Exception, stage: Stage | None, recipe: Recipe) -> WorkerError:
    """The error as a code, a message and a remedy.

    Args:
        stage: which one was running; `None` before the first.
    """
    if isinstance(error, WorkerError):
        return error
    if isinstance(error, StillhouseError):
        return WorkerError("invalid_input", str(error), "Correct it and start again.")
    if is_disk_full(error):
        return WorkerError(
            "disk_full",
            f"the disk is full: {error}",
            "Make room and resume; what was finished before is kept.",
        )
    if is_out_of_memory(error):
        return WorkerError(
            "out_of_memory",
            f"memory ran out{f' in stage {stage}' if stage else ''}: {_first_line(error)}",
            _less_memory(stage, recipe),
        )
    return WorkerError(
        "fault",
        f"{type(error).__name__}: {_first_line(error)}",
        "This is a fault of the worker's and not of yours: the traceback is in the log.",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on a GPU or beside it."""
    if isinstance(error, MemoryError):
        return True
    # torch.OutOfMemoryError is a RuntimeError; on a CPU it is a bare one.
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in OUT_OF_MEMORY_WORDS)


def _less_memory(stage: Stage | None, recipe: Recipe) -> str:
    training = recipe.training
    match stage:
        case "generate":
            return "Lower teacher.sampling.batch_size or max_new_tokens."
        case "evaluate":
            return "Lower batch_size or max_new_tokens of the evaluation's tasks."
        case "train" if training.micro_batch_size == 1 and training.gradient_checkpointing:
            return "Lower training.max_tokens, or ask for more GPUs or larger ones."
        case "train" if training.micro_batch_size == 1:
            return "Set training.gradient_checkpointing to true, or lower training.max_tokens."
        case "train":
            size = training.micro_batch_size or training.batch_size
            return f"Lower training.micro_batch_size (is {size}): the result stays the same."
        case _:
            return "Take a machine with more memory."
