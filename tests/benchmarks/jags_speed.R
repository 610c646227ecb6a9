# Times JAGS on bangertdrowns2004 with ~ I(ni / 100) in both parts, priors of the preset "slides".
# Called by bayes.py; prints seconds to compile and adapt, seconds to sample, and the smallest effective size.
if (!requireNamespace("rjags", quietly = TRUE)) quit(status = 3)
suppressPackageStartupMessages({ library(rjags); library(coda) })
data <- read.csv("bayes_lsm/datasets/bangertdrowns2004.csv", comment.char = "#")
X <- model.matrix(~ I(ni / 100), data)
load.module("glm", quiet = TRUE)
text <- "model {
  for (i in 1:n) {
    y[i] ~ dnorm(inprod(X[i, ], location), 1 / (v[i] + exp(inprod(X[i, ], scale))))
  }
  for (j in 1:2) { location[j] ~ dnorm(0, pow(100, -2)); scale[j] ~ dnorm(0, pow(7, -2)) }
}"
given <- list(y = data$yi, v = data$vi, X = X, n = nrow(X))
start <- list(.RNG.name = "base::Mersenne-Twister", .RNG.seed = 1)
ready <- system.time(
  model <- jags.model(textConnection(text), given, start, n.adapt = 1000, quiet = TRUE)
)[["elapsed"]]
drawing <- system.time(
  drawn <- coda.samples(model, c("location", "scale"), n.iter = 10000, progress.bar = "none")
)[["elapsed"]]
cat(ready, drawing, min(effectiveSize(drawn)), "\n")
