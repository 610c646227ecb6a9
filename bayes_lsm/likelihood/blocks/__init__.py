"""Several scale terms, slopes, correlated effects and a V in blocks: sums over blocks of rows."""
