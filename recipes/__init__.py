"""What to run: the recipe, and the files that launcher and worker hand each other.

Imports pydantic, PyYAML and the standard library, and nothing of ours: everybody may import it, and
it answers at once.
"""
