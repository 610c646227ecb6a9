# Times brms on the model of jags_speed.R, with the scale part on ln tau and its priors to match.
# Called by bayes.py; prints seconds to compile, seconds to sample, and the smallest bulk effective size.
if (!requireNamespace("brms", quietly = TRUE)) quit(status = 3)
suppressPackageStartupMessages(library(brms))
# Debian's package BH is empty; the headers are those of its libboost-dev.
if (system.file("include", package = "BH") == "") rstan::rstan_options(boost_lib = "/usr/include")
data <- read.csv("bayes_lsm/datasets/bangertdrowns2004.csv", comment.char = "#")
data$sei <- sqrt(data$vi)
data$size <- data$ni / 100
# The residual of a model with known standard errors, sigma = TRUE, is the study effect; its linear predictor
# is ln tau, half of ln tau^2.
formula <- bf(yi | se(sei, sigma = TRUE) ~ 0 + Intercept + size, sigma ~ 0 + Intercept + size)
priors <- c(set_prior("normal(0, 100)", class = "b"), set_prior("normal(0, 3.5)", class = "b", dpar = "sigma"))
compiling <- system.time(
  empty <- suppressMessages(brm(formula, data, prior = priors, chains = 0, silent = 2, refresh = 0))
)[["elapsed"]]
drawing <- system.time(
  fit <- suppressMessages(update(empty, recompile = FALSE, chains = 4, iter = 2000, seed = 1, refresh = 0))
)[["elapsed"]]
draws <- posterior::summarise_draws(fit, "ess_bulk")
cat(compiling, drawing, min(draws$ess_bulk[grepl("^b_", draws$variable)]), "\n")
