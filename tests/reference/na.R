# Missing covariates, factors and groups as lme4 drops them: na.csv, na.json. Rscript na.R, in this folder.
suppressMessages({library(lmerTest); library(jsonlite)})
set.seed(4)
n <- 80
d <- data.frame(subject = rep(sprintf("s%02d", 1:10), each = 8), cond = rep(c("a", "b"), n / 2), age = round(rnorm(n), 3))
d$y <- round(rep(rnorm(10), each = 8) + 0.5 * (d$cond == "b") + 0.3 * d$age + rnorm(n), 3)
d$age[c(2, 30)] <- NA
d$cond[c(11, 30)] <- NA
d$subject[47] <- NA
d$y[c(5, 60)] <- NA
write.csv(d, "na.csv", row.names = FALSE, na = "")
f <- "y ~ age * cond + (1 | subject)"
fit <- lmer(as.formula(f), d, na.action = na.exclude)
s <- coef(summary(fit))
write(toJSON(list(
  formula = f, nobs = nobs(fit), missing_responses = 2, coef = unname(fixef(fit)), se = unname(s[, 2]),
  df = unname(s[, 3]), loglik = as.numeric(logLik(fit)), resid = unname(resid(fit))
), digits = NA, auto_unbox = TRUE, pretty = TRUE, na = "null"), "na.json")
