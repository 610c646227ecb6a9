"""How much of the answer is prior."""
