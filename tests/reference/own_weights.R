# Weights of each response's own: Rscript own_weights.R FOLDER
# Writes own_weights.csv and own_weights.json; lme4, lmerTest and jsonlite are needed. Rows of weight 0 are dropped.
suppressMessages({library(lme4); library(lmerTest); library(jsonlite)})
folder <- commandArgs(TRUE)[1]
control <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-9, maxfun = 1e6), calc.derivs = FALSE,
                       check.conv.singular = "ignore")
set.seed(12)
sizes <- c(5, 8, 6, 9, 4, 7, 8, 6, 7, 5); n <- sum(sizes); g <- rep(seq_along(sizes), sizes)
d <- data.frame(g = sprintf("g%02d", g), x = round(rnorm(n), 3), z = round(rnorm(length(sizes)), 3)[g])
u <- rnorm(length(sizes)); v <- rnorm(length(sizes), sd = .5)
group_sd <- c(1, 0, .3, 2); unit <- c(1, 1, 1e4, 1e-3)
for (i in 1:4) {
  w <- round(rgamma(n, 2, 2) + .05, 4)
  if (i == 3) w[c(3, 20, 41)] <- 0
  y <- 1 + .5 * d$x - .3 * d$z + group_sd[i] * (u[g] + v[g] * d$x) + rnorm(n) / sqrt(pmax(w, .05))
  d[[paste0("y", i)]] <- round(y, 5); d[[paste0("w", i)]] <- w * unit[i]
}
d$y4[c(7, 8)] <- NA
one <- function(i, bar) {
  e <- d[d[[paste0("w", i)]] > 0, ]; e$w <- e[[paste0("w", i)]]; e$y <- e[[paste0("y", i)]]
  f <- as.formula(paste("y ~ x + z +", bar))
  m <- lmerTest::lmer(f, e, weights = w, control = control); ml <- update(m, REML = FALSE)
  s <- summary(m)$coefficients; a <- anova(m); r <- ranef(m, condVar = TRUE)$g
  sd <- t(apply(attr(r, "postVar"), 3, function(V) sqrt(diag(as.matrix(V))))); if (ncol(r) == 1) sd <- t(sd)
  list(bar = bar, response = paste0("y", i), n = nobs(m), coef = s[, 1], se = s[, 2], df = s[, 3], p = s[, 5],
       sigma2 = sigma(m)^2, theta = I(getME(m, "theta")), loglik = as.numeric(logLik(m)),
       ml_coef = unname(fixef(ml)), ml_sigma2 = sigma(ml)^2, ml_loglik = as.numeric(logLik(ml)),
       anova_F = a[["F value"]], anova_df = a[["DenDF"]], singular = isSingular(m),
       modes = unname(as.matrix(r)), sd = unname(sd))
}
out <- c(lapply(1:4, one, bar = "(1 | g)"), lapply(c(1, 3), one, bar = "(x | g)"))
write.csv(d, file.path(folder, "own_weights.csv"), row.names = FALSE)
write(toJSON(out, digits = 15, auto_unbox = TRUE, na = "null"), file.path(folder, "own_weights.json"))
