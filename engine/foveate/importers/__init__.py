"""Convert a third-party checkpoint to an entry of a model repository.

:mod:`source` finds the files and :mod:`tensors` reads them; :mod:`families` recognises them by
their configuration. A family knows the names of its tensors (:class:`recipe.Layout`) and the
meaning of its configuration; :mod:`convert` does the rest for all of them, :mod:`entry` writes.
"""
