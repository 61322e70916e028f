// Pictures of figures as SVG: lines over steps, and points in a plane.
import { make } from "./common.js";

const COLOURS = ["var(--accent)", "var(--second)", "var(--good)", "var(--bad)", "var(--quiet)", "var(--text)"];
const DASHES = ["", "7 4", "2 3", "9 3 2 3", "", "7 4"]; // for eyes that tell no colours apart
export const colour = (number) => COLOURS[number % COLOURS.length];

function frame(title, [first, last], [lowest, highest], { width = 640, height = 220, format = (y) => y.toPrecision(3), formatX = String } = {}) {
  const [left, bottom] = [56, 24];
  const margin = lowest === highest ? Math.abs(lowest) * 0.05 || 1 : 0; // a level line stands in the middle
  const [low, high] = [lowest - margin, highest + margin];
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const shape = (tag, attributes, text = "") => {
    const element = document.createElementNS(svg.namespaceURI, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.textContent = text;
    svg.append(element);
    return element;
  };
  const px = (x) => left + ((x - first) / (last - first || 1)) * (width - left - 8);
  const py = (y) => 8 + (1 - (Math.min(y, high) - low) / (high - low || 1)) * (height - bottom - 8);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${title}: ${format(low)} – ${format(high)}`);
  const font = { fill: "currentColor", "font-size": 12 };
  for (const y of [low, (low + high) / 2, high]) {
    shape("line", { x1: left, x2: width - 8, y1: py(y), y2: py(y), stroke: "currentColor", opacity: 0.2 });
    shape("text", { x: left - 6, y: py(y) + 4, "text-anchor": "end", ...font }, format(y));
  }
  for (const [x, anchor] of [[first, "start"], [last, "end"]]) shape("text", { x: px(x), y: height - 6, "text-anchor": anchor, ...font }, formatX(x));
  return { svg, shape, px, py, right: width - 8 };
}

function caption(title, lines) {
  const named = lines.filter(({ name }) => name);
  const keys = named.map(({ name, number }) => {
    const swatch = make("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = colour(number);
    return make("span", { class: "key" }, swatch, name);
  });
  return make("figcaption", {}, title, ...keys);
}

// Draw lines of {points: [[x, y], ...], name, dots} in one picture, with the extent of both axes; `gate` is a level to see.
export function curve(title, lines, { gate = null, ...options } = {}) {
  lines = lines.map((line, number) => ({ number, ...line }));
  const points = lines.flatMap(({ points: all }) => all);
  if (points.length < (lines.some(({ dots }) => dots) ? 1 : 2)) return "";
  const xs = points.map(([x]) => x);
  const ys = [...points.map(([, y]) => y), ...(gate === null ? [] : [gate])].sort((a, b) => a - b);
  const most = ys.length > 100 ? Math.floor(0.99 * ys.length) : ys.length - 1; // a few first steps would flatten the rest
  const { svg, shape, px, py, right } = frame(title, [Math.min(...xs), Math.max(...xs)], [ys[0], ys[most]], options);
  if (gate !== null) shape("line", { x1: 56, x2: right, y1: py(gate), y2: py(gate), stroke: "var(--bad)", "stroke-dasharray": "4 4" });
  for (const { points: line, number, dots } of lines) {
    const path = line.map(([x, y]) => `${px(x)},${py(y)}`).join(" ");
    shape("polyline", { points: path, fill: "none", stroke: colour(number), "stroke-width": 2, "stroke-dasharray": DASHES[number % DASHES.length] });
    if (dots) for (const [x, y] of line) shape("circle", { cx: px(x), cy: py(y), r: 4, fill: colour(number) });
  }
  return make("figure", {}, caption(title, lines), svg);
}

// Draw named points in a plane; those that no other one beats in both directions are joined.
export function pareto(title, points, options = {}) {
  if (!points.length) return "";
  const extent = (values) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const margin = (high - low || Math.abs(high) || 1) * 0.08;
    return [low - margin, high + margin];
  };
  const { svg, shape, px, py } = frame(title, extent(points.map(({ x }) => x)), extent(points.map(({ y }) => y)), { height: 300, ...options });
  const best = points
    .filter((one) => !points.some((other) => other !== one && other.x >= one.x && other.y >= one.y && (other.x > one.x || other.y > one.y)))
    .sort((a, b) => a.x - b.x);
  shape("polyline", { points: best.map(({ x, y }) => `${px(x)},${py(y)}`).join(" "), fill: "none", stroke: "currentColor", opacity: 0.5 });
  points.forEach(({ x, y, name }, number) => {
    shape("circle", { cx: px(x), cy: py(y), r: 6, fill: colour(number) });
    const end = px(x) > 440;
    shape("text", { x: px(x) + (end ? -10 : 10), y: py(y) - 8, "text-anchor": end ? "end" : "start", fill: "currentColor", "font-size": 12 }, name);
  });
  return make("figure", {}, make("figcaption", {}, title), svg);
}
