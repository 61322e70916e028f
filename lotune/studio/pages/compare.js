// Two runs or more: figures, settings that differ, curves over each other, and a paired comparison.
import { $, make, t, visible } from "/common.js";
import { curve, pareto } from "/curves.js";
import { call, command, metricValue, page, percent, problem, query, runPage, table } from "/studio.js";

const wanted = new URLSearchParams(location.search).getAll("run");
let found = null;
let paired = [];

function chooser(runs) {
  $("choices").replaceChildren(...runs.map(({ name }) => make("label", {}, make("input", { type: "checkbox", name: "run", value: name, checked: wanted.includes(name) }), make("span", {}, name))));
}

const shown = (value) => (value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value));

function draw() {
  const { runs, differing } = found;
  const names = runs.map(({ figures }) => figures.name);
  const line = (title, show) => [title, ...runs.map(({ figures }) => show(figures))];
  const rows = [
    line(t("task"), ({ task, metric }) => [task, metric].filter(Boolean).join(": ")), line(t("base"), (run) => metricValue(run, run.base)), line(t("tuned"), (run) => metricValue(run, run.tuned)),
    line(t("kept"), ({ kept }) => percent(kept)), line(t("ratio"), ({ ratio }) => percent(ratio, 3)), line(t("score"), ({ score }) => (score == null ? "" : score.toFixed(4))),
    line(t("valid"), ({ valid }) => (valid == null ? "" : t(valid ? "yes" : "no"))),
  ];
  const links = names.map((name) => make("a", { href: runPage(name) }, name));
  $("figures").replaceChildren(...table(["", ...links], rows, { numeric: true }).children);
  const settings = Object.entries(differing).map(([key, values]) => [key, ...values.map(shown)]);
  if (settings.length) $("settings").replaceChildren(...table([t("setting"), ...names], settings, { wrap: true }).children);
  else $("settings").replaceChildren(make("caption", {}, t("noDifference")));
  const over = (title, points, options) => curve(title, runs.map((run, place) => ({ name: names[place], points: points(run) })).filter(({ points: some }) => some.length), options);
  const values = (key) => ({ validations }) => validations.filter((one) => typeof one[key] === "number").map((one) => [one.step, one[key]]);
  $("curves").replaceChildren(over(t("trainingLoss"), ({ loss }) => loss), over(t("validationValue"), values("value")), over(t("keptCurve", { gate: percent(runs[0].gate, 0) }), values("retained"), { gate: runs[0].gate, format: (value) => percent(value) }));
  const points = runs.filter(({ figures }) => figures.kept != null && figures.tuned != null).map(({ figures }) => ({ name: figures.name, x: figures.kept, y: figures.tuned }));
  $("plane").replaceChildren(pareto(t("plane"), points, { formatX: (x) => percent(x) }));
  drawPaired();
}

function drawPaired() {
  $("paired").replaceChildren(...paired.map((one) => {
    if (one.error) return make("p", { class: "meta" }, one.error);
    const unit = one.score === "accuracy" ? 100 : 1;
    const sign = unit === 100 ? " %" : "";
    const signed = (value) => (value == null ? "–" : `${value < 0 ? "−" : "+"}${Math.abs(unit * value).toFixed(1)}${sign}`);
    const text = t("pairedText", {
      a: one.names[0], b: one.names[1], difference: signed(one.difference), low: signed(one.interval?.[0]), high: signed(one.interval?.[1]),
      p: one.p_value.toPrecision(2), bBetter: one.b_better_on, aBetter: one.a_better_on, n: one.n,
    });
    return make("div", {}, make("p", {}, text, " ", make("strong", {}, t("verdictText", { verdict: one.verdict }))), command(one.command));
  }));
}

page("compareRuns");
$("choose").onsubmit = (event) => {
  event.preventDefault();
  const chosen = [...new FormData($("choose")).getAll("run")];
  if (chosen.length < 2) problem(new Error(t("chooseRuns")));
  else location.href = `/compare?${query(chosen.map((name) => ["run", name]))}`;
};
document.addEventListener("language", () => found && draw());
try {
  chooser((await call("runs")).runs);
  if (wanted.length > 1) {
    found = await call(`compare?${query(wanted.map((name) => ["run", name]))}`);
    $("result").hidden = false;
    paired = [{ error: t("comparing") }];
    draw();
    paired = await Promise.all(wanted.slice(1).map(async (name) => {
      try {
        return { ...(await call(`compare/answers?${query({ a: wanted[0], b: name })}`)), names: [wanted[0], name] };
      } catch (error) {
        return { error: visible(`${wanted[0]}, ${name}: ${error.message}`) };
      }
    }));
    drawPaired();
  }
} catch (error) {
  problem(error);
}
