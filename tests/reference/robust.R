# Reference numbers of cluster-robust tests of constant-heterogeneity models, from clubSandwich.
#
# Run from the root of the repository:  Rscript tests/reference/robust.R
# Needs metafor, clubSandwich and jsonlite; writes tests/reference/robust.json.
#
# Models are fitted by REML. The target (working) covariance is the model's own, diag(v + tau^2), which is
# clubSandwich's default for a fit of rma(). For each kind of covariance (CR0, CR1, CR1p, CR1S, CR2): the
# matrix, and for each coefficient the standard error and the Satterthwaite degrees of freedom with their
# test and interval. For CR2 also the Wald test of all slopes with Hotelling's T^2 (HTZ).
# clubSandwich has no method for location-scale fits ("location_scale" records what it says).

suppressPackageStartupMessages({
  library(metafor)
  library(clubSandwich)
  library(jsonlite)
})

folder <- "bayes_lsm/datasets"
target <- "tests/reference/robust.json"

read_dataset <- function(name) {
  read.csv(file.path(folder, paste0(name, ".csv")), comment.char = "#")
}

models <- list(
  bangertdrowns_random_effects = list("bangertdrowns2004", "~ 1", c("id", "author", "grade")),
  bangertdrowns_regression = list("bangertdrowns2004", "~ I(ni / 100)", c("id", "author", "grade")),
  bcg_random_effects = list("bcg", "~ 1", c("trial", "alloc")),
  bcg_regression = list("bcg", "~ I(ablat - 33)", c("trial", "alloc")),
  raudenbush_random_effects = list("raudenbush1985", "~ 1", c("study", "year")),
  raudenbush_regression = list("raudenbush1985", "~ weeks", c("study", "year")),
  preterm_random_effects = list("preterm_iq", "~ 1", c("study", "country")),
  preterm_regression = list("preterm_iq", "~ I(weeks - 40)", c("study", "country")),
  preterm_continent_regression = list(
    "preterm_iq", "~ continent + I(weeks - 40)", c("study", "country")
  )
)

one <- function(x) unbox(as.numeric(x)[1])

fit_model <- function(model) {
  data <- read_dataset(model[[1]])
  if (!is.null(data$continent)) data$continent <- factor(data$continent, c("Europe", "America", "Other"))
  fit <- rma(
    data$yi, data$vi, mods = as.formula(model[[2]]), data = data, method = "REML",
    control = list(threshold = 1e-13, maxiter = 10000)
  )
  list(fit = fit, data = data)
}

report_kind <- function(fit, groups, kind) {
  vcov <- vcovCR(fit, cluster = groups, type = kind)
  test <- coef_test(fit, vcov = vcov, cluster = groups, test = "Satterthwaite")
  interval <- conf_int(fit, vcov = vcov, cluster = groups, test = "Satterthwaite")
  found <- list(
    vcov = unname(as.matrix(vcov)), se = test$SE, statistic = test$tstat, df = test$df, pval = test$p_Satt,
    ci_lb = interval$CI_L, ci_ub = interval$CI_U
  )
  if (kind == "CR2" && fit$p > 1) {
    joint <- Wald_test(fit, constraints = constrain_zero(2:fit$p), vcov = vcov, cluster = groups, test = "HTZ")
    found$slopes <- list(
      statistic = one(joint$Fstat), df1 = one(joint$df_num), df2 = one(joint$df_denom), pval = one(joint$p_val)
    )
  }
  found
}

cases <- lapply(models, function(model) {
  made <- fit_model(model)
  fit <- made$fit
  by <- lapply(setNames(nm = model[[3]]), function(variable) {
    groups <- made$data[[variable]]
    kinds <- c(CR0 = "CR0", CR1 = "CR1", CR1p = "CR1p", CR1S = "CR1S", CR2 = "CR2")
    c(list(clusters = one(length(unique(groups)))), lapply(kinds, function(kind) report_kind(fit, groups, kind)))
  })
  list(
    dataset = unbox(model[[1]]), location = unbox(model[[2]]), method = unbox("REML"), tau2 = one(fit$tau2),
    term = rownames(fit$beta), estimate = as.numeric(fit$beta), clusters = by
  )
})

location_scale <- local({
  data <- read_dataset("bangertdrowns2004")
  fit <- rma(yi, vi, mods = ~ I(ni / 100), scale = ~ I(ni / 100), data = data)
  tryCatch(
    {
      vcov <- vcovCR(fit, cluster = data$author, type = "CR2")
      list(offered = unbox(TRUE), vcov = unname(as.matrix(vcov)))
    },
    error = function(problem) list(offered = unbox(FALSE), message = unbox(conditionMessage(problem)))
  )
})

versions <- lapply(
  c(R = "base", metafor = "metafor", clubSandwich = "clubSandwich"),
  function(name) unbox(as.character(packageVersion(name)))
)
written <- list(
  made_by = unbox("tests/reference/robust.R"), versions = versions, cases = cases, location_scale = location_scale
)
write(toJSON(written, digits = I(15), na = "null", null = "null"), target)
