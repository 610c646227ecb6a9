"""Likelihoods: plain arrays in, plain arrays out, behind one seam.

`protocol` says what a verb may ask of any likelihood, and `likelihood` chooses the solver of a
design: `rows` is the classical case, V diagonal and every row its own group, in O(n); `blocks` has
several scale terms, slopes, correlated effects and a V in blocks; `student` integrates Student-t
effects out. Nothing here knows of formulas, data frames or priors, nor which estimator asks.
"""
