"""The money of one attempt for a teacher's tokens: reserved before a request, settled after it.

Every reservation and every settlement is an event, so that the launcher's books follow, those of a
worker that was killed before an answer came too.
"""

from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, Decimal

from distill.context import Context, WorkerError
from distill.endpoint import Reply
from recipes.money import format_usd, from_micro_usd, to_micro_usd
from recipes.rundir import ApiReserved, ApiUsage, Limits, Warned, read_events

BELIEVABLE = 100
"""A count so many times above the worst case is nonsense, and not a bill."""


@dataclass(frozen=True)
class Reservation:
    """The worst case of one request."""

    request: int
    input_tokens: int
    output_tokens: int
    micro_usd: int


class Purse:
    """What may be spent, is spent and is reserved. Not safe for threads: its owner locks.

    Raises:
        WorkerError: a price is not known, so no limit could be kept.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._input_price, self._output_price = _prices(context.limits)
        self._limit = to_micro_usd(context.limits.api_usd)
        events = [event for event, _ in read_events(context.run.events)]
        self._next = 1 + max(
            (event.request for event in events if isinstance(event, ApiReserved)), default=-1
        )
        self._open: dict[int, Reservation] = {}
        self._warned = False
        self._spent = sum(
            event.micro_usd
            for event in events
            if isinstance(event, ApiUsage) and event.attempt == context.limits.attempt
        )

    @property
    def is_all_settled(self) -> bool:
        """Whether no request is under way."""
        return not self._open

    def fits(self, input_tokens: int, output_tokens: int) -> bool:
        """Whether a request of so many tokens leaves spent and reserved within the limit."""
        reserved = sum(reservation.micro_usd for reservation in self._open.values())
        return self._spent + reserved + self._cost(input_tokens, output_tokens) <= self._limit

    def reserve(self, input_tokens: int, output_tokens: int) -> Reservation:
        """Set the most that the next request can cost aside."""
        micro_usd = self._cost(input_tokens, output_tokens)
        reservation = Reservation(self._next, input_tokens, output_tokens, micro_usd)
        self._next += 1
        self._open[reservation.request] = reservation
        self._context.say(ApiReserved, **asdict(reservation))
        self._context.log.sync()  # a power cut may not lose what is asked for in a moment
        return reservation

    def settle(self, reservation: Reservation, input_tokens: int, output_tokens: int) -> None:
        """A request has come to so many tokens; none where it was not billed."""
        micro_usd = self._cost(input_tokens, output_tokens)
        del self._open[reservation.request]
        self._spent += micro_usd
        self._context.say(
            ApiUsage,
            request=reservation.request,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            micro_usd=micro_usd,
        )
        self._context.log.sync()

    def counted(self, reservation: Reservation, reply: Reply) -> tuple[int, int]:
        """Tokens in and out, by the endpoint's count where it can be one, else at their worst."""
        inputs = _believable(reply.input_tokens, reservation.input_tokens)
        outputs = _believable(reply.output_tokens, reservation.output_tokens)
        if (inputs is None or outputs is None) and not self._warned:
            self._warned = True
            message = "the endpoint does not say what an answer cost; it is counted at its worst"
            self._context.say(Warned, code="api_usage", message=message)
        return inputs or reservation.input_tokens, outputs or reservation.output_tokens

    def warn_empty(self, input_tokens: int, output_tokens: int) -> None:
        """Say why no further request is sent."""
        cost, left = self._cost(input_tokens, output_tokens), max(0, self._limit - self._spent)
        self._context.say(
            Warned,
            code="api_budget",
            message=f"the next request may cost {format_usd(from_micro_usd(cost))}, and "
            f"{format_usd(from_micro_usd(left))} is left for the teacher: nothing more is sent",
        )

    def _cost(self, input_tokens: int, output_tokens: int) -> int:
        """Micro-dollars, rounded up. A price per million tokens is micro-dollars a token."""
        exact = input_tokens * self._input_price + output_tokens * self._output_price
        return int(exact.to_integral_value(ROUND_CEILING))


def _believable(count: int | None, worst: int) -> int | None:
    return count if count is not None and count <= BELIEVABLE * worst else None


def _prices(limits: Limits) -> tuple[Decimal, Decimal]:
    input_price = limits.api_usd_per_million_input_tokens
    output_price = limits.api_usd_per_million_output_tokens
    if input_price is None or output_price is None:
        raise WorkerError(
            "api_price",
            "what the teacher's tokens cost is not known, so no limit could be kept",
            "Give usd_per_million_input_tokens and usd_per_million_output_tokens in the recipe.",
        )
    return input_price, output_price
