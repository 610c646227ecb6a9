# Reference posteriors of every model in models/, from JAGS.
#
# Run from the root of the repository:  Rscript tests/reference/jags.R [case ...]
# Debian: r-cran-rjags (brings jags), r-cran-coda, r-cran-jsonlite; writes tests/reference/jags.json.
# Given the names of cases ("bcg.slides"), only these are made anew. All take about an hour of one core, most
# of it the two of preterm_continent, whose chains are five times as long.
#
# The formulas are spelled out here, and the presets are worked out here from the data, so that nothing of the
# package enters. slides: Normal(0, 100) on each location coefficient and Normal(0, 7) on each scale coefficient
# of ln tau^2. weakly_informative: with s = max(sd(y), sqrt(mean(v))), at a study with average moderators the
# effect is Normal(mean(y), 2.5 s) and tau is half-normal(s); a step of a dummy, or a standard deviation of
# another moderator, changes the effect by Normal(0, 2.5 s) and ln tau^2 by Normal(0, 2).
#
# Four chains of `draws` iterations each, after 10,000 of burn-in, from overdispersed starts. All iterations are
# used. Monte Carlo standard errors come from means of batches, 25 to a chain, each far longer than the
# autocorrelation: of the draws for a mean, of (x - mean)^2 for an SD, of 1{x <= q} over the density for a
# quantile, of 1{|x - median| <= MAD} over its density for a MAD (the median absolute deviation from the
# median, not rescaled). ess is the variance of the draws over the squared MCSE of the mean. r_hat is coda's
# potential scale reduction factor of rank-normalised draws. p_far is P(last scale coefficient > 1).

suppressPackageStartupMessages({
  library(rjags)
  library(coda)
  library(jsonlite)
})

folder <- "bayes_lsm/datasets"
target <- "tests/reference/jags.json"
probs <- c(0.05, 0.25, 0.5, 0.75, 0.95)
batches <- 25
chains <- 4

models <- list(
  bangertdrowns2004 = list(data = "bangertdrowns2004", location = ~ I(ni / 100), scale = ~ I(ni / 100)),
  bcg = list(data = "bcg", location = ~ I(ablat - 33), scale = ~ I(ablat - 33)),
  preterm_continent = list(data = "preterm_iq", location = ~ continent + I(weeks - 40),
                           scale = ~ continent + I(weeks - 40)),
  preterm_meta_regression = list(data = "preterm_iq", location = ~ I(weeks - 40), scale = ~ 1),
  preterm_random_effects = list(data = "preterm_iq", location = ~ 1, scale = ~ 1),
  preterm_weeks = list(data = "preterm_iq", location = ~ I(weeks - 40), scale = ~ I(weeks - 40)),
  raudenbush1985 = list(data = "raudenbush1985", location = ~ weeks, scale = ~ weeks)
)

read_dataset <- function(name) {
  data <- read.csv(file.path(folder, paste0(name, ".csv")), comment.char = "#")
  if ("continent" %in% names(data))
    data$continent <- factor(data$continent, c("Europe", "America", "Other"))
  data
}

likelihood <- "
  for (i in 1:n) {
    y[i] ~ dnorm(inprod(X[i, ], location), 1 / (v[i] + exp(inprod(Z[i, ], scale))))
  }"

priors <- list(
  slides = "
  for (j in 1:p) { location[j] ~ dnorm(0, pow(100, -2)) }
  for (j in 1:q) { scale[j] ~ dnorm(0, pow(7, -2)) }",
  # mx, mz: column means; dx, dz: step or standard deviation of each column (unused for the first).
  weakly_informative = "
  level ~ dnorm(centre, pow(2.5 * s, -2))
  tau ~ dnorm(0, pow(s, -2)) T(0,)
  for (j in 1:p) { slope_x[j] ~ dnorm(0, pow(2.5 * s, -2)) }
  for (j in 1:q) { slope_z[j] ~ dnorm(0, pow(2, -2)) }
  for (j in 2:p) { location[j] <- slope_x[j] / dx[j] }
  for (j in 2:q) { scale[j] <- slope_z[j] / dz[j] }
  location[1] <- level - inprod(mx[2:p], location[2:p])
  scale[1] <- 2 * log(tau) - inprod(mz[2:q], scale[2:q])"
)

# JAGS has no empty loops or sums: without slopes their lines go.
prior_text <- function(preset, p, q) {
  text <- priors[[preset]]
  if (preset == "weakly_informative") {
    if (p == 1) text <- sub("  for \\(j in 2:p\\)[^\n]*\n", "", sub(" - inprod\\(mx[^\n]*", "", text))
    if (q == 1) text <- sub("  for \\(j in 2:q\\)[^\n]*\n", "", sub(" - inprod\\(mz.*", "", text))
  }
  text
}

spreads <- function(M) {
  apply(M, 2, function(x) if (length(unique(x)) == 2) diff(range(x)) else sd(x))
}

# Starts drawn from priors wide enough to be apart, and near enough to be finite.
initial <- function(preset, p, q, s, y, chain) {
  state <- list(.RNG.name = "base::Mersenne-Twister", .RNG.seed = 100 + chain)
  if (preset == "slides") {
    c(state, list(location = c(mean(y), rep(0, p - 1)) + rnorm(p, 0, s),
                  scale = c(2 * log(s), rep(0, q - 1)) + rnorm(q)))
  } else {
    c(state, list(level = mean(y) + rnorm(1, 0, s), tau = s * exp(rnorm(1)),
                  slope_x = rnorm(p, 0, s), slope_z = rnorm(q)))
  }
}

# The means of consecutive batches of each column of x (iterations, chains).
batch_means <- function(x) {
  size <- floor(nrow(x) / batches)
  apply(x[seq_len(size * batches), , drop = FALSE], 2, function(column)
    colMeans(matrix(column, size)))
}

mcse_of_mean <- function(x) {
  means <- batch_means(x)
  sd(means) / sqrt(length(means))
}

# Density of the draws at `at`, by the share of them within a hundredth of the mass on either side.
density_at <- function(x, at) {
  share <- mean(x <= at)
  around <- quantile(x, pmin(pmax(share + c(-0.01, 0.01), 0), 1), names = FALSE)
  0.02 / diff(around)
}

mcse_of_quantile <- function(x, at) mcse_of_mean(1 * (x <= at)) / density_at(x, at)

summarise <- function(x) {
  middle <- median(x)
  away <- abs(x - middle)
  mad <- median(away)
  at <- quantile(x, probs, names = FALSE)
  variance <- var(as.vector(x))
  ranks <- qnorm((rank(x) - 0.375) / (length(x) + 0.25))
  ranked <- as.mcmc.list(lapply(seq_len(ncol(x)), function(j) mcmc(matrix(ranks, nrow(x))[, j])))
  list(
    mean = mean(x), sd = sqrt(variance), mad = mad, quantile = at,
    mcse = list(
      mean = mcse_of_mean(x),
      sd = mcse_of_mean((x - mean(x))^2) / (2 * sqrt(variance)),
      mad = mcse_of_quantile(away, mad),
      quantile = vapply(at, function(a) mcse_of_quantile(x, a), 0)
    ),
    ess = variance / mcse_of_mean(x)^2,
    r_hat = gelman.diag(ranked, autoburnin = FALSE)$psrf[1, 1]
  )
}

run <- function(name, preset, draws) {
  model <- models[[name]]
  data <- read_dataset(model$data)
  X <- model.matrix(model$location, data)
  Z <- model.matrix(model$scale, data)
  p <- ncol(X)
  q <- ncol(Z)
  s <- max(sd(data$yi), sqrt(mean(data$vi)))
  given <- list(y = data$yi, v = data$vi, X = X, Z = Z, n = nrow(X), p = p, q = q)
  if (preset == "weakly_informative")
    given <- c(given, list(s = s, centre = mean(data$yi)),
               if (p > 1) list(mx = colMeans(X), dx = spreads(X)),
               if (q > 1) list(mz = colMeans(Z), dz = spreads(Z)))
  text <- paste0("model {", likelihood, prior_text(preset, p, q), "\n}\n")
  set.seed(2026)
  starts <- lapply(seq_len(chains), function(chain) initial(preset, p, q, s, data$yi, chain))
  compiled <- jags.model(textConnection(text), given, starts, n.chains = chains, quiet = TRUE)
  update(compiled, 10000, progress.bar = "none")
  drawn <- coda.samples(compiled, c("location", "scale"), n.iter = draws, progress.bar = "none")
  columns <- lapply(seq_len(p + q), function(j) {
    vapply(drawn, function(chain) as.matrix(chain)[, j], numeric(draws))
  })
  list(
    model = name, preset = preset, iterations = draws,
    location = list(term = I(colnames(X)), summary = lapply(columns[seq_len(p)], summarise)),
    scale = list(term = I(colnames(Z)), summary = lapply(columns[p + seq_len(q)], summarise)),
    p_far = c(mean(columns[[p + q]] > 1), mcse_of_mean(1 * (columns[[p + q]] > 1)))
  )
}

iterations <- function(name, preset) if (name == "preterm_continent") 1000000 else 200000

load.module("glm", quiet = TRUE)
cases <- expand.grid(name = names(models), preset = names(priors), stringsAsFactors = FALSE)
labels <- paste(cases$name, cases$preset, sep = ".")
wanted <- commandArgs(trailingOnly = TRUE)
found <- if (length(wanted) && file.exists(target)) fromJSON(target, simplifyVector = FALSE)$cases else list()
for (i in which(!length(wanted) | labels %in% wanted)) {
  seconds <- system.time(
    found[[labels[i]]] <- run(cases$name[i], cases$preset[i], iterations(cases$name[i], cases$preset[i]))
  )[["elapsed"]]
  message(labels[i], ": ", round(seconds), " s")
}

write_json(
  list(
    made_by = "tests/reference/jags.R",
    versions = list(R = as.character(getRversion()), JAGS = as.character(jags.version()),
                    rjags = as.character(packageVersion("rjags")), coda = as.character(packageVersion("coda"))),
    seeds = list(starts = 2026, chains = 100 + seq_len(chains)),
    probabilities = probs, chains = chains, burn_in = 10000, cases = found
  ),
  target, auto_unbox = TRUE, digits = I(7)
)
