"""How far a stage of answering is, said at least once a second while anything moves."""

from distill.context import Context
from recipes.rundir import Progress, Stage

SAY_EVERY_S = 0.5


class Pace:
    """Counts answers and tokens of one stage, and writes `progress` events."""

    def __init__(self, context: Context, stage: Stage, *, done: int, total: int) -> None:
        self._context = context
        self._stage: Stage = stage
        self._done_before = done
        self._done = done
        self._total = total
        self._tokens = 0
        self._began = self._said = context.clock()
        self._say(0)

    def start(self) -> None:
        """Loading is over: speed is measured from here."""
        self._began = self._context.clock()

    def answered(self, answers: int, tokens: int) -> None:
        """So many more answers are safe."""
        self._done += answers
        self._tokens += tokens
        self.writing(0)

    def writing(self, tokens: int) -> None:
        """Answers under way have so many tokens by now."""
        finished = self._done == self._total and not tokens
        if finished or self._context.clock() - self._said >= SAY_EVERY_S:
            self._say(tokens)

    def _say(self, tokens_under_way: int) -> None:
        self._said = self._context.clock()
        elapsed = self._said - self._began
        tokens, answers = self._tokens + tokens_under_way, self._done - self._done_before
        self._context.say(
            Progress,
            stage=self._stage,
            done=self._done,
            total=self._total,
            unit="answers",
            tokens_per_s=tokens / elapsed if tokens and elapsed > 0 else None,
            left_s=elapsed / answers * (self._total - self._done) if answers else None,
        )
