/* The dashboard: draws what the gateway tells once a second, and says when it tells no more.

   Everything from the mesh becomes text by textContent and attributes by setAttribute, never markup: keys and values are
   whatever somebody stored. Figures are shown only while they are new: after OLD_MS without news all is greyed, and the
   line at the top says since when. */
"use strict";

const OLD_MS = 3000;
const RETRY_MS = 1000;
const TOKEN_ITEM = "meshcache-token";
const KEPT_S = 600;
const EVENTS_KEPT = 100;
const VALUE_CHARS_MAX = 20000;
const COLOURS = 10;
const KINDS = ["set", "delete", "invalidate", "clear", "tag"];
const CHARTS = [
  { name: "Keys per second", field: "keysPerS", format: rate, sum: true },
  { name: "Hit rate", field: "hitRate", format: percent, max: 1 },
  { name: "How full", field: "fullness", format: percent, max: 1 },
  { name: "Evicted per second", field: "evictionsPerS", format: rate, sum: true },
  { name: "Loop lag", field: "loopLagMs", format: milliseconds },
];

const byId = (id) => document.getElementById(id);
const colours = new Map();
let points = [];
let heardAt = 0;
let picture = null;
let lostSince = null;

/* ---- asking the gateway. Where it needs a token, somebody types it in, and it stays in this tab until that is closed.
   It goes into a header that this script sets, never into a cookie or an address: no other page can have a browser send it. */

async function ask(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN_ITEM);
  const answer = await fetch(path, { ...options, headers: token ? { Authorization: `Bearer ${token}` } : {} });
  if (answer.status === 401 && token === sessionStorage.getItem(TOKEN_ITEM)) {
    sessionStorage.removeItem(TOKEN_ITEM);
    byId("login-said").textContent = token ? "The gateway does not take this token." : "";
    byId("login").hidden = false;
    tellConnection();
  }
  return answer;
}

function login(event) {
  event.preventDefault();
  sessionStorage.setItem(TOKEN_ITEM, byId("token").value.trim());
  byId("token").value = "";
  byId("login").hidden = true;
}

function pause(ms) { return new Promise((resolve) => setTimeout(resolve, ms)); }

async function follow(path, hear, signal) {  // server-sent events: EventSource can send no header
  while (!signal || !signal.aborted) {
    try {
      if (byId("login").hidden) await hearAll(path, hear, signal);
    } catch {
      // It is lost, or somebody ended it; tellConnection says which.
    }
    await pause(RETRY_MS);
  }
}

async function hearAll(path, hear, signal) {
  const answer = await ask(path, { signal, cache: "no-store" });
  if (!answer.ok) return;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const said = (name) => (block.match(new RegExp(`^${name}: (.*)$`, "m")) || ["", ""])[1];
      if (said("data")) hear(said("event"), said("data"));
    }
  }
}

/* ---- small things */

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function drawn(tag, attributes = {}, text = null) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== null) made.textContent = text;
  return made;
}

function known(value) { return value !== null && value !== undefined; }
function whole(value) { return known(value) ? Math.round(value).toLocaleString("en") : "–"; }
function rate(value) { return !known(value) ? "–" : value >= 100 || value === 0 ? whole(value) : value.toFixed(1); }
function percent(value) { return known(value) ? `${(value * 100).toFixed(value > 0.9995 || value === 0 ? 0 : 1)} %` : "–"; }
function milliseconds(value) { return known(value) ? `${value < 10 ? value.toFixed(1) : Math.round(value)} ms` : "–"; }
function signed(value) { return known(value) ? `${value > 0 ? "+" : ""}${Math.round(value)} ms` : "–"; }
function bytes(value) {
  if (!known(value)) return "–";
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (value < 1000 || unit === "GB") return `${value < 10 && unit !== "B" ? value.toFixed(1) : Math.round(value)} ${unit}`;
    value /= 1000;
  }
}
function clockTime(ms) { return new Date(ms).toLocaleTimeString("en-GB"); }

function colourOf(id) {
  if (!colours.has(id)) colours.set(id, `var(--n${colours.size % COLOURS})`);
  return colours.get(id);
}

function isGone(node) { return node.state === "dead" || node.state === "left" || node.state === "unknown"; }

function stateOf(node) {
  if (isGone(node)) return [node.state, "grey"];
  if (node.error) return ["no answer", "bad"];
  if (node.state !== "alive") return [node.state, "warn"];
  return node.ready ? ["alive", "good"] : ["not ready", "warn"];
}

/* ---- the picture */

function draw() {
  for (const node of picture.nodes) colourOf(node.id);
  byId("cluster").textContent = picture.cluster === "meshcache" ? "" : picture.cluster;
  byId("about").textContent =
    `meshcache ${picture.gateway.version}, asked by way of ${picture.askedNode}; N=${picture.replicas} ` +
    `W=${picture.writeQuorum} R=${picture.readQuorum}; streams of invalidations open: ${picture.gateway.streams}`;
  drawTiles();
  drawRing();
  drawNodes();
  drawHot();
  drawCharts();
}

function drawTiles() {
  const nodes = picture.nodes;
  const total = (field) => nodes.reduce((sum, node) => sum + (node[field] || 0), 0);
  const here = nodes.filter((node) => !isGone(node));
  const well = here.filter((node) => stateOf(node)[1] === "good").length;
  const reads = total("readsPerS");
  const tiles = [
    ["Nodes well", `${well}`, `of ${nodes.length}`],
    ["Keys per second", rate(total("keysPerS")), ""],
    ["Hit rate", reads ? percent(total("hitsPerS") / reads) : "–", reads ? "" : "no reads"],
    ["Entries", whole(total("entries")), ""],
    ["Slots to pull", whole(total("slotsMissing")), picture.changing ? "ring is changing" : "in place"],
    ["Hints waiting", whole(total("hints")), ""],
  ];
  byId("tiles").replaceChildren(...tiles.map(([name, value, said]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value, " ", element("small", {}, said)))));
}

function arc(from, to, radius, inner) {
  const point = (turn, r) => `${(r * Math.sin(2 * Math.PI * turn)).toFixed(3)} ${(-r * Math.cos(2 * Math.PI * turn)).toFixed(3)}`;
  to = Math.min(to, from + 0.9999);
  const large = to - from > 0.5 ? 1 : 0;
  return `M${point(from, radius)}A${radius} ${radius} 0 ${large} 1 ${point(to, radius)}` +
    `L${point(to, inner)}A${inner} ${inner} 0 ${large} 0 ${point(from, inner)}Z`;
}

function drawRing() {
  const slots = picture.nodes.reduce((sum, node) => sum + (node.primarySlots || 0), 0);
  const gone = picture.nodes.filter((node) => !node.primarySlots);
  const room = 1 - Math.min(0.3, gone.length * 0.03);
  const gap = picture.nodes.length > 1 ? 0.004 : 0;
  const ring = byId("ring");
  let at = 0;
  const parts = [];
  for (const node of picture.nodes) {
    const share = slots && node.primarySlots ? (node.primarySlots / slots) * room : (1 - room) / Math.max(1, gone.length);
    const out = isGone(node) || !node.primarySlots;
    const shape = drawn("path", { d: arc(at, at + Math.max(share - gap, 0.001), 100, 72), "data-node": node.id });
    shape.style.fill = out ? "none" : colourOf(node.id);
    if (out) { shape.style.stroke = "var(--gone)"; shape.style.strokeDasharray = "4 3"; }
    shape.append(drawn("title", {}, `${node.id}: ${shareText(node, slots)}, ${stateOf(node)[0]}`));
    parts.push(shape);
    at += share;
  }
  parts.push(drawn("text", { y: 0 }, `${picture.nodes.filter((node) => !isGone(node)).length} nodes`));
  parts.push(drawn("text", { y: 16, class: "small" }, `${slots.toLocaleString("en")} slots, ${picture.replicas} copies`));
  ring.replaceChildren(...parts);
  const said = picture.nodes.map((node) => `${node.id} ${stateOf(node)[0]}, ${shareText(node, slots)}`);
  ring.setAttribute("aria-label", `The ring: ${said.join("; ")}`);
  byId("legend").replaceChildren(...picture.nodes.map((node) => {
    const [state, kind] = stateOf(node);
    const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.setProperty("--colour", colourOf(node.id));
    const text = element("span", {}, `${node.id} ${shareText(node, slots)} `, element("span", { class: `state ${kind}` }, state));
    return element("li", isGone(node) ? { class: "gone" } : {}, swatch, text);
  }));
}

function shareText(node, slots) {
  return node.primarySlots && slots ? `${((node.primarySlots / slots) * 100).toFixed(1)} %` : "owns nothing";
}

function drawNodes() {
  const rows = picture.nodes.map((node) => {
    const [state, kind] = stateOf(node);
    const old = isGone(node) || node.error;
    const share = known(node.bytes) && node.maxBytes ? node.bytes / node.maxBytes : null;
    const memory = element("td");
    if (share !== null && !old) {
      memory.append(element("meter", { min: 0, max: 1, high: 0.9, value: share.toFixed(4), "aria-label": percent(share) }),
        element("small", {}, `${bytes(node.bytes)} of ${bytes(node.maxBytes)}`));
    } else memory.textContent = "–";
    const number = (text) => element("td", { class: "number" }, old ? "–" : text);
    return element("tr", { "data-node": node.id, "data-state": state, ...(isGone(node) ? { class: "gone" } : {}) },
      element("th", { scope: "row" }, node.id, element("small", {}, node.address)),
      element("td", { class: `state ${kind}` }, state, ...(node.error && !isGone(node) ? [element("small", {}, node.error)] : [])),
      element("td", { class: "number" }, ...(old ? ["–"] : [whole(node.entries), element("small", {}, `of ${whole(node.maxEntries)}`)])), memory, number(rate(node.keysPerS)), number(percent(node.hitRate)),
      number(rate(node.evictionsPerS)), number(milliseconds(node.loopLagMs)), number(signed(node.clockOffsetMs)),
      element("td", {}, old ? "–" : node.breaker || "–"), number(whole(node.slotsMissing)), number(whole(node.hints)));
  });
  byId("nodes").tBodies[0].replaceChildren(...rows);
  byId("notes").textContent = (picture.notes || []).join("\n");
}

function drawHot() {
  byId("hot-none").hidden = picture.hotKeys.length > 0;
  byId("hot").hidden = !picture.hotKeys.length;
  byId("hot").tBodies[0].replaceChildren(...picture.hotKeys.map((row) => element("tr", {},
    element("td", { class: "key" }, row.key), element("td", {}, row.nodes.join(", ")), element("td", { class: "number" }, whole(row.reads)))));
}

/* ---- charts: one line a node; the figures at the cursor, or the newest, stand in the caption */

function drawCharts() {
  const box = byId("charts");
  if (!box.children.length) box.append(...CHARTS.map(chart));
  const now = picture.at;
  CHARTS.forEach((spec, i) => drawChart(box.children[i], spec, now));
}

function chart(spec) {
  const svg = drawn("svg", { viewBox: "0 0 600 100", preserveAspectRatio: "none", role: "img" });
  const figure = element("figure", { "data-chart": spec.field }, element("figcaption", {}, element("span", {}, spec.name), element("b")),
    svg, element("span", { class: "top", "aria-hidden": "true" }), element("div", { class: "axis", "aria-hidden": "true" },
      element("span"), element("span", {}, "now")));
  svg.addEventListener("pointermove", (event) => {
    figure.dataset.cursor = event.offsetX / svg.clientWidth;
    if (picture) drawChart(figure, spec, picture.at);
  });
  svg.addEventListener("pointerleave", () => { delete figure.dataset.cursor; if (picture) drawChart(figure, spec, picture.at); });
  return figure;
}

function drawChart(figure, spec, now) {
  const svg = figure.querySelector("svg");
  const series = picture.nodes.map((node) => [node.id, points.map((point) => [point.at, (point.nodes[node.id] || {})[spec.field]])]);
  const all = series.flatMap(([, line]) => line.map(([, value]) => value).filter(known));
  const top = spec.max || nice(Math.max(0, ...all));
  const x = (at) => KEPT_S * (1 - (now - at) / 1000 / shown(now));
  const lines = series.map(([id, line]) => {
    let path = "", pen = false, before = 0;
    for (const [at, value] of line) {
      if (!known(value) || (pen && at - before > 5000)) pen = false;
      if (known(value)) {
        path += `${pen ? "L" : "M"}${x(at).toFixed(1)} ${(98 - (value / (top || 1)) * 96).toFixed(1)}`;
        pen = true;
        before = at;
      }
    }
    const shape = drawn("path", { d: path });
    shape.style.setProperty("--colour", colourOf(id));
    return shape;
  });
  const grid = [2, 50, 98].map((y) => drawn("line", { x1: 0, x2: KEPT_S, y1: y, y2: y }));
  const chosen = pointAt(figure.dataset.cursor, now);
  if (figure.dataset.cursor) grid.push(drawn("line", { class: "cursor", x1: x(chosen.at), x2: x(chosen.at), y1: 0, y2: 100 }));
  svg.replaceChildren(...grid, ...lines);
  figure.querySelector(".top").textContent = spec.format(top);
  figure.querySelector(".axis span").textContent = `${shown(now) / 60} min ago`;
  const said = chosen ? saying(spec, chosen) : "–";
  figure.querySelector("b").textContent = figure.dataset.cursor ? `${clockTime(chosen.at)}  ${said}` : said;
  svg.setAttribute("aria-label", `${spec.name}: ${chosen ? picture.nodes.map((node) =>
    `${node.id} ${spec.format((chosen.nodes[node.id] || {})[spec.field])}`).join(", ") : "nothing yet"}`);
}

function shown(now) {  // how many seconds: not ten minutes of nothing where the gateway has just begun to look
  const age = points.length ? (now - points[0].at) / 1000 : 0;
  return Math.min(KEPT_S, Math.max(60, Math.ceil(age / 60) * 60));
}

function pointAt(cursor, now) {
  if (!cursor) return points[points.length - 1];
  const at = now - (1 - Number(cursor)) * shown(now) * 1000;
  return points.reduce((best, point) => (Math.abs(point.at - at) < Math.abs(best.at - at) ? point : best));
}

function saying(spec, point) {
  const values = Object.values(point.nodes).map((node) => node[spec.field]).filter(known);
  if (!values.length) return "–";
  if (spec.sum) return spec.format(values.reduce((sum, value) => sum + value, 0));
  const low = Math.min(...values), high = Math.max(...values);
  return spec.format(low) === spec.format(high) ? spec.format(low) : `${spec.format(low)} to ${spec.format(high)}`;
}

function nice(value) {
  if (value <= 0) return 1;
  const step = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * step).find((candidate) => candidate >= value);
}

/* ---- news */

function keep(point) {
  points.push(point);
  points = points.filter((each) => each.at > point.at - KEPT_S * 1000);
}

function hearNews(kind, data) {
  const told = JSON.parse(data);
  if (kind === "history") {
    points = told;
  } else if (kind === "picture") {
    picture = told;
    heardAt = performance.now();
    keep(picture.point);
    tellConnection();
    draw();
  } else if (kind === "trouble") {
    byId("connection").textContent = `The gateway gets no answer from the mesh: ${told.reason}`;
  }
}

function tellConnection() {
  const old = performance.now() - heardAt > OLD_MS;
  document.body.classList.toggle("old", old);
  const lost = byId("lost");
  if (!byId("login").hidden) {
    lostSince = null;
    lost.hidden = true;
    byId("connection").textContent = "Not live: a token is needed";
  } else if (!old) {
    lostSince = null;
    lost.hidden = true;
    byId("connection").textContent = `Live, as of ${clockTime(picture.at)}`;
  } else if (lostSince === null) {
    lostSince = Date.now();
    lost.hidden = false;
    lost.textContent = picture
      ? `No news since ${clockTime(picture.at)}: what is shown below is old. Trying again …`
      : "The gateway does not answer. Trying again …";
    byId("connection").textContent = "Not live";
  }
}

/* ---- looking up a key: its value only when asked for */

function pathOf(key) { return encodeURIComponent(key); }

async function explore(event) {
  event.preventDefault();
  const key = byId("key").value, found = byId("found");
  if (key === "." || key === "..") {
    found.replaceChildren(element("p", {}, "A browser takes this for a way through folders: use `meshcache explain`."));
    return;
  }
  found.replaceChildren(element("p", {}, "Asking its owners …"));
  try {
    const answer = await ask(`cluster/explain/${pathOf(key)}`);
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.detail || told.error);
    found.replaceChildren(...explained(key, told));
  } catch (error) {
    found.replaceChildren(element("p", { class: "state bad" }, `Could not be looked up: ${error.message}`));
  }
}

function explained(key, told) {
  const rows = told.replicas.map((replica) => element("tr", {}, element("th", { scope: "row" }, replica.node_id),
    element("td", {}, holding(replica)), element("td", {}, replica.version ? age(replica.version) : "–"),
    element("td", {}, lifetime(replica)), element("td", { class: "key" }, (replica.tags || []).join(", ") || "–")));
  const head = ["Owner", "Holds", "Written", "Lives", "Tags"].map((name) => element("th", { scope: "col" }, name));
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
  const show = element("button", { type: "button" }, "Show value");
  const value = element("div", { "aria-live": "polite" });
  show.addEventListener("click", () => showValue(key, value));
  const actions = element("div", { class: "actions" }, show);
  if (picture && picture.gateway.allowWrites) {
    const drop = element("button", { type: "button", class: "danger" }, "Delete");
    drop.addEventListener("click", () => { if (confirm(`Delete this key?\n\n${key}`)) remove(key, value); });
    actions.append(drop);
  }
  return [element("p", {}, "Key ", element("code", {}, key), ` is in slot ${told.slot}.`),
    element("div", { class: "scroll", tabindex: "0" }, table), actions, value];
}

function holding(replica) {
  if (replica.error) return replica.error;
  if (replica.tombstone) return "a tombstone: it was deleted";
  return replica.version ? `${whole(replica.value_bytes)} bytes` : "nothing";
}

function age(version) {
  const seconds = Math.max(0, (Date.now() - parseInt(version.slice(0, 12), 16)) / 1000);
  return `${span(seconds)} ago`;
}

function lifetime(replica) {
  if (!replica.version || replica.tombstone) return "–";
  if (!known(replica.expires_ms)) return "for ever";
  const left = (replica.expires_ms - Date.now()) / 1000;
  return left > 0 ? `for ${span(left)}` : "expired";
}

function span(seconds) {
  if (seconds < 120) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

async function showValue(key, place) {
  try {
    const answer = await ask(`cache/${pathOf(key)}`);
    const type = answer.headers.get("Content-Type") || "";
    if (answer.status === 404) { place.replaceChildren(element("p", {}, "There is no value.")); return; }
    if (!/^(application\/json|text\/)/.test(type)) {
      const size = (await answer.arrayBuffer()).byteLength;
      place.replaceChildren(element("p", {}, `${whole(size)} bytes of ${type || "an unknown type"}, not shown.`));
      return;
    }
    let text = await answer.text();
    if (type.startsWith("application/json")) {
      const told = JSON.parse(text);
      if (!answer.ok) throw new Error(told.detail || told.error);
      text = typeof told.value === "string" ? told.value : JSON.stringify(told.value, null, 2);
    }
    const cut = text.length > VALUE_CHARS_MAX;
    place.replaceChildren(element("pre", { tabindex: "0", "aria-label": "Value" }, text.slice(0, VALUE_CHARS_MAX)),
      ...(cut ? [element("p", {}, `${whole(text.length)} characters; the first ${whole(VALUE_CHARS_MAX)} are shown.`)] : []));
  } catch (error) {
    place.replaceChildren(element("p", { class: "state bad" }, `Could not be read: ${error.message}`));
  }
}

async function remove(key, place) {
  try {
    const answer = await ask(`cache/${pathOf(key)}`, { method: "DELETE" });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.detail || told.error);
    place.replaceChildren(element("p", {}, told.deleted ? "Deleted." : "It was not there."));
  } catch (error) {
    place.replaceChildren(element("p", { class: "state bad" }, `Could not be deleted: ${error.message}`));
  }
}

/* ---- invalidations, while somebody watches */

let events = null;
let waiting = [];
let passed = 0;

function toggleEvents() {
  const button = byId("events-toggle");
  if (events) {
    events.abort();
    events = null;
  } else {
    events = new AbortController();
    follow("events?prefix=", pass, events.signal);
  }
  button.setAttribute("aria-pressed", String(Boolean(events)));
  button.textContent = events ? "Stop" : "Watch them pass by";
  byId("events-said").textContent = events ? "listening" : "";
}

function pass(kind, data) {
  const told = JSON.parse(data);
  passed += KINDS.includes(kind) ? 1 : 0;
  const what = kind === "tag" ? told.tag : told.key || (kind === "clear" ? "everything" : "");
  const said = kind === "gap" ? "gap: something may have been missed" : `${kind} ${what || ""}`;
  waiting.push(`${clockTime(Date.now())}  ${said}${told.node ? `  (${told.node})` : ""}`);
  waiting = waiting.slice(-EVENTS_KEPT);
}

function showEvents() {
  if (!waiting.length) return;
  const list = byId("events");
  list.prepend(...waiting.reverse().map((line) => element("li", {}, line)));
  waiting = [];
  while (list.children.length > EVENTS_KEPT) list.lastChild.remove();
  byId("events-said").textContent = `${whole(passed)} so far; the newest ${EVENTS_KEPT} are shown`;
}

byId("explore").addEventListener("submit", explore);
byId("events-toggle").addEventListener("click", toggleEvents);
byId("login").addEventListener("submit", login);
follow("dashboard/stream", hearNews);
setInterval(tellConnection, 500);
setInterval(showEvents, 250);
