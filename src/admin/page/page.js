"use strict";
// Data is only ever set as text. The admin token lives in this variable and nowhere else.
let adminToken = null;
const PERIOD_MS = 2000, POINTS = 60, ROWS_MAX = 200, EVENTS_MAX = 100, CALLERS_MAX = 20;
const $ = (id) => document.getElementById(id);
const rows = new Map(), lives = new Map(), past = new Map();
let profiles = [], readings = null, seenAt = null;

function make(name, words, className) {
  const made = document.createElement(name);
  if (words !== undefined) made.textContent = words;
  if (className) made.className = className;
  return made;
}
function svg(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
// Text that has not changed is left alone, so that a screen reader and a selection are not disturbed.
function say(element, words) {
  if (element.textContent !== words) element.textContent = words;
}
const sum = (counts) => Object.values(counts).reduce((total, count) => total + count, 0);
function clock(at) {
  const time = new Date(at * 1000);
  return Math.abs(Date.now() - time) < 43200000 ? time.toLocaleTimeString() : time.toLocaleString();
}
function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} days`;
}
function milliseconds(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const ms = seconds * 1000;
  return ms < 10 ? `${ms.toFixed(1)} ms` : ms < 10000 ? `${Math.round(ms)} ms` : `${Math.round(seconds)} s`;
}

async function read(path) {
  const answer = await fetch(`api/v1/${path}`, { cache: "no-store" });
  const body = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(body.detail || answer.statusText), { code: body.code });
  return body;
}

async function change(path, body) {
  for (;;) {
    if (!adminToken && !(adminToken = await askToken())) return null;
    const answer = await fetch(`api/v1/${path}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${adminToken}` },
      body: JSON.stringify(body),
    });
    const told = await answer.json();
    if (answer.ok) return told;
    if (answer.status !== 401) throw new Error(told.detail);
    adminToken = null;
    tell(told.detail, true);
  }
}

function askToken() {
  return new Promise((done) => {
    let given = null;
    $("ask-form").onsubmit = (event) => { event.preventDefault(); given = $("token").value.trim(); $("ask").close(); };
    $("ask").onclose = () => { $("token").value = ""; done(given); };
    $("ask").showModal();
  });
}

function tell(words, isBad, action) {
  const line = make("p", undefined, isBad ? "bad" : "");
  line.append(make("span", words));
  const ends = make("span");
  if (action) {
    const button = make("button", action.name, "main");
    button.onclick = () => { line.remove(); action.run(); };
    ends.append(button, " ");
  }
  const close = make("button", "Close");
  close.onclick = () => line.remove();
  ends.append(close);
  line.append(ends);
  $("told").replaceChildren(line);
}

async function attempt(work) {
  try { await work(); } catch (error) { tell(error.message, true); }
  await look();
}

function askSwitch(route) {
  $("switch-words").textContent = `Route ${route.name} is served with ${route.profile || "no profile"} now. Its new token is obtained first; if there is none, nothing changes.`;
  const others = profiles.filter((profile) => profile.name !== route.profile);
  $("switch-to").replaceChildren(...others.map((profile) => make("option", profile.name)));
  $("switch-form").onsubmit = (event) => {
    event.preventDefault();
    const [profile, lasts] = [$("switch-to").value, $("switch-for").value];
    $("switch").close();
    if (!profile) return;
    attempt(async () => {
      const body = lasts ? { profile, for: lasts } : { profile };
      const done = await change(`routes/${encodeURIComponent(route.name)}/switch`, body);
      if (done) tell(`Route ${route.name} is served with ${done.to} now.`, false, { name: "Undo", run: () => undo(route.name) });
    });
  };
  $("switch").showModal();
}

function undo(route) {
  attempt(async () => {
    const done = await change(`routes/${encodeURIComponent(route)}/undo`, {});
    if (done) tell(`Undone: route ${route} is served with ${done.to} again.`);
  });
}

function chart(name) {
  const drawing = svg("svg", { class: "chart", viewBox: "0 0 100 20", preserveAspectRatio: "none", role: "img", "aria-label": name });
  const line = svg("polyline", { points: "" });
  drawing.append(svg("path", { d: "M0 19.5H100" }), line);
  return {
    drawing,
    draw(values) {
      const top = Math.max(...values, 1e-9), from = POINTS - values.length;
      const points = values.map((value, at) => `${(((from + at) * 100) / (POINTS - 1)).toFixed(1)},${(19 - (18 * value) / top).toFixed(1)}`);
      line.setAttribute("points", points.join(" "));
    },
  };
}

function makeRow(name) {
  const row = make("tr"), cell = {};
  row.setAttribute("role", "row");
  cell.route = make("th");
  cell.route.scope = "row";
  cell.route.setAttribute("role", "rowheader");
  cell.name = make("span", name);
  cell.where = make("div", "", "soft small");
  cell.route.append(cell.name, cell.where);
  row.append(cell.route);
  const column = (key, title, ...parts) => {
    const made = make("td");
    made.setAttribute("role", "cell");
    if (title) made.dataset.name = title;
    made.append(...parts);
    row.append(made);
    return made;
  };
  cell.account = make("span"); cell.since = make("div", "", "warn small");
  column("account", "Account", cell.account, cell.since);
  cell.rate = make("span"); cell.rates = chart(`Requests per second of ${name}, the last two minutes`);
  column("rate", "Requests/s", cell.rate, cell.rates.drawing);
  cell.latency = make("span"); cell.latencies = chart(`Mean latency of ${name}, the last two minutes`);
  column("latency", "Latency", cell.latency, cell.latencies.drawing);
  cell.recovered = make("span"); column("recovered", "401s recovered", cell.recovered);
  cell.faults = make("span"); column("faults", "Faults", cell.faults);
  cell.change = make("button", "Switch…"); cell.undo = make("button", "Undo");
  cell.change.setAttribute("aria-label", `Switch the account of route ${name}`);
  cell.undo.setAttribute("aria-label", `Undo the switch of route ${name}`);
  cell.undo.onclick = () => undo(name);
  column("actions", "", cell.change, cell.undo).className = "actions";
  return { row, cell };
}

function count(route, at) {
  const known = past.get(route.name) || { rates: [], latencies: [] };
  // A look because of an event comes too early for a point of the chart.
  if (known.now && at > known.now.at && at - known.now.at < PERIOD_MS * 0.75) return known;
  const now = { at, requests: sum(route.requests), observed: route.duration.count, seconds: route.duration.sum_seconds };
  if (known.now && at > known.now.at && now.requests >= known.now.requests) {
    const observed = now.observed - known.now.observed;
    known.rates.push(((now.requests - known.now.requests) * 1000) / (at - known.now.at));
    known.latencies.push(observed > 0 ? (now.seconds - known.now.seconds) / observed : 0);
    if (known.rates.length > POINTS) { known.rates.shift(); known.latencies.shift(); }
  }
  known.now = now;
  past.set(route.name, known);
  return known;
}

function showRoutes(routes, at) {
  const wanted = $("find").value.toLowerCase();
  const found = routes.filter((route) => `${route.name} ${route.path} ${route.upstream} ${route.profile}`.toLowerCase().includes(wanted));
  const seen = new Set();
  for (const route of found.slice(0, ROWS_MAX)) {
    seen.add(route.name);
    if (!rows.has(route.name)) {
      rows.set(route.name, makeRow(route.name));
    }
    const { row, cell } = rows.get(route.name);
    if (!row.isConnected) $("routes").append(row);
    const { rates, latencies } = count(route, at);
    say(cell.where, `${route.path} → ${route.upstream}`);
    say(cell.account, route.profile || "none");
    const { switched } = route;
    say(cell.since, switched ? `switched from ${switched.from || "none"} at ${clock(switched.at)}${switched.until ? `, until ${clock(switched.until)}` : ""}` : "");
    cell.undo.hidden = !switched;
    cell.change.onclick = () => askSwitch(route);
    cell.change.hidden = !profiles.some((profile) => profile.name !== route.profile);
    say(cell.rate, rates.length ? rates[rates.length - 1].toFixed(1) : "–");
    say(cell.latency, `${milliseconds(route.duration.p50_seconds)} · p99 ${milliseconds(route.duration.p99_seconds)}`);
    cell.rates.draw(rates);
    cell.latencies.draw(latencies);
    const refused = sum(route.unauthorized), recovered = (route.unauthorized.recovered || 0) + (route.unauthorized.nonce || 0);
    say(cell.recovered, refused ? `${recovered} of ${refused}` : "0");
    cell.recovered.className = recovered < refused ? "warn" : "";
    const faults = Object.entries(route.faults).map(([code, number]) => `${number} ${code}`);
    say(cell.faults, faults.join(", ") || "0");
    cell.faults.className = faults.length ? "bad" : "";
  }
  for (const [name, { row }] of rows) {
    if (!seen.has(name)) { row.remove(); rows.delete(name); }
  }
  $("more").hidden = found.length <= ROWS_MAX && found.length > 0;
  say($("more"), found.length ? `${ROWS_MAX} of ${found.length} routes are shown; find others by their name.` : "No route matches.");
}

function makeLife(name) {
  const box = make("article", undefined, "life"), bar = make("div", undefined, "bar");
  const state = make("span", "", "small");
  const refresh = make("button", "Refresh now");
  refresh.setAttribute("aria-label", `Refresh now: the token of profile ${name}`);
  refresh.onclick = () => attempt(async () => {
    if (await change(`profiles/${encodeURIComponent(name)}/refresh`, {})) tell(`Profile ${name} has a new token.`);
  });
  bar.append(make("h3", name), state, refresh);
  const line = svg("svg", { class: "line", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img" });
  const used = svg("rect", { class: "used", x: 0, y: 3, height: 4, width: 0 });
  const mark = svg("rect", { class: "mark", y: 1, height: 8, width: 0.8 });
  const now = svg("rect", { class: "now", y: 0, height: 10, width: 0.8 });
  line.append(svg("rect", { class: "track", x: 0, y: 3, height: 4, width: 100 }), used, mark, now);
  const words = make("p", "", "small"), serves = make("p", "", "small soft"), error = make("p", "", "bad");
  box.append(bar, line, words, error, serves);
  return { box, state, line, used, mark, now, words, serves, error };
}

function showProfiles() {
  const now = Date.now() / 1000, seen = new Set();
  for (const profile of profiles.slice(0, ROWS_MAX)) {
    seen.add(profile.name);
    if (!lives.has(profile.name)) {
      lives.set(profile.name, makeLife(profile.name));
      $("profiles").append(lives.get(profile.name).box);
    }
    const life = lives.get(profile.name), { obtained_at: from, expires_at: to, next_request_at: next } = profile;
    say(life.state, profile.ready ? "has a token" : "has no token");
    life.state.className = `small ${profile.ready ? "good" : "bad"}`;
    const at = (time) => Math.min(99.2, Math.max(0, ((time - from) * 100) / Math.max(1, to - from)));
    life.line.style.display = from && to ? "" : "none";
    const told = [];
    if (from && to) {
      life.used.setAttribute("width", at(now));
      life.now.setAttribute("x", at(now));
      life.mark.setAttribute("x", next ? at(next) : 0);
      life.mark.setAttribute("visibility", next && next <= to ? "visible" : "hidden");
      told.push(`Obtained ${clock(from)}`);
    }
    if (!to && profile.ready) told.push("Does not expire");
    else if (next) told.push(`${from && to ? "refreshes" : "next attempt"} in ${span(next - now)} (${clock(next)})`);
    else told.push("a token is being obtained");
    if (to) told.push(`expires in ${span(to - now)} (${clock(to)})`);
    say(life.words, told.join(" · "));
    life.line.setAttribute("aria-label", `Life of the token: ${told.join(", ")}`);
    const why = [profile.error, profile.meaning && `It means: ${profile.meaning}.`, profile.remedy && `Do: ${profile.remedy}.`];
    if (profile.missing_roles.length) why.push(`The token lacks the roles ${profile.missing_roles.join(", ")}.`);
    say(life.error, why.filter(Boolean).join(" "));
    const requests = `token requests: ${profile.requests_ok} good, ${profile.requests_failed} failed`;
    say(life.serves, `${requests} · ${profile.routes.length ? `serves ${profile.routes.slice(0, 8).join(", ")}${profile.routes.length > 8 ? " …" : ""}` : "serves no route"}`);
  }
  for (const [name, { box }] of lives) {
    if (!seen.has(name)) { box.remove(); lives.delete(name); }
  }
}

function showCallers({ callers, more }) {
  const table = $("callers"), found = callers.slice(0, CALLERS_MAX);
  while (table.childElementCount > found.length) table.lastElementChild.remove();
  for (const [at, caller] of found.entries()) {
    let row = table.children[at];
    if (!row) {
      row = make("tr");
      row.setAttribute("role", "row");
      for (const title of ["", "Listener", "Connections", "Requests", "Since"]) {
        const cell = make(title ? "td" : "th");
        cell.setAttribute("role", title ? "cell" : "rowheader");
        if (title) { cell.dataset.name = title; cell.append(make("span")); }
        else { cell.scope = "row"; cell.append(make("span"), make("div", "", "soft small")); }
        row.append(cell);
      }
      table.append(row);
    }
    const [name, ...others] = row.children;
    say(name.children[0], caller.caller);
    say(name.children[1], caller.certificate || "");
    const words = [caller.listener, String(caller.connections), String(caller.requests), clock(caller.since)];
    others.forEach((cell, which) => say(cell.firstElementChild, words[which]));
  }
  const rest = more + callers.length - found.length;
  $("callers-more").hidden = found.length > 0 && rest === 0;
  say($("callers-more"), found.length ? `${rest} more callers are connected.` : "Nobody is connected.");
}

function showState(status) {
  const { configuration } = status;
  const [words, className] = status.stopping ? ["Stopping", "warn"] : status.ready ? ["Ready", "good"] : ["Not ready", "bad"];
  say($("state"), words);
  $("state").className = `pill ${className}`;
  const facts = [`version ${status.version}`, `up ${span(status.uptime_seconds)}`];
  if (configuration) facts.push(configuration.environment ? `environment ${configuration.environment}` : "no environment", configuration.path);
  if (status.log_lines_dropped) facts.push(`${status.log_lines_dropped} log lines lost`);
  say($("facts"), facts.join(" · "));
  $("reload").hidden = !configuration;
  const refused = configuration && configuration.reading.refused;
  $("refused").hidden = !refused;
  say($("refused-why"), refused || "");
}

async function look() {
  try {
    const [status, routes, all, callers] = await Promise.all([read("status"), read("routes"), read("profiles"), read("callers")]);
    profiles = all;
    readings = { routes, at: performance.now() };
    seenAt = Date.now() / 1000;
    showState(status);
    showRoutes(routes, readings.at);
    showProfiles();
    showCallers(callers);
  } catch (error) {
    say($("state"), "Unreachable");
    $("state").className = "pill bad";
    // What the browser says of a connection is no help; what stands here is old from now on.
    const why = error instanceof TypeError ? "the gateway does not answer" : error.message;
    const age = seenAt ? `; what is shown is of ${clock(seenAt)}` : "";
    say($("facts"), `${why}; asking again every ${PERIOD_MS / 1000} s${age}`);
  }
}

// Many events together are one reason to look.
let isDue = false;
function lookSoon() {
  if (isDue) return;
  isDue = true;
  setTimeout(() => { isDue = false; look(); }, 300);
}

const BAD = new Set(["fault", "token_failed", "reload_refused"]);
function showEvent(event) {
  if (event.request_id) {
    if (known.has(key(event))) return;
    if (known.size > 10 * EVENTS_MAX) known.clear();
    known.add(key(event));
  }
  const line = make("li"), time = make("time", clock(event.at));
  time.dateTime = new Date(event.at * 1000).toISOString();
  const kind = make("strong", (event.code || event.kind).replaceAll("_", " "), BAD.has(event.kind) ? "bad" : "");
  const about = [event.route && `route ${event.route}`, event.request_id && `request ${event.request_id}`].filter(Boolean);
  line.append(time, kind, ` ${event.words}`);
  if (about.length) line.append(make("span", ` (${about.join(", ")})`, "soft small"));
  // What was missed comes late, and goes where it belongs.
  line.dataset.at = event.at;
  const older = [...$("list").children].find((other) => Number(other.dataset.at) <= event.at);
  $("list").insertBefore(line, older || null);
  while ($("list").childElementCount > EVENTS_MAX) $("list").lastElementChild.remove();
  $("none").hidden = true;
}

// What came before the page was opened, or while the stream was broken. A request is told of once.
const known = new Set();
const key = (event) => `${event.at} ${event.code} ${event.request_id}`;
async function catchUp() {
  const missed = (await read("recent")).slice(0, EVENTS_MAX).filter((happening) => !known.has(key(happening)));
  for (const happening of missed.reverse()) showEvent({ ...happening, kind: happening.what });
}

function isLive(live) {
  document.documentElement.dataset.live = live ? "yes" : "no";
  $("stale").hidden = live;
}

function listen() {
  // The browser opens it again by itself when it breaks, but not when it was refused: too many read already.
  const source = new EventSource("api/v1/events");
  source.onopen = async () => {
    try { await catchUp(); } catch { return; } // The state tells that the gateway cannot be reached.
    isLive(true);
  };
  source.onerror = () => {
    isLive(false);
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 5 * PERIOD_MS);
  };
  source.onmessage = (message) => { showEvent(JSON.parse(message.data)); lookSoon(); };
}

$("explain").onsubmit = async (event) => {
  event.preventDefault();
  const list = make("dl"), add = (name, words) => list.append(make("dt", name), make("dd", words));
  try {
    const told = await read(`explain?method=${encodeURIComponent($("method").value)}&url=${encodeURIComponent($("url").value.trim())}`);
    if (told.fault) add("Refused", `${told.fault.status} ${told.fault.code}: ${told.fault.detail}`);
    if (told.route) add("Route", told.route);
    if (told.upstream) add("Account", [told.profile || "none (no credential)", ...told.also].join(", also "));
    if (told.upstream) add("Upstream", told.upstream);
    for (const miss of told.near_misses) add(`Not ${miss.route}`, miss.reasons.join("; "));
    if (told.more) add("And not", `${told.more} more`);
  } catch (error) { add("Not understood", error.message); }
  $("answer").replaceChildren(list);
};
$("reload").onclick = () => attempt(async () => {
  const done = await change("reload", {});
  if (!done) return;
  const parts = ["added", "changed", "removed"].filter((what) => (done[what] || []).length).map((what) => `${what}: ${done[what].join(", ")}`);
  tell(`The configuration was reloaded. ${parts.join("; ") || "Nothing is different."}`);
});
$("find").oninput = () => readings && showRoutes(readings.routes, readings.at);
for (const button of document.querySelectorAll("[data-close]")) button.onclick = () => button.closest("dialog").close();

(async () => {
  await look();
  listen();
  for (;;) {
    await new Promise((done) => setTimeout(done, PERIOD_MS));
    if (!document.hidden) await look();
  }
})();
