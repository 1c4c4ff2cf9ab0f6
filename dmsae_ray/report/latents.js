"use strict";
// The table of latents and the page of each. Texts come from documents: they are only ever set as text, never as markup.
const data = JSON.parse(document.getElementById("latents-data").textContent);
const app = document.getElementById("latents-app");
const section = app.closest("section");
const byId = new Map(data.rows.map((row) => [row.id, row]));
const MOST_ROWS = 200; // in the table before a reader asks for all
const SHADE = "240, 160, 20";

function el(name, attributes = {}, ...children) {
  const found = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") found.className = value;
    else if (key.startsWith("on")) found.addEventListener(key.slice(2), value);
    else if (value === true) found.setAttribute(key, "");
    else if (value !== false && value != null) found.setAttribute(key, value);
  }
  found.append(...children.filter((child) => child != null));
  return found;
}

function svg(name, attributes = {}, ...children) {
  const found = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  found.append(...children);
  return found;
}

const MINUS = "\u2212";
function number(value, digits = 3) {
  if (value == null) return "–";
  const size = Math.abs(value);
  const text = !size ? "0" : size >= 10 ** digits ? Math.round(size).toLocaleString("en")
    : size < 1e-4 ? size.toExponential(digits - 1) : size.toPrecision(digits);
  return value < 0 ? MINUS + text : text;
}
const percent = (value) => (value == null ? "–" : `${number(100 * value)}%`);
const quantile = (share) => (share <= 0 ? "smallest" : share >= 1 ? "largest" : `${Math.round(100 * share)}th percentile`);
const cosine = (value) => (value == null ? "–" : value.toFixed(2).replace("-", MINUS));
const last = (list) => list[list.length - 1];
const seedOf = (near) => (byId.has(near[0]) ? byId.get(near[0]).seed : null);

// --- words and snippets ---

function word(text) {
  // A single token, with its leading and trailing spaces visible.
  const shown = el("code", { title: text });
  const spaces = (n) => el("span", { class: "latents-space" }, n > 4 ? `␣×${n}` : "␣".repeat(n));
  const body = text.trim();
  const lead = body ? text.length - text.trimStart().length : text.length;
  const rest = body ? text.length - text.trimEnd().length : 0;
  if (lead) shown.append(spaces(lead));
  shown.append(body);
  if (rest) shown.append(spaces(rest));
  if (!text) shown.append(el("span", { class: "latents-space" }, "(empty)"));
  return shown;
}

function inText(text) {
  // A token within a text: one that is a run of spaces would not show, one that continues a character has no text.
  if (text === "") return "‥";
  return /^ +$/.test(text) ? (text.length > 4 ? `␣×${text.length}` : "␣".repeat(text.length)) : text;
}

function snippetText(snippet, from = 0, to = Infinity) {
  return snippet[3].slice(from, to).map((i) => data.texts[i]).join("");
}

function snippetItem(snippet, maximum) {
  const [context, start, peak, tokens, values] = snippet;
  const line = el("bdi");
  tokens.forEach((index, i) => {
    const value = values[i];
    const said = value === -1 ? "left out by the filters" : `activation ${number(value, 4)}`;
    const token = el("span", { title: `${data.texts[index] || "(continues the character before)"} · ${said}` });
    token.textContent = inText(data.texts[index]);
    if (value > 0) token.style.background = `rgba(${SHADE}, ${(0.08 + 0.92 * Math.min(1, value / maximum)).toFixed(3)})`;
    token.className = value === -1 ? "out" : i === peak ? "peak" : "";
    line.append(token);
  });
  const where = `held-out context ${context}, token ${start + peak}`;
  return el("li", { title: where }, el("span", { class: "number" }, number(values[peak])), line);
}

function example(row) {
  const cell = el("td", { class: "text latents-rest" });
  const top = row.firing && row.firing.top[0];
  if (!top) return cell;
  const peak = top[2];
  const box = el("div", { class: "latents-example" });
  const before = snippetText(top, Math.max(0, peak - 5), peak).slice(-24);
  box.append(before, el("mark", {}, inText(data.texts[top[3][peak]])), snippetText(top, peak + 1, peak + 13));
  box.title = snippetText(top);
  cell.append(box);
  return cell;
}

// --- pictures ---

function bars(scores, most, width = 9, height = 18) {
  const picture = svg("svg", { width: scores.length * width, height, "aria-hidden": "true" });
  scores.forEach((score, i) => {
    const tall = score == null ? 0 : Math.max(1, (height * score) / most);
    const attributes = { x: i * width, y: height - tall, width: width - 2, height: tall, fill: "#0072B2" };
    picture.append(svg("rect", score == null ? { ...attributes, y: height - 1, height: 1, fill: "#d0d7de" } : attributes));
  });
  return picture;
}

function scoreChart(scores) {
  const wide = 46, tall = 90, most = Math.max(...scores.map((s) => s ?? 0), 1e-12);
  const picture = svg("svg", { class: "latents-chart", width: scores.length * wide + 4, height: tall + 34, role: "img" });
  picture.append(svg("title", {}, `score by cycle: ${scores.map(percent).join(", ")}`));
  scores.forEach((score, i) => {
    const x = i * wide + 4, h = score == null ? 0 : (tall * score) / most;
    if (score != null) picture.append(svg("rect", { x, y: 16 + tall - h, width: wide - 12, height: h, fill: "#0072B2" }));
    const middle = x + (wide - 12) / 2;
    picture.append(svg("text", { x: middle, y: 12 + tall - h, "text-anchor": "middle" }, score == null ? "" : percent(score)));
    picture.append(svg("text", { x: middle, y: tall + 30, "text-anchor": "middle" }, String(i)));
  });
  picture.append(svg("line", { x1: 0, x2: scores.length * wide, y1: 16.5 + tall, y2: 16.5 + tall, stroke: "#8c959f" }));
  return el("figure", {}, picture, el("figcaption", {}, "by cycle; none where it was not in the pool"));
}

function histogram(firing) {
  const counts = firing.histogram, most = Math.max(...counts, 1);
  const wide = 420, tall = 110, left = 52, top = 8, step = wide / counts.length;
  const picture = svg("svg", { class: "latents-chart", viewBox: `0 0 ${left + wide + 16} ${tall + 44}`, role: "img",
    width: left + wide + 16, style: "max-width: 100%; height: auto" });
  picture.append(svg("title", {}, `histogram of ${firing.fired} activations above 0, up to ${number(firing.maximum)}`));
  counts.forEach((count, i) => {
    const h = count ? Math.max(1, (tall * count) / most) : 0;
    const bar = svg("rect", { x: left + i * step, y: top + tall - h, width: Math.max(1, step - 1), height: h, fill: "#0072B2" });
    bar.append(svg("title", {}, `${number(i * firing.width)} to ${number((i + 1) * firing.width)}: ${count} tokens`));
    picture.append(bar);
  });
  picture.append(svg("line", { x1: left, x2: left + wide, y1: top + tall + 0.5, y2: top + tall + 0.5, stroke: "#8c959f" }));
  const span = counts.length * firing.width;
  const unit = 10 ** Math.floor(Math.log10(span / 3)), tick = unit * [5, 2, 1].find((n) => n * unit * 3 <= span);
  for (let n = 0; n * tick <= span * 1.0001; n++)
    picture.append(svg("text", { x: left + (wide * n * tick) / span, y: top + tall + 15, "text-anchor": "middle" },
      String(Number((n * tick).toPrecision(6)))));
  picture.append(svg("text", { x: left + wide / 2, y: top + tall + 32, "text-anchor": "middle" }, "activation above 0"));
  picture.append(svg("text", { x: left - 6, y: top + 8, "text-anchor": "end" }, most.toLocaleString("en")));
  picture.append(svg("text", { x: left - 6, y: top + tall, "text-anchor": "end" }, "0"));
  picture.append(svg("text", { x: left - 6, y: top + 24, "text-anchor": "end" }, "tokens"));
  return el("figure", {}, picture);
}

function words(title, pairs, paint) {
  const most = Math.max(...pairs.map((pair) => Math.abs(pair[1] ?? 0)), 1e-12);
  const list = el("ol", { class: "latents-words" });
  for (const [text, change] of pairs) {
    const bar = el("i");
    bar.style.width = `${(100 * Math.abs(change ?? 0)) / most}%`;
    bar.style.background = paint;
    list.append(el("li", {}, word(data.texts[text]), el("span", { class: "track" }, bar),
      el("span", { class: "number" }, number(change))));
  }
  return el("div", {}, el("h4", {}, title), list);
}

// --- the table ---

const column = (title, value, cell, hint, text = false) => ({ title, value, cell, hint, text });
const plain = (content, text = false) => el("td", text ? { class: "text" } : {}, content);
const mostScore = Math.max(...data.rows.flatMap((row) => row.scores.map((score) => score ?? 0)), 1e-12);
const best = (row) => (row.nearest && row.nearest.length ? row.nearest[0][2] : null);
const least = (row) => (row.nearest && row.nearest.length ? last(row.nearest)[2] : null);

const columns = [column("latent", (row) => data.rows.indexOf(row), (row) => plain(link(row.id, row.name), true),
  data.sweep ? "cycle.row of its origin" : "row in the SAE", true)];
if (data.sweep) {
  columns.push(column("trial", (row) => row.trial, (row) => plain(row.trial, true), "", true));
  columns.push(column("C*", (row) => Number(row.distilled), (row) => plain(row.distilled ? "●" : ""), "in the distilled core"));
  columns.push(column("born", (row) => row.born, (row) => plain(String(row.born)), "cycle that learned it"));
  columns.push(column("survived", (row) => row.survived, (row) => plain(String(row.survived)), "later cycles that selected it again"));
} else columns.push(column("part", (row) => row.part, (row) => plain(row.part, true), "core or Matryoshka group", true));
columns.push(column("score", (row) => last(row.scores), (row) => {
  const cell = el("td", {}, `${percent(last(row.scores))} `);
  if (row.scores.length > 1) cell.append(bars(row.scores, mostScore));
  return cell;
}, data.sweep ? "share of the summed score: in the last cycle, and by cycle" : "share of the summed score"));
columns.push(column("fires at", (row) => row.frequency, (row) => plain(percent(row.frequency)), "share of tokens"));
columns.push(column("max", (row) => row.firing && row.firing.maximum, (row) => plain(number(row.firing && row.firing.maximum)),
  "largest activation"));
if (data.seeds) {
  columns.push(column("nearest in other seed" + (data.seeds > 1 ? "s" : ""), best, (row) => {
    const near = row.nearest[0];
    if (!near) return plain("–");
    const cell = el("td", {}, `${cosine(near[2])} `);
    cell.append(link(near[0], near[0].slice(near[1].length + 1) + (seedOf(near) == null ? "" : ` (seed ${seedOf(near)})`)));
    return cell;
  }, "largest cosine of encoder rows"));
  if (data.seeds > 1) columns.push(column("in every seed", least, (row) => plain(cosine(least(row))),
    "smallest of the largest cosines with each other seed"));
}
if (data.rows.some((row) => row.firing)) columns.push(column("fires on", null, example, "", true));

function link(id, text) {
  if (!byId.has(id)) return el("span", {}, text);
  return el("a", { href: `#latent-${id}`, onclick: (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    event.stopPropagation();
    go(id);
  } }, text);
}

let sorted = null, ascending = true, all = false, shown = data.rows;
const filter = el("input", { type: "search", id: "latents-filter", placeholder: "token, text, trial or latent",
  "aria-label": "filter the latents", oninput: render });
const settings = [...new Set(data.rows.map((row) => row.setting))];
const setting = el("select", { "aria-label": "setting", onchange: render }, el("option", { value: "" }, "every setting"),
  ...settings.map((name) => el("option", { value: name }, name)));
const distilled = el("input", { type: "checkbox", onchange: render });
const counted = el("span", { class: "soft", role: "status" });
const head = el("tr"), body = el("tbody"), more = el("button", { type: "button", onclick: () => { all = true; render(); } });
const bar = el("div", { class: "latents-bar" }, filter);
if (data.sweep && settings.length > 1) bar.append(setting);
if (data.sweep) bar.append(el("label", {}, distilled, " distilled core only"));
bar.append(counted);
const list = el("div", {}, bar, el("div", { class: "wide" },
  el("table", { class: "latents-table" }, el("thead", {}, head), body)), more);
const article = el("article", { class: "latents-page", tabindex: "-1", hidden: true });
app.append(list, article);

columns.forEach((each) => {
  const button = el("button", { type: "button", onclick: () => {
    ascending = sorted === each ? !ascending : each.text;
    sorted = each;
    render();
  } }, each.title);
  each.head = el("th", { class: each.text ? "text" : each.title.length > 12 ? "latents-long" : "", scope: "col", title: each.hint },
    each.value ? button : el("span", { style: "display:block;padding:.3rem .6rem" }, each.title));
  head.append(each.head);
});

const searched = new Map(); // what the filter looks at, made when it is first needed
function haystack(row) {
  if (!searched.has(row)) {
    const parts = [row.id, row.name, row.part, row.trial, row.setting];
    if (row.firing) parts.push(...row.firing.top.map((snippet) => snippetText(snippet)));
    for (const pairs of [row.promoted, row.suppressed]) if (pairs) parts.push(...pairs.map((pair) => data.texts[pair[0]]));
    searched.set(row, parts.join("\n").toLowerCase());
  }
  return searched.get(row);
}

function render() {
  const wanted = filter.value.toLowerCase().trim();
  shown = data.rows.filter((row) => (!wanted || haystack(row).includes(wanted)) &&
    (!setting.value || row.setting === setting.value) && (!distilled.checked || row.distilled));
  if (sorted) {
    const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
    shown.sort((a, b) => {
      const x = sorted.value(a), y = sorted.value(b);
      if (x == null || y == null) return (x == null) - (y == null); // what is unknown stands last
      return ascending ? order(x, y) : order(y, x);
    });
  }
  for (const each of columns)
    if (each === sorted) each.head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    else each.head.removeAttribute("aria-sort");
  const drawn = all ? shown : shown.slice(0, MOST_ROWS);
  body.replaceChildren(...drawn.map((row) => el("tr", { "data-id": row.id, onclick: () => go(row.id) },
    ...columns.map((each) => each.cell(row)))));
  counted.textContent = shown.length === data.rows.length ? `${shown.length} latents` : `${shown.length} of ${data.rows.length} latents`;
  more.hidden = drawn.length === shown.length;
  more.textContent = `show all ${shown.length}`;
}

// --- the page of one latent ---

function fact(facts, name, ...content) {
  facts.append(el("div", {}, el("dt", {}, name), el("dd", {}, ...content)));
}

function open(row) {
  const at = shown.indexOf(row), step = (by) => shown[at + by];
  const turn = (text, by) => el("button", { type: "button", disabled: at < 0 || !step(by), onclick: () => go(step(by).id) }, text);
  const facts = el("dl", { class: "latents-facts" }), firing = row.firing;
  fact(facts, data.sweep ? "row in the SAE" : "part", data.sweep ? String(row.latent) : row.part);
  if (data.sweep) {
    fact(facts, "in the distilled core", row.distilled ? "yes" : "no");
    fact(facts, "born in cycle", String(row.born));
    fact(facts, "survived", `${row.survived} ${row.survived === 1 ? "cycle" : "cycles"}`);
  }
  fact(facts, "score", percent(last(row.scores)));
  if (firing) {
    fact(facts, "fires at", `${percent(row.frequency)} (${firing.fired.toLocaleString("en")} of ${firing.tokens.toLocaleString("en")} tokens)`);
    fact(facts, "largest activation", number(firing.maximum));
    fact(facts, "mean where it fires", number(firing.mean));
  } else fact(facts, "fires at", `${percent(row.frequency)} of the attribution set's tokens`);
  for (const near of row.nearest || [])
    fact(facts, `nearest in ${seedOf(near) == null ? near[1] : `seed ${seedOf(near)}`}`, `${cosine(near[2])} `,
      link(near[0], near[0].slice(near[1].length + 1)));
  const parts = [
    el("div", { class: "latents-bar" }, el("button", { type: "button", onclick: () => go(null) }, "← all latents"),
      turn("previous", -1), turn("next", 1)),
    el("h3", {}, `Latent ${row.name}`, data.sweep ? el("span", { class: "soft" }, ` · ${row.setting} · seed ${row.seed}`) : ""),
    facts,
  ];
  const charts = el("div", { class: "latents-columns" });
  if (row.scores.length > 1) charts.append(el("div", {}, el("h4", {}, "Score, share of the summed score"), scoreChart(row.scores)));
  if (firing && firing.fired) charts.append(el("div", {}, el("h4", {}, "How strongly it fires"), histogram(firing)));
  parts.push(charts);
  if (row.promoted) parts.push(el("div", { class: "latents-columns" },
    words("Tokens that its decoder row promotes", row.promoted, "#009E73"),
    words("Tokens that it suppresses", row.suppressed, "#CC79A7")),
    el("p", { class: "soft" }, "Logit lens: its decoder row through the final norm's gain and the unembedding, as if no block " +
      "lay between. The numbers order the tokens; their size depends on the scale of the final stream."));
  if (firing && firing.top.length) {
    const lists = (snippets) => el("ol", { class: "latents-snippets" }, ...snippets.map((s) => snippetItem(s, firing.maximum)));
    parts.push(el("h4", {}, "Where it fires most"), el("p", { class: "soft" }, "Held-out text, one stretch a context, with the " +
      "activation of the framed token. Shading: 0", el("span", { class: "latents-scale" }), `${number(firing.maximum)}.`),
      lists(firing.top));
    for (const [low, high, snippets] of firing.ranges)
      parts.push(el("h4", {}, `At random, between the ${quantile(low)} and the ${quantile(high)} of its activations above 0`), lists(snippets));
  } else if (firing) parts.push(el("p", {}, "It fires at no held-out token."));
  else parts.push(el("p", { class: "soft" }, "No snippets were made for this latent."));
  article.replaceChildren(...parts);
}

function show(id) {
  const row = id == null ? undefined : byId.get(id);
  if (row) open(row);
  article.hidden = !row;
  list.hidden = !!row;
  const about = section.querySelector(".latents-about");
  if (about) about.hidden = !!row;
  return row;
}

let cameFrom = null;
function go(id) {
  // In some viewers a document has no address of its own; the page opens there too.
  try { history.pushState(null, "", id == null ? "#latents" : `#latent-${id}`); } catch (error) { /* no address */ }
  if (id == null) {
    show(null);
    const row = cameFrom && body.querySelector(`tr[data-id="${CSS.escape(cameFrom)}"] a`);
    (row || filter).focus({ preventScroll: true });
    if (row) row.scrollIntoView({ block: "center" }); else section.scrollIntoView();
  } else {
    cameFrom = id;
    show(id);
    section.scrollIntoView();
    article.focus({ preventScroll: true });
  }
}

function route() {
  let id = null;
  try { id = decodeURIComponent(location.hash); } catch (error) { return; }
  if (!id.startsWith("#latent-")) return void show(null);
  cameFrom = id = id.slice("#latent-".length);
  if (show(id)) section.scrollIntoView();
}

addEventListener("popstate", route);
addEventListener("hashchange", route);
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !article.hidden) go(null);
});
render();
route();
