"""Giving back what a run has rented of AWS, and what that teaches of what it has cost.

EC2 leaves things out of an answer now and then, fails, and forgets a machine an hour after its end.
So machines are looked at again and again, what was seen once is remembered, and nothing counts as
gone before several looks in a row have found nothing.
"""

from collections.abc import Callable

from launcher.machines.aws import Aws, Instance, Leftover
from recipes.privacy import redacted

SECOND_LOOK_S = 5.0
"""Between two looks: "not found" may be a cloud that lags [s]."""

CLEAN_LOOKS = 3
"""So many looks in a row that find nothing prove a teardown."""

LOOKS = 60
"""How often something that should be gone is looked for before it counts as left."""


class Teardown:
    """One attempt to give everything of a run back.

    Args:
        aws: of the regions in which the run has rented.
        run_id: whose things are ended.
        note: takes down what went wrong on the way.
    """

    def __init__(
        self,
        aws: Aws,
        run_id: str,
        note: Callable[[Exception], None],
        sleep: Callable[[float], None],
    ) -> None:
        self._aws = aws
        self._run_id = run_id
        self._note = note
        self._sleep = sleep
        self._seen: dict[str, Instance] = {}

    def end_machines(self) -> None:
        """End its machines at once: SkyPilot takes a while to do it, and they cost meanwhile."""
        try:
            for machine in self._look():
                if not machine.is_gone:
                    self._aws.remove(Leftover("instance", machine.id, machine.region))
        except Exception as error:  # noqa: BLE001 - SkyPilot ends them next, and AWS is asked again
            self._note(error)

    def end_everything(self) -> list[str]:
        """End all that has the run's tag, until several looks in a row find nothing.

        Returns:
            What is left, or why that is not known; empty: everything is gone.
        """
        clean, left = 0, ["AWS was not asked"]
        for _ in range(LOOKS):
            try:
                self._look()
                found = self._aws.leftovers(self._run_id)
                left = [str(leftover) for leftover in found]
                clean = 0 if found else clean + 1
                if clean == CLEAN_LOOKS:
                    break
                for leftover in found:
                    self._aws.remove(leftover)
            except Exception as error:  # noqa: BLE001 - whatever it is, nothing is proved by it
                self._note(error)
                clean, left = 0, [f"AWS could not be asked: {redacted(str(error))}"]
            self._sleep(SECOND_LOOK_S)
        return left

    def seen(self, attempt: int) -> list[Instance]:
        """Each machine of an attempt that any look has seen, as it was at the last one."""
        return [machine for machine in self._seen.values() if machine.attempt == attempt]

    def _look(self) -> list[Instance]:
        machines = self._aws.instances(self._run_id)
        self._seen.update({machine.id: machine for machine in machines})
        return machines
