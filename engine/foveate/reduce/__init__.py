"""Reducers: rules that lower the number of tokens.

Input reducers (:mod:`vwt_intra`, :mod:`vwt_inter`) group patches before the first block; block
reducers (:mod:`prune`) act between attention and MLP. Each is a frozen set of counts and a pure
function of tensors: the same image gives the same tokens whatever else is in its batch.
"""
