// What all pages of the studio share: calls, navigation, commands, figures.
import { copy, make, page as serverPage, t, visible } from "/common.js";
import "/studio-texts.js";

export const page = (current) => serverPage(current, [["runs", "/runs"], ["newRun", "/new"], ["compareRuns", "/compare"]]);

// Ask the studio; an error has its code, its message and a clause for each setting at fault.
export async function call(path, { method = "GET", body } = {}) {
  const options = { method, headers: body === undefined ? {} : { "content-type": "application/json" } };
  if (body !== undefined) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(`/api/${path}`, options);
  } catch {
    throw Object.assign(new Error(t("serverGone")), { code: "gone" });
  }
  const content = await response.json().catch(() => null);
  if (response.ok) return content;
  const error = content?.error ?? {};
  const message = response.status === 401 ? t("noToken") : error.message ?? `${response.status} ${response.statusText}`;
  throw Object.assign(new Error(visible(message)), { code: error.code, faults: error.faults ?? {}, outside: error.outside });
}
export const query = (values) => new URLSearchParams(values).toString();
export const runPage = (name) => `/run?${query({ run: name })}`;

export function problem(error) {
  const place = document.getElementById("problem");
  place.textContent = error ? visible(error.message ?? String(error)) : "";
  if (error) place.scrollIntoView({ block: "nearest" });
}

// Do something for a button, which does not answer meanwhile; what goes wrong is shown.
export function act(button, work) {
  button.onclick = async () => {
    button.disabled = true;
    problem(null);
    try {
      await work();
    } catch (error) {
      problem(error);
    } finally {
      button.disabled = false;
    }
  };
  return button;
}

// The command of the terminal that a page stands for, to be copied.
export function command(text) {
  const button = make("button", { class: "small", type: "button", "data-t": "copy" }, t("copy"));
  button.onclick = () => copy(text, button);
  return make("div", { class: "command" }, make("code", { tabIndex: 0 }, text), button);
}

// Look again and again, not while the page is hidden; `look` returns the milliseconds until the next time, 0 for never.
export function watch(look) {
  let timer = 0;
  const again = async () => {
    clearTimeout(timer);
    const pause = document.hidden ? 3000 : await look();
    if (pause) timer = setTimeout(again, pause);
  };
  document.addEventListener("visibilitychange", () => !document.hidden && again());
  return again();
}

export const percent = (value, digits = 1) => (value == null ? "" : `${(100 * value).toFixed(digits)} %`);
export const number = (value) => (value == null ? "" : Math.abs(value) < 1 ? value.toFixed(3) : value.toFixed(1));
// A value of a run's metric: an accuracy as a percentage.
export const metricValue = ({ metric }, value) => (metric === "accuracy" ? percent(value) : number(value));
export const count = (value) => value.toLocaleString("en");
export function bytes(size) {
  for (const [unit, power] of [["GiB", 30], ["MiB", 20], ["KiB", 10]]) if (size >= 2 ** power) return `${(size / 2 ** power).toFixed(1)} ${unit}`;
  return `${size} B`;
}
export function clock(seconds) {
  const whole = Math.round(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${String(rest).padStart(2, "0")}` : `${minutes}:${String(rest).padStart(2, "0")}`;
}
const LOOKS = { done: "good", died: "problem", out_of_memory: "problem" };
export const stateClass = (state) => LOOKS[state] ?? "";
export const stateText = (state) => t(`state_${state}`);

// Fill a table with a head and rows of texts; all columns but the first may be figures.
export function table(head, rows, { numeric = false, wrap = false } = {}) {
  const kind = (place) => (numeric && place ? "number" : wrap ? "wrap" : "");
  return make("table", {},
    make("thead", {}, make("tr", {}, ...head.map((name, place) => make("th", { scope: "col", class: kind(place) }, name)))),
    make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells.map((cell, place) => make("td", { class: kind(place) }, cell))))));
}
export const scrolled = (label, content) => make("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": label }, content);

// Pause until nothing was called for a while.
export function settled(work, milliseconds = 350) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), milliseconds);
  };
}
