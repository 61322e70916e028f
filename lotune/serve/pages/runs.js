// The runs of a folder in one table, and one run with its curves while it trains.
import { $, getJson, make, page, t, visible } from "./common.js";
import { curve } from "./curves.js";

const POLL = 3000;
const percent = (value) => (value == null ? "" : `${(100 * value).toFixed(1)} %`);
const figure = (value) => (value == null ? "" : value.toFixed(Math.abs(value) < 1 ? 3 : 1));
const COLUMNS = [
  ["name", (run) => run.name], ["state", (run) => t(run.state)], ["task", (run) => run.task ?? ""],
  ["metric", (run) => run.metric ?? ""], ["base", (run) => figure(run.base), true], ["tuned", (run) => figure(run.tuned), true],
  ["kept", (run) => percent(run.kept), true], ["ratio", (run) => (run.ratio == null ? "" : `${(100 * run.ratio).toFixed(3)} %`), true],
  ["score", (run) => figure(run.score), true], ["valid", (run) => (run.valid == null ? "" : t(run.valid ? "yes" : "no"))],
];
let runs = [];
let order = { column: "name", down: false };

function table() {
  const numeric = (name) => COLUMNS.find(([one]) => one === name)[2];
  $("head").replaceChildren(
    ...COLUMNS.map(([name, , number]) => {
      const button = make("button", { type: "button" }, t(name) + (order.column === name ? (order.down ? " ▾" : " ▴") : ""));
      button.onclick = () => {
        order = { column: name, down: order.column === name ? !order.down : Boolean(number) };
        table();
        $("head").children[COLUMNS.findIndex(([one]) => one === name)].firstChild.focus();
      };
      const cell = make("th", { scope: "col", class: number ? "number" : "" }, button);
      if (order.column === name) cell.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      return cell;
    }),
  );
  const word = $("filter").value.toLowerCase();
  const matching = runs.filter((run) => COLUMNS.some(([, show]) => String(show(run)).toLowerCase().includes(word)));
  const value = (run) => run[order.column] ?? (numeric(order.column) ? -Infinity : "");
  matching.sort((a, b) => (numeric(order.column) ? value(a) - value(b) : String(value(a)).localeCompare(String(value(b)))));
  if (order.down) matching.reverse();
  $("rows").replaceChildren(
    ...matching.map((run) =>
      make("tr", {}, ...COLUMNS.map(([name, show, number]) => {
        const text = show(run);
        const kind = name === "valid" && run.valid != null ? (run.valid ? "good" : "problem") : "";
        if (name !== "name") return make("td", { class: number ? "number" : kind }, text);
        return make("td", {}, make("a", { href: `?run=${encodeURIComponent(run.name)}` }, text));
      })),
    ),
  );
  $("note").textContent = runs.length ? "" : t("none");
}

async function one(name) {
  $("index").hidden = true;
  $("one").hidden = false;
  $("title").textContent = visible(name);
  const show = async () => {
    const run = await getJson(`runs.json?run=${encodeURIComponent(name)}`);
    $("progress").textContent = `${t(run.state)}${run.steps ? ` · ${t("steps", { n: run.step, of: run.steps })}` : ""}`;
    $("curves").replaceChildren(curve(t("loss"), [{ points: run.loss }]), curve(t("validation"), [{ points: run.validation }]));
    $("samples-title").hidden = !run.samples.length;
    $("samples").replaceChildren(
      ...run.samples.slice(-12).reverse().map(({ step, prompt, continuation }) =>
        make("article", { class: "message" }, make("h3", {}, `${t("step")} ${step}`), make("p", { class: "text", dir: "auto" }, `${prompt}${continuation}`))),
    );
    const link = make("a", { href: `report?run=${encodeURIComponent(name)}`, target: "_blank", rel: "noopener" }, t("open"));
    $("report").replaceChildren(run.report ? link : t("noreport"));
    if (run.report && !$("frame").children.length) $("frame").append(make("iframe", { src: `report?run=${encodeURIComponent(name)}`, title: t("report") }));
    if (run.state === "training") setTimeout(show, POLL);
  };
  await show();
  document.addEventListener("language", show);
}

page("runs");
const wanted = new URLSearchParams(location.search).get("run");
try {
  if (wanted) await one(wanted);
  else {
    runs = (await getJson("runs.json")).runs;
    table();
    $("filter").oninput = table;
    document.addEventListener("language", table);
  }
} catch (error) {
  $("index").hidden = false;
  $("one").hidden = true;
  $("note").textContent = visible(error.message);
}
