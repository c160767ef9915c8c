"""Reducers: rules that lower the number of tokens.

Input reducers (:mod:`vwt_intra`, :mod:`vwt_inter`, :mod:`adaptive`) drop or group patches before
the first block. Block reducers act within one: :mod:`prune` by a score (:mod:`cls_attention`,
:mod:`key_distance`, :mod:`mlp_shift`, :mod:`learned`, :mod:`chance`), :mod:`merge` by similarity
(:mod:`tome`, :mod:`pitome`). Each is a frozen set of counts and pure functions of tensors: the same
image gives the same tokens whatever else is in its batch, but where rounding decides a tie.
"""
