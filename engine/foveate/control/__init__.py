"""Which level the next batch gets: governor, queue ages, the policy the adapter publishes.

Nothing here imports torch."""
