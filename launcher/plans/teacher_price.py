"""What a teacher behind an API will cost: two more lines of a plan.

How long the answers will be is not known before they are paid for, so the lines go from a tenth of
the longest answer allowed (P10) over a half (P50) to the longest (P90). The P90 is reserved.
"""

from decimal import Decimal

from launcher.plans.plan import CostLine, Plan, Quantiles, with_line
from recipes.api_tokens import MESSAGE_TOKENS, TEMPLATE_TOKENS
from recipes.errors import RefusedError
from recipes.recipe import ApiTeacher, Recipe

MEGA = Decimal(1_000_000)

FEW_TOKENS = 5
"""The least that a chat template adds to a prompt [tokens]."""


def with_teacher_api(plan: Plan, recipe: Recipe) -> Plan:
    """The plan with the teacher's tokens priced; unchanged where no API is called.

    Raises:
        RefusedError: no price is known, or the size of the prompts is not.
    """
    teacher = recipe.teacher
    if not isinstance(teacher, ApiTeacher):
        return plan
    if plan.prompt_bytes is None:
        raise RefusedError(
            "the trial did not say how long the prompts are: delete its file in "
            "STILLHOUSE_HOME/trials and plan again"
        )
    in_price, out_price, source = token_prices(teacher)
    answers = plan.units["generate"]
    in_most = Decimal(plan.prompt_bytes * teacher.sampling.samples_per_prompt)
    out_most = Decimal(answers * teacher.sampling.max_new_tokens)
    plan = with_line(
        plan,
        CostLine(
            name="teacher_api input",
            quantity=_mtok(
                in_most / 4 + answers * FEW_TOKENS,
                in_most / 3 + answers * MESSAGE_TOKENS,
                in_most + answers * (TEMPLATE_TOKENS + 2 * MESSAGE_TOKENS),
            ),
            unit="Mtok",
            usd_per_unit=in_price,
        ),
        f"a token of the prompts is 3 to 4 bytes, 1 at worst, and a chat template adds "
        f"{MESSAGE_TOKENS} to each prompt, {TEMPLATE_TOKENS + 2 * MESSAGE_TOKENS} at worst; "
        f"${in_price} a million ({source})",
    )
    return with_line(
        plan,
        CostLine(
            name="teacher_api output",
            quantity=_mtok(out_most / 10, out_most / 2, out_most),
            unit="Mtok",
            usd_per_unit=out_price,
        ),
        f"answers take a tenth to all of max_new_tokens; ${out_price} a million ({source})",
    )


def token_prices(teacher: ApiTeacher) -> tuple[Decimal, Decimal, str]:
    """Dollars per million input and output tokens, and who says so.

    The recipe's own price comes first, then the table of the `genai-prices` package.

    Raises:
        RefusedError: no price is known. Unknown is not zero.
    """
    own_in = teacher.usd_per_million_input_tokens
    own_out = teacher.usd_per_million_output_tokens
    if own_in is not None and own_out is not None:
        return own_in, own_out, "the recipe"
    one_million = _million_tokens(teacher)
    if one_million is None:
        raise RefusedError(
            f"no price is known for the teacher {teacher.model}. Give "
            "teacher.usd_per_million_input_tokens and teacher.usd_per_million_output_tokens"
        )
    in_price = own_in if own_in is not None else one_million[0]
    out_price = own_out if own_out is not None else one_million[1]
    return in_price, out_price, "genai-prices"


def _million_tokens(teacher: ApiTeacher) -> tuple[Decimal, Decimal] | None:
    """What a million tokens in and a million out cost at this endpoint, or else wherever the model
    goes by that name."""
    from genai_prices import Usage, calc_price

    usage = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
    for endpoint in (teacher.base_url, None):
        try:
            price = calc_price(usage, teacher.model, provider_api_url=endpoint)
        except LookupError:
            continue
        return price.input_price, price.output_price
    return None


def _mtok(p10: Decimal, p50: Decimal, p90: Decimal) -> Quantiles:
    return Quantiles(p10=p10 / MEGA, p50=p50 / MEGA, p90=p90 / MEGA)
