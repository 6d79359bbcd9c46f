"""Reconciling a run: asks AWS what it charges, and tells the ledger. `reconcile` compares."""

from launcher.machines.aws_costs import ask_costs
from launcher.outside import Outside
from launcher.reconcile import Reconciled, days_of, reconcile


def reconcile_run(outside: Outside, run_id: str) -> Reconciled:
    """What AWS charges for a run beside our own figure; the ledger is told what is new in it.

    Raises:
        RefusedError: it is no run on AWS, or AWS did not say.
    """
    books, now = outside.ledger.books(run_id), outside.clock()
    first, end = days_of(books, now)
    with outside.busy("asking AWS's Cost Explorer"):
        said = ask_costs(run_id, first, end, outside.aws)
    found = reconcile(books, said, now)
    entry = found.entry()
    if entry is not None and entry != books.billed:
        outside.ledger.append(run_id, entry)
    return found
