// The runs of the folder: states that follow by themselves, figures, a filter, and those to compare.
import { $, make, t } from "/common.js";
import { act, call, command, metricValue, page, percent, number, problem, query, runPage, stateClass, stateText, watch } from "/studio.js";

const POLL = 3000;
let runs = [];
let order = { column: "at", down: true };
const chosen = new Set();
const when = (run) => (run.at ? new Date(run.at * 1000).toLocaleString(document.documentElement.lang) : "");
const gain = (run) => (run.tuned == null ? "" : `${metricValue(run, run.base)} → ${metricValue(run, run.tuned)}`);
const COLUMNS = [
  ["name", (run) => run.name], ["state", (run) => stateText(run.state)], ["task", (run) => run.task ?? ""],
  ["metric", (run) => run.metric ?? ""], ["tuned", gain, true, "gain"], ["kept", (run) => percent(run.kept), true],
  ["ratio", (run) => percent(run.ratio, 3), true], ["score", (run) => number(run.score), true],
  ["valid", (run) => (run.valid == null ? "" : t(run.valid ? "yes" : "no"))], ["at", when, true, "when"],
];

function head() {
  const cells = COLUMNS.map(([name, , numeric, title]) => {
    const button = make("button", { type: "button" }, t(title ?? name) + (order.column === name ? (order.down ? " ▾" : " ▴") : ""));
    button.onclick = () => {
      order = { column: name, down: order.column === name ? !order.down : Boolean(numeric) };
      head();
      body();
      $("head").children[1 + COLUMNS.findIndex(([one]) => one === name)].firstChild.focus();
    };
    const cell = make("th", { scope: "col", class: numeric ? "number" : "" }, button);
    if (order.column === name) cell.setAttribute("aria-sort", order.down ? "descending" : "ascending");
    return cell;
  });
  $("head").replaceChildren(make("th", { scope: "col" }, make("span", { class: "visually-hidden" }, t("compareRuns"))), ...cells);
}

function row(run) {
  const box = make("input", { type: "checkbox", checked: chosen.has(run.name), "aria-label": t("choose", { name: run.name }) });
  box.onchange = () => {
    if (box.checked) chosen.add(run.name);
    else chosen.delete(run.name);
    $("compare").disabled = chosen.size < 2;
    drawCommand();
  };
  return make("tr", {}, make("td", {}, box), ...COLUMNS.map(([name, show, numeric]) => {
    if (name === "name") return make("td", {}, make("a", { href: runPage(run.name) }, run.name));
    const look = name === "state" ? stateClass(run.state) : name === "valid" && run.valid != null ? (run.valid ? "good" : "problem") : "";
    return make("td", { class: numeric ? "number" : look }, show(run));
  }));
}

// What the page does with the chosen runs, in the terminal.
function drawCommand() {
  const names = chosen.size ? [...chosen] : runs.slice(0, 1).map(({ name }) => name);
  const words = names.map((name) => `runs/${name}`);
  $("command").replaceChildren(...(words.length > 1 ? words.slice(1).map((other) => command(`lotune compare ${words[0]} ${other}`)) : words.map((word) => command(`lotune watch ${word}`))));
}

function body() {
  const word = $("filter").value.toLowerCase();
  const matching = runs.filter((run) => COLUMNS.some(([, show]) => String(show(run)).toLowerCase().includes(word)));
  const numeric = COLUMNS.find(([one]) => one === order.column)[2];
  const value = (run) => run[order.column] ?? (numeric ? -Infinity : "");
  matching.sort((a, b) => (numeric ? value(a) - value(b) : String(value(a)).localeCompare(String(value(b)))));
  if (order.down) matching.reverse();
  const focused = document.activeElement?.getAttribute("aria-label");
  $("rows").replaceChildren(...matching.map(row));
  if (focused) [...$("rows").querySelectorAll("input")].find((box) => box.getAttribute("aria-label") === focused)?.focus();
  $("empty").hidden = runs.length > 0;
  $("table").hidden = runs.length === 0;
  drawCommand();
}

page("runs");
$("filter").oninput = body;
$("demo-command").append(command("lotune run demo"));
document.addEventListener("language", () => {
  head();
  body();
});
act($("example"), async () => {
  const { run } = await call("example", { method: "POST" });
  location.href = runPage(run);
});
$("compare").onclick = () => (location.href = `/compare?${query([...chosen].map((name) => ["run", name]))}`);
$("at-once").onchange = async () => {
  try {
    await call("queue", { method: "PUT", body: { at_once: Number($("at-once").value) } });
    problem(null);
  } catch (error) {
    problem(error);
  }
};
head();
let known = "";
watch(async () => {
  try {
    const found = (await call("runs")).runs;
    const now = JSON.stringify(found);
    if (now !== known) {
      [runs, known] = [found, now];
      body();
    }
    problem(null);
  } catch (error) {
    problem(error);
  }
  return POLL;
});
$("at-once").value = (await call("queue")).at_once;
