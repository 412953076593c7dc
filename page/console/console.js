// The console of a pod: shows what its stream sends once a second.
//
// Names and all other texts of the stream become text nodes, never markup. The token stays in this
// tab: in the session's storage, or in the address behind #token=, which no server receives.
"use strict";

const SILENCE = 5000; // ms without a message after which the pod counts as lost
const RETRY = [1000, 5000]; // ms before the first and before each later attempt
const POINTS = 60; // seconds in a chart
const GONE = 300; // seconds for which a pod that is gone is shown
const MAX_EVENTS = 100; // rows of the list

const find = (id) => document.getElementById(id);

/** Creates an element with a class and children, which are elements or texts. */
function make(name, className, ...children) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null && child !== undefined).map(
    (child) => (child instanceof Node ? child : String(child))));
  return element;
}

const state = { token: null, pods: new Map(), events: new Map(), last: null, first: null, charts: new Map(),
  abort: null, shown: "" };

function readToken() {
  const hash = new URLSearchParams(location.hash.slice(1));
  if (hash.has("token")) {
    sessionStorage.setItem("relay-token", hash.get("token"));
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("relay-token");
}

function say(text, className) {
  const line = find("state");
  if (line.textContent !== text) line.textContent = text;
  line.className = className;
}

/** Shows the form for the token, with the reason. */
function askToken(why) {
  find("login").hidden = false;
  find("board").hidden = true;
  find("token-error").textContent = why;
  say("waits for a token", "warn");
  find("token").focus();
}

/** Reads one stream until it ends. Returns false if a new token is needed. */
async function follow() {
  const abort = new AbortController();
  state.abort = abort;
  const reveal = find("reveal").checked;
  let timer = setTimeout(() => abort.abort(), SILENCE);
  try {
    const answer = await fetch(`/console/events?reveal=${reveal}`, {
      headers: { Authorization: `Bearer ${state.token}` }, signal: abort.signal, cache: "no-store" });
    if (answer.status === 401) return false;
    if (!answer.ok) throw new Error((await answer.text()).trim() || `status ${answer.status}`);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return true;
      clearTimeout(timer);
      timer = setTimeout(() => abort.abort(), SILENCE);
      text += value;
      let end;
      while ((end = text.indexOf("\n\n")) >= 0) {
        const data = text.slice(0, end).replace(/^data: /, "");
        text = text.slice(end + 2);
        show(JSON.parse(data));
      }
    }
  } finally {
    clearTimeout(timer);
  }
}

async function run() {
  let wait = RETRY[0];
  for (;;) {
    try {
      if (!state.token) return askToken("");
      const shown = state.last;
      if (!(await follow())) return askToken("The pod refuses this token. Give the one of RELAY_DEBUG_TOKEN.");
      wait = RETRY[0];
      if (shown !== state.last) continue;
    } catch (error) {
      if (state.restart) {
        state.restart = false;
        continue;
      }
      const why = error.name === "AbortError" || error instanceof TypeError ? "the pod does not answer" : error.message;
      say(`connection lost: ${why}; trying again`, "bad");
    }
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = RETRY[1];
  }
}

const sum = (values) => Object.values(values || {}).reduce((total, value) => total + value, 0);
const duration = (seconds) => seconds < 90 ? `${Math.round(seconds)} s`
  : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
const bytes = (count) => count < 1024 ? `${count} B` : count < 1048576 ? `${Math.round(count / 1024)} KiB`
  : `${(count / 1048576).toFixed(1)} MiB`;

function show(snapshot) {
  find("login").hidden = true;
  find("board").hidden = false;
  find("own").textContent = `${snapshot.pod}, version ${snapshot.version}`;
  find("drain").textContent = `Drain ${snapshot.pod}`;
  const own = snapshot.own;
  if (own.draining) say("live; the pod drains", "warn");
  else if (!own.ready) say(`live; not ready: ${own.reasons.join("; ")}`, "warn");
  else if (own.degraded) say(`live; degraded: ${own.reasons.join("; ")}`, "warn");
  else say("live", "good");
  state.first ||= snapshot;
  if (sum(snapshot.sums.relay_events_received_total) < sum(state.first.sums.relay_events_received_total)) {
    state.first = state.last = snapshot; // the pod began anew
  }
  showPods(snapshot);
  showEvents(snapshot);
  showCharts(snapshot);
  showPeople(snapshot);
  showTrouble(snapshot);
  state.last = snapshot;
}

function showPods(snapshot) {
  const now = Date.now();
  for (const pod of snapshot.pods) state.pods.set(pod.pod, { pod, seen: now });
  for (const [name, { seen }] of state.pods) if (now - seen > GONE * 1000) state.pods.delete(name);
  const columns = [...state.pods].sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true }));
  find("pods").replaceChildren(...columns.map(([name, { pod, seen }]) => {
    const status = pod.status;
    const [className, word] = now - seen > 3000 ? ["gone", "gone"]
      : !status ? ["", "unknown: an older release"]
      : status.draining ? ["draining", "draining"]
      : status.ready ? ["ready", "ready"] : ["catching", "catching up"];
    const list = make("dl");
    const row = (term, value) => list.append(make("dt", "", term), make("dd", "", value));
    row("connections", pod.connections);
    if (status) {
      row("ws / sse / multipart", status.transports.join(" / "));
      row("watchers", status.watchers);
      row("lag", status.lag === null || status.lag === undefined ? "unknown" : `${status.lag} ms`);
      row("window", duration(status.window));
      row("version", status.version);
    }
    row("heartbeat", `${duration(pod.age)} ago`);
    return make("li", className, make("strong", "", name), ` ${word}`, list);
  }));
}

const TONES = { TOLD: "good", AUTHOR: "soft", NO_COMMON_KEY: "soft", FILTERED: "soft" };
const WORDS = { TOLD: "got it", AUTHOR: "author", NO_COMMON_KEY: "no common key", FILTERED: "filtered",
  QUEUE_FULL: "queue full", NOT_CONNECTED: "not watching", BEFORE_START: "before the pod's start" };

function showEvents(snapshot) {
  const received = sum(snapshot.sums.relay_events_received_total)
    - sum((state.last || snapshot).sums.relay_events_received_total);
  const fresh = snapshot.events.filter((event) => !state.events.has(event.event));
  if (state.last && received > fresh.length + 1 && snapshot.events.length >= 20) {
    find("sampling").textContent =
      `Sampled: ${fresh.length} of about ${received} events of the last second are shown.`;
  } else if (state.events.size + fresh.length > 0) {
    find("sampling").textContent = "Every event of this pod. Choose one to explain it.";
  }
  for (const event of snapshot.events) state.events.set(event.event, event);
  for (const id of state.events.keys()) {
    if (state.events.size <= MAX_EVENTS) break;
    state.events.delete(id);
  }
  const list = find("event-list");
  if (list.matches(":hover, :focus-within")) {
    find("sampling").textContent = "The list stands still while you are in it.";
    return;
  }
  // It also stays as it is while nothing changes.
  const shown = JSON.stringify([...state.events.values()]);
  if (shown === state.shown) return;
  state.shown = shown;
  const newest = [...state.events.values()].sort((a, b) => (a.received < b.received ? 1 : -1));
  find("kinds").replaceChildren(...[...new Set(newest.map((event) => event.kind))].map((kind) => new Option(kind)));
  list.replaceChildren(...newest.map((event) => {
    const who = event.users.map(({ user, answer }) =>
      make("span", `who ${TONES[answer] || "warn"}`, `${user}: ${WORDS[answer] || answer}`));
    const button = make("button", "", make("span", "soft", `${event.received.slice(11, 19)} `),
      make("strong", "", event.kind), ` by ${event.author || "a program"}, ${event.matched_watchers} watchers `,
      make("br"), ...who, who.length ? null : make("span", "soft", "no user is connected here"),
      make("br"), make("code", "soft", event.event));
    button.type = "button";
    button.dataset.event = event.event;
    button.addEventListener("click", () => choose(event));
    return make("li", "", button);
  }));
}

function choose(event) {
  find("explain-event").value = event.event;
  find("explain").scrollIntoView({ block: "nearest" });
  find("explain-user").focus();
}

async function explain(event) {
  event.preventDefault();
  const asked = new URLSearchParams({ event: find("explain-event").value.trim(), user: find("explain-user").value.trim() });
  const answers = find("answers");
  answers.replaceChildren(make("li", "soft", "asking all pods"));
  try {
    const answer = await fetch(`/debug/explain?${asked}`, {
      headers: { Authorization: `Bearer ${state.token}` }, cache: "no-store" });
    if (!answer.ok) throw new Error(`the pod answers with ${answer.status}`);
    const body = await answer.json();
    const lines = (body.pods || []).map((pod) => make("li", TONES[pod.answer] || "warn", pod.sentence));
    for (const pod of body.silent || []) lines.push(make("li", "bad", `${pod} did not answer within 2 s.`));
    if (body.not_asked) lines.push(make("li", "warn", `Only this pod was asked: ${body.not_asked.message}.`));
    if (body.user?.answer === "UNKNOWN_USER") lines.push(make("li", "warn", "There is no such user."));
    answers.replaceChildren(...lines);
  } catch (error) {
    answers.replaceChildren(make("li", "bad", `No answer: ${error.message}.`));
  }
}

/** Makes a chart of what a counter grows by in a second. */
const rate = (title, metric) => ({ title, unit: "/s", lines: [""],
  read: (snapshot, before, seconds) => [Math.max((sum(snapshot.sums[metric]) - sum(before.sums[metric])) / seconds, 0)] });

const CHARTS = [
  rate("Events received", "relay_events_received_total"),
  rate("Results written", "relay_deliveries_total"),
  rate("Events published", "relay_publishes_total"),
  { title: "Lag of the feed", unit: " ms", lines: [""], read: (snapshot) => [(snapshot.own.lag || 0) * 1000] },
  { title: "Delivery latency", unit: " ms", lines: ["median ", "99th percentile "],
    read: ({ sums }, before) => percentiles(sums[LATENCY], before.sums[LATENCY], [0.5, 0.99]) },
];
const LATENCY = "relay_delivery_latency_seconds_bucket";

/**
 * Returns the times, in ms, that these shares of what a histogram has counted since `before` do not exceed. Nulls: it
 * has counted nothing. Each key ends with the upper bound of its bucket.
 */
function percentiles(now, before, shares) {
  const counts = new Map();
  for (const [key, count] of Object.entries(now)) {
    const bound = Number(key.split(",").pop().replace("+Inf", "Infinity"));
    counts.set(bound, (counts.get(bound) || 0) + count - (before[key] || 0));
  }
  const buckets = [...counts].sort(([a], [b]) => a - b);
  const total = counts.get(Infinity) || 0;
  return shares.map((share) => {
    if (total <= 0) return null;
    let [lower, below] = [0, 0];
    for (const [bound, count] of buckets) {
      if (count >= share * total) {
        const part = Number.isFinite(bound) ? (bound - lower) * (share * total - below) / (count - below) : 0;
        return (lower + part) * 1000;
      }
      [lower, below] = [bound, count];
    }
    return null;
  });
}

function svg(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/** Adds an empty chart. Its label has all that the picture shows, so the picture is hidden from screen readers. */
function addChart(kind) {
  const picture = svg("svg", { viewBox: `0 0 ${POINTS - 1} 20`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const lines = kind.lines.map((_, n) => svg("path", { fill: "none", stroke: "currentColor",
    "vector-effect": "non-scaling-stroke", "stroke-width": 2, "stroke-linecap": "round", "stroke-dasharray": n ? "2 5" : "none" }));
  picture.append(...lines);
  const label = make("span");
  find("charts").append(make("li", "", label, picture));
  const chart = { kind, label, lines, points: [] };
  state.charts.set(kind.title, chart);
  return chart;
}

function showCharts(snapshot) {
  const before = state.last || snapshot;
  const seconds = Math.max((Date.parse(snapshot.at) - Date.parse(before.at)) / 1000, 0.5);
  const number = (value) => value < 10 ? value.toFixed(1) : String(Math.round(value));
  for (const kind of CHARTS) {
    const { label, lines, points } = state.charts.get(kind.title) || addChart(kind);
    points.push(kind.read(snapshot, before, seconds));
    if (points.length > POINTS) points.shift();
    const most = Math.max(...points.flat(), 1);
    const from = POINTS - points.length;
    lines.forEach((line, n) => line.setAttribute("d", points.map((values, at) => {
      if (values[n] === null) return "";
      const place = `${from + at},${19 - (values[n] / most) * 18}`;
      return at && points[at - 1][n] !== null ? `L${place}` : `M${place}h0`; // a second alone is a dot
    }).join(" ")));
    const last = points.findLastIndex((values) => values[0] !== null);
    const ago = points.length - 1 - last;
    label.textContent = last < 0 ? `${kind.title}: none yet` : `${kind.title}: ${points[last].map((value, n) =>
      `${kind.lines[n]}${number(value)}${kind.unit}`).join(", ")}${ago ? ` ${ago} s ago` : ""}, at most ${
      number(most)}${kind.unit} lately`;
  }
}

function showPeople(snapshot) {
  const { total, rows } = snapshot.connections;
  find("people-total").textContent = total > rows.length
    ? `Sampled: ${rows.length} of ${total} connections of this pod.` : `${total} connections of this pod.`;
  find("people").replaceChildren(...rows.map((row) => make("tr", "",
    make("td", row.user ? "" : "soft", row.user || "no watcher"), make("td", "", row.transport),
    make("td", "", row.watchers), make("td", row.queue_bytes > 0 ? "warn" : "", bytes(row.queue_bytes)),
    make("td", "", duration(row.age)), make("td", "soft", row.cursor ? row.cursor.slice(-12) : "none"))));
}

const TROUBLE = [
  ["Gap notices", "relay_gaps_total"],
  ["Connections that ended as slow", "relay_connection_ends_total", "slow"],
  ["Refusals by a limit", "relay_refusals_total"],
  ["Tokens refused", "relay_auth_failures_total"],
  ["Messages rejected", "relay_events_rejected_total"],
  ["Publishes that failed", "relay_publishes_total", "failed"],
  ["Control events without proof", "relay_control_unproven_total"],
  ["Orphaned feeds deleted", "relay_feed_orphans_deleted_total"],
];

function showTrouble(snapshot) {
  const count = (from, metric, label) => label
    ? Object.entries(from.sums[metric] || {}).reduce((total, [key, value]) =>
      total + (key.split(",").includes(label) ? value : 0), 0)
    : sum(from.sums[metric]);
  find("trouble").replaceChildren(...TROUBLE.flatMap(([title, metric, label]) => {
    const now = count(snapshot, metric, label);
    const since = now - count(state.first, metric, label);
    return [make("dt", "", title), make("dd", "", now), make("dd", since > 0 ? "bad" : "soft", `+${Math.max(since, 0)}`)];
  }));
}

/** Asks the pod to act, by a body of JSON. Shows in the line what `done` makes of the answer, or why there is none. */
async function act(line, action, body, done) {
  if (!find("admin-token").reportValidity()) {
    line.textContent = "Give the admin token first.";
    return;
  }
  line.textContent = "asking the pod";
  try {
    const answer = await fetch(`/admin/${action}`, {
      method: "POST", cache: "no-store", body,
      headers: { Authorization: `Bearer ${find("admin-token").value.trim()}`, "Content-Type": "application/json" } });
    const said = await answer.json();
    line.textContent = answer.ok ? done(said) : `Refused: ${said.error.message}.`;
  } catch (error) {
    line.textContent = `No answer: ${error.message}.`;
  }
}

/** Asks the pod to revoke the user's tokens, so that the connections end and clients come back. */
function revoke() {
  const body = JSON.stringify({ user: find("revoke-user").value.trim(), retry: true });
  act(find("revoked"), "revoke", body, ({ revoked }) => `The connections of ${revoked.user} end on every pod.`);
}

function publish() {
  const line = find("published");
  const data = find("publish-data").value;
  try {
    JSON.parse(data);
  } catch (error) {
    line.textContent = `The data is not JSON: ${error.message}.`;
    return;
  }
  const text = (id) => JSON.stringify(find(id).value.trim());
  const author = find("publish-author").value.trim() ? `, "author": ${text("publish-author")}` : "";
  // The data goes as it was typed: JavaScript would round long numbers.
  act(line, "publish", `{"type": ${text("publish-kind")}, "data": ${data}${author}}`, ({ published }) => {
    find("explain-event").value = published.event;
    return `Published as ${published.event}. Who got it, and why, is asked above.`;
  });
}

function drain() {
  find("drain-dialog").close();
  act(find("drained"), "drain", JSON.stringify({ pod: state.last.pod }), ({ draining, already }) =>
    already ? `${draining.pod} drains already.` : `${draining.pod} drains.`);
}

function askDrain() {
  find("drain-question").textContent = `Drain ${state.last.pod}? Its ${state.last.connections.total} connections end.`;
  find("drain-dialog").showModal();
}

for (const [id, action] of [["admin", () => {}], ["revoke", revoke], ["publish", publish], ["drain", askDrain]]) {
  find(`${id}-form`).addEventListener("submit", (event) => {
    event.preventDefault();
    action();
  });
}
find("drain-yes").addEventListener("click", drain);
find("drain-no").addEventListener("click", () => find("drain-dialog").close());
find("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  state.token = find("token").value.trim();
  sessionStorage.setItem("relay-token", state.token);
  find("token").value = "";
  run();
});
find("explain-form").addEventListener("submit", explain);
find("reveal").addEventListener("change", () => {
  state.events.clear();
  state.restart = true;
  state.abort?.abort();
});
state.token = readToken();
run();
