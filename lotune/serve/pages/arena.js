// Blind battles: two models answer, the person votes, and then their names are shown.
import { $, askForm, events, examples, getJson, make, page, request, t, visible } from "./common.js";

const sides = ["a", "b"];
let battle = null; // the id, once the first question is sent
let stopper = null;
let state = "new"; // new, answering, open (a vote is possible), ended

const status = (text, problem = false) => {
  $("status").textContent = visible(text);
  $("status").className = problem ? "meta problem" : "meta";
};

function refresh() {
  for (const button of $("votes").children) button.disabled = state !== "open";
  $("send").disabled = state === "answering" || state === "ended";
  $("stop").hidden = state !== "answering";
}

function fresh() {
  stopper?.abort();
  battle = stopper = null;
  state = "new";
  for (const side of sides) {
    $(`log-${side}`).replaceChildren();
    const name = $(`name-${side}`);
    name.dataset.t = `model${side.toUpperCase()}`;
    name.textContent = t(name.dataset.t);
  }
  status("");
  refresh();
  $("question").focus();
}

const post = (path, body) => request(`arena/${path}`, { method: "POST", body: JSON.stringify(body) });

async function ask() {
  const prompt = $("question").value;
  if (!prompt.trim() || state === "answering" || state === "ended") return;
  const shown = {};
  state = "answering";
  refresh();
  status("");
  stopper = new AbortController();
  const { signal } = stopper;
  try {
    battle ??= (await (await post("battles", {})).json()).battle;
    for (const side of sides) {
      shown[side] = make("p", { class: "text", dir: "auto" });
      $(`log-${side}`).append(make("p", { class: "message user text", dir: "auto" }, prompt), shown[side]);
    }
    $("question").value = "";
    const response = await request(`arena/battles/${battle}/turns`, { method: "POST", body: JSON.stringify({ prompt }), signal });
    const texts = { a: "", b: "" };
    let failed = true;
    for await (const event of events(response)) {
      if (event.text) shown[event.side].textContent = visible((texts[event.side] += event.text));
      else if (event.side && event.failed) shown[event.side].replaceWith(make("p", { class: "problem", "data-t": "sideFailed" }, t("sideFailed")));
      else if (event.done && !texts[event.side].trim()) shown[event.side].replaceWith(make("p", { class: "meta", "data-t": "emptyAnswer" }, t("emptyAnswer")));
      else if (!event.side) failed = event.failed ?? true;
    }
    state = failed ? "ended" : "open";
    status(t(failed ? "battleFailed" : "voteNow"), failed);
  } catch (error) {
    if (signal.aborted && error.name === "AbortError") {
      for (const side of sides) shown[side]?.previousSibling.remove(), shown[side]?.remove();
      state = $("log-a").childElementCount ? "open" : "new";
      status(t("stopped"));
    } else {
      state = "ended";
      status(t("failed", { why: error.message }), true);
    }
  }
  stopper = null;
  refresh();
}

async function vote(verdict) {
  if (state !== "open") return;
  state = "ended";
  refresh();
  try {
    const { model_a, model_b, counts } = await (await post(`battles/${battle}/vote`, { verdict })).json();
    for (const [side, name] of [["a", model_a], ["b", model_b]]) {
      delete $(`name-${side}`).dataset.t;
      $(`name-${side}`).textContent = visible(name);
    }
    status(t(counts ? "voted" : "votedNamed", { a: model_a, b: model_b }));
    await board();
  } catch (error) {
    status(t("failed", { why: error.message }), true);
  }
  $("fresh").focus();
}

const query = () => new URLSearchParams([...new FormData($("filters"))].filter(([, value]) => value));
const span = (pair) => (pair ? `${pair[0].toFixed(0)} … ${pair[1].toFixed(0)}` : "");

function row(tag, cells) {
  return make("tr", {}, ...cells.map(([text, number]) => make(tag, number ? { class: "number" } : {}, String(text))));
}

async function board() {
  const found = await getJson(`arena/leaderboard.json?${query()}`);
  const heads = ["rank", "model", "rating", "interval", "elo", "games"];
  $("board").replaceChildren(make("thead", {}, row("th", heads.map((name, n) => [t(name), n !== 1]))), make("tbody"));
  for (const place of found.places) {
    const ranks = place.rank === null ? "–" : place.rank === place.worst_rank ? place.rank : `${place.rank}–${place.worst_rank}`;
    const rating = place.rating === null ? t("unrated") : place.rating.toFixed(0);
    $("board").lastChild.append(
      row("td", [[ranks, true], [place.model], [rating, true], [span(place.interval), true], [place.elo?.toFixed(0) ?? "", true], [place.games, true]]),
    );
  }
  const names = found.places.map((place) => place.model);
  $("matrix").replaceChildren(row("th", [["", false], ...names.map((name) => [name, true])]));
  for (const name of names) {
    const shares = names.map((other) => [found.matrix[name]?.[other] == null ? "" : `${(100 * found.matrix[name][other]).toFixed(0)} %`, true]);
    $("matrix").append(row("td", [[name, false], ...shares]));
  }
  const few = found.few_votes;
  const left = Object.values(found.left_out).reduce((sum, count) => sum + count, 0);
  $("board-note").textContent = visible(
    [t("counted", { n: found.votes }), left ? t("leftOut", { n: left }) : "", few ? t("fewVotes", { n: few.votes, model: few.model }) : ""].join(" "),
  );
  $("files").replaceChildren(
    ...["json", "csv", "svg"].map((form) => make("a", { href: `arena/leaderboard.${form}?${query()}`, download: `leaderboard.${form}` }, form)),
  );
}

const choices = { language: ["", "zh", "en", "other"], category: ["", "math", "code", "long", "other"], style: ["", "true"] };
const words = { "": "all", true: "controlled", zh: "zh", en: "en", other: "otherKind", math: "math", code: "code", long: "long" };
function filters() {
  for (const [name, values] of Object.entries(choices)) {
    const select = $("filters")[name];
    const chosen = select.value;
    select.replaceChildren(...values.map((value) => make("option", { value }, t(name === "style" && !value ? "plain" : words[value]))));
    select.value = chosen;
  }
}

page("arena");
filters();
const config = await getJson("config");
examples(config.examples);
askForm(ask);
refresh();
$("stop").onclick = () => stopper?.abort();
$("fresh").onclick = fresh;
$("filters").onchange = board;
for (const button of $("votes").children) button.onclick = () => vote(button.dataset.v);
// A letter votes, unless it is typed into a field.
document.onkeydown = (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  const button = [...$("votes").children].find((one) => one.getAttribute("aria-keyshortcuts") === event.key.toLowerCase());
  if (button && !button.disabled) button.click();
};
document.addEventListener("language", () => (filters(), board()));
await board();
