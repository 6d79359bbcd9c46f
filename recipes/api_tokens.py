"""What an endpoint may count beside the text of a prompt. The plan and the worker both rest on it.

Allowances above what any known chat template adds.
"""

TEMPLATE_TOKENS = 200
"""Once a request: a system message of the template's own, tools, dates [tokens]."""

MESSAGE_TOKENS = 20
"""For each message: its role and its ends [tokens]."""
