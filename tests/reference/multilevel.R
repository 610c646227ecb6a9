# Reference numbers of models with several levels: metafor's rma.mv, nlme's lme and glmmTMB.
#
# Run from the root of the repository:  Rscript tests/reference/multilevel.R
# One or more sections alone:           Rscript tests/reference/multilevel.R metafor nlme
# Needs metafor, nlme, glmmTMB and jsonlite; writes tests/reference/multilevel.json. The section
# one_stage takes ten minutes (lme with 74 residual variances), the others seconds.
#
# Accuracy. rma.mv is run with three optimisers, and the highest log-likelihood is kept: good to about
# 1e-10, while variances, where the likelihood is flat to rounding, are good to about 1e-5 of
# themselves. sigma2 are in the order of the random part: the outer level first.

suppressPackageStartupMessages({
  library(metafor)
  library(nlme)
  library(glmmTMB)
  library(jsonlite)
})

folder <- "bayes_lsm/datasets"
target <- "tests/reference/multilevel.json"
optimisers <- list(
  list(optimizer = "nlminb", rel.tol = 1e-12, eval.max = 5000, iter.max = 5000),
  list(optimizer = "BFGS", reltol = 1e-15, maxit = 5000),
  list(optimizer = "Nelder-Mead", reltol = 1e-15, maxit = 20000)
)
one <- function(x) unbox(as.numeric(x))
read_dataset <- function(name) read.csv(file.path(folder, paste0(name, ".csv")), comment.char = "#")

# metafor ----------------------------------------------------------------------------------------------

describe <- function(fit) {
  statistics <- fitstats(fit)
  list(
    method = unbox(fit$method), k = one(fit$k), parms = one(fit$parms), logLik = one(logLik(fit)),
    AIC = one(statistics["AIC:", ]), BIC = one(statistics["BIC:", ]), AICc = one(statistics["AICc:", ]),
    term = rownames(fit$beta), estimate = as.numeric(fit$beta), se = fit$se, vcov = unname(fit$vb),
    sigma2 = fit$sigma2, tau2 = fit$tau2, rho = fit$rho, QE = one(fit$QE), QEp = one(fit$QEp)
  )
}
both <- function(...) {
  call <- match.call()
  call[[1]] <- quote(rma.mv)
  where <- parent.frame()
  lapply(c(REML = "REML", ML = "ML"), function(method) {
    call$method <- method
    fits <- lapply(optimisers, function(control) {
      call$control <- control
      tryCatch(suppressWarnings(eval(call, where)), error = function(problem) NULL)
    })
    fits <- Filter(Negate(is.null), fits)
    describe(fits[[which.max(sapply(fits, logLik))]])
  })
}

fit_metafor <- function() {
  schools <- read_dataset("konstantopoulos2011")
  schools$decade <- (schools$year - 1990) / 10
  crimes <- read_dataset("assink2016")
  crimes$deltype <- factor(crimes$deltype, levels = c("general", "overt", "covert"))
  gums <- read_dataset("berkey1998")
  gums$centred <- gums$year - 1983
  V <- vcalc(vi = 1, cluster = trial, rvars = c(v1i, v2i), data = gums)
  correlated <- vcalc(vi, cluster = study, obs = esid, data = crimes, rho = 0.6)
  list(
    schools = both(yi, vi, random = ~ 1 | district / school, data = schools),
    schools_year = both(yi, vi, mods = ~ decade, random = ~ 1 | district / school, data = schools),
    schools_crossed = both(yi, vi, random = list(~ 1 | district, ~ 1 | year, ~ 1 | study), data = schools),
    crimes = both(yi, vi, random = ~ 1 | study / id, data = crimes),
    crimes_moderators = both(yi, vi, mods = ~ year + deltype, random = ~ 1 | study / id, data = crimes),
    crimes_correlated = both(yi, correlated, random = ~ 1 | study / id, data = crimes),
    gums_UN = both(yi, V, mods = ~ 0 + outcome, random = ~ outcome | trial, struct = "UN", data = gums),
    gums_UN_year = both(
      yi, V, mods = ~ 0 + outcome + outcome:centred, random = ~ outcome | trial, struct = "UN", data = gums
    ),
    gums_DIAG = both(yi, V, mods = ~ 0 + outcome, random = ~ outcome | trial, struct = "DIAG", data = gums),
    gums_CS = both(yi, V, mods = ~ 0 + outcome, random = ~ outcome | trial, struct = "CS", data = gums),
    gums_HCS = both(yi, V, mods = ~ 0 + outcome, random = ~ outcome | trial, struct = "HCS", data = gums)
  )
}

# metafor: what is asked of a fit ------------------------------------------------------------------------

# Profiles are refits with a component held; their limits are the roots that confint finds of these.
describe_interval <- function(fit, which) {
  args <- c(list(fit, control = list(tol = 1e-8)), which)
  as.numeric(do.call(confint, args)$random[1, ])
}
describe_profile <- function(fit, which, xlim) {
  args <- c(list(fit, xlim = xlim, steps = 7, plot = FALSE, progbar = FALSE), which)
  found <- suppressWarnings(do.call(profile, args))
  list(value = found[[1]], loglik = found[["ll"]])
}
describe_robust <- function(fit) {
  list(vcov = matrix(as.numeric(fit$vb), nrow = fit$p), se = fit$se, df = as.numeric(fit$ddf), pval = fit$pval)
}
# `cluster` is looked up in the data, so that its name is put into the calls.
describe_residuals <- function(fit, cluster) {
  standard <- rstandard(fit)
  list(
    standard = list(resid = standard$resid, se = standard$se), hat = as.numeric(hatvalues(fit)),
    CR1 = describe_robust(eval(bquote(robust(fit, cluster = .(as.name(cluster)))))),
    CR2 = describe_robust(eval(bquote(robust(fit, cluster = .(as.name(cluster)), clubSandwich = TRUE))))
  )
}
describe_deletion <- function(fit, cluster) {
  student <- eval(bquote(rstudent(fit, cluster = .(as.name(cluster)), progbar = FALSE)))
  cook <- eval(bquote(cooks.distance(fit, cluster = .(as.name(cluster)), progbar = FALSE)))
  dfbs <- eval(bquote(dfbetas(fit, cluster = .(as.name(cluster)), progbar = FALSE)))
  list(
    cluster = names(cook), cook = as.numeric(cook), dfbetas = unname(as.matrix(dfbs)),
    resid = student$obs$resid, se = student$obs$se, X2 = student$cluster$X2
  )
}
fit_metafor_verbs <- function() {
  schools <- read_dataset("konstantopoulos2011")
  schools$decade <- (schools$year - 1990) / 10
  crimes <- read_dataset("assink2016")
  gums <- read_dataset("berkey1998")
  V <- vcalc(vi = 1, cluster = trial, rvars = c(v1i, v2i), data = gums)
  correlated <- vcalc(vi, cluster = study, obs = esid, data = crimes, rho = 0.6)
  one <- rma.mv(yi, vi, random = ~ 1 | district / school, data = schools)
  two <- rma.mv(yi, vi, mods = ~ decade, random = ~ 1 | district / school, data = schools)
  three <- rma.mv(yi, V, mods = ~ 0 + outcome, random = ~ outcome | trial, struct = "UN", data = gums)
  four <- rma.mv(yi, correlated, random = ~ 1 | study / id, data = crimes)
  list(
    schools = list(
      interval = list(describe_interval(one, list(sigma2 = 1)), describe_interval(one, list(sigma2 = 2))),
      profile = list(
        describe_profile(one, list(sigma2 = 1), c(0.02, 0.3)), describe_profile(one, list(sigma2 = 2), c(0.01, 0.1))
      )
    ),
    gums_UN = list(
      interval = list(
        describe_interval(three, list(tau2 = 1)), describe_interval(three, list(tau2 = 2)),
        describe_interval(three, list(rho = 1))
      ),
      profile = list(
        describe_profile(three, list(tau2 = 1), c(0.01, 0.2)), describe_profile(three, list(tau2 = 2), c(0.005, 0.1)),
        describe_profile(three, list(rho = 1), c(-0.6, 0.9))
      )
    ),
    schools_year = c(describe_residuals(two, "district"), describe_deletion(two, "district")),
    gums = describe_residuals(three, "trial"),
    crimes = c(describe_residuals(four, "study"), describe_deletion(four, "study"))
  )
}

# nlme and glmmTMB, individual scores ------------------------------------------------------------------

read_scores <- function() {
  scores <- read_dataset("preterm_iq_ipd")
  scores$study <- factor(scores$study)
  scores
}
describe_lme <- function(fit) {
  variances <- VarCorr(fit)
  table <- summary(fit)$tTable
  k <- length(fit$modelStruct$varStruct)
  list(
    method = unbox(fit$method), logLik = one(logLik(fit)), df = one(attr(logLik(fit), "df")), AIC = one(AIC(fit)),
    BIC = one(BIC(fit)), term = rownames(table), estimate = unname(table[, "Value"]),
    se = unname(table[, "Std.Error"]), df_t = unname(table[, "DF"]),
    sd_random = as.numeric(variances[-nrow(variances), "StdDev"]), sd_residual = one(fit$sigma),
    ratios = if (k > 0) coef(fit$modelStruct$varStruct, uncons = FALSE, allCoef = TRUE) else numeric(0),
    strata = if (k > 0) names(coef(fit$modelStruct$varStruct, uncons = FALSE, allCoef = TRUE)) else character(0)
  )
}
fit_lme <- function(data, method, ..., random = ~ 0 + atterm | study) {
  control <- lmeControl(
    maxIter = 500, msMaxIter = 1000, msMaxEval = 5000, niterEM = 50, tolerance = 1e-8, msTol = 1e-9
  )
  describe_lme(lme(
    iq ~ 0 + study + atterm, random = random, data = data, method = method, control = control, ...
  ))
}
fit_nlme <- function() {
  scores <- read_scores()
  arms <- varIdent(form = ~ 1 | group)
  list(
    common = list(REML = fit_lme(scores, "REML"), ML = fit_lme(scores, "ML")),
    by_arm = list(REML = fit_lme(scores, "REML", weights = arms), ML = fit_lme(scores, "ML", weights = arms))
  )
}
fit_one_stage <- function() {
  list(REML = fit_lme(read_scores(), "REML", weights = varIdent(form = ~ 1 | study * group)))
}

describe_glmmTMB <- function(fit) {
  table <- summary(fit)$coefficients
  list(
    logLik = one(logLik(fit)), df = one(attr(logLik(fit), "df")), AIC = one(AIC(fit)), BIC = one(BIC(fit)),
    term = rownames(table$cond), estimate = unname(table$cond[, "Estimate"]),
    se = unname(table$cond[, "Std. Error"]), sd_random = unname(attr(VarCorr(fit)$cond$study, "stddev")),
    correlation = unname(attr(VarCorr(fit)$cond$study, "correlation")),
    dispersion = unname(fit$fit$par[names(fit$fit$par) == "betad"])
  )
}
fit_glmmTMB <- function() {
  scores <- read_scores()
  methods <- c(REML = TRUE, ML = FALSE)
  each <- function(...) lapply(methods, function(reml) describe_glmmTMB(glmmTMB(..., data = scores, REML = reml)))
  list(
    by_arm = each(iq ~ 0 + study + atterm + (0 + atterm | study), dispformula = ~ atterm),
    correlated = each(iq ~ atterm + (1 + atterm | study), dispformula = ~ atterm)
  )
}

# ------------------------------------------------------------------------------------------------------

sections <- list(
  metafor = fit_metafor, metafor_verbs = fit_metafor_verbs, nlme = fit_nlme, glmmTMB = fit_glmmTMB, one_stage = fit_one_stage
)
asked <- commandArgs(trailingOnly = TRUE)
if (length(asked) == 0) asked <- names(sections)
as_json <- function(x) as.character(toJSON(x, digits = I(15), na = "null", null = "null"))
texts <- list()
if (file.exists(target)) {
  for (line in readLines(target, warn = FALSE)) {
    name <- sub('^"([a-zA-Z_0-9]+)":.*', "\\1", line)
    if (name %in% names(sections)) texts[[name]] <- sub(",$", "", sub('^"[a-zA-Z_0-9]+":', "", line))
  }
}
versions <- lapply(
  c(R = "base", metafor = "metafor", nlme = "nlme", glmmTMB = "glmmTMB"),
  function(name) unbox(as.character(packageVersion(name)))
)
for (name in asked) {
  texts[[name]] <- as_json(sections[[name]]())
  lines <- c(
    made_by = as_json(unbox("tests/reference/multilevel.R")), versions = as_json(versions),
    unlist(texts[intersect(names(sections), names(texts))])
  )
  lines <- sprintf('"%s":%s', names(lines), lines)
  writeLines(c("{", paste0(lines, c(rep(",", length(lines) - 1), "")), "}"), target)
}
