// A new run: a file of rows becomes a recipe, and each change of the form is written into it.
import { $, language, make, t, visible } from "/common.js";
import { act, bytes, call, clock, command, count, page, problem, query, runPage, settled } from "/studio.js";
import { chinese } from "/settings-zh.js";

const SMALL = 20 * 2 ** 20; // rows of a larger file are not estimated without being asked to
let form = null;
let view = null;
let settings = [];
let estimated = null;
let folder = { rows: [], recipes: [] };
const recipeName = () => new URLSearchParams(location.search).get("recipe");

// Choosing rows ------------------------------------------------------------------------------------------------------

function send(file, replace) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch tells nothing of what was sent
    request.open("PUT", `/api/files?${query({ name: file.name, replace })}`);
    request.upload.onprogress = ({ loaded, total }) => {
      $("progress").value = loaded / total;
      $("status").textContent = t("uploading", { name: file.name, done: bytes(loaded), of: bytes(total) });
    };
    request.onload = () => {
      const content = JSON.parse(request.responseText || "null");
      if (request.status < 300) resolve(content);
      else reject(Object.assign(new Error(visible(content?.error?.message ?? request.statusText)), { code: content?.error?.code }));
    };
    request.onerror = () => reject(new Error(t("serverGone")));
    request.send(file);
  });
}

async function take(file, replace = false) {
  problem(null);
  $("taken").hidden = true;
  $("progress").hidden = false;
  $("progress").value = 0;
  try {
    await send(file, replace);
    await choose(file.name);
  } catch (error) {
    if (error.code === "exists") {
      $("status").textContent = t("existsHere", { name: file.name });
      $("taken").hidden = false;
      act($("use"), () => choose(file.name));
      act($("replace"), () => take(file, true));
      $("use").focus();
    } else {
      $("status").textContent = "";
      problem(error);
    }
  } finally {
    $("progress").hidden = true;
  }
}

async function choose(name) {
  if (/\.ya?ml$/.test(name)) return open(name);
  $("taken").hidden = true;
  $("status").textContent = t("readingRows", { name });
  try {
    const written = await call("recipe", { method: "POST", body: { rows: name } });
    show(written, true);
  } finally {
    $("status").textContent = "";
  }
}

async function open(name) {
  problem(null);
  show(await call(`recipe?${query({ name })}`), true);
}

async function list() {
  folder = await call("folder");
  const fill = (place, files, work) =>
    place.replaceChildren(...files.map(({ name, bytes: size }) => {
      const button = act(make("button", { type: "button", class: "small" }, name), () => work(name));
      return make("li", {}, button, ` ${bytes(size)}`);
    }), ...(files.length ? [] : [make("li", { class: "meta" }, t("noFiles"))]));
  fill($("row-files"), folder.rows, choose);
  fill($("recipe-files"), folder.recipes, open);
}

// The form -----------------------------------------------------------------------------------------------------------

function show(next, fresh = false) {
  const before = form;
  form = next;
  if (recipeName() !== form.file) history.pushState(null, "", `/new?${query({ recipe: form.file })}`);
  $("choose").hidden = true;
  $("form").hidden = false;
  $("title").textContent = visible(form.file);
  const used = form.run_state !== null;
  $("used").hidden = !used;
  $("used-text").textContent = t("usedRecipe", { run: form.run });
  $("used-run").href = runPage(form.run);
  $("run").disabled = used;
  $("recipe-text").textContent = visible(form.text);
  $("command").replaceChildren(...(form.rows ? [command(`lotune init ${form.rows}`)] : []), command(form.command));
  if (document.activeElement !== $("base")) $("base").value = form.values["base.model"] ?? form.given["base.model"] ?? "nano";
  $("base").disabled = used;
  if ($("base").value === "nano") $("base-note").textContent = t("nanoNote");
  if (form.fault) problem(new Error(form.fault));
  drawSettings();
  const reads = (one) => one && JSON.stringify(Object.entries(one.given).filter(([key]) => /^(task|data|base)\./.test(key)));
  if (fresh || reads(before) !== reads(form)) preview();
  if (fresh || before?.text !== form.text) estimateSoon(fresh);
}

async function change(changes, place) {
  try {
    show(await call("recipe", { method: "PATCH", body: { recipe: form.file, changes } }));
    problem(null);
    if (place) mark(place, "");
  } catch (error) {
    const clause = Object.values(error.faults ?? {}).join("; ");
    if (place && clause) mark(place, clause);
    else problem(error);
  }
}

async function reread(wanted) {
  problem(null);
  try {
    show(await call("recipe/read", { method: "POST", body: { recipe: form.file, ...wanted } }), true);
  } catch (error) {
    problem(error);
    drawReading(); // what was chosen does not hold
  }
}

function mark(input, clause) {
  input.setAttribute("aria-invalid", clause ? "true" : "false");
  const place = document.getElementById(`${input.id}-fault`);
  if (place) place.textContent = visible(clause);
}

function field(id, label, input, note = "") {
  input.id = id;
  input.setAttribute("aria-describedby", `${id}-fault`);
  return make("label", {}, make("span", {}, label), input, make("span", { class: "problem", id: `${id}-fault` }), ...(note ? [make("span", { class: "help" }, note)] : []));
}

const select = (options, value) => {
  const element = make("select", {}, ...options.map(([name, text]) => make("option", { value: name }, text ?? name)));
  element.value = value;
  return element;
};

function drawReading() {
  const used = form.run_state !== null;
  const fields = [];
  const tasks = [...new Set([view.task, ...view.tasks])];
  const task = select(tasks.map((name) => [name]), view.task);
  task.onchange = () => reread({ task: task.value });
  fields.push(field("f-task", t("task"), task));
  const names = view.columns.map(({ name }) => [name]);
  for (const role of view.generated ? [] : view.roles) {
    const now = view.mapped[role] ?? (names.some(([name]) => name === role) ? role : "");
    if (!names.length || (!now && view.roles.length > 5)) continue;
    const input = select([["", t("noColumn")], ...names], now);
    input.onchange = () => {
      const columns = Object.fromEntries(view.roles.map((one) => [one, one === role ? input.value : view.mapped[one] ?? ""]).filter(([, name]) => name));
      reread({ task: view.task, columns });
    };
    fields.push(field(`f-column-${role}`, t("columnFor", { role }), input));
  }
  for (const [label, word] of Object.entries(view.labels).slice(0, 24)) {
    const input = make("input", { value: word });
    input.onchange = () => change({ "task.labels": { ...view.labels, [label]: input.value } }, input);
    fields.push(field(`f-label-${fields.length}`, t("labelWord", { label }), input));
  }
  for (const [key, label] of [["task.scorer", t("judge")], ["task.instruction", t("instruction")], ["task.template", t("template")]]) {
    if (!(key in form.values)) continue;
    const input = make("input", { value: form.values[key] ?? "", spellcheck: false });
    input.onchange = () => change({ [key]: input.value }, input);
    fields.push(field(`f-${key.split(".")[1]}`, label, input));
  }
  $("reading").replaceChildren(...fields);
  for (const input of $("reading").querySelectorAll("input, select")) input.disabled = used;
}

// Files outside of the folder are read only once somebody has allowed it.
const allowed = new Set();
function mayRead() {
  if (!form.outside?.length || allowed.has(form.file)) return true;
  if (!confirm(t("outsideAsk", { files: form.outside.join("\n") }))) return false;
  allowed.add(form.file);
  return true;
}

async function preview() {
  if (!mayRead()) return;
  try {
    view = await call(`recipe/preview?${query({ name: form.file, allow_outside: allowed.has(form.file) })}`);
  } catch (error) {
    problem(error);
    return;
  }
  drawReading();
  drawRows();
}

function drawRows() {
  $("decisions").replaceChildren(...view.decisions.map(({ text, change: by }) => make("li", {}, text, " ", make("span", { class: "meta" }, `(${by})`))));
  const counts = view.counts;
  const notes = view.generated ? [t("generatedRows")] : [t("countsText", {
    read: count(counts.read), malformed: count(counts.malformed), duplicates: count(counts.duplicates),
    train: count(Math.max(0, counts.different - counts.validation - counts.test)), validation: count(counts.validation), test: count(counts.test),
    longest: count(counts.longest), limit: count(counts.limit), tooLong: count(counts.too_long), encoded: count(counts.encoded),
  })];
  if (view.is_part) notes.push(t("partOnly"));
  if (view.borrowed_tokenizer) notes.push(t("borrowed"));
  $("counts").textContent = notes.join(" ");
  $("malformed").replaceChildren(...(view.malformed ?? []).map((text) => make("li", {}, text)));
  const tokens = ([text, isAnswer]) => make(isAnswer ? "mark" : "span", { class: "token" }, text);
  $("tokens").replaceChildren(...view.rows.map((row) => make("p", { class: "tokens", dir: "auto", tabIndex: 0 }, ...row.map(tokens))));
}

// Settings -----------------------------------------------------------------------------------------------------------

const shown = (value) => (value === null || value === undefined ? "null" : typeof value === "object" ? JSON.stringify(value) : String(value));

function settingField(setting) {
  const { key } = setting;
  const value = form.given[key];
  const input = setting.choices.length ? select([["", t("isDefault", { value: setting.default })], ...setting.choices.map((word) => [word])], value === undefined ? "" : shown(value)) : make("input", { value: value === undefined ? "" : shown(value), placeholder: setting.default, spellcheck: false });
  input.onchange = () => change({ [key]: input.value === "" ? null : input.value }, input);
  input.disabled = form.run_state !== null;
  const resolved = estimated?.settings?.[key];
  const sentence = (language === "zh" && chinese(key)) || setting.help;
  const note = resolved && value === undefined ? t("resolved", { value: shown(resolved.value), why: resolved.why }) : "";
  const label = field(`s-${key}`, key, input, note);
  label.append(make("span", { class: "help" }, sentence));
  if (form.faults[key]) mark(input, form.faults[key]);
  return label;
}

function drawSettings() {
  const active = document.activeElement?.id;
  const main = settings.filter(({ main: first }) => first);
  $("main-settings").replaceChildren(...main.map(settingField));
  drawOthers();
  if (active) document.getElementById(active)?.focus();
}

function drawOthers() {
  const word = $("search").value.trim().toLowerCase();
  const others = settings.filter(({ main, own }) => !main && !own);
  const text = ({ key, help }) => `${key} ${help} ${chinese(key)}`.toLowerCase();
  const given = others.filter(({ key }) => key in form.given || form.faults[key]);
  const matching = word ? others.filter((setting) => text(setting).includes(word)) : given;
  $("search-note").textContent = word ? t("found", { n: matching.length }) : "";
  $("other-settings").replaceChildren(...matching.slice(0, 60).map(settingField));
}

// Estimate -----------------------------------------------------------------------------------------------------------

let asked = 0;
async function estimate() {
  const mine = ++asked;
  const name = form.file;
  for (;;) {
    let found;
    try {
      found = await call("recipe/estimate", { method: "POST", body: { name, allow_outside: allowed.has(name) } });
    } catch (error) {
      found = { state: "failed", error };
    }
    if (mine !== asked) return;
    if (found.state === "running") {
      $("estimate").textContent = t("estimating");
      await new Promise((resolve) => setTimeout(resolve, 700));
      continue;
    }
    estimated = found.state === "done" ? found : null;
    drawEstimate(found);
    drawSettings();
    return;
  }
}

function drawEstimate(found) {
  $("estimate").className = found.state === "failed" ? "problem" : "meta";
  if (found.state === "failed") {
    $("estimate").textContent = visible(found.error.message);
    return;
  }
  const { seconds, steps, memory_bytes: memory, disk_bytes: disk, free_bytes: free } = found.estimate;
  const notes = seconds === undefined ? [] : [t("estimateText", { time: clock(seconds), steps: count(steps), memory: bytes(memory), disk: bytes(disk) })];
  if (free != null && free < memory) notes.push(t("estimateShort", { free: bytes(free) }));
  const { rows, tokens } = found.counts;
  if (rows) {
    const overlap = Object.values(rows.overlap.sets).reduce((sum, one) => sum + one.exact + one.normalised, 0);
    notes.push(t("overlapText", { duplicates: count(rows.duplicates), overlap: count(overlap), tokens: count(tokens.tokens), dropped: count(tokens.dropped_too_long) }));
  }
  $("estimate").textContent = notes.join(" ");
}

const estimateLater = settled(async () => {
  const size = folder.rows.find(({ name }) => name === form.rows)?.bytes ?? 0;
  const base = form.values["base.model"];
  if (form.run_state !== null || form.fault || (form.outside.length && !allowed.has(form.file)) || size > SMALL || (base !== "nano" && base?.includes("/") && !bases.some(({ name }) => name === base))) return;
  const { runs } = await call("runs");
  if (runs.some(({ state }) => state === "running")) $("estimate").textContent = t("estimateBusy");
  else estimate();
}, 1200);

function estimateSoon() {
  asked += 1;
  estimated = null;
  $("estimate").textContent = "";
  estimateLater();
}

// Base model ---------------------------------------------------------------------------------------------------------

let bases = [];
async function listBases() {
  ({ bases } = await call("bases"));
  $("bases").replaceChildren(...bases.map(({ name, bytes: size }) => make("option", { value: name }, size ? `${name} (${bytes(size)})` : name)));
}

async function baseChanged() {
  const name = $("base").value.trim();
  $("use-base").hidden = true;
  $("base-note").textContent = "";
  if (!name || bases.some((one) => one.name === name) || !/^[\w.-]+\/[\w.-]+$/.test(name)) return change({ "base.model": name || null }, $("base"));
  $("base-note").textContent = t("asking");
  try {
    const found = await call(`bases/hub?${query({ name })}`);
    $("base-note").textContent = t(found.fetched ? "hubFetched" : "hubSize", { name, size: bytes(found.bytes) });
    $("use-base").textContent = t("useBase", { name });
    $("use-base").hidden = false;
    $("use-base").focus();
    act($("use-base"), async () => {
      await change({ "base.model": name }, $("base"));
      $("use-base").hidden = true;
    });
  } catch (error) {
    $("base-note").textContent = visible(error.message);
  }
}

// Start --------------------------------------------------------------------------------------------------------------

async function start() {
  if (!mayRead()) return;
  const body = { recipe: form.file, allow_outside: allowed.has(form.file), ...(language === "zh" ? { lang: language } : {}) };
  location.href = runPage((await call("runs", { method: "POST", body })).run);
}

page("newRun");
const drop = $("drop");
for (const name of ["dragenter", "dragover"]) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
});
const chosen = () => $("file").files[0] && take($("file").files[0]);
$("file").onchange = chosen;
chosen(); // somebody may have been faster than this script
act($("run"), start);
act($("ask-estimate"), estimate);
act($("used-copy"), async () => show(await call("recipe/copy", { method: "POST", body: { run: form.run } }), true));
$("search").oninput = settled(drawOthers, 120);
$("base").onchange = baseChanged;
$("more").ontoggle = () => $("more").open && $("search").focus();
document.addEventListener("language", () => {
  if (form) show(form);
  if (view) {
    drawReading();
    drawRows();
  }
  if (estimated) drawEstimate(estimated);
});
window.addEventListener("popstate", () => location.reload());
try {
  const wanted = recipeName();
  const loading = [list(), listBases(), call("settings").then((found) => ({ settings } = found))];
  await Promise.all(loading);
  if (wanted) await open(wanted);
} catch (error) {
  problem(error);
}
