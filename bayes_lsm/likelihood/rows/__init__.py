"""Independent effects, V diagonal and every row its own group: sums over rows, in O(n)."""
