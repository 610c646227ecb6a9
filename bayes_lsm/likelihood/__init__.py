"""Likelihoods: plain arrays in, plain arrays out.

`independent` is the classical case, V diagonal and every row its own group, in O(n). Nothing here
knows of formulas, data frames or priors, nor which estimator asks.
"""
