// The page of a dashboard: asks for the status of the executor while somebody looks, and draws it.
//
//   status, twice a second ─► numbers, bar, table
//                          ─► lanes: what each worker ran in the past, as far as this page has seen it ─► timeline
//
// A status says what each worker runs and since when, and how many calls it has ended. So the start of a call is known,
// and its end is that of the start of the next one. Calls that begin and end between two statuses are counted, and
// drawn together as a pale bar.
"use strict";

const POLL_MS = 500, LOST_POLL_MS = 3000, ANSWER_LIMIT_MS = 10000, GRAPH_MS = 2000, DRAW_MS = 100;
const WINDOWS = { "1 min": 60, "10 min": 600, "1 h": 3600 };
const LANES_MAX = 64, LANE_HEIGHT = 18, ROWS_MAX = 200, NAMES_MAX = 8, RATE_S = 3;
const COLOURS = ["#3e8ee8", "#2a9d6f", "#e08a1e", "#9a6ee0", "#14a3b8", "#c2598f", "#8a8f29", "#8d6e63"];

const at = (id) => document.getElementById(id);
const seconds = () => performance.now() / 1000;
let windowS = 60, last = null, lastAt = 0, lastAnswer = null, graphAt = 0, lost = false;
let samples = [];  // of the counts: {t, ended, failed}
const lanes = [];
const colours = new Map();

// ---- formats ----

const grouped = (count) => String(count).replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f");
const digits = (value, count) => (value === 0 ? "0" : String(Number(value.toPrecision(count))));

function duration(s) {
  if (s < 0.0995) return `${Math.round(s * 1000)} ms`;
  if (s < 99.5) return `${s.toFixed(s < 9.95 ? 1 : 0)} s`;
  if (s < 5970) return `${Math.round(s / 60)} min`;
  return `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`;
}

function size(bytes) {
  if (bytes === null) return "";
  return bytes < 999.5e6 ? `${Math.round(bytes / 1e6)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}

function rate(value) {
  return value >= 100 ? grouped(Number(value.toPrecision(3))) : digits(value, 2);
}

function counted(count, word) {
  return `${grouped(count)} ${word}${count === 1 ? "" : "s"}`;
}

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function colourOf(name) {
  if (!colours.has(name)) colours.set(name, COLOURS[colours.size % COLOURS.length]);
  return colours.get(name);
}

// ---- what workers did ----

function findLane(worker, host) {
  let lane = lanes.find((one) => one.worker === worker.number);
  if (lane) return lane;
  lane = lanes.find((one) => one.worker === null && one.host === host);
  if (!lane) {
    lane = { host, bars: [] };
    lanes.push(lane);
    lanes.sort((one, other) => one.host.localeCompare(other.host));  // stable
  }
  return Object.assign(lane, { worker: worker.number, calls: worker.calls, open: null, name: null });
}

function follow(status, t) {
  const before = last ? lastAt : t, present = new Set(status.workers.map((worker) => worker.number));
  for (const lane of lanes) {
    if (lane.worker === null || present.has(lane.worker)) continue;
    if (lane.open) lane.open.end = (before + t) / 2;
    lane.worker = lane.open = null;
  }
  const byNumber = [...status.workers].sort((one, other) => one.number - other.number);
  for (const worker of byNumber.filter((one) => one.hosts.length)) {  // the others start
    const lane = findLane(worker, worker.hosts.join(", "));
    const ended = worker.calls - lane.calls, begun = worker.function ? t - worker.seconds : null;
    lane.calls = worker.calls;
    if (ended > 0 || (lane.open && !worker.function)) {
      if (lane.open) lane.open.end = ended === 1 ? begun ?? (before + t) / 2 : before;
      const more = ended > 1 ? ended : lane.open ? 0 : ended;
      const name = worker.function ?? lane.name;
      if (more > 0) lane.bars.push({ start: before, end: Math.max(begun ?? t, before), name, count: more });
      lane.open = null;
    }
    if (worker.function && !lane.open) {
      lane.open = { start: begun, end: null, name: worker.function, count: 1 };
      lane.bars.push(lane.open);
      lane.name = worker.function;
    }
  }
  const oldest = t - 3600;
  for (const lane of lanes) lane.bars = lane.bars.filter((bar) => bar.end === null || bar.end > oldest);
  samples = samples.filter((sample) => sample.t > oldest);
  samples.push({ t, ended: status.calls.done + status.calls.failed, failed: status.calls.failed });
}

function rateNow(t) {
  const first = samples.findLast((sample) => sample.t <= t - RATE_S) ?? samples[0], latest = samples[samples.length - 1];
  return !first || latest.t - first.t < 0.4 ? null : (latest.ended - first.ended) / (latest.t - first.t);
}

// ---- numbers and table ----

function showNumbers(status) {
  const { calls, cache } = status, made = status.executor, current = rateNow(lastAt);
  document.title = `${status.title}: ${calls.running} running, ${calls.waiting} waiting`;
  at("script").textContent = status.title;
  at("facts").textContent = [
    `process ${status.pid} on ${status.host}`,
    `backend ${made.backend}`,
    made.block_allocation ? "block allocation" : "one process per call",
    `at most ${counted(made.max_workers, "worker")}` + (made.cores_per_worker > 1 ? ` of ${made.cores_per_worker} cores` : ""),
  ].join(" · ");
  const state = made.state !== "open" ? made.state : calls.running ? "running" : calls.waiting ? "waiting" : "idle";
  at("state").textContent = state;
  at("state").className = state.split(" ")[0];
  at("bar").replaceChildren(...["done", "failed", "running", "waiting"].filter((kind) => calls[kind]).map((kind) => {
    const part = element("i", "", kind);
    part.style.flex = `${calls[kind]} 0 0`;
    return part;
  }));
  const cells = ["done", "failed", "running", "waiting"].map((kind) => [
    kind, grouped(calls[kind]), kind === "waiting" && calls.blocked ? `${grouped(calls.blocked)} for other calls` : "", kind, calls[kind],
  ]);
  cells.push(["calls/s", rate(current ?? calls.calls_per_s), `${rate(calls.calls_per_s)} on average`, "", calls.done + calls.failed]);
  if (cache) {
    const asked = cache.found + cache.missing, share = asked ? ` (${Math.round(100 * cache.found / asked)} %)` : "";
    cells.push(["from the cache", grouped(cache.found), `of ${grouped(asked)}${share}`, "", cache.found]);
  }
  const memory = status.workers.reduce((sum, worker) => sum + (worker.memory_bytes ?? 0), 0);
  if (memory) cells.push(["memory of workers", size(memory), "", "", 1]);
  if (status.shared) cells.push(["shared data", status.shared, "", "text", 1]);
  at("numbers").replaceChildren(...cells.map(([title, value, more, kind, count]) => {
    const cell = element("div", "", kind + (count ? "" : " zero")), name = element("dt", title, ["", "text"].includes(kind) ? "plain" : "");
    if (more) name.append(element("small", more));
    cell.append(name, element("dd", value, kind === "text" ? "text" : ""));
    return cell;
  }));
}

function showWorkers(status) {
  const groups = new Map();
  for (const worker of status.workers.slice(0, ROWS_MAX)) {
    const host = worker.hosts.join(", ");
    groups.set(host, [...(groups.get(host) ?? []), worker]);
  }
  const parts = [...groups].sort(([one], [other]) => one.localeCompare(other)).flatMap(([host, workers]) => {
    const busy = workers.filter((worker) => worker.state === "running").length, title = element("h3", host || "starting ");
    title.append(element("span", ` ${counted(workers.length, "worker")}, ${busy} busy`));
    return [title, tableOf(workers)];
  });
  const left = status.worker_count - Math.min(status.workers.length, ROWS_MAX);
  if (left > 0) parts.push(element("p", `and ${counted(left, "other worker")}`, "more"));
  if (!parts.length) parts.push(element("p", status.executor.block_allocation ? "none yet" : "no call runs", "empty"));
  at("workers").replaceChildren(...parts);
}

function tableOf(workers) {
  const table = document.createElement("table"), head = table.createTHead().insertRow(), body = table.createTBody();
  const ranked = workers.some((worker) => worker.ranks > 1), measured = workers.some((worker) => worker.memory_bytes !== null);
  const columns = [
    ["runs", (worker) => worker.function ?? worker.state, (worker) => worker.function ? "" : worker.state],
    ["for", (worker) => worker.function ? duration(worker.seconds) : ""],
    ["calls", (worker) => grouped(worker.calls)],
    ...(measured ? [["memory", (worker) => size(worker.memory_bytes)]] : []),
    ...(ranked ? [["ranks", (worker) => worker.ranks]] : []),
    ["worker", (worker) => worker.number, () => "wide"],
    ["pid", (worker) => worker.pid ?? "", () => "wide"],
  ];
  for (const [title, , kind] of columns) {
    const cell = element("th", title, kind && title !== "runs" ? "wide" : "");
    cell.scope = "col";
    head.append(cell);
  }
  for (const worker of workers) {
    const row = body.insertRow();
    for (const [, value, kind] of columns) {
      const cell = element("td", value(worker), kind ? kind(worker) : "");
      cell.title = worker.function && kind && !cell.className ? worker.function : "";
      row.append(cell);
    }
  }
  return table;
}

async function showGraph(status) {
  const { blocked } = status.calls, due = seconds() - graphAt > GRAPH_MS / 1000;
  at("graph").hidden = !blocked;
  at("blocked").textContent = grouped(blocked);
  if (!blocked || !at("graph").open || !due) return;
  graphAt = seconds();
  const answer = await fetch("graph", { signal: AbortSignal.timeout(ANSWER_LIMIT_MS) });
  const picture = new DOMParser().parseFromString(await answer.text(), "image/svg+xml").documentElement;
  if (picture.tagName !== "svg") return;
  for (const box of picture.querySelectorAll("g")) box.querySelector(".mark").setAttribute("fill", colourOf(box.dataset.name));
  at("picture").replaceChildren(picture);
}

// ---- canvases ----

function prepare(canvas, height) {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth;
  canvas.style.height = `${height}px`;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "11px system-ui, sans-serif";
  pen.textBaseline = "middle";
  return [pen, width];
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function drawRate(t) {
  const height = 56, [pen, width] = prepare(at("rate"), height), step = windowS / 60, bins = new Map();
  const failed = new Map(), x = (time) => width * (1 - (t - time) / windowS);
  for (let i = 1; i < samples.length; i++) {
    const bin = Math.floor(samples[i].t / step);
    if ((bin + 1) * step < t - windowS) continue;
    bins.set(bin, (bins.get(bin) ?? 0) + samples[i].ended - samples[i - 1].ended);
    failed.set(bin, (failed.get(bin) ?? 0) + samples[i].failed - samples[i - 1].failed);
  }
  const most = Math.max(...bins.values(), 1e-9);
  for (const [bin, count] of bins) {
    for (const [part, paint] of [[count, "--done"], [failed.get(bin), "--failed"]]) {
      const high = part ? Math.max((part / most) * (height - 20), 1.5) : 0;
      pen.fillStyle = colour(paint);
      pen.fillRect(x(bin * step), height - high, width / 60 - 1, high);
    }
  }
  pen.fillStyle = colour("--soft");
  if (most >= 1) pen.fillText(`highest: ${rate(most / step)} calls/s` + ([...failed.values()].some(Boolean) ? "; red: failed" : ""), 6, 9);
  else pen.fillText("no call has ended in this time", 6, 9);
  drawStart(pen, x, height, t);
}

function drawStart(pen, x, height, t) {
  const begin = samples[0]?.t ?? t;
  if (t - begin > windowS) return;
  pen.fillStyle = colour("--line");
  pen.fillRect(x(begin), 0, 1, height);
}

function drawTimeline(t) {
  const shown = lanes.filter((lane) => lane.worker !== null || lane.bars.some((bar) => (bar.end ?? t) > t - windowS));
  const hosts = new Set(shown.map((lane) => lane.host)), named = hosts.size > 1;
  const drawn = shown.slice(0, LANES_MAX), titles = named ? new Set(drawn.map((lane) => lane.host)).size : 0;
  const height = Math.max(drawn.length * LANE_HEIGHT + titles * LANE_HEIGHT + 22, 48);
  const [pen, width] = prepare(at("timeline"), height), x = (time) => width * (1 - (t - time) / windowS);
  const names = new Map();
  let y = 4, host = null;
  drawStart(pen, x, height - 18, t);
  for (const lane of drawn) {
    if (named && lane.host !== host) {
      pen.fillStyle = colour("--soft");
      pen.fillText(lane.host, 6, y + LANE_HEIGHT / 2);
      y += LANE_HEIGHT;
    }
    host = lane.host;
    pen.fillStyle = colour("--line");
    pen.fillRect(0, y + LANE_HEIGHT / 2, width, 1);
    for (const bar of lane.bars) drawBar(pen, bar, t, x, y, width, names);
    y += LANE_HEIGHT;
  }
  pen.fillStyle = colour("--soft");
  const more = shown.length > drawn.length ? `, and ${counted(shown.length - drawn.length, "other worker")}` : "";
  pen.fillText(`${duration(windowS)} ago${more}`, 6, height - 10);
  pen.textAlign = "right";
  pen.fillText("now", width - 6, height - 10);
  pen.textAlign = "left";
  showLegend(names);
}

function drawBar(pen, bar, t, x, y, width, names) {
  const left = Math.max(x(bar.start), 0), right = Math.min(x(bar.end ?? t), width);
  if (right <= 0) return;
  const long = right - left, name = bar.name ?? "other calls", paint = colourOf(name);
  names.set(name, paint);
  pen.globalAlpha = bar.count > 1 ? 0.45 : 1;
  pen.fillStyle = paint;
  pen.fillRect(left, y + 1, Math.max(long - 1, 1), LANE_HEIGHT - 3);
  pen.globalAlpha = 1;
  if (bar.count > 1 && long > 34) {
    pen.fillStyle = colour("--ink");
    pen.fillText(`×${grouped(bar.count)}`, left + 4, y + LANE_HEIGHT / 2);
  }
}

function showLegend(names) {
  const entries = [...names].slice(0, NAMES_MAX), key = JSON.stringify(entries) + names.size;
  if (at("legend").dataset.key === key) return;
  at("legend").dataset.key = key;
  at("legend").replaceChildren(...entries.map(([name, paint]) => {
    const entry = element("span"), mark = element("i");
    mark.style.background = paint;
    entry.append(mark, name);
    return entry;
  }));
  if (names.size > NAMES_MAX) at("legend").append(element("span", `and ${names.size - NAMES_MAX} others`));
}

function draw() {
  if (document.hidden || !last || lost) return;
  const t = seconds();
  drawRate(t);
  drawTimeline(t);
}

// ---- the loop ----

function showLoss(text) {
  lost = true;
  at("main").className = last ? "old" : "";
  at("state").textContent = "not connected";
  at("state").className = "lost";
  at("notice").textContent = text;
  at("notice").hidden = false;
}

async function poll() {
  if (document.hidden) return void setTimeout(poll, POLL_MS);
  try {
    const answer = await fetch("status", { signal: AbortSignal.timeout(ANSWER_LIMIT_MS) });
    if (!answer.ok) throw new Error(await answer.text());
    const status = await answer.json(), t = seconds();
    if (lost || (last && t - lastAt > 10)) for (const lane of lanes) Object.assign(lane, { worker: null, open: null });
    for (const lane of lanes) for (const bar of lane.bars) if (bar.end === null && !lane.open) bar.end = lastAt;
    follow(status, t);
    [last, lastAt, lastAnswer, lost] = [status, t, new Date(), false];
    at("notice").hidden = true;
    at("main").className = "";
    showNumbers(status);
    showWorkers(status);
    draw();
    await showGraph(status).catch(() => {});  // the next one may come; the status has
  } catch (error) {
    const seen = lastAnswer ? ` It was last seen at ${lastAnswer.toLocaleTimeString()}.` : "";
    showLoss(`The executor has ended, or its script does not answer.${seen}`);
  }
  setTimeout(poll, lost ? LOST_POLL_MS : POLL_MS);
}

for (const [name, length] of Object.entries(WINDOWS)) {
  const button = element("button", name);
  button.type = "button";
  button.setAttribute("aria-pressed", String(length === windowS));
  button.onclick = () => {
    windowS = length;
    for (const other of at("windows").children) other.setAttribute("aria-pressed", String(other === button));
    draw();
  };
  at("windows").append(button);
}
window.addEventListener("resize", draw);
setInterval(draw, DRAW_MS);
poll();
