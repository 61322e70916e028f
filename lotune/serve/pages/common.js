// What all pages share: language and theme, safe texts, requests, streams.
import { texts } from "./texts.js";

export const $ = (id) => document.getElementById(id);

const stored = (name, fallback) => {
  try {
    return localStorage.getItem(`lotune.${name}`) ?? fallback;
  } catch {
    return fallback; // a browser that keeps nothing
  }
};
export const load = (name, fallback) => {
  try {
    return JSON.parse(stored(name, null)) ?? fallback;
  } catch {
    return fallback;
  }
};
export const save = (name, value) => {
  try {
    localStorage.setItem(`lotune.${name}`, JSON.stringify(value));
  } catch {
    // full or forbidden: the page works without it
  }
};

export let language = load("language", navigator.language.startsWith("zh") ? "zh" : "en");
let theme = load("theme", matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");

export const t = (name, values = {}) =>
  (texts[language][name] ?? texts.en[name] ?? name).replace(/\{(\w+)\}/g, (_, key) => values[key] ?? "");

export function translate(root = document) {
  for (const element of root.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of root.querySelectorAll("[data-label]")) element.setAttribute("aria-label", t(element.dataset.label));
  for (const element of root.querySelectorAll("[data-hint]")) element.placeholder = t(element.dataset.hint);
}

// Characters that show nothing, reorder a text or control a terminal are shown by their numbers.
const hidden = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
export const visible = (text) =>
  text.replace(hidden, (c) => `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);

// Texts are set as text, never as markup, so that nothing a model wrote is interpreted.
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.map((child) => (typeof child === "string" ? visible(child) : child)));
  return element;
}

const serverLinks = () => {
  const { arena, home } = document.documentElement.dataset;
  if (home) return [["studio", `/run?run=${home}`], ["chat", "./chat"], ["compare", "./compare"]];
  const links = [["chat", "./chat"], ["compare", "./compare"], ["runs", "./runs"], ["api", "./api"]];
  if (arena !== undefined) links.splice(2, 0, ["arena", "./arena"]);
  return links;
};

export function page(current, links = serverLinks()) {
  const nav = make("nav", { "aria-label": t("pages") });
  for (const [name, href] of links) {
    const link = make("a", { href, "data-t": name }, t(name));
    if (name === current) link.setAttribute("aria-current", "page");
    nav.append(link);
  }
  const languageButton = make("button", { class: "small", type: "button" });
  const themeButton = make("button", { class: "small", type: "button" });
  const show = () => {
    document.documentElement.lang = language;
    document.documentElement.dataset.theme = theme;
    document.title = `lotune – ${t(current)}`;
    languageButton.textContent = language === "en" ? "中文" : "English";
    languageButton.lang = language === "en" ? "zh" : "en";
    themeButton.textContent = t(theme === "dark" ? "light" : "dark");
    nav.setAttribute("aria-label", t("pages"));
    translate();
  };
  languageButton.onclick = () => {
    language = language === "en" ? "zh" : "en";
    save("language", language);
    show();
    document.dispatchEvent(new Event("language"));
  };
  themeButton.onclick = () => {
    theme = theme === "dark" ? "light" : "dark";
    save("theme", theme);
    show();
  };
  const skip = make("a", { class: "skip", href: "#main", "data-t": "skip" }, t("skip"));
  document.body.prepend(skip, make("header", {}, make("strong", {}, "lotune"), nav, languageButton, themeButton));
  show();
}

const key = () => sessionStorage.getItem("lotune.key");
export const headers = () => ({ "content-type": "application/json", ...(key() ? { authorization: `Bearer ${key()}` } : {}) });

// Ask for the key of a server that wants one, once for this tab.
export async function request(path, options = {}) {
  const response = await fetch(path, { ...options, headers: headers() });
  if (response.status === 401) {
    const given = prompt(t("key"));
    if (given) {
      sessionStorage.setItem("lotune.key", given);
      document.cookie = `lotune_key=${given}; path=${location.pathname.replace(/[^/]*$/, "")}; SameSite=Strict`; // for frames
      return request(path, options);
    }
  }
  if (!response.ok) {
    const body = await response.json().catch(() => null);
    throw new Error(body?.error?.message ?? `${response.status} ${response.statusText}`);
  }
  return response;
}
export const getJson = async (path) => (await request(path)).json();

// Yield the JSON of each server-sent event of a response.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

// Stream the answer to a conversation; `show` gets the text so far. Return text, tokens, seconds and the reason.
export async function answer(messages, settings, signal, show) {
  const started = performance.now();
  const result = { text: "", tokens: 0, seconds: 0, reason: "" };
  const body = { messages, ...settings, stream: true, stream_options: { include_usage: true } };
  try {
    const response = await request("../v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal });
    for await (const chunk of events(response)) {
      if (chunk.error) throw new Error(chunk.error.message);
      const choice = chunk.choices[0];
      if (choice?.delta?.content) show((result.text += choice.delta.content));
      if (choice?.finish_reason) result.reason = choice.finish_reason;
      if (chunk.usage) result.tokens = chunk.usage.completion_tokens;
    }
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    result.reason = "stopped";
  } finally {
    result.seconds = (performance.now() - started) / 1000;
  }
  return result;
}

export function figures({ tokens, seconds, reason }) {
  const parts = [`${seconds.toFixed(1)} s`];
  if (tokens) parts.push(t("tokens", { n: tokens }), t("rate", { n: (tokens / seconds).toFixed(0) }));
  if (reason === "length") parts.push(t("cut"));
  if (reason === "stopped") parts.push(t("stopped"));
  return parts.join(" · ");
}

export function settings(form) {
  const number = (name) => (form[name].value === "" ? undefined : Number(form[name].value));
  return {
    temperature: number("temperature"), top_k: number("top_k"), top_p: number("top_p"), max_tokens: number("max_tokens"),
    repetition_penalty: number("repetition_penalty"), seed: number("seed"),
  };
}

// The sampling settings of a page, kept in the browser.
export function settingsFields(form, values) {
  const fields = [
    ["temperature", 0, 5, "any"], ["top_k", 0, 100000, 1], ["top_p", 0.01, 1, "any"], ["max_tokens", 1, 100000, 1],
    ["repetition_penalty", 0.1, 10, "any"], ["seed", 0, 2 ** 53, 1],
  ];
  const known = load("settings", values);
  for (const [name, min, max, step] of fields) {
    const input = make("input", { type: "number", name, min, max, step, value: known[name] ?? "", inputMode: "decimal" });
    input.onchange = () => save("settings", settings(form));
    form.append(make("label", {}, make("span", { "data-t": name }, t(name)), input));
  }
  const preset = make("button", { class: "small", type: "button", "data-t": "preset" }, t("preset"));
  preset.onclick = () => {
    for (const [name] of fields) form[name].value = values[name] ?? "";
    save("settings", settings(form));
  };
  form.append(preset);
}

// Enter sends the question, and Shift+Enter begins a line.
export function askForm(ask) {
  $("ask").onsubmit = (event) => {
    event.preventDefault();
    ask();
  };
  $("question").onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      ask();
    }
  };
}

export function examples(texts) {
  for (const text of texts) {
    const button = make("button", { type: "button", title: visible(text) }, text);
    button.onclick = () => {
      $("question").value = text;
      $("question").focus();
    };
    $("examples").append(button);
  }
}

export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", { value: text, class: "visually-hidden" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const label = button.textContent;
  button.textContent = t("copied");
  setTimeout(() => (button.textContent = label), 1500);
}

export function download(name, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}
