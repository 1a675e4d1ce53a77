# Makes formulas.json: what R's model.matrix makes of formulas, and type III tables of lmerTest and emmeans.
# Rscript formulas.R, in this folder; needs lme4, lmerTest, emmeans and jsonlite, and a locale of a language
# (LC_ALL=en_US.UTF-8), since R sorts levels by it.
suppressMessages({library(lmerTest); library(emmeans); library(jsonlite); library(splines)})
set.seed(1)
n <- 60
d <- data.frame(
  g = rep(sprintf("g%02d", 1:12), each = 5),
  a = sample(c("a1", "a2", "a3"), n, TRUE), b = sample(c("b1", "b2"), n, TRUE),
  arm = rep(c("control", "Treatment", "sham"), length.out = n),
  k = sample(1:3, n, TRUE), flag = sample(c(TRUE, FALSE), n, TRUE), flag2 = sample(c(TRUE, FALSE), n, TRUE),
  x = round(rnorm(n, 1), 3), z = round(runif(n, 1, 9), 3), stringsAsFactors = TRUE)
d$y <- round(rnorm(12)[as.integer(d$g)] + (d$a == "a2") + 0.5 * d$x + rnorm(n), 3)
d$pre <- round(rnorm(n, 10, 2), 3)

right <- c(
  "x", "x + z", "a", "a + b", "a * b", "a + b + a:b", "(a + b + x)^2", "(a + b)^2 - a:b", "a * b - a", "a * b - a:b",
  "a / b", "a / x", "x / a", "a / (b + x)", "(a + b) / x", "a:b", "a:x", "x + a:x", "x:z", "x * z", "a * b * x",
  "0 + a", "-1 + a", "a - 1", "0 + a + b", "0 + b + a", "0 + a * b", "0 + a:b", "a / b - 1", "0 + x", "0 + x + a",
  "0 + a:x", "a:b + x", "x:a + b", "1", "1 + x", "x + a - 1 + b",
  "I(x^2)", "I(x + z)", "I(1 + x^2)", "I(-x^2)", "I(2 * x^2 / z)", "x + I(x^2) + I(x^3)", "I(k^2)", "I(k / 2)",
  "I(x > 1)", "0 + I(x > 1)", "I(x > 1):z", "flag", "0 + flag", "flag:x", "I(flag + flag2)", "I(flag * x)",
  "I((x > 1) + (z > 5))", "I((x^2 > 1) & (z > 3))", "log(z)", "log(z, 2)", "log2(z)", "log10(z)", "exp(x)", "sqrt(z)",
  "log(z + 1):a", "abs(x)", "scale(x)", "scale(x, center = TRUE, scale = FALSE)", "scale(x, scale = FALSE):a",
  "poly(x, 2)", "poly(x, 2, raw = TRUE)", "bs(z, df = 4)", "factor(k)", "as.factor(k)", "factor(k) * x",
  "factor(a, levels = c('a2', 'a1', 'a3'))", "relevel(a, 'a3')", "relevel(a, ref = 'a2') * b", "arm", "arm * x", "k",
  "C(a, contr.sum)", "C(a, contr.helmert)", "C(a, contr.sum) * b", "ifelse(x > 1, 1, 0)",
  "(x - 1) + z", "z + (0 + x)", "a * (x - 1)", "((x - 1) + a) * z + b", "C(a, sum) * x", "C(a, helmert)", "ordered(k) * x",
  "factor(k, ordered = TRUE)", "pmax(x, 0) + pmin(x, z, 1)", "trunc(z)")
left <- c("y", "y - pre", "y / pre", "y * pre", "y^2", "-y", "1 - y", "y - 5", "(y - pre) / pre", "log(pre)",
  "log(pre) - log(z)", "(y + pre) / 2", "y + pre", "2 * y^2 - pre", "I(y^2)", "sqrt(pre)")
matrices <- lapply(right, function(f) {
  m <- model.matrix(as.formula(paste("~", f)), d)
  list(formula = f, names = I(colnames(m)), X = unname(signif(m[1:nrow(m), , drop = FALSE], 12)))
})
responses <- lapply(left, function(f) {
  list(formula = f, y = signif(as.numeric(model.response(model.frame(as.formula(paste(f, "~ 1")), d))), 12))
})

tested <- c("a", "a + b", "a * b", "a * x", "a * b * x", "a / b", "b / a", "a + a:b", "x + a:x", "a / x", "a + a:x",
  "a * b - a", "a * x - x", "a + b + a:x", "a:b", "a:x", "0 + a", "0 + x", "0 + a + b", "0 + b + a", "0 + a + x",
  "a * b - 1", "0 + a:b", "a / b - 1", "0 + a + a:x", "a * x - 1")
one <- function(term, num, f) list(term = I(as.character(term)), df_num = I(as.integer(num)), F = I(signif(f, 12)))
tables <- lapply(tested, function(f) {
  m <- suppressMessages(lmer(as.formula(paste("y ~", f, "+ (1 | g)")), d,
                             control = lmerControl(optCtrl = list(rhoend = 1e-10))))
  a <- anova(m)
  a <- data.frame(term = rownames(a), num = a[["NumDF"]], F = a[["F value"]])
  j <- suppressMessages(joint_tests(m, mode = "satterth"))
  list(formula = f, lmerTest = one(a$term, a$num, a$F), joint_tests = one(j[["model term"]], j$df1, j$F.ratio))
})
labels <- c("control", "Treatment", "a_1", "a1", "a-1", "a 1", "a10", "a2", "A1", "B", "b", "Zebra", "zebra", "apple",
  "\u00c4pfel", "10", "9", "_x", ".x", "e", "E", "\u00e9", "\u00c9", "f", "post-test", "posttest", "post test",
  "Post", "pre", "(a)", "Ab", "aB", "ab", "AB", "#1", "<5", "1a")
writeLines(toJSON(list(data = d, matrices = matrices, responses = responses, type3 = tables,
                       levels = levels(factor(labels))), digits = NA, auto_unbox = TRUE), "formulas.json")
