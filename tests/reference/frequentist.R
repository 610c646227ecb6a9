# Reference numbers of frequentist inference, from metafor: location-scale models beyond the plain fit,
# and the constant-variance models that stand beside them.
#
# Run from the root of the repository:  Rscript tests/reference/frequentist.R
# One or more sections alone:           Rscript tests/reference/frequentist.R predict permutation
# Needs metafor, numDeriv and jsonlite; writes tests/reference/frequentist.json. The permutation section
# takes most of the time.
#
# Accuracy. A log-link fit (and an identity-link fit with every tau^2 > 0) is made with several optimisers
# from several starts. The best point is then polished by Newton's method on the analytic score, so that
# its coefficients are exact to about 1e-10, and metafor evaluates the model at that very point (its
# optimiser is called with no iterations allowed). Log-likelihood, tests and tables are metafor's;
# standard errors of the scale coefficients come from numDeriv's Hessian (about 1e-9 relative,
# compare "vcov_scale_checked"). A fit whose likelihood is flat in some direction ("diverging" is
# not empty) is left where the best optimiser stopped: its coefficients, standard errors and tests mean
# nothing, its log-likelihood is a lower bound of the supremum; "limit" has the supremum itself.

suppressPackageStartupMessages({
  library(metafor)
  library(jsonlite)
})

folder <- "bayes_lsm/datasets"
target <- "tests/reference/frequentist.json"
methods <- c(REML = "REML", ML = "ML")
tests <- c(z = "z", t = "t", knha = "knha")

# Data and models --------------------------------------------------------------------------------------

read_dataset <- function(name) {
  read.csv(file.path(folder, paste0(name, ".csv")), comment.char = "#")
}

datasets <- c("bangertdrowns2004", "raudenbush1985", "bcg", "preterm_iq")
datasets <- setNames(lapply(datasets, read_dataset), datasets)
datasets$preterm_iq$continent <- factor(
  datasets$preterm_iq$continent, levels = c("Europe", "America", "Other")
)

location_scale_models <- list(
  bangertdrowns = c("bangertdrowns2004", "~ I(ni / 100)", "~ I(ni / 100)"),
  bangertdrowns_two_moderators = c(
    "bangertdrowns2004", "~ I(ni / 100)", "~ I(ni / 100) + I(year - 1990)"
  ),
  bcg = c("bcg", "~ I(ablat - 33)", "~ I(ablat - 33)"),
  bcg_factor = c("bcg", "~ alloc + I(ablat - 33)", "~ I(ablat - 33)"),
  bcg_alloc = c("bcg", "~ alloc", "~ alloc"),
  raudenbush = c("raudenbush1985", "~ weeks", "~ weeks"),
  raudenbush_setting = c("raudenbush1985", "~ tester", "~ setting"),
  preterm_weeks = c("preterm_iq", "~ I(weeks - 40)", "~ I(weeks - 40)"),
  preterm_scale_continent = c("preterm_iq", "~ I(weeks - 40)", "~ continent"),
  preterm_continent = c(
    "preterm_iq", "~ continent + I(weeks - 40)", "~ continent + I(weeks - 40)"
  )
)
one_moderator <- c("bangertdrowns", "bcg", "raudenbush", "preterm_weeks")

identity_models <- c(
  location_scale_models,
  list(raudenbush_scale_only = c("raudenbush1985", "~ 1", "~ weeks"))
)

constant_models <- list(
  bangertdrowns_random_effects = c("bangertdrowns2004", "~ 1"),
  bangertdrowns_regression = c("bangertdrowns2004", "~ I(ni / 100)"),
  bcg_random_effects = c("bcg", "~ 1"),
  bcg_regression = c("bcg", "~ I(ablat - 33)"),
  bcg_factor_regression = c("bcg", "~ alloc + I(ablat - 33)"),
  raudenbush_random_effects = c("raudenbush1985", "~ 1"),
  raudenbush_regression = c("raudenbush1985", "~ weeks"),
  preterm_random_effects = c("preterm_iq", "~ 1"),
  preterm_regression = c("preterm_iq", "~ I(weeks - 40)"),
  preterm_continent_regression = c("preterm_iq", "~ continent + I(weeks - 40)")
)

described <- function(model) {
  found <- list(dataset = unbox(model[1]), location = unbox(model[2]))
  if (length(model) > 2) found$scale <- unbox(model[3])
  found
}

# Small tools ------------------------------------------------------------------------------------------

one <- function(x) {
  if (is.null(x) || length(x) == 0) return(unbox(NA_real_))
  x <- x[1]
  unbox(if (is.character(x) || is.logical(x)) x else as.numeric(x))
}

plain <- function(x) as.numeric(unname(c(x)))

# Runs an expression; keeps its value, its error or its warnings, without colour codes and line breaks.
clean <- function(text) gsub("\\s+", " ", gsub("\033\\[[0-9;]*m", "", text))
attempt <- function(expression) {
  warnings <- character()
  value <- tryCatch(
    withCallingHandlers(expression, warning = function(w) {
      warnings <<- c(warnings, clean(conditionMessage(w)))
      invokeRestart("muffleWarning")
    }),
    error = function(problem) structure(clean(conditionMessage(problem)), class = "refused")
  )
  list(value = value, warnings = unique(warnings), refused = inherits(value, "refused"))
}

# Fits -------------------------------------------------------------------------------------------------

optimisers <- list(
  nlminb = list(optimizer = "nlminb", rel.tol = 1e-14, eval.max = 5000, iter.max = 5000),
  BFGS = list(optimizer = "BFGS", reltol = 1e-16, maxit = 5000),
  "Nelder-Mead" = list(optimizer = "Nelder-Mead", reltol = 1e-16, maxit = 20000),
  nlm = list(optimizer = "nlm", gradtol = 1e-10, steptol = 1e-12, iterlim = 5000)
)

fit_once <- function(model, method, control = list(), ...) {
  arguments <- list(
    quote(yi), quote(vi), mods = as.formula(model[2]), scale = as.formula(model[3]),
    data = datasets[[model[1]]], method = method, control = control, ...
  )
  tryCatch(suppressWarnings(do.call(rma, arguments)), error = function(problem) NULL)
}

matrices <- function(model) {
  data <- datasets[[model[1]]]
  Z <- model.matrix(as.formula(model[3]), data)
  colnames(Z) <- sub("(Intercept)", "intrcpt", colnames(Z), fixed = TRUE)
  list(y = data$yi, v = data$vi, X = model.matrix(as.formula(model[2]), data), Z = Z)
}

# The log-likelihood of alpha with beta profiled (ML) or integrated out (REML), and its gradient.
log_likelihood <- function(alpha, m, method, link) {
  tau2 <- c(m$Z %*% alpha)
  if (link == "log") tau2 <- exp(tau2)
  if (any(!is.finite(tau2)) || any(tau2 < 0)) return(-Inf)
  w <- 1 / (m$v + tau2)
  A <- crossprod(m$X, w * m$X)
  beta <- tryCatch(solve(A, crossprod(m$X, w * m$y)), error = function(problem) NULL)
  if (is.null(beta)) return(-Inf)
  value <- 0.5 * sum(log(w)) - 0.5 * sum(w * c(m$y - m$X %*% beta)^2)
  if (method == "ML") return(value - 0.5 * length(m$y) * log(2 * pi))
  value + 0.5 * c(determinant(crossprod(m$X))$modulus) - 0.5 * c(determinant(A)$modulus) -
    0.5 * (length(m$y) - ncol(m$X)) * log(2 * pi)
}

score <- function(alpha, m, method, link) {
  tau2 <- c(m$Z %*% alpha)
  if (link == "log") tau2 <- exp(tau2)
  w <- 1 / (m$v + tau2)
  inverse <- solve(crossprod(m$X, w * m$X))
  residual <- c(m$y - m$X %*% inverse %*% crossprod(m$X, w * m$y))
  trace <- if (method == "ML") w else w - w^2 * rowSums((m$X %*% inverse) * m$X)
  slope <- -0.5 * (trace - (w * residual)^2)
  c(crossprod(m$Z, slope * (if (link == "log") tau2 else 1)))
}

# Newton's method on the free coefficients; NULL unless it ends at a maximum no lower than it began.
polish <- function(alpha, m, method, link, free = rep(TRUE, length(alpha))) {
  start <- log_likelihood(alpha, m, method, link)
  reduced <- function(a) {
    full <- alpha
    full[free] <- a
    score(full, m, method, link)[free]
  }
  for (step in 1:50) {
    H <- numDeriv::jacobian(reduced, alpha[free])
    move <- tryCatch(-solve(H, reduced(alpha[free])), error = function(problem) NULL)
    if (is.null(move) || any(!is.finite(move))) return(NULL)
    if (all(abs(move) <= 1e-13 * pmax(1, abs(alpha[free])))) break
    alpha[free] <- alpha[free] + move
    if (!is.finite(log_likelihood(alpha, m, method, link))) return(NULL)
  }
  peak <- all(eigen(-(H + t(H)), symmetric = TRUE, only.values = TRUE)$values > 0)
  if (!peak || log_likelihood(alpha, m, method, link) < start - 1e-10) return(NULL)
  alpha
}

# The best of 60 starts: levels around the overall variance, slopes of up to 5 log units per SD.
scattered_search <- function(model, method, alpha, free) {
  set.seed(20)
  m <- matrices(model)
  spread <- apply(m$Z, 2, sd)
  value <- function(a) {
    found <- log_likelihood(replace(alpha, free, a), m, method, "log")
    if (is.finite(found)) -found else 1e10
  }
  gradient <- function(a) {
    found <- tryCatch(score(replace(alpha, free, a), m, method, "log")[free], error = function(problem) NA)
    if (anyNA(found)) rep(0, sum(free)) else -found
  }
  best <- alpha
  for (start in 1:60) {
    slopes <- ifelse(spread > 0, runif(length(spread), -5, 5) / pmax(spread, 1e-8), 0)
    centre <- log(var(m$y)) + runif(1, -4, 2) - sum(slopes * colMeans(m$Z))
    begin <- ifelse(spread > 0, slopes, centre)[free]
    found <- tryCatch(
      nlminb(begin, value, gradient, control = list(iter.max = 500))$par,
      error = function(problem) NULL
    )
    if (is.null(found)) next
    full <- replace(alpha, free, found)
    gain <- log_likelihood(full, m, method, "log") - log_likelihood(best, m, method, "log")
    if (is.finite(gain) && gain > 1e-8) best <- full
  }
  best
}

# The control that makes metafor evaluate the model at alpha, and go nowhere from there.
# numDeriv's steps are a share of the coefficient: near 0 they become so small that metafor's standard
# errors keep five digits only. For the log link the steps get a lower limit here.
stay <- function(alpha, link = "log") {
  if (link == "identity") return(list(optimizer = "constrOptim", reltol = 1e10, alpha.init = c(alpha)))
  list(
    optimizer = "BFGS", maxit = 0, alpha.init = c(alpha), hessianCtrl = list(r = 6, zero.tol = 0.5, eps = 0.1)
  )
}

# Which coefficients take part in a direction where the log-likelihood is flat (information below 1e-5).
diverging <- function(alpha, m, method, free = rep(TRUE, length(alpha))) {
  H <- numDeriv::jacobian(function(a) score(replace(alpha, free, a), m, method, "log")[free], alpha[free])
  decomposed <- eigen(-(H + t(H)) / 2, symmetric = TRUE)
  directions <- decomposed$vectors[, decomposed$values < 1e-5, drop = FALSE]
  replace(rep(FALSE, length(alpha)), which(free)[rowSums(abs(directions) > 0.1) > 0], TRUE)
}

# The limit that a divergent fit goes to: the diverging coefficients sent far out, the others polished.
limit_of <- function(alpha, m, method) {
  gone <- diverging(alpha, m, method)
  if (!any(gone) || all(gone)) return(NULL)
  far <- ifelse(gone, sign(alpha) * pmax(abs(alpha), 90), alpha)
  polished <- polish(far, m, method, "log", !gone)
  if (is.null(polished)) return(NULL)
  H <- numDeriv::jacobian(function(a) {
    score(replace(polished, !gone, a), m, method, "log")[!gone]
  }, polished[!gone])
  list(
    logLik = one(log_likelihood(polished, m, method, "log")), diverging = colnames(m$Z)[gone],
    direction = sign(alpha)[gone], term = colnames(m$Z)[!gone], alpha = polished[!gone],
    vcov = solve(-(H + t(H)) / 2), tau2 = exp(c(m$Z %*% polished))
  )
}

# The best log-link fit: list(fit, optimizer, alpha), with alpha polished unless the likelihood is flat.
fit_log <- function(model, method, test = "z", alpha = NULL) {
  q <- ncol(matrices(model)$Z)
  fixed <- if (is.null(alpha)) rep(NA_real_, q) else alpha
  free <- is.na(fixed)
  m <- matrices(model)
  best <- NULL
  try_from <- function(start, name) {
    control <- optimisers[[name]]
    if (!is.null(start)) control$alpha.init <- start
    fit <- fit_once(model, method, control, test = test, alpha = fixed)
    if (is.null(fit)) return()
    # A gain below 1e-8 is a step further out on a flat ridge, or nothing that polishing would not do.
    if (is.null(best) || logLik(fit) > logLik(best$fit) + 1e-8) best <<- list(fit = fit, optimizer = name)
  }
  if (all(!free)) {
    fit <- fit_once(model, method, stay(fixed), test = test, alpha = fixed)
    return(list(fit = fit, optimizer = "none", alpha = fixed, polished = FALSE, diverging = character()))
  }
  for (round in 1:3) {
    for (name in names(optimisers)) try_from(if (round > 1) c(best$fit$alpha), name)
  }
  # The best of many starts on the same log-likelihood, written with its gradient, is one more start.
  scattered <- scattered_search(model, method, c(best$fit$alpha), free)
  try_from(scattered, "nlminb")
  best$alpha <- c(best$fit$alpha)
  names <- rownames(best$fit$alpha)
  best$diverging <- names[diverging(best$alpha, m, method, free)]
  best$polished <- FALSE
  if (length(best$diverging) > 0) return(best)
  polished <- polish(best$alpha, m, method, "log", free)
  fit <- if (!is.null(polished)) fit_once(model, method, stay(polished), test = test, alpha = fixed)
  if (is.null(fit)) return(best)
  list(
    fit = fit, optimizer = best$optimizer, alpha = polished, diverging = character(), polished = TRUE
  )
}

fitted_models <- new.env()
best_fit <- function(model, method) {
  key <- paste(c(model, method), collapse = "|")
  if (is.null(fitted_models[[key]])) fitted_models[[key]] <- fit_log(model, method)
  fitted_models[[key]]
}

# The best fit with another test: the same point, no new search.
fit_at_best <- function(model, method, test) {
  fit_once(model, method, stay(best_fit(model, method)$alpha), test = test)
}

# Fisher scoring as tight as rounding lets it be: it can end in a cycle of the last digits.
# Refits of such a fit (influence, leave-one-out) fail silently there: they get a looser threshold.
fit_constant <- function(model, method, test = "z", thresholds = c(1e-14, 1e-13, 1e-12, 1e-10)) {
  for (threshold in thresholds) {
    arguments <- list(
      quote(yi), quote(vi), mods = as.formula(model[2]), data = datasets[[model[1]]], method = method,
      test = test, control = list(threshold = threshold, maxiter = 10000, tol = 1e-14)
    )
    fit <- tryCatch(do.call(rma, arguments), error = function(problem) NULL)
    if (!is.null(fit)) return(fit)
  }
  stop("no convergence: ", model[1], " ", model[2], " ", method)
}

# Reports ----------------------------------------------------------------------------------------------

table_of <- function(fit, part) {
  suffix <- if (part == "scale") ".alpha" else ""
  get <- function(what) plain(fit[[paste0(what, suffix)]])
  estimate <- if (part == "scale") fit$alpha else fit$beta
  list(
    term = rownames(estimate), estimate = plain(estimate), se = get("se"), statistic = get("zval"),
    df = one(fit[[paste0("ddf", suffix)]]), pval = get("pval"), ci_lb = get("ci.lb"), ci_ub = get("ci.ub")
  )
}

omnibus <- function(statistic, df, pval) {
  df <- plain(df)
  list(statistic = one(statistic), df1 = one(df[1]), df2 = one(df[2]), pval = one(pval))
}

criteria <- function(fit, method) {
  stats <- setNames(fit$fit.stats[[method]], rownames(fit$fit.stats))
  list(
    k = one(fit$k), parms = one(fit$parms), logLik = one(stats["ll"]), deviance = one(stats["dev"]),
    AIC = one(stats["AIC"]), BIC = one(stats["BIC"]), AICc = one(stats["AICc"])
  )
}

report_tests <- function(fit) {
  list(
    location = table_of(fit, "location"), scale = table_of(fit, "scale"),
    QM = omnibus(fit$QM, fit$QMdf, fit$QMp), QS = omnibus(fit$QS, fit$QSdf, fit$QSp), s2w = one(fit$s2w)
  )
}

written_call <- function(model, arguments) {
  unbox(sprintf(
    "rma(yi, vi, mods = %s, scale = %s, data = %s, %s)", model[2], model[3], model[1], arguments
  ))
}

# Section: fits ----------------------------------------------------------------------------------------

# "vcov_scale_checked" is the inverse of the negative Jacobian of the analytic score.
checked_vcov <- function(best, model, method) {
  if (!best$polished) return(matrix(NA_real_, length(best$alpha), length(best$alpha)))
  m <- matrices(model)
  H <- numDeriv::jacobian(function(a) score(a, m, method, "log"), best$alpha)
  solve(-(H + t(H)) / 2)
}

# What metafor's default settings give: how far a user's fit is from the best one.
default_fit <- function(model, method) {
  fit <- fit_once(model, method)
  m <- matrices(model)
  limit <- limit_of(c(fit$alpha), m, method)
  c(
    list(
      logLik = one(logLik(fit)), alpha = plain(fit$alpha), se_alpha = plain(fit$se.alpha), beta = plain(fit$beta),
      se_beta = plain(fit$se)
    ),
    if (!is.null(limit)) list(limit = limit)
  )
}

section_fits <- function() {
  lapply(location_scale_models, function(model) {
    report <- function(method) {
      best <- best_fit(model, method)
      fit <- best$fit
      c(
        list(
          call = written_call(model, sprintf('method = "%s", test = ...', method)),
          optimizer = one(best$optimizer), polished = one(best$polished), diverging = best$diverging
        ),
        criteria(fit, method),
        list(
          QE = omnibus(fit$QE, c(fit$k - fit$p, NA), fit$QEp), vcov_location = unname(fit$vb),
          vcov_scale = unname(fit$va), vcov_scale_checked = checked_vcov(best, model, method),
          tau2 = plain(fit$tau2), vt = one(fit$vt), I2 = plain(fit$I2),
          H2 = plain(fit$H2), tests = lapply(tests, function(test) {
            report_tests(fit_at_best(model, method, test))
          }),
          default = default_fit(model, method)
        ),
        if (length(best$diverging) > 0) list(limit = limit_of(best$alpha, matrices(model), method))
      )
    }
    c(described(model), lapply(methods, report))
  })
}

# Section: identity link -------------------------------------------------------------------------------
#
# metafor's constrOptim works inside tau^2 > 0 and can only come near a solution where some tau^2 are 0.
# For such a fit "boundary" gives the solution itself: the coefficients that make those tau^2 exactly 0
# and maximise the log-likelihood over what is left; every multiplier (the slope of the log-likelihood
# into the feasible region, with the sign that makes a maximum negative) is checked.

fit_identity_starts <- function(model, method) {
  best <- NULL
  try_from <- function(start) {
    control <- list(optimizer = "constrOptim", reltol = 1e-14, maxit = 5000)
    if (!is.null(start)) control$alpha.init <- start
    fit <- fit_once(model, method, control, link = "identity")
    if (is.null(fit)) return()
    if (is.null(best) || logLik(fit) > logLik(best)) best <<- fit
  }
  m <- matrices(model)
  try_from(NULL)
  level <- max(fit_constant(model, method)$tau2, 1e-3 * mean(m$v)) + 0.01
  for (scale in c(0.1, 1, 10)) {
    try_from(c(level * scale, rep(0, ncol(m$Z) - 1)))
    # A slope of either sign that leaves every tau^2 positive.
    for (j in seq_len(ncol(m$Z))[-1]) {
      for (sign in c(-1, 1)) {
        start <- rep(0, ncol(m$Z))
        start[j] <- sign * level * scale / sd(m$Z[, j])
        start[1] <- 0.01 * level * scale - min(m$Z[, j] * start[j])
        try_from(start)
      }
    }
  }
  for (round in 1:4) {
    # constrOptim needs a start strictly inside: pull the best point a little towards a constant tau^2.
    inside <- c(mean(best$tau2), rep(0, ncol(m$Z) - 1))
    try_from(0.99 * c(best$alpha) + 0.01 * inside)
  }
  best
}

null_space <- function(A) {
  decomposed <- svd(A, nv = ncol(A))
  rank <- sum(decomposed$d > 1e-10 * max(decomposed$d))
  decomposed$v[, seq_len(ncol(A))[-seq_len(rank)], drop = FALSE]
}

solve_boundary <- function(alpha, m, method, active) {
  A <- unique(m$Z[active, , drop = FALSE])
  N <- null_space(A)
  if (ncol(N) == 0) return(NULL)
  reduced <- m
  reduced$Z <- m$Z %*% N
  # Rounding must not make a tau^2 that is 0 negative.
  reduced$Z[abs(reduced$Z) < 1e-12 * max(abs(reduced$Z))] <- 0
  gamma <- c(crossprod(N, alpha))
  value <- function(g) {
    found <- log_likelihood(g, reduced, method, "identity")
    if (is.finite(found)) -found else 1e10
  }
  for (round in 1:5) {
    gamma <- suppressWarnings(
      optim(gamma, value, method = "Nelder-Mead", control = list(reltol = 1e-16, maxit = 20000))$par
    )
  }
  polished <- polish(gamma, reduced, method, "identity")
  if (!is.null(polished)) gamma <- polished
  solution <- c(N %*% gamma)
  slope <- score(solution, m, method, "identity")
  # slope = -t(A) multipliers, all of them > 0 at a maximum.
  multipliers <- -qr.solve(t(A), slope)
  tau2 <- c(reduced$Z %*% gamma)
  list(
    alpha = solution, logLik = one(log_likelihood(gamma, reduced, method, "identity")), tau2 = tau2,
    zero = which(tau2 <= 0), feasible = one(all(tau2 >= 0)), polished = one(!is.null(polished)),
    multipliers = -multipliers, is_maximum = one(all(multipliers > 0))
  )
}

section_identity <- function() {
  lapply(identity_models, function(model) {
    report <- function(method) {
      m <- matrices(model)
      fit <- fit_identity_starts(model, method)
      small <- which(fit$tau2 < 1e-3 * mean(fit$tau2))
      found <- list(
        call = written_call(model, sprintf('method = "%s", link = "identity"', method)),
        optimizer = one("constrOptim"), at_boundary = one(length(small) > 0)
      )
      polished <- if (length(small) == 0) polish(c(fit$alpha), m, method, "identity")
      if (!is.null(polished)) {
        fit <- fit_once(model, method, stay(polished, "identity"), link = "identity")
      }
      found$polished <- one(!is.null(polished))
      found <- c(found, criteria(fit, method), report_tests(fit), list(tau2 = plain(fit$tau2)))
      found$default_logLik <- one(logLik(fit_once(model, method, link = "identity")))
      if (length(small) > 0) found$boundary <- solve_boundary(c(fit$alpha), m, method, small)
      found
    }
    c(described(model), lapply(methods, report))
  })
}

# Section: fixed scale coefficients --------------------------------------------------------------------

fixed_alphas <- list(
  bangertdrowns = list(c(NA, -0.5), c(NA, 0), c(-2, NA), c(-2, -0.5)),
  bangertdrowns_two_moderators = list(c(NA, -0.5, NA), c(NA, -0.5, 0.05), c(-2, NA, 0.05)),
  bcg = list(c(NA, 0.05), c(-2.5, NA), c(-2.5, 0.05)),
  raudenbush = list(c(NA, -0.3), c(-2, NA)),
  preterm_weeks = list(c(NA, -0.2), c(-1, NA), c(-1, -0.2)),
  preterm_continent = list(c(NA, NA, -2, NA), c(-3, -1, -2, -0.5))
)

section_fixed_alpha <- function() {
  mapply(function(name, settings) {
    model <- location_scale_models[[name]]
    lapply(settings, function(alpha) {
      shown <- paste0("c(", paste(ifelse(is.na(alpha), "NA", alpha), collapse = ", "), ")")
      c(described(model), list(alpha = alpha), lapply(methods, function(method) {
        best <- fit_log(model, method, alpha = alpha)
        fit <- best$fit
        c(
          list(
            call = written_call(model, sprintf('method = "%s", alpha = %s', method, shown)),
            optimizer = one(best$optimizer), diverging = best$diverging
          ),
          criteria(fit, method), report_tests(fit), list(tau2 = plain(fit$tau2))
        )
      }))
    })
  }, names(fixed_alphas), fixed_alphas, SIMPLIFY = FALSE)
}

# Section: likelihood-ratio tests ----------------------------------------------------------------------
#
# Each comparison: the full model, the reduced one, and what anova(full, reduced) says.

comparisons <- list(
  bangertdrowns = list(
    scale_slope = c("~ I(ni / 100)", "~ 1"), both_slopes = c("~ 1", "~ 1"),
    location_slope = c("~ 1", "~ I(ni / 100)")
  ),
  bangertdrowns_two_moderators = list(
    both_scale_slopes = c("~ I(ni / 100)", "~ 1"), year = c("~ I(ni / 100)", "~ I(ni / 100)")
  ),
  bcg = list(scale_slope = c("~ I(ablat - 33)", "~ 1"), location_slope = c("~ 1", "~ I(ablat - 33)")),
  bcg_factor = list(scale_slope = c("~ alloc + I(ablat - 33)", "~ 1")),
  bcg_alloc = list(scale_alloc = c("~ alloc", "~ 1")),
  raudenbush = list(scale_slope = c("~ weeks", "~ 1")),
  preterm_weeks = list(scale_slope = c("~ I(weeks - 40)", "~ 1")),
  preterm_scale_continent = list(scale_continent = c("~ I(weeks - 40)", "~ 1")),
  preterm_continent = list(
    scale_continent = c("~ continent + I(weeks - 40)", "~ I(weeks - 40)"),
    scale_all = c("~ continent + I(weeks - 40)", "~ 1")
  )
)

section_lrt <- function() {
  mapply(function(name, reductions) {
    full <- location_scale_models[[name]]
    lapply(reductions, function(reduction) {
      reduced <- c(full[1], reduction)
      c(
        described(full), list(reduced_location = unbox(reduced[2]), reduced_scale = unbox(reduced[3])),
        lapply(methods, function(method) {
          test <- attempt(anova(best_fit(full, method)$fit, best_fit(reduced, method)$fit))
          found <- test$value
          list(
            full = c(list(df = one(found$parms.f)), lapply(as.list(found$fit.stats.f), unbox)),
            reduced = c(list(df = one(found$parms.r)), lapply(as.list(found$fit.stats.r), unbox)),
            LRT = one(found$LRT), pval = one(found$pval), QE_full = one(found$QE.f),
            QE_reduced = one(found$QE.r), warnings = test$warnings,
            diverging = best_fit(full, method)$diverging
          )
        })
      )
    })
  }, names(comparisons), comparisons, SIMPLIFY = FALSE)
}

# Section: Wald tests of coefficients and of linear combinations ---------------------------------------

wald_cases <- list(
  bangertdrowns = list(
    btt = list(2, 1:2), att = list(2, 1:2), X = list(c(1, 0.5), rbind(c(1, 0.5), c(1, 4))),
    Z = list(c(1, 0.5), rbind(c(1, 0.5), c(0, 1)))
  ),
  bangertdrowns_two_moderators = list(
    att = list(2, 3, 2:3, 1:3), Z = list(c(0, 1, -1), rbind(c(1, 2, -5), c(0, 1, 0)))
  ),
  bcg_factor = list(
    btt = list(2:3, 4, 2:4), X = list(c(0, 1, -1, 0), rbind(c(1, 1, 0, 10), c(1, 0, 1, 10)))
  ),
  bcg_alloc = list(
    btt = list(2:3), att = list(2:3), Z = list(c(0, 1, -1), rbind(c(1, 0, 0), c(1, 1, 0), c(1, 0, 1)))
  ),
  raudenbush = list(att = list(2), btt = list(2), Z = list(c(1, 2))),
  preterm_weeks = list(att = list(2), btt = list(2), X = list(c(1, -10)), Z = list(c(1, -10)))
)

section_wald <- function() {
  report <- function(fit, argument, value) {
    # anova() would put an intercept before a row one short: always the full length here.
    call <- setNames(list(fit, value), c("object", argument))
    found <- do.call(anova, call)
    scale <- argument %in% c("att", "Z")
    joint <- if (scale) omnibus(found$QS, found$QSdf, found$QSp)
      else omnibus(found$QM, found$QMdf, found$QMp)
    out <- list(argument = unbox(argument), value = if (is.matrix(value)) value else c(value), joint = joint)
    if (argument %in% c("X", "Z")) {
      out <- c(out, list(
        estimate = plain(if (scale) found$Za else found$Xb), se = plain(found$se),
        statistic = plain(found$zval), pval = plain(found$pval), df = plain(found$ddf)[1]
      ))
    }
    out
  }
  mapply(function(name, arguments) {
    model <- location_scale_models[[name]]
    c(described(model), lapply(methods, function(method) lapply(tests, function(test) {
      fit <- fit_at_best(model, method, test)
      unlist(lapply(names(arguments), function(argument) {
        lapply(arguments[[argument]], function(value) report(fit, argument, value))
      }), recursive = FALSE)
    })))
  }, names(wald_cases), wald_cases, SIMPLIFY = FALSE)
}

# Section: profile likelihood --------------------------------------------------------------------------
#
# metafor refits the model at every point with the control settings of the fit; a refit that ends short of
# its maximum, or with "false convergence", spoils a bound. So each interval is asked for with three
# optimisers (from the best point), searched within 15 standard errors, and the bound whose deviance (twice
# the drop of the log-likelihood, the other coefficients sought again from many starts) is nearest to
# 3.841458820694124 is kept: "deviance_lb" and "deviance_ub" say how near. A sign "<" or ">" means that the
# interval reaches to the end of the search: no finite bound. A bound without a sign and with a deviance
# below 3.84 is none either: metafor's root search ended where its refits broke down.
# "checked_lb" and "checked_ub" do not come from metafor: they are roots of the deviance itself, null where
# it stays below 3.84 all the way out. "logLik_checked" is the profile from many starts.

profile_controls <- list(
  BFGS = list(optimizer = "BFGS", reltol = 1e-15, maxit = 2000),
  "Nelder-Mead" = list(optimizer = "Nelder-Mead", reltol = 1e-15, maxit = 5000),
  nlminb = list(optimizer = "nlminb")
)
cutoff <- qchisq(0.95, 1)

# What was found at other values of the same coefficient, as starts for its neighbours.
memory <- new.env()

constrained_maximum <- function(m, method, j, value, alpha) {
  free <- seq_len(ncol(m$Z)) != j
  objective <- function(a) {
    found <- log_likelihood(replace(replace(alpha, j, value), free, a), m, method, "log")
    if (is.finite(found)) -found else 1e10
  }
  gradient <- function(a) {
    found <- tryCatch(
      score(replace(replace(alpha, j, value), free, a), m, method, "log")[free],
      error = function(problem) NA
    )
    if (anyNA(found)) rep(0, sum(free)) else -found
  }
  # Starts: the free coefficients that come nearest to a wanted log tau^2 in every study.
  set.seed(7)
  largest <- pmax(apply(abs(m$Z), 2, max), 1e-8)
  level <- log(var(m$y))
  wanted <- c(
    list(c(m$Z %*% alpha)), lapply(level + c(-25, -5, -2, 0, 2), rep, length(m$y)),
    lapply(1:4, function(i) level + c(m$Z %*% (runif(length(alpha), -3, 3) / largest)))
  )
  starts <- c(list(alpha[free]), lapply(wanted, function(target) {
    qr.solve(m$Z[, free, drop = FALSE], target - m$Z[, j] * value)
  }))
  known <- memory[[as.character(j)]]
  if (length(known) > 0) {
    near <- known[order(sapply(known, function(point) abs(point$value - value)))]
    starts <- c(starts, list(near[[1]]$par))
    if (length(near) > 1 && near[[1]]$value != near[[2]]$value) {
      slope <- (near[[1]]$par - near[[2]]$par) / (near[[1]]$value - near[[2]]$value)
      starts <- c(starts, list(near[[1]]$par + slope * (value - near[[1]]$value)))
    }
  }
  found <- lapply(starts, function(begin) {
    tryCatch(
      nlminb(begin, objective, gradient, control = list(rel.tol = 1e-14)),
      error = function(problem) list(objective = 1e10)
    )
  })
  best <- found[[which.min(sapply(found, function(x) x$objective))]]
  if (best$objective >= 1e10) return(NA_real_)
  memory[[as.character(j)]] <- c(known, list(list(value = value, par = best$par)))
  -best$objective
}

deviance_at <- function(best, m, method, j, value) {
  if (is.na(value)) return(NA_real_)
  2 * (log_likelihood(best$alpha, m, method, "log") - constrained_maximum(m, method, j, value, best$alpha))
}

checked_bound <- function(best, m, method, j, side) {
  height <- function(value) deviance_at(best, m, method, j, value) - cutoff
  furthest <- best$alpha[j] + side * 300 / max(abs(m$Z[, j]))
  inner <- best$alpha[j]
  step <- 0.25 * min(5, abs(furthest - inner))
  for (i in 1:20) {
    outer <- inner + side * step
    if (side * (outer - furthest) > 0) outer <- furthest
    here <- height(outer)
    if (!is.na(here) && here > 0) {
      root <- tryCatch(
        uniroot(height, sort(c(inner, outer)), tol = 1e-12, maxiter = 200)$root, error = function(problem) NA
      )
      # A jump is no root: some refit was trapped.
      if (is.na(root) || abs(height(root)) > 1e-6) return(NA_real_)
      return(root)
    }
    if (outer == furthest || is.na(here)) return(NA_real_)
    inner <- outer
    step <- 1.7 * step
  }
  NA_real_
}

section_profile <- function() {
  names <- setdiff(names(location_scale_models), c("preterm_scale_continent", "raudenbush_setting"))
  report <- function(model, method) {
    best <- best_fit(model, method)
    m <- matrices(model)
    rm(list = ls(memory), envir = memory)
    fits <- lapply(profile_controls, function(control) {
      fit_once(model, method, c(control, list(alpha.init = best$alpha)))
    })
    fits <- fits[!sapply(fits, is.null)]
    report_coefficient <- function(j) {
      reach <- 15 * sqrt(diag(checked_vcov(best, model, method)))[j]
      search <- list(tol = 1e-11)
      if (is.finite(reach)) {
        search <- c(search, list(vc.min = best$alpha[j] - reach, vc.max = best$alpha[j] + reach))
      }
      asked <- lapply(fits, function(fit) attempt(confint(fit, alpha = j, control = search)))
      asked <- asked[!sapply(asked, function(x) x$refused)]
      pick <- function(position, sign) {
        values <- sapply(asked, function(x) plain(x$value$random)[position])
        signs <- sapply(asked, function(x) x$value[[sign]])
        drops <- sapply(values, function(value) deviance_at(best, m, method, j, value))
        if (all(is.na(drops))) return(list(NA_real_, "", NA_real_, NA_character_))
        # A bound that was reached comes before one that only says how far the search went.
        order <- order(signs != "", abs(drops - cutoff))[1]
        list(values[[order]], signs[[order]], drops[[order]], names(asked)[order])
      }
      lower <- pick(2, "lb.sign")
      upper <- pick(3, "ub.sign")
      grids <- lapply(fits, function(fit) {
        attempt(profile(fit, alpha = j, steps = 9, progbar = FALSE, plot = FALSE))
      })
      grids <- grids[!sapply(grids, function(x) x$refused)]
      values <- plain(grids[[1]]$value$alpha)
      heights <- do.call(cbind, lapply(grids, function(x) plain(x$value$ll)))
      best_heights <- apply(heights, 1, function(x) if (all(is.na(x))) NA_real_ else max(x, na.rm = TRUE))
      list(
        term = unbox(colnames(m$Z)[j]), estimate = one(best$alpha[j]), ci_lb = one(lower[[1]]),
        ci_ub = one(upper[[1]]), lb_sign = one(lower[[2]]), ub_sign = one(upper[[2]]),
        deviance_lb = one(lower[[3]]), deviance_ub = one(upper[[3]]), lb_optimizer = one(lower[[4]]),
        ub_optimizer = one(upper[[4]]), checked_lb = one(checked_bound(best, m, method, j, -1)),
        checked_ub = one(checked_bound(best, m, method, j, 1)),
        profile = list(
          alpha = values, logLik = best_heights, logLik_checked = sapply(values, function(value) {
            constrained_maximum(m, method, j, value, best$alpha)
          })
        )
      )
    }
    list(
      logLik = one(log_likelihood(best$alpha, m, method, "log")), diverging = best$diverging,
      alpha = lapply(seq_along(best$alpha), report_coefficient)
    )
  }
  lapply(setNames(nm = names), function(name) {
    model <- location_scale_models[[name]]
    # The divergent model has two ridges and gets one method only.
    asked <- if (name == "preterm_continent") methods["REML"] else methods
    c(described(model), lapply(asked, function(method) report(model, method)))
  })
}

section_tau2_intervals <- function() {
  lapply(constant_models, function(model) {
    types <- c(QP = "QP", PL = "PL")
    c(described(model), lapply(methods, function(method) {
      fit <- fit_constant(model, method)
      lapply(types, function(type) {
        interval <- attempt(confint(fit, type = type, control = list(tol = 1e-13, maxiter = 100000)))
        found <- interval$value$random
        values <- lapply(setNames(1:4, c("tau2", "tau", "I2", "H2")), function(row) {
          list(estimate = one(found[row, 1]), ci_lb = one(found[row, 2]), ci_ub = one(found[row, 3]))
        })
        c(values, list(lb_sign = one(interval$value$lb.sign), warnings = interval$warnings))
      })
    }))
  })
}

# Section: predictions ---------------------------------------------------------------------------------

prediction_points <- list(
  bangertdrowns = list(mods = cbind(c(0.2, 1, 5)), scale = cbind(c(0.2, 1, 5))),
  bangertdrowns_two_moderators = list(
    mods = cbind(c(0.2, 1, 5)), scale = cbind(c(0.2, 1, 5), c(-5, 0, 6))
  ),
  bcg = list(mods = cbind(c(-20, 0, 20)), scale = cbind(c(-20, 0, 20))),
  bcg_factor = list(
    mods = cbind(c(1, 0, 0), c(0, 1, 0), c(-20, 0, 20)), scale = cbind(c(-20, 0, 20))
  ),
  bcg_alloc = list(mods = cbind(c(0, 1, 0), c(0, 0, 1)), scale = cbind(c(0, 1, 0), c(0, 0, 1))),
  raudenbush = list(mods = cbind(c(0, 2, 10)), scale = cbind(c(0, 2, 10))),
  preterm_weeks = list(mods = cbind(c(-14, -10, -6)), scale = cbind(c(-14, -10, -6)))
)

section_predict <- function() {
  columns <- function(found) {
    names <- intersect(c("pred", "se", "ci.lb", "ci.ub", "pi.lb", "pi.ub"), names(found))
    setNames(lapply(names, function(name) plain(found[[name]])), sub(".", "_", names, fixed = TRUE))
  }
  mapply(function(name, points) {
    model <- location_scale_models[[name]]
    mods <- if (ncol(points$mods) == 1) c(points$mods) else points$mods
    scale <- if (ncol(points$scale) == 1) c(points$scale) else points$scale
    c(described(model), list(newmods = points$mods, newscale = points$scale), lapply(methods, function(method) {
      lapply(tests, function(test) {
        fit <- fit_at_best(model, method, test)
        both <- predict(fit, newmods = mods, newscale = scale)
        list(
          both = c(columns(both), list(pi_df = one(both$pi.ddf))),
          both_riley = columns(predict(fit, newmods = mods, newscale = scale, pi.type = "riley")),
          location_only = columns(predict(fit, newmods = mods)),
          log_tau2 = columns(predict(fit, newscale = scale)),
          tau = columns(predict(fit, newscale = scale, transf = function(x) exp(x / 2))),
          studies = columns(predict(fit))
        )
      })
    }))
  }, names(prediction_points), prediction_points, SIMPLIFY = FALSE)
}

# Section: permutation tests ---------------------------------------------------------------------------
#
# These use metafor's default optimiser settings for the fit and for all its refits, as a user would.
# metafor counts the observed data as the first permutation. "mc_se" is sqrt(p (1 - p) / iterations).

permutation_models <- location_scale_models[c("bangertdrowns", "bcg", "raudenbush", "preterm_weeks")]
iterations <- 2000

exact_cases <- list(
  bcg_six = list(
    dataset = "bcg", rows = c(4, 6, 8, 9, 11, 13), location = "~ 1", scale = "~ I(ablat - 33)"
  ),
  preterm_six = list(
    dataset = "preterm_iq", rows = c(6, 8, 18, 24, 27, 35), location = "~ 1", scale = "~ I(weeks - 40)"
  ),
  preterm_six_location = list(
    dataset = "preterm_iq", rows = c(6, 8, 18, 24, 27, 35), location = "~ I(weeks - 40)", scale = "~ 1"
  )
)

section_permutation <- function() {
  report_part <- function(found, observed, part) {
    suffix <- if (part == "scale") ".alpha" else ""
    null <- as.matrix(found[[paste0("zval", suffix, ".perm")]])
    pval <- plain(found[[paste0("pval", suffix)]])
    joint <- if (part == "scale") found$QSp else found$QMp
    n <- nrow(null)
    list(
      permutations = one(n), failed = one(sum(is.na(null[, 1]))),
      statistic = plain(found[[paste0("zval", suffix)]]), pval = pval, mc_se = sqrt(pval * (1 - pval) / n),
      joint_statistic = one(if (part == "scale") found$QS else found$QM), joint_pval = one(joint),
      null_probabilities = c(0.05, 0.25, 0.5, 0.75, 0.95),
      null_quantiles = t(apply(null, 2, quantile, c(0.05, 0.25, 0.5, 0.75, 0.95), na.rm = TRUE, names = FALSE))
    )
  }
  timed <- function(expression) {
    start <- proc.time()[["elapsed"]]
    value <- suppressWarnings(expression)
    list(value = value, seconds = proc.time()[["elapsed"]] - start)
  }
  approximate <- lapply(permutation_models, function(model) {
    fit <- suppressWarnings(fit_once(model, "REML"))
    location <- timed(permutest(fit, iter = iterations, progbar = FALSE, seed = 1234, skip.alpha = TRUE))
    scale <- timed(permutest(fit, iter = iterations, progbar = FALSE, seed = 1234, skip.beta = TRUE))
    c(
      described(model),
      list(
        method = one("REML"), test = one("z"), seed = one(1234),
        location_test = report_part(location$value, fit, "location"),
        scale_test = report_part(scale$value, fit, "scale"),
        seconds_per_1000 = list(
          location = one(1000 / iterations * location$seconds), scale = one(1000 / iterations * scale$seconds)
        )
      )
    )
  })
  exact <- lapply(exact_cases, function(case) {
    data <- datasets[[case$dataset]][case$rows, ]
    fit <- rma(
      yi, vi, mods = as.formula(case$location), scale = as.formula(case$scale), data = data
    )
    found <- timed(permutest(fit, exact = TRUE, progbar = FALSE))
    by_coefficient <- suppressWarnings(
      permutest(fit, exact = TRUE, progbar = FALSE, control = list(stat = "coef"))
    )
    out <- list(
      dataset = one(case$dataset), rows = case$rows, location = one(case$location), scale = one(case$scale),
      method = one("REML"), test = one("z"), logLik = one(logLik(fit)), beta = plain(fit$beta),
      alpha = plain(fit$alpha), seconds = one(found$seconds),
      location_test = report_part(found$value, fit, "location"),
      location_pval_by_coefficient = plain(by_coefficient$pval)
    )
    if (!fit$Z.int.only) {
      out$scale_test <- report_part(found$value, fit, "scale")
      out$scale_pval_by_coefficient <- plain(by_coefficient$pval.alpha)
    }
    out
  })
  list(approximate = approximate, exact = exact)
}

section_timing <- function() {
  lapply(location_scale_models, function(model) lapply(methods, function(method) {
    control <- list()
    start <- proc.time()[["elapsed"]]
    for (i in 1:20) fit_once(model, method, control)
    one((proc.time()[["elapsed"]] - start) / 20)
  }))
}

# Section: constant heterogeneity ----------------------------------------------------------------------

section_estimators <- function() {
  estimators <- c("DL", "HE", "SJ", "PM", "EB", "ML", "REML")
  lapply(constant_models, function(model) {
    c(described(model), lapply(setNames(nm = estimators), function(method) {
      fit <- fit_constant(model, method)
      knha <- fit_constant(model, method, "knha")
      kept <- if (method %in% c("ML", "REML")) criteria(fit, method) else list(k = one(fit$k))
      c(kept, list(
        tau2 = one(fit$tau2), se_tau2 = one(fit$se.tau2), I2 = one(fit$I2), H2 = one(fit$H2), R2 = one(fit$R2),
        vt = one(fit$vt), QE = omnibus(fit$QE, c(fit$k - fit$p, NA), fit$QEp),
        QM = omnibus(fit$QM, fit$QMdf, fit$QMp), location = table_of(fit, "location"),
        knha = list(QM = omnibus(knha$QM, knha$QMdf, knha$QMp), location = table_of(knha, "location"))
      ))
    }))
  })
}

# Section: influence, residuals and random effects of constant-heterogeneity models --------------------

without_labels <- function(found) {
  kept <- found[setdiff(names(found), c("slab", "digits", "transf"))]
  names(kept) <- sub(".", "_", names(kept), fixed = TRUE)
  lapply(kept, plain)
}

influence_of <- function(fit) {
  found <- influence(fit)
  deleted <- rstudent(fit)
  # metafor lists the terms in order, but under mangled names.
  dfbetas <- unclass(found$dfbs)[seq_len(fit$p)]
  list(
    resid = plain(deleted$resid), se = plain(deleted$se), z = plain(deleted$z),
    dffits = plain(found$inf$dffits), cook = plain(found$inf$cook.d), cov_ratio = plain(found$inf$cov.r),
    tau2_deleted = plain(found$inf$tau2.del), QE_deleted = plain(found$inf$QE.del),
    dfbetas = setNames(lapply(dfbetas, plain), rownames(fit$beta))
  )
}

section_influence <- function() {
  models <- constant_models[!names(constant_models) %in% c("bcg_factor_regression")]
  lapply(models, function(model) {
    fit <- fit_constant(model, "REML", thresholds = 1e-12)
    knha <- fit_constant(model, "REML", "knha", thresholds = 1e-12)
    left_out <- attempt(leave1out(fit))
    standard <- rstandard(fit)
    conditional <- rstandard(fit, type = "conditional")
    list_of <- function(found) without_labels(unclass(found))
    c(described(model), list(
      method = one("REML"), fitted = plain(fitted(fit)), hat = plain(hatvalues(fit)),
      weights_percent = plain(weights(fit)), rstandard = list_of(standard),
      rstandard_conditional = list_of(conditional), influence = influence_of(fit),
      influence_knha = influence_of(knha)[c("resid", "se", "z", "dffits", "cook", "cov_ratio", "dfbetas")],
      blup = list_of(blup(fit)), blup_knha = list_of(blup(knha)), ranef = list_of(ranef(fit)),
      leave1out = if (left_out$refused) list(error = unbox(c(left_out$value))) else list_of(left_out$value)
    ))
  })
}

# Section: cluster-robust tests, metafor's own (CR0, CR1, CR1S) ----------------------------------------

clusters <- list(
  bangertdrowns = c("author", "grade"), bcg = c("trial", "alloc"), raudenbush = c("study", "year"),
  preterm = c("study", "country")
)

section_robust <- function() {
  names <- c(
    "bangertdrowns_random_effects", "bangertdrowns_regression", "bcg_random_effects", "bcg_regression",
    "raudenbush_random_effects", "raudenbush_regression", "preterm_random_effects", "preterm_regression"
  )
  kinds <- list(CR0 = FALSE, CR1 = TRUE, CR1S = "Stata1")
  lapply(setNames(nm = names), function(name) {
    model <- constant_models[[name]]
    fit <- fit_constant(model, "REML")
    data <- datasets[[model[1]]]
    by <- clusters[[sub("_.*", "", name)]]
    c(described(model), list(method = one("REML")), lapply(setNames(nm = by), function(variable) {
      groups <- data[[variable]]
      lapply(kinds, function(adjust) {
        found <- robust(fit, cluster = groups, adjust = adjust)
        list(
          clusters = one(found$n), location = table_of(found, "location"),
          vcov_location = unname(found$vb), QM = omnibus(found$QM, found$QMdf, found$QMp)
        )
      })
    }))
  })
}

# Section: what metafor offers after a location-scale fit, and what it refuses -------------------------

section_after_location_scale <- function() {
  list_of <- function(found) without_labels(unclass(found))
  refusals <- function(fit, data) {
    tried <- list(
      rstudent = quote(rstudent(fit)), cooks.distance = quote(cooks.distance(fit)),
      dfbetas = quote(dfbetas(fit)), influence = quote(influence(fit)), leave1out = quote(leave1out(fit)),
      robust = quote(robust(fit, cluster = seq_len(fit$k))), cumul = quote(cumul(fit)),
      trimfill = quote(trimfill(fit)), hc = quote(hc(fit)), selmodel = quote(selmodel(fit, type = "beta")),
      vif = quote(vif(fit)), simulate = quote(simulate(fit, nsim = 1, seed = 1)),
      confint_fixed = quote(confint(fit, fixed = TRUE)),
      permutest_ci = quote(permutest(fit, iter = 2, progbar = FALSE, permci = TRUE)),
      one_sided_bound = quote(update(fit, control = list(alpha.min = -3)))
    )
    lapply(tried, function(call) {
      found <- attempt(eval(call))
      if (found$refused) list(offered = unbox(FALSE), message = unbox(c(found$value)))
      else list(offered = unbox(TRUE), warnings = found$warnings)
    })
  }
  kept <- c("bangertdrowns", "bcg", "raudenbush", "preterm_weeks")
  reports <- lapply(location_scale_models[kept], function(model) {
    fit <- fit_at_best(model, "REML", "z")
    knha <- fit_at_best(model, "REML", "knha")
    found <- fitted(fit)
    c(described(model), list(
      method = one("REML"), fitted_location = plain(found$location), fitted_scale = plain(found$scale),
      residuals = list(
        response = plain(residuals(fit)), pearson = plain(residuals(fit, type = "pearson")),
        cholesky = plain(residuals(fit, type = "cholesky"))
      ),
      rstandard = list_of(rstandard(fit)), rstandard_conditional = list_of(rstandard(fit, type = "conditional")),
      weights_percent = plain(weights(fit)), hat = plain(hatvalues(fit)), blup = list_of(blup(fit)),
      blup_knha = list_of(blup(knha)), ranef = list_of(ranef(fit))
    ))
  })
  model <- location_scale_models$bangertdrowns
  list(models = reports, refused_or_offered = refusals(fit_once(model, "REML"), datasets[[model[1]]]))
}

# Run and write ----------------------------------------------------------------------------------------

sections <- list(
  fits = section_fits, identity = section_identity, fixed_alpha = section_fixed_alpha, lrt = section_lrt,
  wald = section_wald, profile = section_profile, tau2_intervals = section_tau2_intervals,
  predict = section_predict, estimators = section_estimators, influence = section_influence,
  robust = section_robust, after_location_scale = section_after_location_scale, timing = section_timing,
  permutation = section_permutation
)

asked <- commandArgs(trailingOnly = TRUE)
if (length(asked) == 0) asked <- names(sections)
unknown <- setdiff(asked, names(sections))
if (length(unknown) > 0) {
  stop("no such section: ", unknown[1], "; choose from ", paste(names(sections), collapse = ", "))
}

as_json <- function(x) toJSON(x, digits = I(15), na = "null", null = "null", matrix = "rowmajor")

# Each section is kept as JSON text, so that running some again leaves the others as they are.
texts <- list()
if (file.exists(target)) {
  for (line in readLines(target, warn = FALSE)) {
    name <- sub('^"([a-z_0-9]+)":.*', "\\1", line)
    if (name %in% names(sections)) texts[[name]] <- sub(",$", "", sub('^"[a-z_0-9]+":', "", line))
  }
}
versions <- lapply(
  c(R = "base", metafor = "metafor", numDeriv = "numDeriv", jsonlite = "jsonlite"),
  function(name) unbox(as.character(packageVersion(name)))
)
settings <- list(
  level = unbox(95), optimisers = lapply(optimisers, function(x) lapply(x, unbox)),
  constant = list(threshold = c(1e-14, 1e-13, 1e-12, 1e-10), maxiter = unbox(10000), tol = unbox(1e-14)),
  permutation_iterations = unbox(iterations)
)
head <- c(
  made_by = as_json(unbox("tests/reference/frequentist.R")), versions = as_json(versions),
  settings = as_json(settings)
)
write_all <- function() {
  lines <- c(head, unlist(texts[intersect(names(sections), names(texts))]))
  lines <- sprintf('"%s":%s', names(lines), lines)
  writeLines(c("{", paste0(lines, c(rep(",", length(lines) - 1), "")), "}"), target)
}

for (name in asked) {
  start <- proc.time()[["elapsed"]]
  texts[[name]] <- as_json(sections[[name]]())
  write_all()
  cat(sprintf("%-22s %7.1f s\n", name, proc.time()[["elapsed"]] - start))
}
