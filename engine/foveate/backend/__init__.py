"""Where a request enters: the Triton plugin and what it tells of each batch."""
