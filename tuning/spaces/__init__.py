"""Search spaces that ship with the project."""
