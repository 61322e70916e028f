// The API's documentation, drawn from its OpenAPI description.
import { $, getJson, make, page, t } from "./common.js";

const named = (spec, schema) => (schema?.$ref ? spec.components.schemas[schema.$ref.split("/").pop()] : schema);

function kind(spec, schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return [...new Set(schema.anyOf.map((one) => kind(spec, one)))].filter((one) => one !== "null").join(" | ");
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return `[${kind(spec, schema.items)}]`;
  return schema.type ?? "any";
}

function fields(spec, schema) {
  const head = ["field", "kind", "default", "meaning"].map((name) => make("th", { scope: "col" }, t(name)));
  const rows = Object.entries(schema.properties ?? {}).map(([name, field]) =>
    make(
      "tr", {}, make("td", {}, make("code", {}, name + (schema.required?.includes(name) ? " *" : ""))),
      make("td", { class: "wrap" }, kind(spec, field)),
      make("td", {}, field.default === undefined || field.default === null ? "" : JSON.stringify(field.default)),
      make("td", { class: "wrap" }, field.description ?? ""),
    ),
  );
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
  return make("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": t("body") }, table);
}

function draw(spec) {
  const sections = [];
  for (const [path, methods] of Object.entries(spec.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const body = named(spec, operation.requestBody?.content?.["application/json"]?.schema);
      const section = make("section", {}, make("h2", {}, make("code", {}, `${method.toUpperCase()} ${path}`)), make("p", {}, operation.summary ?? ""));
      if (body?.properties) section.append(fields(spec, body));
      sections.push(section);
    }
  }
  $("paths").replaceChildren(...sections);
}

page("api");
const spec = await getJson("../openapi.json");
draw(spec);
document.addEventListener("language", () => draw(spec));
