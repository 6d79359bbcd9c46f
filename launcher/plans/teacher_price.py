"""What a teacher behind an API will cost: two more lines of a plan.

How long the answers will be is not known before they are paid for, so the lines go from a tenth of
the longest answer allowed (P10) over a half (P50) to the longest (P90). The P90 is reserved.

Some models cost more a token in long requests, all of it. Plan and worker reckon with one price, so
it is that of the longest request that the recipe can make: for a long one never too low.
"""

from decimal import Decimal

from launcher.plans.plan import CostLine, Plan, Quantiles, with_line
from recipes.api_tokens import MESSAGE_TOKENS, TEMPLATE_TOKENS
from recipes.errors import RefusedError
from recipes.recipe import ApiTeacher, Recipe

MEGA = Decimal(1_000_000)

FEW_TOKENS = 5
"""The least that a chat template adds to a prompt [tokens]."""

ENDLESS = 1_000_000_000
"""A request that is longer than any model takes [tokens]: its price is that of the highest tier."""


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
    longest = _longest_request(plan.longest_prompt_bytes, teacher)
    in_price, out_price, source = token_prices(teacher, longest)
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


def _longest_request(prompt_bytes: int | None, teacher: ApiTeacher) -> int | None:
    """The longest prompt at its worst and the longest answer [tokens]; `None` is unknown."""
    if prompt_bytes is None:
        return None
    return prompt_bytes + TEMPLATE_TOKENS + 2 * MESSAGE_TOKENS + teacher.sampling.max_new_tokens


def token_prices(teacher: ApiTeacher, longest_request: int | None) -> tuple[Decimal, Decimal, str]:
    """Dollars per million input and output tokens, and who says so.

    The recipe's own price comes first, then the table of the `genai-prices` package.

    Args:
        longest_request: what one request may come to [tokens]; `None` where that is unknown.

    Raises:
        RefusedError: no price is known. Unknown is not zero.
    """
    own_in = teacher.usd_per_million_input_tokens
    own_out = teacher.usd_per_million_output_tokens
    if own_in is not None and own_out is not None:
        return own_in, own_out, "the recipe"
    found, short = (_listed(teacher, tokens) for tokens in (longest_request or ENDLESS, 1))
    if found is None or short is None:
        raise RefusedError(
            f"no price is known for the teacher {teacher.model}. Give "
            "teacher.usd_per_million_input_tokens and teacher.usd_per_million_output_tokens"
        )
    in_price, out_price, words = found
    if found != short:
        words += (
            ", for requests of any length, since the longest prompt is not known"
            if longest_request is None
            else f", for requests of {longest_request:,} tokens, the longest there may be"
        )
    return (
        own_in if own_in is not None else in_price,
        own_out if own_out is not None else out_price,
        words,
    )


def _listed(teacher: ApiTeacher, request_tokens: int) -> tuple[Decimal, Decimal, str] | None:
    """Dollars per million tokens in and out, where a request has so many, and whose they are: those
    of this endpoint, or else of whoever serves a model of that name."""
    from genai_prices import Usage, calc_price

    usage = Usage(input_tokens=request_tokens, output_tokens=1_000_000)
    for endpoint in (teacher.base_url, None):
        try:
            price = calc_price(usage, teacher.model, provider_api_url=endpoint)
        except LookupError:
            continue
        words = "genai-prices"
        if endpoint is None:
            words += f", taking that of {price.provider.name}: this endpoint is not in it"
        in_price = price.input_price * MEGA / request_tokens
        return _plain(in_price), _plain(price.output_price), words
    return None


def _plain(usd: Decimal) -> Decimal:
    """Without zeros at the end, and without an exponent."""
    return Decimal(f"{usd.normalize():f}")


def _mtok(p10: Decimal, p50: Decimal, p90: Decimal) -> Quantiles:
    return Quantiles(p10=p10 / MEGA, p50=p50 / MEGA, p90=p90 / MEGA)
