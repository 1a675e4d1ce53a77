# Reference fits of random structures: Rscript structures.R FOLDER
# Writes NAME.csv, NAME.X.csv and NAME.json; lme4, lmerTest, pbkrtest, nlme and jsonlite are needed.
suppressMessages({library(lme4); library(lmerTest); library(pbkrtest); library(jsonlite)})
folder <- commandArgs(TRUE)[1]
control <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-9, maxfun = 1e6), calc.derivs = FALSE,
                       check.conv.singular = "ignore")
plain <- function(d) { for (v in names(d)) if (is.character(d[[v]]) || is.factor(d[[v]]))
  d[[v]] <- factor(as.character(d[[v]]), levels = sort(unique(as.character(d[[v]])), method = "radix")); as.data.frame(d) }
varcorr <- function(m) lapply(VarCorr(m), function(v) { s <- as.matrix(v); list(names = I(colnames(s)), cov = unname(unclass(s[,,drop=FALSE]))[seq_len(nrow(s)), , drop = FALSE]) })
ref <- function(name, formula, d, weights = NULL, profile = TRUE) {
  d <- plain(d); w <- if (is.null(weights)) NULL else d[[weights]]; d$.w <- if (is.null(w)) 1 else w
  m <- lmerTest::lmer(formula, d, weights = .w, control = control)
  if (is.null(weights)) m <- lmerTest::lmer(formula, d, control = control)
  ml <- update(m, REML = FALSE)
  s <- summary(m)$coefficients
  strip <- function(v) lapply(varcorr(v), function(t) { a <- t$cov; attributes(a) <- list(dim = dim(a)); list(names = t$names, cov = a) })
  out <- list(name = name, formula = paste(deparse(formula, width.cutoff = 500), collapse = " "), weights = if (is.null(weights)) NULL else weights, n = nrow(d), terms = rownames(s))
  out$reml <- list(coef = s[, 1], se = s[, 2], df_satterthwaite = s[, 3], t = s[, 4], p_satterthwaite = s[, 5], sigma2 = sigma(m)^2,
    varcorr = strip(m), theta = getME(m, "theta"), loglik = as.numeric(logLik(m)), aic = AIC(m), bic = BIC(m), vcov = unname(as.matrix(vcov(m))), singular = isSingular(m))
  out$ml <- list(coef = unname(fixef(ml)), se = unname(sqrt(diag(as.matrix(vcov(ml))))), sigma2 = sigma(ml)^2, varcorr = strip(ml), loglik = as.numeric(logLik(ml)), aic = AIC(ml), bic = BIC(ml))
  table <- function(a) if (nrow(a)) list(term = I(rownames(a)), numdf = I(a[["NumDF"]]), dendf = I(a[["DenDF"]]), F = I(a[["F value"]]), p = I(a[["Pr(>F)"]])) else NULL
  out$anova_satterthwaite <- table(anova(m))
  if (is.null(weights)) { k <- summary(m, ddf = "Kenward-Roger")$coefficients
    out$kenward_roger <- list(se = k[, 2], df = k[, 3], t = k[, 4], p = k[, 5]); out$anova_kenward_roger <- table(anova(m, ddf = "Kenward-Roger")) }
  if (profile) { ci <- tryCatch(suppressWarnings(confint(ml, method = "profile", oldNames = FALSE, quiet = TRUE)), error = function(e) NULL)
    if (!is.null(ci)) out$profile_ci <- list(name = rownames(ci), lower = ci[, 1], upper = ci[, 2]) }
  r <- ranef(m, condVar = TRUE)
  out$ranef <- lapply(r, function(t) { pv <- attr(t, "postVar"); if (is.list(pv)) sd <- do.call(cbind, lapply(pv, function(v) t(apply(v, 3, function(a) sqrt(diag(as.matrix(a))))) |> (\(z) if (nrow(z) == 1 && nrow(t) > 1) t(z) else z)()))
    else { sd <- t(apply(pv, 3, function(a) sqrt(diag(as.matrix(a))))); if (nrow(sd) == 1 && nrow(t) > 1) sd <- t(sd) }
    list(level = rownames(t), columns = I(colnames(t)), blup = unname(as.matrix(t)), cond_sd = unname(as.matrix(sd))) })
  d$.w <- NULL
  write.csv(d, file.path(folder, paste0(name, ".csv")), row.names = FALSE)
  X <- getME(m, "X"); write.csv(X, file.path(folder, paste0(name, ".X.csv")), row.names = FALSE)
  write(toJSON(out, digits = 15, auto_unbox = TRUE, null = "null", na = "null"), file.path(folder, paste0(name, ".json")))
  cat(name, "ok, singular", isSingular(m), "\n")
}
try2 <- function(...) tryCatch(ref(...), error = function(e) cat("FAILED", list(...)[[1]], conditionMessage(e), "\n"))
data(sleepstudy, package = "lme4"); data(Penicillin, package = "lme4"); data(Pastes, package = "lme4"); data(cake, package = "lme4")
try2("s_quadratic", Reaction ~ poly(Days, 2, raw = TRUE) + (Days + I(Days^2) | Subject), sleepstudy, profile = FALSE)
try2("s_orthodont", distance ~ age * Sex + (age | Subject), as.data.frame(nlme::Orthodont))
try2("s_orthodont_double", distance ~ age * Sex + (age || Subject), as.data.frame(nlme::Orthodont))
try2("s_oxboys", height ~ age + I(age^2) + (age | Subject), as.data.frame(nlme::Oxboys))
try2("s_cake", angle ~ recipe * temp + (1 | recipe:replicate), cake)
a <- as.data.frame(nlme::Assay); try2("s_assay", logDens ~ sample + dilut + (1 | Block/sample) + (1 | Block:dilut), a, profile = FALSE)
try2("s_wafer", current ~ voltage + I(voltage^2) + (voltage | Wafer/Site), as.data.frame(nlme::Wafer), profile = FALSE)
try2("s_machines_split", score ~ Machine + (0 + Machine | Worker), as.data.frame(nlme::Machines), profile = FALSE)
try2("s_rats", weight ~ Time * Diet + (Time | Rat), as.data.frame(nlme::BodyWeight))
try2("s_pig", weight ~ Time + (1 | Rat) + (0 + Time | Rat), as.data.frame(nlme::BodyWeight))
set.seed(1)
g <- expand.grid(subj = sprintf("s%02d", 1:14), item = sprintf("i%02d", 1:10)); g$lab <- sample(c("l1", "l2", "l3", "l4"), nrow(g), TRUE)
g$cond <- ifelse((as.integer(factor(g$subj)) + as.integer(factor(g$item))) %% 2 == 0, "a", "b"); g$x <- round(rnorm(nrow(g)), 3)
u <- rnorm(14); v <- rnorm(14, sd = .5); w <- rnorm(10, sd = .7)
g$y <- round(2 + .4 * (g$cond == "b") + .2 * g$x + u[as.integer(factor(g$subj))] + v[as.integer(factor(g$subj))] * g$x + w[as.integer(factor(g$item))] + rnorm(nrow(g)), 5)
g <- g[sample(nrow(g), 120), ]; g$w <- round(runif(nrow(g), .5, 3), 3)
try2("s_three_crossed", y ~ cond * x + (1 | subj) + (1 | item) + (1 | lab), g)
try2("s_slope_crossed", y ~ cond + x + (1 + x | subj) + (1 | item), g)
try2("s_factor_slope", y ~ cond + x + (cond | subj) + (1 | item), g, profile = FALSE)
try2("s_crossed_weights", y ~ cond + x + (1 | subj) + (1 | item), g, weights = "w")
try2("s_double_crossed", y ~ cond + x + (1 + x || subj) + (0 + x | item) + (1 | item), g, profile = FALSE)
h <- expand.grid(r = 1:3, site = 1:3, hosp = 1:3, region = 1:5); h$hosp <- paste0("h", h$region, h$hosp); h$site <- paste0("t", h$hosp, h$site); h$region <- paste0("r", h$region)
h$x <- round(rnorm(nrow(h)), 3); h$z <- round(rnorm(5)[as.integer(factor(h$region))], 3)
h$y <- round(1 + .3 * h$x + rnorm(5)[as.integer(factor(h$region))] + rnorm(15, sd = .6)[as.integer(factor(h$hosp))] + rnorm(45, sd = .4)[as.integer(factor(h$site))] + rnorm(nrow(h), sd = .8), 5)
h <- h[-sample(nrow(h), 25), ]
try2("s_three_nested", y ~ x + z + (1 | region/hosp/site), h)
try2("s_nested_slope", y ~ x + (x | region) + (1 | region:hosp), h)
lib <- function(x, p) { e <- new.env(); data(list = x, package = p, envir = e); d <- as.data.frame(get(ls(e)[ls(e) == x], e)); class(d) <- "data.frame"; d }
some <- function(d, v, k) { l <- unique(as.character(d[[v]])); d <- d[d[[v]] %in% l[round(seq(1, length(l), length.out = k))], ]; droplevels(d) }
grouse <- some(lib("grouseticks", "lme4"), "LOCATION", 30); grouse$ticks <- log(grouse$TICKS + 1); grouse <- grouse[, c("ticks", "YEAR", "cHEIGHT", "BROOD", "LOCATION")]
try2("s_grouseticks", ticks ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | LOCATION), grouse)
a <- lib("Arabidopsis", "lme4"); a$fruits <- log(a$total.fruits + 1); a$nut <- a$nutrient / 8; a$gen <- paste0("g", a$gen); a <- a[seq(1, nrow(a), 2), c("fruits", "nut", "amd", "status", "popu", "gen", "rack")]
try2("s_arabidopsis", fruits ~ rack + nut * amd + status + (nut + amd | popu) + (1 | popu:gen), a, profile = FALSE)
o <- some(lib("Ovary", "nlme"), "Mare", 8); o$Mare <- paste0("m", o$Mare)
try2("s_ovary", follicles ~ sin(2 * pi * Time) + cos(2 * pi * Time) + (sin(2 * pi * Time) | Mare), o)
m <- some(lib("Milk", "nlme"), "Cow", 16); try2("s_milk", protein ~ Diet * Time + (Time || Cow), m)
