"""The outer loop: watches Triton's metrics and tells every governor what to aim at."""
