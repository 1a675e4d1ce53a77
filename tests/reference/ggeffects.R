# Makes ggeffects.json: what ggeffects 1.2.0 predicts of mixed models with its intervals, the lines of groups, and the
# conditional modes with their standard deviations, which are behind its pictures. Rscript ggeffects.R [FOLDER], in this
# folder; needs lme4, ggeffects, emmeans and jsonlite. With FOLDER the pictures are drawn there too.
suppressMessages({library(lme4); library(ggeffects); library(jsonlite); library(ggplot2)})
folder <- commandArgs(TRUE)
tight <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-12))
read <- function(name) read.csv(paste0(name, ".csv"), stringsAsFactors = TRUE)
sleep <- transform(read("g_sleepstudy"), Subject = factor(Subject))
orthodont <- read("orthodont")
machines <- transform(read("machines"), Worker = factor(Worker))
models <- list(
  sleepstudy = lmer(Reaction ~ Days + (Days | Subject), sleep, control = tight),
  machines = lmer(score ~ Machine + (1 | Worker), machines, control = tight),
  orthodont = lmer(distance ~ age * Sex + (1 | Subject), orthodont, control = tight),
  additive = lmer(distance ~ age + Sex + (1 | Subject), orthodont, control = tight))
cases <- list(list("sleepstudy", "Days [0:9]"), list("machines", "Machine"),
              list("orthodont", c("age [8, 10, 12, 14]", "Sex")), list("orthodont", c("Sex", "age [meansd]")),
              list("additive", "age [8, 14]"))
draw <- function(picture, name) if (length(folder)) ggsave(file.path(folder, name), picture, width = 85, height = 64,
                                                           units = "mm", dpi = 300)
numbers <- function(table) list(x = I(as.character(table$x)), group = I(as.character(table$group)),
                                predicted = I(table$predicted), se = I(table$std.error),
                                low = I(table$conf.low), high = I(table$conf.high))
found <- lapply(seq_along(cases), function(i) {
  model <- models[[cases[[i]][[1]]]]
  fixed <- ggpredict(model, cases[[i]][[2]])
  means <- ggemmeans(model, cases[[i]][[2]])
  draw(plot(fixed) + theme(text = element_text(size = 8)), paste0("gg", i, ".png"))
  list(model = cases[[i]][[1]], terms = I(cases[[i]][[2]]), df = df.residual(model),
       ggpredict = numbers(as.data.frame(fixed)), ggemmeans = numbers(as.data.frame(means)))
})
lines <- ggpredict(models$sleepstudy, c("Days [0:9]", "Subject"), type = "random")
draw(plot(lines, ci = FALSE, colors = scales::hue_pal()(18)), "gg_lines.png")
draw(plot(ggpredict(models$sleepstudy, "Days [0:9]", type = "random"), add.data = TRUE), "gg_random.png")
random <- as.data.frame(ggpredict(models$sleepstudy, "Days [0:9]", type = "random"))
modes <- as.data.frame(ranef(models$sleepstudy, condVar = TRUE))
if (length(folder)) {
  png(file.path(folder, "lattice.png"), 85 / 25.4 * 300, 100 / 25.4 * 300, res = 300, pointsize = 8)
  print(lattice::dotplot(ranef(models$sleepstudy, condVar = TRUE))); dev.off()
}
write_json(list(cases = found, lines = numbers(as.data.frame(lines)), random = numbers(random), sigma = sigma(models$sleepstudy),
                modes = list(term = I(as.character(modes$term)), group = I(as.character(modes$grp)),
                             mode = I(modes$condval), sd = I(modes$condsd))),
           "ggeffects.json", digits = 12, auto_unbox = TRUE)
