"""Tests of coefficients: Wald, score, likelihood-ratio, permutation, bootstrap."""
