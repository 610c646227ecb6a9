"""Intervals of coefficients and of what is made of them."""
