"""The real governor and the real law on a virtual clock, and what to compare them with.

Light to import: numpy and scipy are loaded by the modules that compute with them.
"""
