"""The pool: the corpus index, tables over it, and the pool as it will be once changed sources have landed."""
