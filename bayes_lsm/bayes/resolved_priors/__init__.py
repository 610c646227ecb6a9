"""Priors bound to a design, and whether they leave the posterior proper."""
