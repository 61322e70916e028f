// A run while it works and when it is done.
import { $, events, getJson, language, make, request, t, visible } from "/common.js";
import { curve } from "/curves.js";
import { act, bytes, call, clock, command, count, number, page, percent, problem, query, runPage, scrolled, stateClass, stateText, table, watch } from "/studio.js";

const POLL = 2000;
const PAGE = 20;
const name = new URLSearchParams(location.search).get("run") ?? "";
const ACTIVE = ["waiting", "running", "stopping"];
let run = null;
let card = null;
let cardAt = "";
let first = 0;

function actions() {
  const active = ACTIVE.includes(run.state);
  const buttons = [];
  const button = (text, work, kind = "") => buttons.push(act(make("button", { type: "button", class: kind, "data-t": text }, t(text)), work));
  const post = (path) => call(`run/${path}`, { method: "POST", body: { run: name } });
  if (active) button("stopRun", async () => { await post("stop"); await look(); });
  if (run.state === "stopped" || run.state === "died" || run.state === "out_of_memory") button("continueRun", async () => { await post("continue"); await look(); }, "primary");
  button("again", async () => {
    const copied = await call("recipe/copy", { method: "POST", body: { run: name } });
    location.href = `/new?${query({ recipe: copied.file })}`;
  });
  if (!active) {
    button("deleteRun", async () => {
      if (!confirm(t("deleteAsk", { run: name }))) return;
      await call(`run?${query({ run: name })}`, { method: "DELETE" });
      location.href = "/runs";
    });
  }
  return buttons;
}

let drawn = "";
function drawHead() {
  $("title").textContent = visible(name);
  $("state").textContent = stateText(run.state);
  $("state").className = `badge ${stateClass(run.state)}`;
  const now = `${run.state} ${document.documentElement.lang}`;
  if (now !== drawn) {
    drawn = now;
    $("actions").replaceChildren(...actions());
    $("command").replaceChildren(command(ACTIVE.includes(run.state) || run.state === "done" ? run.command : run.continue_command));
  }
  $("cause").hidden = !run.why;
  $("why").textContent = visible(run.why);
  $("cause-text").textContent = visible(run.cause.join("\n"));
  $("output-text").textContent = visible(run.output.join("\n"));
  $("output").hidden = !run.output.length;
  $("progress").hidden = !run.steps || run.state === "done";
  $("progress").value = run.steps ? run.step / run.steps : 0;
  $("pace").textContent = pace();
}

function pace() {
  if (run.state === "waiting") return t("waitingText");
  if (run.state === "done" || !run.steps) return ACTIVE.includes(run.state) ? t("preparing", { line: visible(run.output.at(-1) ?? "") }) : "";
  if (run.tokens_per_second == null || run.memory_bytes == null) return t("stepText", { step: count(run.step), steps: count(run.steps) });
  const left = run.step < run.steps ? clock(run.seconds_left) : t("preparing", { line: visible(run.output.at(-1) ?? "") });
  return t("paceText", { step: count(run.step), steps: count(run.steps), rate: count(Math.round(run.tokens_per_second)), left, memory: bytes(run.memory_bytes) });
}

// The parts in which prompts differ: the words around a question are the same in all.
function apart(prompts) {
  if (prompts.length < 2) return prompts.map((prompt) => prompt.trim());
  const shared = (texts) => {
    let length = 0;
    while (length < texts[0].length && texts.every((text) => text[length] === texts[0][length])) length += 1;
    return length;
  };
  const start = prompts[0].slice(0, shared(prompts)).lastIndexOf("\n") + 1;
  const ends = prompts.map((prompt) => [...prompt.slice(start)].reverse().join(""));
  const end = ends[0].slice(0, shared(ends)).lastIndexOf("\n") + 1;
  return prompts.map((prompt) => prompt.slice(start, prompt.length - end).trim() || prompt.trim());
}

function drawCurves() {
  const values = (key) => run.validations.filter((one) => typeof one[key] === "number").map((one) => [one.step, one[key]]);
  const fraction = card?.figures?.[0]?.value?.includes("%") ?? values("value").every(([, value]) => value <= 1);
  const format = fraction ? (value) => percent(value) : undefined;
  $("curves").replaceChildren(
    curve(t("trainingLoss"), [{ points: run.loss }]),
    curve(t("validationValue", { metric: run.scorecard?.target?.metric ?? "" }), [{ points: values("value"), dots: true }], format ? { format } : {}),
    curve(t("keptCurve", { gate: percent(run.gate, 0) }), [{ points: values("retained"), dots: true }], { gate: run.gate, format: (value) => percent(value) }),
    curve(t("validation"), [{ points: values("loss"), dots: true }]),
  );
  $("validation").hidden = !run.answers.length;
  const questions = apart(run.answers.map(({ prompt }) => prompt));
  const names = run.validations.map((one) => one.name);
  const verdict = (answer) => (answer == null ? "" : answer.correct === true ? "good" : answer.correct === false ? "problem" : "");
  const mark = (answer) => (answer?.correct === true ? "✓ " : answer?.correct === false ? "✗ " : "");
  $("answers-head").replaceChildren(...[t("prompt"), t("reference"), t("base"), ...names].map((text) => make("th", { scope: "col" }, text)));
  $("answers-rows").replaceChildren(...run.answers.map((row, place) => make("tr", {},
    make("td", { class: "answer", dir: "auto" }, questions[place]), make("td", { class: "answer", dir: "auto" }, row.reference ?? ""),
    ...[row.base, ...names.map((one) => row.checkpoints[one])].map((answer) => make("td", { class: `answer ${verdict(answer)}`, dir: "auto" }, answer ? mark(answer) + answer.answer : "")))));
  $("samples").hidden = !run.samples.length;
  $("samples-list").replaceChildren(...run.samples.slice().reverse().map(({ step, prompt, continuation }) =>
    make("article", { class: "message" }, make("h3", {}, `${t("step")} ${step}`), make("p", { class: "text", dir: "auto" }, `${prompt}${continuation}`))));
}

// Result -------------------------------------------------------------------------------------------------------------

async function result() {
  const stamp = JSON.stringify(run.scorecard);
  if (stamp === cardAt) return;
  cardAt = stamp;
  $("result").hidden = $("scorecard").hidden = !run.scorecard;
  if (!run.scorecard) return;
  await readCard();
  $("explorer").hidden = false;
  await Promise.all([drawTalk(), answers()]);
}

async function readCard() {
  card = await call(`run/scorecard?${query({ run: name, lang: language })}`);
  drawCard();
}

function drawCard() {
  $("headline").textContent = visible(card.headline);
  $("headline").className = card.valid ? "good" : "problem";
  $("reasons").replaceChildren(...card.reasons.map((reason) => make("li", {}, reason)));
  $("figures").replaceChildren(...card.figures.map(({ label, value, note }) => make("div", { class: "figure" }, make("span", { class: "meta" }, label), make("strong", {}, value), make("span", { class: "meta" }, note))));
  $("tables").replaceChildren(...card.tables.flatMap(({ title, head, rows, numeric, note }) => [
    make("h3", {}, title), scrolled(title, table(head, rows, { numeric, wrap: !numeric })), make("p", { class: "meta" }, note)]));
  const steps = card.next_steps.flatMap(({ command: words, reason }) => [make("li", {}, `${t("nextSteps")}: ${reason}`), make("li", {}, command(words))]);
  $("notes").replaceChildren(...card.notes.map((note) => make("li", {}, note)), ...steps);
}

function drawFiles() {
  if (!run.scorecard) return;
  const link = (file, text) => make("a", { class: "button", href: `/api/run/file?${query({ run: name, name: file })}`, download: "" }, text);
  const parts = [];
  for (const [kind, path, make_, get] of [["bundle", "bundle", "makeBundle", "getBundle"], ["gguf", "export", "makeGguf", "getGguf"]]) {
    const { state, bytes: size } = run.made[kind];
    if (state === "done") parts.push(link(kind, `${t(get)} (${bytes(size)})`));
    else if (state === "none" || state === "failed") {
      const button = make("button", { type: "button", "data-t": make_ }, t(make_));
      parts.push(act(button, async () => {
        await call(`run/${path}`, { method: "POST", body: { run: name, ...(kind === "bundle" ? { team: $("team").value || name } : {}) } });
        await look();
      }));
      if (kind === "bundle") {
        const input = make("input", { id: "team", value: $("team")?.value ?? name, maxLength: 64 });
        parts.push(make("label", { class: "narrow" }, make("span", { "data-t": "team" }, t("team")), input));
      }
    }
  }
  for (const file of run.files.filter((one) => one !== "metrics.jsonl")) parts.push(link(file, file));
  const made = Object.values(run.made);
  const now = JSON.stringify([made.map(({ state }) => state), run.files, document.documentElement.lang]);
  if (now !== $("files").dataset.now) {
    $("files").dataset.now = now;
    $("files").replaceChildren(...parts);
    $("terminal").hidden = false;
    $("commands").replaceChildren(...run.commands.map(command));
  }
  const working = made.filter(({ state }) => state === "waiting" || state === "running").map((one) => t("making", { command: one.command }));
  const failed = made.filter(({ state }) => state === "failed").map(({ command: words, cause }) => `${t("makingFailed")} ${words}: ${cause.join(" ")}`);
  $("made").textContent = visible([...working, ...failed].join(" "));
  $("report").hidden = !run.files.includes("report.html");
}

// Talk ---------------------------------------------------------------------------------------------------------------

async function drawTalk() {
  const { fields } = await call(`run/question?${query({ run: name })}`);
  $("talk-fields").replaceChildren(...fields.map((field) => {
    const text = make("textarea", { name: field, rows: fields.length > 1 ? 1 : 2, maxLength: 100000 });
    text.onkeydown = (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      $("talk").requestSubmit();
    };
    return make("label", {}, make("span", {}, field), text);
  }));
  $("ask").hidden = !fields.length;
}

async function loaded() {
  $("talk-status").textContent = t("talkLoading");
  try {
    return (await call("run/talk", { method: "POST", body: { run: name } })).address;
  } finally {
    $("talk-status").textContent = "";
  }
}

async function ask() {
  const values = Object.fromEntries(new FormData($("talk")));
  const { prompt, stop, max_tokens } = await call("run/question", { method: "POST", body: { run: name, values } });
  const address = await loaded();
  const { data } = await getJson(`${address}/v1/models`);
  const places = data.slice(0, 2).map(({ id }, place) => {
    const text = make("p", { class: "text", dir: "auto", "aria-live": "polite" });
    const meta = make("p", { class: "meta" });
    return { id, text, meta, body: make("div", { class: "message" }, make("h4", {}, `${t(place ? "tuned" : "base")}: ${id}`), text, meta) };
  });
  $("talk-answers").replaceChildren(...places.map(({ body }) => body));
  await Promise.all(places.map(async ({ id, text, meta }) => {
    const started = performance.now();
    const body = JSON.stringify({ model: id, prompt, stop, max_tokens, temperature: 0, stream: true });
    let answer = "";
    for await (const { choices, error } of events(await request(`${address}/v1/completions`, { method: "POST", body }))) {
      if (error) throw new Error(error.message);
      text.textContent = visible((answer += choices[0]?.text ?? ""));
    }
    meta.textContent = `${((performance.now() - started) / 1000).toFixed(1)} s`;
  }));
}

async function answers() {
  const asked = { run: name, verdict: $("verdict").value || "all", kind: $("kind").value, text: $("text").value, first, rows: PAGE };
  let found;
  try {
    found = await call(`run/answers?${query(asked)}`);
  } catch (error) {
    $("found").textContent = visible(error.message);
    return;
  }
  const { counts, kinds, rows } = found;
  const questions = apart(rows.map(({ prompt }) => prompt));
  const chosen = asked.verdict;
  $("verdict").replaceChildren(...Object.entries(counts).map(([one, n]) => make("option", { value: one, selected: one === chosen }, `${t(`v_${one}`)} (${count(n)})`)));
  $("kind").replaceChildren(make("option", { value: "" }, t("all")), ...kinds.map((kind) => make("option", { value: kind, selected: kind === asked.kind }, kind)));
  $("found").textContent = found.found ? t("foundRows", { n: count(found.found), first: count(first + 1), last: count(first + rows.length) }) : t("noRows");
  const answer = (title, { answer: text, correct }) => make("div", {}, make("h4", {}, `${title} ${correct === true ? "✓" : correct === false ? "✗" : ""}`), make("p", { class: `text ${correct === true ? "good" : correct === false ? "problem" : ""}`, dir: "auto" }, text ?? ""));
  $("answers-list").replaceChildren(...rows.map((row, place) => make("article", { class: "message" },
    make("h3", {}, [row.id, row.kind, ...row.verdicts.map((one) => t(`v_${one}`))].filter(Boolean).join(" · ")),
    make("details", {}, make("summary", {}, `${t("prompt")}: ${questions[place].slice(0, 300)}`), make("p", { class: "text", dir: "auto" }, row.prompt)),
    make("div", { class: "pair" }, answer(t("base"), row.base), answer(t("tuned"), row.tuned), make("div", {}, make("h4", {}, t("reference")), make("p", { class: "text", dir: "auto" }, row.reference ?? ""))))));
  $("previous").disabled = first === 0;
  $("next").disabled = first + rows.length >= found.found;
}

let seen = "";
async function look() {
  try {
    run = await call(`run?${query({ run: name })}`);
    problem(null);
  } catch (error) {
    problem(error);
    return error.code === "gone" ? POLL : 0;
  }
  run = { validations: [], loss: [], answers: [], samples: [], steps: null, step: 0, ...run };
  drawHead();
  drawFiles();
  await result();
  const now = JSON.stringify([run.loss.length, run.last_loss, run.validations.length, run.answers.length, run.samples.length, Boolean(card)]);
  if (now !== seen) {
    seen = now;
    drawCurves();
  }
  const busy = ACTIVE.includes(run.state) || Object.values(run.made).some(({ state }) => state === "waiting" || state === "running");
  return busy ? POLL : 5 * POLL;
}

page("run");
document.title = `lotune – ${name}`;
for (const id of ["verdict", "kind", "text"]) {
  $(id).addEventListener(id === "text" ? "input" : "change", () => {
    first = 0;
    clearTimeout(answers.timer);
    answers.timer = setTimeout(answers, id === "text" ? 300 : 0);
  });
}
$("talk").onsubmit = async (event) => {
  event.preventDefault();
  $("ask").disabled = true;
  try {
    await ask();
    problem(null);
  } catch (error) {
    problem(error);
  } finally {
    $("ask").disabled = false;
  }
};
act($("chat"), async () => (location.href = `${await loaded()}/ui/compare`));
$("answers-filter").onsubmit = (event) => event.preventDefault();
const turn = async (by) => {
  first = Math.max(0, first + by);
  await answers();
  $("explorer").scrollIntoView();
};
$("previous").onclick = () => turn(-PAGE);
$("next").onclick = () => turn(PAGE);
$("report").ontoggle = () => {
  if ($("report").open && !$("frame").children.length) $("frame").append(make("iframe", { src: `/report/${encodeURIComponent(name)}`, title: t("report") }));
};
document.addEventListener("language", async () => {
  drawHead();
  drawFiles();
  drawCurves();
  if (card) await Promise.all([readCard(), answers()]);
});
watch(look);
