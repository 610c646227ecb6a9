"""Likelihoods: plain arrays in, plain arrays out.

`independent` is the classical case, V diagonal and every row its own group, in O(n); `clustered`
has several scale terms, slopes, correlated effects and a V in blocks. Nothing here knows of
formulas, data frames or priors, nor which estimator asks.
"""
