"""Models and tokenizers: a new student is an ordinary folder, and what cannot be read is said."""

import json
import sys
from decimal import Decimal
from pathlib import Path

import pytest
import torch

from distill.context import WorkerError
from distill.models import (
    context_tokens,
    load_model,
    load_shape,
    load_tokenizer,
    new_student,
    pick_device,
    remote_code_allowed,
)
from recipes.recipe import NewStudent
from recipes.rundir import Limits


def limits(*, allow: bool) -> Limits:
    return Limits(
        attempt=1,
        started_at=0,
        usd_per_hour=Decimal(0),
        machine_usd=Decimal(0),
        allow_remote_code=allow,
    )


def test_a_new_student_has_one_token_a_character_and_gives_every_text_back(
    small_student: NewStudent,
) -> None:
    _, tokenizer = new_student(small_student)

    ids = tokenizer("12+3=>,;")["input_ids"]

    assert ids == [small_student.characters.index(character) for character in "12+3=>,;"]
    assert tokenizer.decode(ids) == "12+3=>,;"
    assert tokenizer.convert_ids_to_tokens(tokenizer("1x")["input_ids"]) == ["1", "<unk>"]


def test_a_blank_and_a_newline_are_characters_like_any_other() -> None:
    shape = NewStudent(characters=" \nab.", layers=1, hidden_size=16, heads=2, intermediate_size=16)
    _, tokenizer = new_student(shape)

    assert tokenizer.decode(tokenizer(" a \n b.")["input_ids"]) == " a \n b."


def test_a_new_student_survives_the_way_through_a_folder(
    model_folder: Path, small_student: NewStudent
) -> None:
    torch.manual_seed(0)
    made, _ = new_student(small_student)

    model, tokenizer = load_model(str(model_folder)), load_tokenizer(str(model_folder))

    ours, theirs = made.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert tokenizer.eos_token == "<eos>"
    assert tokenizer.pad_token == "<pad>"
    assert tokenizer.padding_side == "left"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert context_tokens(model) == small_student.context_tokens == tokenizer.model_max_length
    chat = [{"role": "user", "content": "1+2"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "1+2"


def test_the_seed_decides_the_weights(small_student: NewStudent) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        weight: torch.Tensor = new_student(small_student)[0].lm_head.weight
        return weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_a_shape_has_the_models_weights_by_name_and_none_of_their_memory(
    model_folder: Path,
) -> None:
    shape, model = load_shape(str(model_folder)), load_model(str(model_folder))

    assert {name: p.shape for name, p in shape.named_parameters()} == {
        name: p.shape for name, p in model.named_parameters()
    }
    assert all(p.is_meta and p.dtype == torch.float32 for p in shape.parameters())


def test_a_model_is_read_in_the_format_asked_for(model_folder: Path) -> None:
    assert load_model(str(model_folder), dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize("ref", ["/no/such/folder", "./nowhere", "~/nowhere-at-all"])
def test_a_folder_that_is_not_there_is_said(ref: str) -> None:
    with pytest.raises(WorkerError, match="is not there") as error:
        load_model(ref)

    assert error.value.code == "model_missing"
    assert ref in str(error.value)


@pytest.mark.parametrize("content", [None, "{", "{}", '{"model_type": "nonsense"}'])
def test_a_folder_that_is_no_model_is_said(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)

    with pytest.raises(WorkerError) as error:
        load_model(str(tmp_path))

    assert error.value.code == "model_unreadable"
    assert str(tmp_path) in error.value.message


def test_weights_that_are_cut_off_are_said(model_folder: Path) -> None:
    weights = model_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    with pytest.raises(WorkerError) as error:
        load_model(str(model_folder))

    assert error.value.code == "model_unreadable"


def test_weights_that_are_missing_are_said_and_not_made_up(model_folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(model_folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, model_folder / "model.safetensors", {"format": "pt"})

    with pytest.raises(WorkerError, match=r"1 weights are missing, such as model\.norm\.weight"):
        load_model(str(model_folder))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand so on"),
        MemoryError(),
    ],
    ids=["cuda", "python"],
)
def test_weights_that_do_not_fit_alone_ask_for_more_memory_and_not_for_smaller_batches(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(torch.nn.Module, "to", full)

    with pytest.raises(WorkerError, match="while the weights of the model") as caught:
        load_model(str(model_folder))

    assert caught.value.code == "out_of_memory"
    assert "more memory" in caught.value.remedy
    assert "batch" not in caught.value.remedy
    assert "\n" not in caught.value.message


def test_code_that_comes_with_a_model_is_not_run_unasked(model_folder: Path) -> None:
    (model_folder / "evil.py").write_text("raise SystemExit('it ran')")
    config = json.loads((model_folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.EvilConfig"}
    config["model_type"] = "evil"
    (model_folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(WorkerError) as error:
        load_model(str(model_folder))

    assert error.value.code == "model_unreadable"


@pytest.mark.parametrize(
    ("wanted", "allowed", "result"), [(False, False, False), (False, True, False), (True,) * 3]
)
def test_code_of_a_models_own_needs_recipe_and_person(
    wanted: bool, allowed: bool, result: bool
) -> None:
    assert remote_code_allowed(wanted, limits(allow=allowed)) is result


def test_code_that_only_the_recipe_wants_is_refused_with_the_way_to_allow_it() -> None:
    with pytest.raises(WorkerError, match="--trust-remote-code") as error:
        remote_code_allowed(wanted=True, limits=limits(allow=False))

    assert error.value.code == "remote_code"


def test_each_process_takes_the_gpu_that_torchrun_gives_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")

    assert pick_device() == ("cuda:3" if torch.cuda.is_available() else "cpu")


def test_what_is_hidden_during_the_import_can_be_imported_afterwards(model_folder: Path) -> None:
    load_tokenizer(str(model_folder))

    assert all(sys.modules.get(name, "absent") is not None for name in ("sklearn", "scipy"))
