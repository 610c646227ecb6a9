"""Marginal likelihoods: Bayes factors, nested models, averages over models."""
