# Makes emmeans.json: marginal means, contrasts, trends and joint tests of emmeans, and type I, II and III tables of
# lmerTest. Rscript emmeans.R, in this folder; needs lme4, lmerTest, pbkrtest, emmeans, mvtnorm and jsonlite.
suppressMessages({library(lmerTest); library(emmeans); library(jsonlite)})
set.seed(14)
tight <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-12),
                     check.conv.singular = "ignore", check.rankX = "silent.drop.cols")

# Three designs. "cross": unbalanced, every cell filled. "hole": one cell is empty. "nest": clinics within regions.
n <- 120
cross <- data.frame(g = sprintf("g%02d", rep(1:15, each = 8)), a = sample(c("p", "q", "r"), n, TRUE, c(.5, .3, .2)),
                    b = sample(c("u", "v"), n, TRUE, c(.7, .3)), k = sample(c(2, 4, 6, 9), n, TRUE),
                    x = round(rnorm(n, 2), 3), half = rbinom(n, 1, .3), w = round(runif(n, .5, 3), 2))
cross$y1 <- round(rnorm(15)[as.integer(factor(cross$g))] + (cross$a == "q") * cross$x + cross$half + rnorm(n), 3)
cross$y2 <- round(2 * rnorm(15)[as.integer(factor(cross$g))] - (cross$b == "v") * (cross$a == "r") + rnorm(n), 3)
cross$y2[c(3, 40:44, 77)] <- NA
hole <- subset(cross, !(a == "r" & b == "v"))
nest <- data.frame(region = rep(c("east", "west"), each = 48), clinic = rep(c("c1", "c2", "c3"), each = 16, times = 2),
                   g = sprintf("s%02d", rep(1:24, each = 4)), x = round(rnorm(96), 3))
nest$y1 <- round(rnorm(24)[as.integer(factor(nest$g))] + (nest$clinic == "c2") + .5 * nest$x + rnorm(96), 3)
nest$y2 <- round(rnorm(24)[as.integer(factor(nest$g))] + (nest$region == "west") + rnorm(96), 3)
sets <- list(cross = cross, hole = hole, nest = nest)

fits <- list()
fit_of <- function(data, formula, response, weighted) {
  key <- paste(data, formula, response, weighted)
  if (is.null(fits[[key]])) {
    d <- sets[[data]]
    d <- d[!is.na(d[[response]]), ]
      w <- if (weighted) d$w else rep(1, nrow(d))
    d$w_ <- w
    fits[[key]] <<- eval(bquote(lmer(.(as.formula(paste(response, "~", formula))), d, weights = w_, control = tight)))
  }
  fits[[key]]
}
numbers <- function(v) I(unname(as.numeric(v)))
# The reference grid holds the means and counts of all rows, whatever a response misses, as in jaxlmm.
full <- function(data, response, formula, weighted) {
  d <- sets[[data]]
  d[[response]][is.na(d[[response]])] <- 0
  d$w_ <- if (weighted) d$w else 1
  d
}

cases <- list()
add <- function(case) cases[[length(cases) + 1]] <<- case
means <- function(data, formula, specs, by = NULL, at = NULL, weights = "equal", weighted = FALSE, var = NULL,
                  ddf = "satterthwaite", contrasts = list(), responses = c("y1", "y2")) {
  case <- list(kind = "means", data = data, formula = formula, specs = I(specs), by = I(as.character(by)), at = at, average = weights,
               weighted = weighted, var = var, df = ddf)
  case$found <- lapply(responses, function(response) {
    m <- fit_of(data, formula, response, weighted)
    args <- list(m, specs, by = by, weights = weights, lmer.df = ddf, data = full(data, response, formula, weighted))
    if (!is.null(at)) args$at <- at
    extra <- list(delta.var = 1e-6)
    if (is.null(var)) e <- suppressMessages(do.call(emmeans, args))
    else e <- suppressMessages(do.call(emtrends, c(args[1], list(specs = specs, var = var), args[-(1:2)], extra)))
    s <- as.data.frame(summary(e, infer = c(TRUE, TRUE)))
    out <- list(estimate = numbers(s[[which(names(s) == "SE") - 1]]), se = numbers(s$SE), df = numbers(s$df),
                low = numbers(s$lower.CL), high = numbers(s$upper.CL))
    out$contrasts <- lapply(contrasts, function(one) {
      args <- one[setdiff(names(one), "adjust")]
      con <- suppressMessages(do.call(contrast, c(list(e), args)))
      table <- function(adjust) suppressMessages(as.data.frame(summary(con, infer = c(TRUE, TRUE), adjust = adjust)))
      s <- table("none")
      list(name = I(as.character(s$contrast)), estimate = numbers(s$estimate), se = numbers(s$SE), df = numbers(s$df),
           p = setNames(lapply(one$adjust, function(a) numbers(table(a)$p.value)), one$adjust),
           limits = setNames(lapply(one$adjust, function(a) { t <- table(a); numbers(c(t$lower.CL, t$upper.CL)) }),
                             one$adjust),
           default = con@misc$adjust)
    })
    out
  })
  case$contrasts <- lapply(contrasts, function(one) {
    one$adjust <- I(one$adjust)
    one
  })
  add(case)
}

all_adjust <- c("tukey", "scheffe", "sidak", "dunnettx", "mvt", "bonferroni", "holm", "hochberg", "hommel", "fdr", "BY", "none")
pairs_ <- function(...) c(list(method = "pairwise"), list(...))
for (ddf in c("satterthwaite", "kenward-roger")) {
  means("cross", "a * b + x + (1 | g)", "a", by = "b", ddf = ddf,
        contrasts = list(pairs_(adjust = all_adjust), list(method = "eff", adjust = c("fdr", "tukey"))))
  means("cross", "a * x + b + (1 | g)", "a", ddf = ddf, var = "x", contrasts = list(pairs_(adjust = c("tukey", "holm"))))
}
means("cross", "a * b + x + (1 | g)", c("a", "b"), contrasts = list(pairs_(adjust = c("tukey", "bonferroni")),
      list(method = "pairwise", by = "a", adjust = "sidak")))
for (weights in c("equal", "proportional", "cells", "outer", "flat"))
  means("cross", "a * b * half + factor(k) + (1 | g)", "a", weights = weights)
for (weights in c("proportional", "cells"))
  means("cross", "a * b + x + (1 | g)", "b", weights = weights, weighted = TRUE)
means("cross", "a * b + factor(k) * x + (1 | g)", "k", at = list(x = c(0, 3)), contrasts = list(
  list(method = "poly", adjust = "none"), list(method = "consec", adjust = c("sidak", "mvt")),
  list(method = "trt.vs.ctrl", ref = 2, adjust = c("dunnettx", "mvt", "holm")),
  list(method = "trt.vs.ctrlk", adjust = "dunnettx"), list(method = "revpairwise", adjust = "tukey"),
  list(method = "del.eff", adjust = "none"), list(method = "mean_chg", adjust = "bonferroni"),
  list(method = list("6 vs others" = c(-1, -1, 3, -1) / 3, "9 - 2" = c(-1, 0, 0, 1)), adjust = c("none", "sidak"))))
means("cross", "a * b + x + (1 | g)", "a", by = "b", at = list(b = "v", a = c("r", "p")),
      contrasts = list(pairs_(adjust = c("tukey", "sidak"))))
means("cross", "a * b + x + (1 + x | g)", "a", contrasts = list(pairs_(adjust = "tukey")))
means("cross", "a * (x + I(x^2)) + b + (1 | g)", "a", by = "b", at = list(x = 1.5), var = "x",
      contrasts = list(pairs_(adjust = "tukey")))
means("cross", "a * x * half + (1 | g)", c("a", "half"), var = "x")
# Comparisons of some of the means; slopes of a covariate that the model has only transformed, and in the transformed one.
means("cross", "a * b + factor(k) * x + (1 | g)", "k", contrasts = list(
  pairs_(exclude = 2, adjust = c("tukey", "mvt", "hommel")), pairs_(include = c(1, 4), adjust = "tukey"),
  list(method = "revpairwise", include = 2:4, adjust = c("tukey", "scheffe")),
  list(method = "trt.vs.ctrl", exclude = 3, adjust = c("dunnettx", "mvt", "hochberg")),
  list(method = "trt.vs.ctrl", ref = 4, exclude = 1, adjust = "dunnettx"),
  list(method = "eff", exclude = 4, adjust = "fdr"), list(method = "del.eff", include = c(1, 2, 4), adjust = "none"),
  list(method = "consec", exclude = 2, adjust = c("mvt", "sidak")),
  list(method = "mean_chg", exclude = 3, adjust = "none")))
means("cross", "a * log(k) + b + x + (1 | g)", "a", var = "k", at = list(k = 5), contrasts = list(pairs_(adjust = "tukey")))
means("cross", "a * log(k) + b + x + (1 | g)", "a", var = "log(k)", contrasts = list(pairs_(adjust = "tukey")))
means("cross", "a * I(k^2) + b + x + (1 | g)", "a", var = "k", at = list(k = 3), ddf = "kenward-roger")
means("cross", "a * (sqrt(k) + I(k^2)) + x + (1 | g)", "a", var = "sqrt(k)", at = list(k = 5))
means("hole", "a * b + x + (1 | g)", c("a", "b"), contrasts = list(pairs_(adjust = c("tukey", "bonferroni", "holm"))))
means("hole", "a * b + x + (1 | g)", "a", by = "b", contrasts = list(pairs_(adjust = c("scheffe", "sidak", "fdr"))))
means("hole", "a * b + x + (1 | g)", "a", weights = "cells", contrasts = list(pairs_(adjust = "tukey")))
means("hole", "a * b + x + (1 | g)", "b", ddf = "kenward-roger")
means("nest", "region / clinic + x + (1 | g)", "region")
means("nest", "region / clinic + x + (1 | g)", "clinic", by = "region", contrasts = list(pairs_(adjust = "none")))

joint <- function(data, formula, by = NULL, ddf = "satterthwaite", weighted = FALSE) {
  found <- lapply(c("y1", "y2"), function(response) {
    m <- fit_of(data, formula, response, weighted)
    # joint_tests rounds F to three decimals; the test of the same contrasts is not rounded where it is asked again.
    j <- suppressMessages(joint_tests(m, by = by, lmer.df = ddf, data = full(data, response, formula, weighted)))
    list(term = I(j[["model term"]]), df_num = numbers(j$df1), df_den = numbers(j$df2), F = numbers(j$F.ratio),
         p = numbers(j$p.value))
  })
  add(list(kind = "joint", data = data, formula = formula, by = I(as.character(by)), df = ddf, weighted = weighted, found = found))
}
for (ddf in c("satterthwaite", "kenward-roger")) {
  joint("cross", "a * b + x + (1 | g)", ddf = ddf)
  joint("cross", "a * b + x + (1 | g)", by = "b", ddf = ddf)
}
joint("cross", "a * x + b + (1 | g)")
joint("cross", "a * b * half + factor(k) + (1 | g)")
joint("cross", "a * (x + I(x^2)) + b + (1 | g)", by = "a")
joint("hole", "a * b + x + (1 | g)")
joint("hole", "a * b + x + (1 | g)", by = "b")

tables <- function(data, formula, ddf = "Satterthwaite", types = 1:3, weighted = FALSE) {
  for (type in types) {
    found <- lapply(c("y1", "y2"), function(response) {
      a <- suppressMessages(anova(fit_of(data, formula, response, weighted), type = type, ddf = ddf))
      list(term = I(rownames(a)), df_num = numbers(a$NumDF), df_den = numbers(a$DenDF), F = numbers(a[["F value"]]),
           p = numbers(a[["Pr(>F)"]]))
    })
    add(list(kind = "anova", data = data, formula = formula, df = tolower(ddf), type = type, weighted = weighted,
             found = found))
  }
}
for (ddf in c("Satterthwaite", "Kenward-Roger")) {
  tables("cross", "a * b + x + (1 | g)", ddf)
  tables("cross", "x + a * b * half + (1 | g)", ddf, types = 2)
}
tables("cross", "a * x + b + (1 | g)")
tables("cross", "a * b + x + (1 | g)", weighted = TRUE)
tables("cross", "x + a + I(x^2) + b + (1 + x | g)", types = 1:2)
tables("hole", "a * b + x + (1 | g)", types = 1:2)
# Type II of region: lmerTest does not see that region:clinic contains region, and tests it at the first clinic.
tables("nest", "region / clinic + x + (1 | g)", types = 1)

# Type III of lmerTest where a cell is empty, with the contrasts that it tests and its message to take care.
for (response in c("y1", "y2")) {
  m <- fit_of("hole", "a * b + x + (1 | g)", response, FALSE)
  a <- suppressMessages(anova(m, type = 3))
  add(list(kind = "mixed", response = response, names = I(names(fixef(m))), df = numbers(a$DenDF), F = numbers(a[["F value"]]),
           L = lapply(suppressMessages(lmerTest:::get_contrasts_type3(m)), function(L) unname(L))))
}

# Of one term alone the three types have the same rows.
tables("cross", "factor(k) + (k | g)")

writeLines(toJSON(list(versions = list(emmeans = as.character(packageVersion("emmeans")),
                                       lmerTest = as.character(packageVersion("lmerTest"))),
                       data = sets, cases = cases), digits = 10, auto_unbox = TRUE, null = "null", na = "null"),
           "emmeans.json")
