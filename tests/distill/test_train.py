"""Training: the same way every time, also through kills, limits and differently cut batches."""

import shutil
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.context import Context, Reason, StageStopped, Stop, WorkerError
from distill.keeper import CARE
from distill.learner import Learner, StepResult
from distill.models import load_model, load_tokenizer, new_student
from distill.student import save_student
from distill.team import ALONE
from distill.text import Sample
from distill.train import learning_rate, train
from distill.trained import Trained, read_trained
from recipes.recipe import NewStudent, Recipe, Training
from recipes.rundir import (
    CheckpointLoaded,
    CheckpointSaved,
    Limits,
    Progress,
    Stopping,
    TrainStep,
    Warned,
    read_events,
)

MakeRecipe = Callable[..., Recipe]
MakeContext = Callable[..., Context]

UNLIMITED = Limits(attempt=1, started_at=0, usd_per_hour=Decimal(0), machine_usd=Decimal(0))

BATCH = [
    Sample([1, 2, 3, 4, 5], prompt_tokens=2),
    Sample([6, 7, 8], prompt_tokens=1),
    Sample([9, 1, 9, 2, 9, 3, 9, 4], prompt_tokens=5),
    Sample([4, 4, 4, 4], prompt_tokens=1),
]


class StopAt(Stop):
    """Says why to stop when it is asked for the n-th time, that is, before step n (from 0)."""

    def __init__(self, step: int, reason: Reason) -> None:
        super().__init__(UNLIMITED)
        self._left = step
        self._reason = reason
        self.reserves: list[float] = []

    def due(self, reserve_s: float = 0.0) -> Reason | None:
        self.reserves.append(reserve_s)
        self._left -= 1
        return self._reason if self._left < 0 else None


def training(**fields: Any) -> dict[str, Any]:
    return {"steps": 6, "batch_size": 4, "learning_rate": 3e-3, "dtype": "float32"} | fields


def events(context: Context, kind: type) -> list[Any]:
    return [event for event, _ in read_events(context.run.events) if isinstance(event, kind)]


def weights(student: Path) -> bytes:
    return (student / "model.safetensors").read_bytes()


def learner(shape: NewStudent, **fields: Any) -> Learner:
    torch.manual_seed(0)
    model, _ = new_student(shape)
    return Learner(model, Training.model_validate(training(**fields)), "cpu", ALONE)


def learnt(shape: NewStudent, steps: int = 3, **fields: Any) -> dict[str, torch.Tensor]:
    student = learner(shape, **fields)
    for _ in range(steps):
        student.step(BATCH, 1e-2)
    return {name: weight.clone() for name, weight in student.weights().items()}


# ---- the rate --------------------------------------------------------------------------------


@given(st.integers(1, 500), st.floats(0, 1), st.floats(0, 1))
def test_the_rate_rises_then_falls_and_heads_for_where_the_recipe_says(
    steps: int, warmup: float, final: float
) -> None:
    settings = Training.model_validate(
        training(steps=steps, warmup_share=warmup, final_learning_rate_share=final)
    )

    rates = [learning_rate(settings, step, steps) for step in range(steps)]

    top = round(warmup * steps)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert all(0 < rate <= settings.learning_rate * (1 + 1e-9) for rate in rates)
    if top < steps:
        assert rates[top] == pytest.approx(settings.learning_rate)
        next_rate = learning_rate(settings, steps, steps)
        assert next_rate == pytest.approx(final * settings.learning_rate, abs=1e-12)


# ---- a step ----------------------------------------------------------------------------------


@pytest.mark.parametrize("micro", [1, 2])
def test_cutting_a_batch_into_micro_batches_does_not_change_what_is_learnt(
    small_student: NewStudent, micro: int
) -> None:
    whole, cut = learnt(small_student), learnt(small_student, micro_batch_size=micro)

    for name in whole:
        torch.testing.assert_close(cut[name], whole[name], rtol=1e-4, atol=1e-5, msg=name)


def test_computing_activations_again_does_not_change_what_is_learnt(
    small_student: NewStudent,
) -> None:
    plain, again = learnt(small_student), learnt(small_student, gradient_checkpointing=True)

    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_a_batch_of_one_token_weighs_as_much_as_its_tokens(small_student: NewStudent) -> None:
    student = learner(small_student)

    result = student.step(BATCH, 0.0)
    alone = [student.step([sample], 0.0).loss for sample in BATCH]

    counts = [3, 2, 3, 3]
    mean = sum(loss * count for loss, count in zip(alone, counts, strict=True)) / sum(counts)
    assert result.loss == pytest.approx(mean, rel=1e-5)
    assert student.completion_tokens == 2 * sum(counts)
    assert student.tokens == 2 * sum(len(sample.input_ids) for sample in BATCH)


def test_decay_pulls_matrices_towards_zero_and_leaves_norms_alone(
    small_student: NewStudent,
) -> None:
    without, decayed = learnt(small_student), learnt(small_student, weight_decay=5.0)

    for name in without:
        smaller = decayed[name].norm() < 0.95 * without[name].norm()
        assert smaller == (without[name].ndim > 1), name


def test_gradients_are_clipped_to_the_norm_of_the_recipe(small_student: NewStudent) -> None:
    student = learner(small_student, max_grad_norm=1e-3)
    seen: list[float] = []
    student._optimizer.register_step_pre_hook(
        lambda *_: seen.append(
            torch.stack([p.grad.norm() for p in student.model.parameters()]).norm().item()
        )
    )

    result = student.step(BATCH, 1e-3)

    assert result.grad_norm > 1e-3
    assert seen == [pytest.approx(1e-3, rel=1e-2)]


def test_a_loss_that_is_no_number_leaves_the_weights_and_says_what_to_lower(
    small_student: NewStudent,
) -> None:
    student = learner(small_student)
    with torch.no_grad():
        student.model.base_model.norm.weight[0] = float("nan")
    before = {name: weight.clone() for name, weight in student.weights().items()}

    with pytest.raises(WorkerError, match="step 1 has a loss of nan") as error:
        student.step(BATCH, 1e-3)

    assert error.value.code == "not_finite"
    assert "training.learning_rate (is 0.003)" in error.value.remedy
    after = student.weights()
    assert all(torch.equal(after[name], before[name]) for name in after if "norm" not in name)


def test_dropout_is_drawn_anew_each_step_and_the_same_way_each_run() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    def losses(start: int) -> list[StepResult]:
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=16, n_positions=16, n_embd=16, n_layer=1, n_head=2)
        student = Learner(
            GPT2LMHeadModel(config), Training.model_validate(training()), "cpu", ALONE
        )
        student.steps = start
        return [student.step(BATCH, 0.0) for _ in range(2)]

    first = losses(0)

    assert first[0] != first[1]
    assert losses(0) == first
    assert losses(1)[0] == first[1]


# ---- the whole -------------------------------------------------------------------------------


def test_training_saves_a_student_that_loads_with_its_tokenizer_and_template(
    make_recipe: MakeRecipe, make_context: MakeContext
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    context = make_context(make_recipe(training=training()))
    train(context)

    student = context.run.student
    assert read_trained(student) == Trained(steps=6, of_steps=6)
    model = AutoModelForCausalLM.from_pretrained(student)
    tokenizer = AutoTokenizer.from_pretrained(student)
    assert model.dtype == torch.float32
    assert tokenizer.chat_template
    assert tokenizer.eos_token_id == model.config.eos_token_id
    torch.manual_seed(0)
    untrained, _ = new_student(context.recipe.student)  # type: ignore[arg-type]
    assert not torch.equal(untrained.lm_head.weight, model.lm_head.weight)


def test_the_loss_falls_and_the_first_and_last_step_are_said(
    make_recipe: MakeRecipe, make_context: MakeContext
) -> None:
    context = make_context(make_recipe(training=training(steps=40, learning_rate=1e-2)))
    train(context)

    said = events(context, TrainStep)
    assert (said[0].step, said[-1].step) == (1, 40)
    assert said[-1].loss < 0.8 * said[0].loss
    assert 0 < said[-1].learning_rate < 1e-4 < said[0].learning_rate
    assert said[-1].tokens > said[-1].completion_tokens > 0
    assert said[-1].tokens_per_s > 0
    assert said[-1].mfu is None  # a CPU has no known peak
    progress = events(context, Progress)[-1]
    assert (progress.done, progress.total, progress.left_s) == (40, 40, 0)


def test_epochs_count_the_samples(make_recipe: MakeRecipe, make_context: MakeContext) -> None:
    context = make_context(make_recipe(training=training(steps=None, epochs=1.5, batch_size=8)))
    train(context)

    # 20 samples in batches of 8 are 3 steps an epoch.
    assert read_trained(context.run.student) == Trained(steps=4, of_steps=4)


def test_the_seed_decides_everything(make_recipe: MakeRecipe, make_context: MakeContext) -> None:
    def student(folder: str, seed: int) -> bytes:
        context = make_context(make_recipe(training=training(steps=2, seed=seed)), folder)
        train(context)
        return weights(context.run.student)

    assert student("a", 1) == student("b", 1)
    assert student("c", 2) != student("d", 1)


def test_bfloat16_is_the_format_of_the_passes_and_of_the_saved_student(
    make_recipe: MakeRecipe, make_context: MakeContext
) -> None:
    context = make_context(make_recipe(training=training(dtype="bfloat16")))
    train(context)

    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(context.run.student).dtype == torch.bfloat16


def test_a_pretrained_student_learns_on_from_its_weights(
    make_recipe: MakeRecipe, make_context: MakeContext, model_folder: Path
) -> None:
    student = {"kind": "pretrained", "model": str(model_folder)}
    context = make_context(
        make_recipe(student=student, training=training(steps=1, learning_rate=1e-9))
    )
    train(context)

    before, after = load_model(str(model_folder)), load_model(str(context.run.student))
    torch.testing.assert_close(after.lm_head.weight, before.lm_head.weight, rtol=0, atol=1e-6)
    ours, theirs = load_tokenizer(str(context.run.student)), load_tokenizer(str(model_folder))
    assert ours.get_vocab() == theirs.get_vocab()


# ---- stopping and going on -------------------------------------------------------------------


@pytest.fixture
def uninterrupted(make_recipe: MakeRecipe, make_context: MakeContext) -> bytes:
    """The student of six steps that nobody disturbed."""
    context = make_context(make_recipe(training=training()), "uninterrupted")
    train(context)
    return weights(context.run.student)


def test_a_parameter_that_no_gradient_has_reached_does_not_keep_a_training_from_going_on(
    small_student: NewStudent,
) -> None:
    def with_an_unused_tower() -> Learner:
        torch.manual_seed(0)
        model, _ = new_student(small_student)
        model.register_parameter("tower", torch.nn.Parameter(torch.ones(3)))
        return Learner(model, Training.model_validate(training()), "cpu", ALONE)

    whole, half, other_half = (with_an_unused_tower() for _ in range(3))
    for rate in (1e-2, 2e-3):
        whole.step(BATCH, rate)
    half.step(BATCH, 1e-2)

    other_half.load(half.state())
    other_half.step(BATCH, 2e-3)

    ours, reference = other_half.weights(), whole.weights()
    assert all(torch.equal(ours[name], reference[name]) for name in reference)
    assert torch.equal(ours["tower"], torch.ones(3))


@pytest.mark.parametrize("stops", [[1], [3], [5], [2, 1, 1]], ids=str)
def test_an_interrupted_training_goes_the_same_way_bit_for_bit(
    make_recipe: MakeRecipe,
    make_context: MakeContext,
    uninterrupted: bytes,
    stops: Sequence[int],
) -> None:
    recipe = make_recipe(training=training())
    for steps in stops:
        context = make_context(recipe, stop=StopAt(steps, "interrupt"))
        with pytest.raises(StageStopped):
            train(context)
        assert not context.run.student.exists()

    context = make_context(recipe)
    train(context)

    assert weights(context.run.student) == uninterrupted
    assert [event.step for event in events(context, CheckpointLoaded)][-1] == sum(stops)
    assert events(context, TrainStep)[-1].step == 6


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before_and_nothing_else(
    make_recipe: MakeRecipe, make_context: MakeContext, uninterrupted: bytes
) -> None:
    recipe = make_recipe(training=training(checkpoint_every_steps=2))
    with pytest.raises(StageStopped):
        train(make_context(recipe, stop=StopAt(5, "interrupt")))
    context = make_context(recipe)
    (context.run.checkpoints / "step-00000005/state.pt").write_bytes(b"damaged")

    train(context)

    assert weights(context.run.student) == uninterrupted
    assert [event.step for event in events(context, CheckpointLoaded)] == [4]
    (warned,) = events(context, Warned)
    assert warned.code == "checkpoint_skipped"
    assert "step-00000005" in warned.message


def test_with_no_checkpoint_left_training_begins_anew_with_the_same_result(
    make_recipe: MakeRecipe, make_context: MakeContext, uninterrupted: bytes
) -> None:
    recipe = make_recipe(training=training())
    with pytest.raises(StageStopped):
        train(make_context(recipe, stop=StopAt(5, "interrupt")))
    context = make_context(recipe)
    shutil.rmtree(context.run.checkpoints)

    train(context)

    assert weights(context.run.student) == uninterrupted


@pytest.mark.parametrize("reason", ["budget", "deadline"])
def test_a_limit_leaves_a_checkpoint_and_a_student_as_far_as_it_came(
    make_recipe: MakeRecipe, make_context: MakeContext, uninterrupted: bytes, reason: Reason
) -> None:
    recipe = make_recipe(training=training())
    context = make_context(recipe, stop=StopAt(3, reason))
    with pytest.raises(StageStopped) as stopped:
        train(context)

    assert stopped.value.reason == reason
    assert read_trained(context.run.student) == Trained(steps=3, of_steps=6)
    assert load_model(str(context.run.student)).num_parameters() > 0
    assert [event.reason for event in events(context, Stopping)] == [reason]

    again = make_context(recipe)
    train(again)
    assert weights(again.run.student) == uninterrupted
    assert read_trained(again.run.student) == Trained(steps=6, of_steps=6)


def test_a_limit_before_the_first_step_leaves_no_student(
    make_recipe: MakeRecipe, make_context: MakeContext
) -> None:
    context = make_context(make_recipe(training=training()), stop=StopAt(0, "budget"))
    with pytest.raises(StageStopped):
        train(context)

    assert not context.run.student.exists()
    assert not context.run.checkpoints.exists()


def test_time_is_kept_for_the_student_and_for_the_evaluation_that_the_limits_name(
    make_recipe: MakeRecipe, make_context: MakeContext
) -> None:
    stop = StopAt(4, "budget")
    recipe = make_recipe(training=training(checkpoint_every_steps=2))
    context = make_context(recipe, stop=stop, evaluation_s=100.0, save_s=60.0)
    with pytest.raises(StageStopped):
        train(context)

    # A student of float32 is a third of a checkpoint. Once one was written, its own time counts.
    first, *_, last = stop.reserves
    assert first == pytest.approx(100 + CARE * (0.5 + 20))
    assert 100 + CARE * 0.5 < last < 110


def test_a_limit_that_leaves_no_time_for_a_checkpoint_leaves_the_student_alone(
    make_recipe: MakeRecipe, make_context: MakeContext
) -> None:
    class NoTimeLeft(StopAt):
        def seconds_left(self) -> float:
            return 50.0

    recipe, stop = make_recipe(training=training()), NoTimeLeft(3, "budget")
    context = make_context(recipe, stop=stop, save_s=51.0)
    with pytest.raises(StageStopped):
        train(context)

    assert read_trained(context.run.student) == Trained(steps=3, of_steps=6)
    assert not context.run.checkpoints.exists()


def test_checkpoints_come_by_time_where_the_recipe_gives_no_steps(
    make_recipe: MakeRecipe, make_context: MakeContext
) -> None:
    often = make_context(make_recipe(training=training()), "often", checkpoint_every_s=1e-9)
    seldom = make_context(make_recipe(training=training()), "seldom", checkpoint_every_s=1e9)
    train(often)
    train(seldom)

    # The last step's is the student itself.
    assert [event.step for event in events(often, CheckpointSaved)] == [1, 2, 3, 4, 5]
    assert events(seldom, CheckpointSaved) == []


@pytest.mark.parametrize("what", ["settings", "student"])
def test_a_checkpoint_of_another_training_is_refused_and_kept(
    make_recipe: MakeRecipe, make_context: MakeContext, small_student: NewStudent, what: str
) -> None:
    with pytest.raises(StageStopped):
        train(
            make_context(make_recipe(training=training()), stop=StopAt(3, "interrupt")),
        )
    others = {
        "settings": {"training": training(learning_rate=1e-5)},
        "student": {
            "training": training(),
            "student": small_student.model_copy(update={"intermediate_size": 24}),
        },
    }
    other = make_context(make_recipe(**others[what]))

    with pytest.raises(WorkerError, match="checkpoint of step 3 belongs to") as error:
        train(other)

    assert error.value.code == "other_training"
    assert (other.run.checkpoints / "step-00000003/complete").exists()


def test_settings_without_effect_on_the_result_may_change_between_attempts(
    make_recipe: MakeRecipe, make_context: MakeContext
) -> None:
    with pytest.raises(StageStopped):
        train(make_context(make_recipe(training=training()), stop=StopAt(3, "interrupt")))
    smaller = make_context(make_recipe(training=training(micro_batch_size=1)))

    train(smaller)

    assert events(smaller, CheckpointLoaded)[-1].step == 3


def test_weights_that_come_apart_keep_the_checkpoints(
    make_recipe: MakeRecipe, make_context: MakeContext, model_folder: Path
) -> None:
    recipe = make_recipe(training=training())
    with pytest.raises(StageStopped):
        train(make_context(recipe, stop=StopAt(3, "interrupt")))
    poisoned = make_context(recipe)
    state = torch.load(poisoned.run.checkpoints / "step-00000003/state.pt")
    state["learner"]["weights"]["model.norm.weight"][0] = float("inf")

    from distill import checkpoint

    checkpoint.save(poisoned.run.checkpoints, 3, state)
    with pytest.raises(WorkerError, match="step 4"):
        train(poisoned)

    assert (poisoned.run.checkpoints / "step-00000003/complete").exists()
    assert not poisoned.run.student.exists()


# ---- the student's folder --------------------------------------------------------------------


def test_a_student_replaces_the_one_before_it_whole(
    tmp_path: Path, small_student: NewStudent
) -> None:
    model, tokenizer = new_student(small_student)
    folder = tmp_path / "student"
    for steps in (1, 2):
        save_student(
            folder,
            model,
            tokenizer,
            learner(small_student).weights(),
            torch.float32,
            Trained(steps=steps, of_steps=2),
        )
        (folder / f"only-{steps}").touch()

    assert read_trained(folder) == Trained(steps=2, of_steps=2)
    assert not (folder / "only-1").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_a_student_without_its_note_is_no_whole_student(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    assert read_trained(tmp_path) is None
    assert read_trained(tmp_path / "nothing") is None
