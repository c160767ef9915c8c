"""From a checkpoint somebody else made to an entry of a model repository.

:mod:`source` finds the files and :mod:`tensors` reads them; :mod:`families` knows by their
configuration what they are. A family says what its tensors are called (:class:`layout.Layout`) and
what its configuration means; :mod:`convert` does the rest for all of them. :mod:`entry` writes.
"""
