// Two to four models answer one question side by side.
import { $, answer, askForm, copy, examples, figures, getJson, load, make, page, save, settings, settingsFields, t, visible } from "./common.js";

const LEAST = 2;
const MOST = 4;
const columns = [];
let stopper = null;

function column(name) {
  const number = columns.length + 1;
  const select = make("select", {}, ...config.models.map((model) => make("option", { value: model }, model)));
  select.value = config.models.includes(name) ? name : config.models[(number - 1) % config.models.length];
  select.setAttribute("aria-label", t("column", { n: number }));
  select.onchange = keep;
  const text = make("p", { class: "text", dir: "auto", "aria-live": "polite" });
  const meta = make("p", { class: "meta", role: "status" });
  const copier = make("button", { class: "small", type: "button", "data-t": "copy" }, t("copy"));
  copier.onclick = () => copy(text.textContent, copier);
  const body = make("section", { class: "panel", "aria-label": t("column", { n: number }) }, select, text, meta, copier);
  columns.push({ select, text, meta, body });
  $("columns").append(body);
}

function keep() {
  save("compared", columns.map(({ select }) => select.value));
  $("add").disabled = columns.length >= MOST;
  $("drop").disabled = columns.length <= LEAST;
}

async function ask() {
  const question = $("question").value;
  if (!question.trim() || stopper) return;
  const system = $("system").value.trim();
  const messages = [...(system ? [{ role: "system", content: system }] : []), { role: "user", content: question }];
  stopper = new AbortController();
  $("send").disabled = $("clear").disabled = $("add").disabled = $("drop").disabled = true;
  $("stop").hidden = false;
  await Promise.all(
    columns.map(async ({ select, text, meta }) => {
      text.textContent = meta.textContent = "";
      meta.className = "meta";
      try {
        const chosen = { model: select.value, ...settings($("settings")) };
        const show = (so_far) => (text.textContent = visible(so_far));
        meta.textContent = figures(await answer(messages, chosen, stopper.signal, show));
      } catch (error) {
        meta.className = "meta problem";
        meta.textContent = visible(t("failed", { why: error.message }));
      }
    }),
  );
  stopper = null;
  $("send").disabled = $("clear").disabled = false;
  $("stop").hidden = true;
  keep();
}

page("compare");
const config = await getJson("config");
const known = load("compared", []);
for (const name of known.length >= LEAST ? known.slice(0, MOST) : config.models.slice(0, LEAST)) column(name);
while (columns.length < LEAST) column("");
keep();
settingsFields($("settings"), config.preset);
examples(config.examples);
askForm(ask);
$("stop").onclick = () => stopper?.abort();
$("clear").onclick = () => {
  for (const { text, meta } of columns) text.textContent = meta.textContent = "";
  $("question").value = "";
};
$("add").onclick = () => {
  column("");
  keep();
};
$("drop").onclick = () => {
  columns.pop().body.remove();
  keep();
};
