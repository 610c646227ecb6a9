"""Whether engine and model are right, on simulated effects."""
