# Reference numbers of location-scale models, from metafor.
#
# Run from the root of the repository:  Rscript tests/reference/metafor.R
# Needs metafor, numDeriv and jsonlite; writes tests/reference/metafor.json.
#
# Every location-scale model is fitted with several optimisers at tight tolerances, each of them
# restarted where the best one before it stopped; the fit with the highest log-likelihood is kept.
# Models with a constant tau^2 are also fitted without a scale formula, by Fisher scoring, which adds
# tau^2, its standard error, I^2, H^2 and R^2.
#
# Accuracy: metafor's optimisers get no derivatives, so an estimate has about half as many correct
# digits as its log-likelihood; the Hessian is numDeriv's (Richardson extrapolation, about 1e-8
# relative). Where a coefficient diverges, metafor's is wherever its optimiser stopped.

suppressPackageStartupMessages({
  library(metafor)
  library(jsonlite)
})

folder <- "bayes_lsm/datasets"
target <- "tests/reference/metafor.json"

read_dataset <- function(name) {
  read.csv(file.path(folder, paste0(name, ".csv")), comment.char = "#")
}

datasets <- c("bangertdrowns2004", "raudenbush1985", "bcg", "preterm_iq")
datasets <- setNames(lapply(datasets, read_dataset), datasets)
datasets$preterm_iq$continent <- factor(
  datasets$preterm_iq$continent, levels = c("Europe", "America", "Other")
)

cases <- list(
  bangertdrowns = c("bangertdrowns2004", "~ I(ni / 100)", "~ I(ni / 100)"),
  bangertdrowns_scale_only = c("bangertdrowns2004", "~ 1", "~ I(ni / 100)"),
  bangertdrowns_regression = c("bangertdrowns2004", "~ I(ni / 100)", "~ 1"),
  bangertdrowns_random_effects = c("bangertdrowns2004", "~ 1", "~ 1"),
  raudenbush = c("raudenbush1985", "~ weeks", "~ weeks"),
  raudenbush_regression = c("raudenbush1985", "~ weeks", "~ 1"),
  raudenbush_random_effects = c("raudenbush1985", "~ 1", "~ 1"),
  raudenbush_two_moderators = c("raudenbush1985", "~ setting + tester", "~ tester"),
  bcg = c("bcg", "~ I(ablat - 33)", "~ I(ablat - 33)"),
  bcg_intercept_scale = c("bcg", "~ I(ablat - 33)", "~ 1"),
  bcg_random_effects = c("bcg", "~ 1", "~ 1"),
  bcg_factor = c("bcg", "~ alloc + I(ablat - 33)", "~ I(ablat - 33)"),
  bcg_factor_regression = c("bcg", "~ alloc", "~ 1"),
  bcg_cell_means = c("bcg", "~ 0 + alloc", "~ I(ablat - 33)"),
  bcg_cell_means_regression = c("bcg", "~ 0 + alloc", "~ 1"),
  bcg_no_intercept_scale = c("bcg", "~ 1", "~ 0 + I(ablat / 33)"),
  preterm_random_effects = c("preterm_iq", "~ 1", "~ 1"),
  preterm_meta_regression = c("preterm_iq", "~ I(weeks - 40)", "~ 1"),
  preterm_weeks = c("preterm_iq", "~ I(weeks - 40)", "~ I(weeks - 40)"),
  preterm_continent = c(
    "preterm_iq", "~ continent + I(weeks - 40)", "~ continent + I(weeks - 40)"
  ),
  preterm_interaction = c("preterm_iq", "~ continent * I(weeks - 32)", "~ I(weeks - 32)")
)

optimisers <- list(
  nlminb = list(optimizer = "nlminb", rel.tol = 1e-14, eval.max = 5000, iter.max = 5000),
  BFGS = list(optimizer = "BFGS", reltol = 1e-16, maxit = 5000),
  "Nelder-Mead" = list(optimizer = "Nelder-Mead", reltol = 1e-16, maxit = 20000),
  nlm = list(optimizer = "nlm", gradtol = 1e-10, steptol = 1e-12, iterlim = 5000)
)

fit_once <- function(data, location, scale, method, control) {
  tryCatch(
    suppressWarnings(rma(
      yi, vi, mods = as.formula(location), scale = as.formula(scale), data = data,
      method = method, control = control
    )),
    error = function(problem) NULL
  )
}

# The fit with the highest log-likelihood, in up to three rounds over all optimisers.
fit_location_scale <- function(data, location, scale, method) {
  best <- NULL
  for (round in 1:3) {
    for (name in names(optimisers)) {
      control <- optimisers[[name]]
      if (round > 1) control$alpha.init <- c(best$fit$alpha)
      fit <- fit_once(data, location, scale, method, control)
      if (is.null(fit)) next
      if (is.null(best) || logLik(fit) > logLik(best$fit)) best <- list(fit = fit, optimizer = name)
    }
  }
  best
}

fit_constant <- function(data, location, method) {
  rma(
    yi, vi, mods = as.formula(location), data = data, method = method,
    control = list(threshold = 1e-14, maxiter = 10000)
  )
}

coefficients <- function(names, fit, suffix) {
  get <- function(what) unname(c(fit[[paste0(what, suffix)]]))
  data.frame(
    term = names, estimate = unname(c(fit[[if (suffix == "") "beta" else "alpha"]])),
    se = get("se"), zval = get("zval"), pval = get("pval"), ci_lb = get("ci.lb"), ci_ub = get("ci.ub")
  )
}

one <- function(x) unbox(if (is.null(x)) NA_real_ else as.numeric(x)[1])

# What every model has.
common <- function(fit, method) {
  stats <- fit$fit.stats[[method]]
  names(stats) <- rownames(fit$fit.stats)
  list(
    k = one(fit$k), logLik = one(stats["ll"]), AIC = one(stats["AIC"]), BIC = one(stats["BIC"]),
    AICc = one(stats["AICc"]),
    QE = one(fit$QE), QEp = one(fit$QEp), QEdf = one(fit$k - fit$p),
    QM = one(fit$QM), QMp = one(fit$QMp), QMdf = one(fit$QMdf[1]),
    location = coefficients(rownames(fit$beta), fit, ""), vcov_location = unname(fit$vb)
  )
}

report_location_scale <- function(case, method) {
  best <- fit_location_scale(datasets[[case[1]]], case[2], case[3], method)
  fit <- best$fit
  # Without a Hessian that can be inverted the likelihood is flat: some coefficient diverges. What
  # metafor prints by default is kept as well, for it has standard errors of the other coefficients.
  flat <- anyNA(fit$se.alpha)
  found <- c(
    list(optimizer = unbox(best$optimizer), flat = unbox(flat)), common(fit, method),
    list(
      QS = one(fit$QS), QSp = one(fit$QSp), QSdf = one(fit$QSdf[1]),
      scale = coefficients(rownames(fit$alpha), fit, ".alpha"), vcov_scale = unname(fit$va),
      tau2 = unname(fit$tau2)
    )
  )
  if (flat) {
    usual <- fit_once(datasets[[case[1]]], case[2], case[3], method, list())
    found$by_default <- coefficients(rownames(usual$alpha), usual, ".alpha")
  }
  found
}

report_constant <- function(case, method) {
  fit <- fit_constant(datasets[[case[1]]], case[2], method)
  c(
    common(fit, method),
    list(
      tau2 = one(fit$tau2), se_tau2 = one(fit$se.tau2), I2 = one(fit$I2), H2 = one(fit$H2),
      R2 = one(fit$R2), vt = one(fit$vt)
    )
  )
}

report <- function(case) {
  found <- list(
    dataset = unbox(case[1]), location = unbox(case[2]), scale = unbox(case[3])
  )
  for (method in c("REML", "ML")) {
    found[[method]] <- report_location_scale(case, method)
    if (case[3] == "~ 1") found[[method]]$constant <- report_constant(case, method)
  }
  found
}

versions <- lapply(
  c(R = "base", metafor = "metafor", numDeriv = "numDeriv"),
  function(name) unbox(as.character(packageVersion(name)))
)
written <- list(
  made_by = unbox("tests/reference/metafor.R"), versions = versions, cases = lapply(cases, report)
)
write(toJSON(written, digits = NA, na = "null", pretty = FALSE), target)
