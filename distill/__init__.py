"""The work itself: teacher -> data -> student -> scores.

Runs the same on a laptop and on a rented node, reads and writes one run folder (`recipes.rundir`),
and knows neither clouds nor MLflow.
"""
