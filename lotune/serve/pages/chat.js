// A conversation with one model; conversations are kept in this browser.
import {
  $, answer, askForm, copy, download, examples, figures, getJson, headers, load, make, page, save, settings, settingsFields, t, visible,
} from "./common.js";

const MOST = 100;
let conversations = load("conversations", []);
let current = conversations[0] ?? fresh();
let stopper = null;

function fresh() {
  const first = conversations[0];
  if (first && !first.messages.length) return first;
  const conversation = { id: crypto.randomUUID?.() ?? String(Date.now()), messages: [] };
  conversations.unshift(conversation);
  return conversation;
}

function keep() {
  conversations = conversations.slice(0, MOST);
  save("conversations", conversations);
  const title = (one) => visible(one.messages[0]?.content ?? t("fresh")).slice(0, 60);
  $("conversations").replaceChildren(
    ...conversations.map((one) => make("option", { value: one.id, selected: one === current }, title(one))),
  );
}

function button(name, action) {
  const element = make("button", { class: "small", type: "button" }, t(name));
  element.onclick = () => action(element);
  return element;
}

function article(message, number) {
  const user = message.role === "user";
  const text = make("p", { class: "text", dir: "auto" }, message.content);
  const body = make("article", { class: `message ${message.role}` }, make("h3", {}, user ? t("you") : message.model), text);
  const row = make("div", { class: "row" });
  if (message.error) body.append(make("p", { class: "problem", role: "alert" }, t("failed", { why: message.error })));
  if (user) {
    row.append(button("edit", () => edit(number)));
  } else if (!message.open) {
    if (message.result) body.append(make("p", { class: "meta" }, figures(message.result)));
    row.append(button("retry", () => retry(number)), button("copy", (b) => copy(message.content, b)), button("flag", (b) => flag(number, b)));
  }
  body.append(row);
  return { body, text };
}

function draw() {
  const log = $("log");
  log.replaceChildren(...current.messages.map((message, number) => article(message, number).body));
  if (!current.messages.length) log.append(make("p", { class: "meta" }, t("empty")));
  $("examples").hidden = current.messages.length > 0;
  keep();
}

function edit(number) {
  $("question").value = current.messages[number].content;
  current.messages = current.messages.slice(0, number);
  draw();
  $("question").focus();
}

async function retry(number) {
  current.messages = current.messages.slice(0, number);
  await generate();
}

async function flag(number, element) {
  const messages = current.messages.slice(0, number + 1).map(({ role, content }) => ({ role, content }));
  const body = JSON.stringify({ model: current.messages[number].model, messages });
  const response = await fetch("flags", { method: "POST", headers: headers(), body });
  element.textContent = response.ok ? t("flagged") : t("failed", { why: response.status });
  element.disabled = response.ok;
}

async function generate() {
  const conversation = current;
  const system = $("system").value.trim();
  const asked = conversation.messages.map(({ role, content }) => ({ role, content }));
  const message = { role: "assistant", content: "", model: $("model").value, open: true };
  conversation.messages.push(message);
  draw();
  const shown = article(message, conversation.messages.length - 1);
  $("log").lastElementChild.replaceWith(shown.body);
  stopper = new AbortController();
  busy(true);
  try {
    const chosen = { model: message.model, ...settings($("settings")) };
    message.result = await answer(
      [...(system ? [{ role: "system", content: system }] : []), ...asked], chosen, stopper.signal,
      (text) => {
        message.content = text;
        shown.text.textContent = visible(text);
      },
    );
    message.content = message.result.text;
  } catch (error) {
    message.error = error.message;
  }
  delete message.open;
  stopper = null;
  busy(false);
  draw();
}

function busy(on) {
  $("send").disabled = $("clear").disabled = $("conversations").disabled = $("fresh").disabled = $("remove").disabled = on;
  $("stop").hidden = !on;
  $("log").setAttribute("aria-busy", on);
}

async function ask() {
  const question = $("question").value;
  if (!question.trim() || stopper) return;
  // What had no answer is not sent again.
  current.messages = current.messages.filter((one, n, all) => !one.error && !(one.role === "user" && all[n + 1]?.error));
  current.messages.push({ role: "user", content: question });
  $("question").value = "";
  await generate();
}

page("chat");
askForm(ask);
$("stop").onclick = () => stopper?.abort();
$("clear").onclick = () => {
  current.messages = [];
  draw();
  $("question").focus();
};
$("fresh").onclick = () => {
  current = fresh();
  draw();
};
$("remove").onclick = () => {
  conversations = conversations.filter((one) => one !== current);
  current = conversations[0] ?? fresh();
  draw();
};
$("download").onclick = () => download("conversation.json", JSON.stringify(current, null, 1));
$("conversations").onchange = (event) => {
  current = conversations.find((one) => one.id === event.target.value);
  draw();
};
$("panel").open = matchMedia("(min-width: 52rem)").matches;
document.addEventListener("language", draw);
draw();

const config = await getJson("config");
$("model").append(...config.models.map((name) => make("option", { value: name }, name)));
if (config.models.includes(load("model", ""))) $("model").value = load("model", "");
$("model").onchange = () => save("model", $("model").value);
settingsFields($("settings"), config.preset);
examples(config.examples);
