"""Priors bound to a design: `resolve`, `propriety` of the posterior they leave, and `notes`."""
