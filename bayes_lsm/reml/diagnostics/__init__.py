"""Whether to believe a fit: residuals, influence, robust errors, other starts."""
