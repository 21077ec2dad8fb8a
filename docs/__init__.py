"""The documents, and the generator of docs/reference."""
