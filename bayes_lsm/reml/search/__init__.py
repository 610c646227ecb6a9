"""The highest point of a likelihood, inside or at a limit at infinity."""
