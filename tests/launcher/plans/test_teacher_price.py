"""What a teacher behind an API will cost."""

from decimal import Decimal

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data import providers
from genai_prices.types import TieredPrices

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

    assert token_prices(teacher, 1_000) == (Decimal("1.5"), Decimal("6"), "the recipe")


def test_a_well_known_model_has_a_price_without_a_network() -> None:
    cheap, dear, source = token_prices(
        api(model="gpt-4o-mini", base_url="https://api.openai.com/v1"), 1_000
    )

    assert 0 < cheap < dear
    assert source == "genai-prices"


def test_the_price_of_the_same_name_elsewhere_is_said_to_be_one() -> None:
    _, _, source = token_prices(api(model="gpt-4o-mini"), 1_000)

    assert source == "genai-prices, taking that of OpenAI: this endpoint is not in it"


TIERED = ("claude-sonnet-4-5", "gemini-2.5-pro", "gpt-4o-mini")


@pytest.mark.parametrize("model", TIERED)
@pytest.mark.parametrize("tokens", [10, 1_000, 150_000, 200_000, 200_001, 900_000])
def test_a_request_costs_what_genai_prices_says_of_one_of_its_length(
    model: str, tokens: int
) -> None:
    cheap, dear, _ = token_prices(api(model=model), tokens)

    asked = calc_price(Usage(input_tokens=tokens, output_tokens=700), model)
    assert cheap * tokens + dear * 700 == asked.total_price * 1_000_000


def test_a_model_with_tiers_is_priced_by_the_longest_request_and_says_so() -> None:
    teacher = api(model="claude-sonnet-4-5")

    assert token_prices(teacher, 2_000)[:2] == (3, 15)
    *prices, source = token_prices(teacher, 250_000)
    assert prices == [6, Decimal("22.5")]
    assert "for requests of 250,000 tokens, the longest there may be" in source
    *prices, source = token_prices(teacher, None)
    assert prices == [6, Decimal("22.5")]
    assert "of any length, since the longest prompt is not known" in source


def test_no_listed_price_falls_in_longer_requests() -> None:
    """Else the longest request would not be the dearest one."""
    tables = [
        table
        for provider in providers
        for model in provider.models
        for each in (model.prices if isinstance(model.prices, list) else [model.prices])
        for table in vars(getattr(each, "prices", each)).values()
        if isinstance(table, TieredPrices)
    ]

    assert tables
    for table in tables:
        rising = [table.base, *(tier.price for tier in table.tiers)]
        assert rising == sorted(rising)


def test_the_price_is_that_of_the_endpoint_where_several_serve_the_model() -> None:
    groq = api(base_url="https://api.groq.com/openai/v1", model="openai/gpt-oss-120b")

    cheap, dear, source = token_prices(groq, 1_000)

    assert 0 < cheap < dear
    assert source == "genai-prices"
    with pytest.raises(RefusedError, match="no price is known"):
        token_prices(api(model="openai/gpt-oss-120b"), 1_000)


def test_an_unknown_price_is_refused_and_is_not_zero() -> None:
    with pytest.raises(RefusedError, match="no price is known for the teacher nobody-1"):
        token_prices(api(model="nobody-1"), 1_000)


@pytest.mark.parametrize(("longest_bytes", "usd"), [(1_000, 15), (300_000, "22.5"), (None, "22.5")])
def test_the_longest_prompt_and_answer_of_a_recipe_decide_what_its_tokens_cost(
    recipe: Recipe, plan: Plan, longest_bytes: int | None, usd: object
) -> None:
    teacher = api(model="claude-sonnet-4-5")
    counted = {"prompt_bytes": 300_000, "longest_prompt_bytes": longest_bytes}
    like = plan.model_copy(update={"units": {"generate": 10, "train": 1}, **counted})

    priced = with_teacher_api(like, asking(recipe, teacher))

    assert priced.unit_price("teacher_api output") == Decimal(str(usd))


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
