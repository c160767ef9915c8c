"""Starts tritonserver and the adapter, watches them and ends them."""
