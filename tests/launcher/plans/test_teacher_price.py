"""What a teacher behind an API will cost."""

from decimal import Decimal

import pytest

from launcher.plans.plan import Plan
from launcher.plans.teacher_price import token_prices, with_teacher_api
from recipes.errors import RefusedError
from recipes.recipe import ApiTeacher, Recipe


def api(**fields: object) -> ApiTeacher:
    return ApiTeacher.model_validate({"base_url": "https://example.org/v1", "model": "m", **fields})


def asking(recipe: Recipe, teacher: ApiTeacher) -> Recipe:
    data = {"kind": "generated", "rows": 10, "prompt": "{question}"}
    return Recipe.model_validate(
        {**recipe.model_dump(), "teacher": teacher.model_dump(), "data": data}
    )


def test_the_recipes_own_price_comes_first() -> None:
    teacher = api(usd_per_million_input_tokens="1.5", usd_per_million_output_tokens="6")

    assert token_prices(teacher) == (Decimal("1.5"), Decimal("6"), "the recipe")


def test_a_well_known_model_has_a_price_without_a_network() -> None:
    cheap, dear, source = token_prices(api(model="gpt-4o-mini"))

    assert 0 < cheap < dear
    assert source == "genai-prices"


def test_the_price_is_that_of_the_endpoint_where_several_serve_the_model() -> None:
    groq = api(base_url="https://api.groq.com/openai/v1", model="openai/gpt-oss-120b")

    cheap, dear, source = token_prices(groq)

    assert 0 < cheap < dear
    assert source == "genai-prices"
    with pytest.raises(RefusedError, match="no price is known"):
        token_prices(api(model="openai/gpt-oss-120b"))


def test_an_unknown_price_is_refused_and_is_not_zero() -> None:
    with pytest.raises(RefusedError, match="no price is known for the teacher nobody-1"):
        token_prices(api(model="nobody-1"))


def test_the_careful_estimate_is_every_answer_at_its_longest(recipe: Recipe, plan: Plan) -> None:
    teacher = api(
        usd_per_million_input_tokens="1",
        usd_per_million_output_tokens="10",
        sampling={"max_new_tokens": 100},
    )
    like = plan.model_copy(update={"units": {"generate": 10, "train": 1}, "prompt_bytes": 400})

    priced = with_teacher_api(like, asking(recipe, teacher))

    assert priced.usd_of("teacher_api output").p90 == Decimal("0.01")  # 10 x 100 tokens at $10/M
    # A byte is a token, at worst, and a chat template adds 240 to each of 10 prompts.
    assert priced.usd_of("teacher_api input").p90 == Decimal("0.0028")
    assert priced.usd.p90 == like.usd.p90 + Decimal("0.0128")
    assert priced.hours == like.hours


def test_a_plan_without_an_api_is_left_alone(recipe: Recipe, plan: Plan) -> None:
    assert with_teacher_api(plan, recipe) is plan
