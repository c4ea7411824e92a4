"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const unit = data.unit_s;
const until = data.shown_s;
const CAUSES = { 2: "queue_full", 3: "expired", 4: "lost", 5: "node_failed", 6: "rejected" };
const CAUSE_NAMES = { 2: "queue full", 3: "expired", 4: "lost on a link", 5: "node failed", 6: "rejected" };
const [TASK, RESULT, THERE_AND_BACK] = [0, 1, 2];
const SHORTEST_SHOWN = 0.5; // seconds of the viewer's time that a crossing, or a drop, is shown at least
const WHOLE = 60; // seconds of the viewer's time for all, at normal speed
const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 5, 10];
const byId = (id) => document.getElementById(id);

// Columns come as whole numbers: times in units, behind the task's creation; tasks as differences.
function summed(differences) {
  let sum = 0;
  return differences.map((d) => (sum += d));
}
const created = summed(data.tasks.created).map((t) => t * unit);
const deadline = data.tasks.deadline.map((d, i) => (d < 0 ? Infinity : created[i] + d * unit));

function decodePolicy(policy) {
  const when = (task, t) => (t < 0 ? Infinity : created[task] + t * unit);
  const legTask = summed(policy.legs.task);
  const legs = legTask.map((task, i) => ({
    task, link: policy.legs.link[i], what: policy.legs.what[i],
    from: when(task, policy.legs.from[i]), to: when(task, policy.legs.from[i] + policy.legs.takes[i]),
  })).sort((a, b) => a.from - b.from);
  const stayTask = summed(policy.stays.task);
  const stays = stayTask.map((task, i) => ({
    task, node: policy.stays.node[i], from: when(task, policy.stays.from[i]),
    served: when(task, policy.stays.served[i]), to: when(task, policy.stays.from[i] + policy.stays.takes[i]),
  })).sort((a, b) => a.from - b.from);
  const drops = policy.drops.task.map((task, i) => ({
    task, cause: policy.drops.cause[i], node: policy.drops.node[i], link: policy.drops.link[i],
    time: policy.drops.time[i] * unit,
  }));
  const finished = policy.finished.map((t) => t * unit);
  const outages = policy.outages.map(([node, down, t]) => ({ node, down, time: t * unit }));
  return { ...policy, legs, stays, drops, finished, outages, index: 0 };
}
const policies = data.policies.map(decodePolicy);
const tracks = data.tracks.map((track) => ({ ...track, time: track.time.map((t) => t * unit) }));
policies.forEach((policy, i) => { policy.index = i; });

// The number of entries of an ascending list that are not above a value.
function upTo(list, value, key = (x) => x) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (key(list[middle]) <= value) low = middle + 1; else high = middle;
  }
  return low;
}

// Where a node that moves is, on a line between two known places, and the access point that it is attached to.
function placeOf(track, t) {
  const i = Math.max(upTo(track.time, t) - 1, 0), j = Math.min(i + 1, track.time.length - 1);
  const span = track.time[j] - track.time[i];
  const share = span > 0 ? Math.min(Math.max((t - track.time[i]) / span, 0), 1) : 0;
  const between = (v) => v[i] + share * (v[j] - v[i]);
  return { x: between(track.x), y: between(track.y), access: track.access[i] };
}

// As `interval_text.number` writes it.
function number(value) {
  if (!Number.isFinite(value)) return "";
  const size = Math.abs(value);
  if (size >= 1000) return value.toFixed(0);
  return String(Number(value.toPrecision(size >= 100 ? 4 : 3)));
}

function scoreAt(policy, t) {
  if (data.whole && t >= until) return policy.final_score;
  const n = upTo(policy.score.time, t / unit);
  return n ? number(policy.score.mean[n - 1]) : "–";
}

// What is where at a time.
function stateAt(policy, t) {
  const nodes = data.nodes.name.length;
  const at = new Int32Array(nodes), served = new Int32Array(nodes), late = new Int32Array(nodes);
  let inside = 0;
  for (let i = upTo(policy.stays, t, (s) => s.from) - 1; i >= 0; i--) {
    const stay = policy.stays[i];
    if (stay.to <= t) continue;
    at[stay.node]++; inside++;
    if (stay.served <= t) served[stay.node]++;
    if (deadline[stay.task] <= t) late[stay.node]++;
  }
  let moving = 0;
  const shown = [], least = SHORTEST_SHOWN * speed();
  for (let i = upTo(policy.legs, t, (leg) => leg.from) - 1; i >= 0; i--) {
    const leg = policy.legs[i];
    if (leg.to > t) moving++;
    if (Math.max(leg.to, leg.from + least) > t) shown.push(leg);
  }
  const down = new Uint8Array(nodes);
  for (const outage of policy.outages) if (outage.time <= t) down[outage.node] = outage.down;
  const dropped = upTo(policy.drops, t, (drop) => drop.time);
  return { at, served, late, inside, moving, shown, down, dropped, finished: upTo(policy.finished, t) };
}

// Time.
let now = 0, playing = false, before = 0;
const slider = byId("time"), speedChoice = byId("speed");
const speed = () => (until / WHOLE) * Number(speedChoice.value);
for (const factor of SPEEDS) {
  const option = new Option(`${number(factor * until / WHOLE)} s per second`, String(factor));
  option.selected = factor === 1;
  speedChoice.add(option);
}
slider.max = String(until);

function go(t) {
  now = Math.min(Math.max(t, 0), until);
  slider.value = String(now);
  draw();
}
function play(on) {
  if (on && now >= until) now = 0;
  playing = on;
  byId("play").textContent = on ? "Pause" : "Play";
  before = performance.now();
  if (on) requestAnimationFrame(frame);
}
function frame(at) {
  if (!playing) return;
  const next = now + ((at - before) / 1000) * speed();
  before = at;
  if (next >= until) play(false);
  go(next);
  if (playing) requestAnimationFrame(frame);
}
byId("play").addEventListener("click", () => play(!playing));
slider.addEventListener("input", () => go(Number(slider.value)));
speedChoice.addEventListener("change", draw);
document.addEventListener("keydown", (event) => {
  const on = event.target.tagName;
  if (event.ctrlKey || event.altKey || event.metaKey || on === "SELECT") return;
  const step = until * (event.shiftKey ? 0.1 : 0.01);
  const keys = {
    " ": () => play(!playing), ArrowLeft: () => go(now - step), ArrowRight: () => go(now + step),
    ArrowUp: () => faster(1), ArrowDown: () => faster(-1), Home: () => go(0), End: () => go(until),
  };
  if (!(event.key in keys) || (event.key === " " && on === "BUTTON")) return;
  event.preventDefault();
  keys[event.key]();
});
function faster(by) {
  speedChoice.selectedIndex = Math.min(Math.max(speedChoice.selectedIndex + by, 0), SPEEDS.length - 1);
  draw();
}

// Drawing.
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
let colours = {};
function readColours() {
  const names = ["page", "panel", "text", "soft", "line", "task", "result", "late", "level", "first", "second"];
  colours = Object.fromEntries([...names, ...Object.values(CAUSES)].map((name) => [name, colour(name)]));
}

function prepared(canvas) {
  const scale = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

function shapeOf(pen, what, x, y, r) {
  pen.beginPath();
  if (what === "result") {
    pen.moveTo(x, y - 1.3 * r); pen.lineTo(x + 1.3 * r, y); pen.lineTo(x, y + 1.3 * r); pen.lineTo(x - 1.3 * r, y);
    pen.closePath(); pen.fill();
  } else if (what === "queue_full") {
    pen.rect(x - r, y - r, 2 * r, 2 * r); pen.stroke();
  } else if (what === "lost") {
    pen.moveTo(x - r, y - r); pen.lineTo(x + r, y + r); pen.moveTo(x + r, y - r); pen.lineTo(x - r, y + r); pen.stroke();
  } else if (what === "node_failed") {
    pen.moveTo(x, y - r); pen.lineTo(x + r, y + r); pen.lineTo(x - r, y + r); pen.closePath(); pen.stroke();
  } else if (what === "rejected") {
    pen.moveTo(x - r, y); pen.lineTo(x + r, y); pen.stroke();
  } else if (what === "expired") {
    pen.arc(x, y, r, 0, 2 * Math.PI); pen.moveTo(x, y - 0.6 * r); pen.lineTo(x, y); pen.lineTo(x + 0.5 * r, y);
    pen.stroke();
  } else {
    pen.arc(x, y, r, 0, 2 * Math.PI); pen.fill();
  }
}

const panels = [];
let chosenNode = 0;

function places(panel, width, height) {
  const count = data.nodes.name.length;
  const radius = Math.min(Math.max(Math.min(width, height) / (4.2 * Math.sqrt(count)), 2.5), 15);
  const edge = radius + 12, top = radius + 8;
  const across = (v) => edge + (v / 1000) * (width - 2 * edge);
  const down = (v) => top + (1 - v / 1000) * (height - top - radius - 22);
  const x = data.nodes.x.map(across), y = data.nodes.y.map(down);
  panel.place = { x, y, radius, width, height, names: [], across, down, access: new Map() };
  if (count > 60) return;
  // A name is written below its node, beside it, or above, where it covers no other name and no node.
  const taken = x.map((cx, i) => [cx - radius, y[i] - radius, cx + radius, y[i] + radius]);
  panel.pen.font = "12px system-ui, sans-serif";
  data.nodes.name.forEach((name, i) => {
    const half = panel.pen.measureText(name).width / 2;
    const tries = [[0, radius + 13], [half + radius + 4, 4], [-half - radius - 4, 4], [0, -radius - 5]];
    for (const [dx, dy] of tries) {
      const box = [x[i] + dx - half, y[i] + dy - 10, x[i] + dx + half, y[i] + dy + 3];
      const free = box[0] > 1 && box[2] < width - 1 && box[1] > 1 && box[3] < height - 1
        && taken.every((t) => box[0] >= t[2] || box[2] <= t[0] || box[1] >= t[3] || box[3] <= t[1]);
      if (!free) continue;
      taken.push(box);
      panel.place.names.push([name, i, dx, dy]);
      break;
    }
  });
}

function drawPanel(panel) {
  const { policy, canvas } = panel;
  const { pen, width, height } = prepared(canvas);
  panel.pen = pen;
  if (!panel.place || panel.place.width !== width || panel.place.height !== height) places(panel, width, height);
  const { x, y, radius, names, across, down, access } = panel.place;
  for (const track of tracks) {
    const place = placeOf(track, now);
    [x[track.node], y[track.node]] = [across(place.x), down(place.y)];
    access.set(track.node, place.access);
  }
  const linked = (a, b) => (access.get(a) ?? b) === b && (access.get(b) ?? a) === a;
  const state = stateAt(policy, now);
  const large = radius < 7;
  pen.strokeStyle = colours.line;
  pen.lineWidth = large ? 0.8 : 1;
  pen.globalAlpha = Math.min(1, Math.max(0.5, 250 / data.edges.length));
  pen.beginPath();
  for (const [a, b] of data.edges) if (linked(a, b)) { pen.moveTo(x[a], y[a]); pen.lineTo(x[b], y[b]); }
  pen.stroke();
  pen.globalAlpha = 1;
  for (let i = 0; i < x.length; i++) drawNode(pen, state, i, x[i], y[i], radius);
  const least = SHORTEST_SHOWN * speed(), size = large ? 2.2 : 4;
  for (const leg of state.shown) {
    const a = data.links.source[leg.link], b = data.links.destination[leg.link];
    let share = (now - leg.from) / Math.max(leg.to - leg.from, least);
    if (leg.what === THERE_AND_BACK) share = 1 - Math.abs(1 - 2 * share);
    const length = Math.hypot(x[b] - x[a], y[b] - y[a]) || 1;
    const aside = (large ? 2 : 4) / length; // the two directions beside each other
    const px = x[a] + share * (x[b] - x[a]) - aside * (y[b] - y[a]);
    const py = y[a] + share * (y[b] - y[a]) + aside * (x[b] - x[a]);
    const late = deadline[leg.task] <= now;
    pen.fillStyle = late ? colours.late : leg.what === RESULT ? colours.result : colours.task;
    shapeOf(pen, leg.what === RESULT ? "result" : "task", px, py, size);
  }
  pen.lineWidth = large ? 1.6 : 2.5;
  for (let i = state.dropped - 1; i >= 0; i--) {
    const drop = policy.drops[i], age = (now - drop.time) / (2 * least);
    if (age > 1) break;
    const link = drop.link;
    const px = drop.node >= 0 ? x[drop.node] : (x[data.links.source[link]] + x[data.links.destination[link]]) / 2;
    const py = drop.node >= 0 ? y[drop.node] : (y[data.links.source[link]] + y[data.links.destination[link]]) / 2;
    pen.strokeStyle = colours[CAUSES[drop.cause]];
    pen.globalAlpha = 1 - 0.7 * age;
    shapeOf(pen, CAUSES[drop.cause], px, py, radius + 3 + (large ? 5 : 12) * age);
    pen.globalAlpha = 1;
  }
  pen.font = "12px system-ui, sans-serif";
  pen.textAlign = "center";
  pen.fillStyle = colours.text;
  pen.strokeStyle = colours.panel;
  pen.lineWidth = 3;
  for (const [name, i, dx, dy] of names) {
    pen.strokeText(name, x[i] + dx, y[i] + dy);
    pen.fillText(name, x[i] + dx, y[i] + dy);
  }
  const parts = Object.fromEntries(Object.keys(CAUSES).map((cause) => [cause, 0]));
  for (let i = 0; i < state.dropped; i++) parts[policy.drops[i].cause]++;
  panel.score.textContent = scoreAt(policy, now);
  panel.finished.textContent = String(state.finished);
  panel.inside.textContent = String(state.inside);
  panel.moving.textContent = String(state.moving);
  const causes = Object.keys(CAUSES).filter((c) => parts[c]).map((c) => `${parts[c]} ${CAUSE_NAMES[c]}`);
  panel.dropped.textContent = String(state.dropped) + (causes.length ? ` (${causes.join(", ")})` : "");
  return state;
}

function drawNode(pen, state, i, x, y, radius) {
  const capacity = data.nodes.capacity[i], at = state.at[i];
  const level = capacity > 0 ? Math.min(at / capacity, 1) : at / (at + 10);
  const full = capacity > 0 && at >= capacity;
  const part = (share, fill) => {
    pen.save();
    pen.beginPath(); pen.arc(x, y, radius, 0, 2 * Math.PI); pen.clip();
    pen.fillStyle = fill;
    pen.fillRect(x - radius, y + radius - 2 * radius * share, 2 * radius, 2 * radius * share);
    pen.restore();
  };
  pen.fillStyle = colours.page;
  pen.beginPath(); pen.arc(x, y, radius, 0, 2 * Math.PI); pen.fill();
  if (at > 0) part(Math.max(level, radius < 7 ? 0.35 : 0.15), full ? colours.queue_full : colours.level);
  if (state.late[i] > 0) part(Math.max(level * (state.late[i] / at), 0.12), colours.late);
  pen.beginPath(); pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.strokeStyle = colours.text;
  pen.lineWidth = i === chosenNode ? 3.5 : data.nodes.client[i] && radius > 6 ? 2.2 : 0.9;
  pen.stroke();
  if (state.down[i]) {
    pen.beginPath();
    pen.moveTo(x - radius, y - radius); pen.lineTo(x + radius, y + radius);
    pen.moveTo(x + radius, y - radius); pen.lineTo(x - radius, y + radius); pen.stroke();
  }
  if (radius >= 9 && at > 0) {
    pen.font = `600 ${Math.round(radius * 0.95)}px system-ui, sans-serif`;
    pen.textAlign = "center"; pen.lineWidth = 3;
    pen.strokeStyle = colours.page; pen.fillStyle = colours.text;
    pen.strokeText(String(at), x, y + radius * 0.35); pen.fillText(String(at), x, y + radius * 0.35);
  }
}

function drawChart() {
  const canvas = byId("chart");
  const { pen, width, height } = prepared(canvas);
  const left = 46, right = 12, top = 12, bottom = 26;
  const highest = Math.max(...policies.map((p) => p.score.most), 1e-9);
  const rough = highest / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((m) => m * power >= rough);
  const most = step * Math.ceil(highest / step);
  const px = (t) => left + (t / until) * (width - left - right);
  const py = (v) => height - bottom - (v / most) * (height - top - bottom);
  pen.font = "12px system-ui, sans-serif"; pen.fillStyle = colours.soft; pen.strokeStyle = colours.line; pen.lineWidth = 1;
  for (let v = 0; v <= most * 1.001; v += step) {
    pen.textAlign = "right"; pen.fillText(number(v), left - 6, py(v) + 4);
    pen.beginPath(); pen.moveTo(left, py(v)); pen.lineTo(width - right, py(v)); pen.stroke();
  }
  for (let i = 0; i <= 4; i++) {
    pen.textAlign = i === 4 ? "right" : i === 0 ? "left" : "center";
    pen.fillText(`${number((until / 4) * i)} s`, px((until / 4) * i), height - 8);
  }
  for (const policy of policies) {
    pen.strokeStyle = colours[policy.index ? "second" : "first"];
    pen.setLineDash(policy.index ? [7, 4] : []);
    pen.lineWidth = 2;
    pen.beginPath();
    let last = null;
    policy.score.time.forEach((t, i) => {
      const seconds = t * unit;
      if (seconds > until) return;
      if (last !== null) pen.lineTo(px(seconds), py(last));
      last = policy.score.mean[i];
      if (i === 0) pen.moveTo(px(seconds), py(last)); else pen.lineTo(px(seconds), py(last));
    });
    if (last !== null) pen.lineTo(px(until), py(last));
    pen.stroke();
    pen.setLineDash([]);
  }
  pen.strokeStyle = colours.text; pen.lineWidth = 1;
  pen.beginPath(); pen.moveTo(px(now), top); pen.lineTo(px(now), height - bottom); pen.stroke();
}

// Tables, made of text alone: names may come from other people's files.
function row(cells, head = false) {
  const line = document.createElement("tr");
  cells.forEach((text, i) => {
    const cell = document.createElement(head || i === 0 ? "th" : "td");
    cell.scope = head ? "col" : "row";
    cell.textContent = text;
    line.append(cell);
  });
  return line;
}
const names = policies.map((policy) => policy.name);

function drawDetails(states) {
  const i = chosenNode, nodes = data.nodes;
  const each = (f) => policies.map((policy, p) => String(f(policy, states[p])));
  const drops = (policy) => policy.drops.filter((d) => d.node === i && d.time <= now).length;
  const waiting = (policy) => {
    const there = policy.stays.filter((s) => s.node === i && s.from <= now && s.to > now);
    const left = there.map((s) => deadline[s.task] - now).filter(Number.isFinite).sort((a, b) => a - b);
    return left.length ? `${number(left[0])} s` : "–";
  };
  byId("details").replaceChildren(
    row([nodes.name[i], ...names], true),
    row(["type", ...each(() => nodes.type[i] + (nodes.client[i] ? ", client" : ""))]),
    row(["speed, instr/s", ...each(() => nodes.speed[i])]),
    row(["room for tasks", ...each(() => nodes.capacity[i] || "unbounded")]),
    row(["tasks now", ...each((_, state) => state.at[i])]),
    row(["of them in service", ...each((_, state) => state.served[i])]),
    row(["of them late", ...each((_, state) => state.late[i])]),
    row(["next deadline in", ...each(waiting)]),
    row(["dropped here so far", ...each(drops)]),
    row(["state", ...each((_, state) => (state.down[i] ? "down" : "up"))]),
  );
}

function draw() {
  const states = panels.map(drawPanel);
  drawChart();
  drawDetails(states);
  byId("clock").textContent = `${now.toFixed(until < 20 ? 2 : until < 200 ? 1 : 0)} s of ${number(until)} s`;
  slider.setAttribute("aria-valuetext", byId("clock").textContent);
}

function choose(i) {
  chosenNode = i;
  byId("node").value = String(i);
  draw();
}

function build() {
  byId("title").textContent = data.title;
  byId("about").textContent = data.about;
  byId("notes").replaceChildren(...data.notes.map((note) => {
    const item = document.createElement("li");
    item.textContent = note;
    return item;
  }));
  byId("counts").textContent = `Tasks count that were created from ${number(data.score_from_s)} s to ${number(data.score_until_s)} s.`;
  byId("panels").className = policies.length === 1 ? "alone" : "";
  for (const policy of policies) {
    const section = document.createElement("section"), title = document.createElement("h2");
    const list = document.createElement("dl"), canvas = document.createElement("canvas");
    title.textContent = policy.name;
    list.className = "figures";
    const panel = { policy, canvas, pen: null, place: null };
    for (const [key, label] of [["score", "score, s"], ["finished", "finished"], ["dropped", "dropped"],
      ["inside", "at nodes"], ["moving", "on links"]]) {
      const pair = document.createElement("div"), term = document.createElement("dt");
      panel[key] = document.createElement("dd");
      panel[key].dataset.figure = key;
      term.textContent = label;
      pair.append(term, panel[key]);
      list.append(pair);
    }
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `The network under ${policy.name}; the figures above and the table of a node say the same in words`);
    canvas.addEventListener("click", (event) => {
      const { x, y } = panel.place;
      let best = 0, nearest = Infinity;
      for (let i = 0; i < x.length; i++) {
        const distance = Math.hypot(x[i] - event.offsetX, y[i] - event.offsetY);
        if (distance < nearest) [best, nearest] = [i, distance];
      }
      choose(best);
    });
    section.append(title, list, canvas);
    byId("panels").append(section);
    panels.push(panel);
  }
  data.nodes.name.forEach((name, i) => byId("node").add(new Option(name, String(i))));
  byId("node").addEventListener("change", (event) => choose(Number(event.target.value)));
  byId("final").replaceChildren(row(["", ...names], true), ...data.final.map((cells) => row(cells)));
  byId("chart").setAttribute("aria-label", `Running mean scores; at the end: ${policies.map((p) => `${p.name} ${p.final_score} s`).join(", ")}`);
}

function buildLegend() {
  const items = [["task", "task on its way"], ["result", "result on its way back"], ["late", "past its deadline"]];
  const causes = Object.keys(CAUSES).filter((c) => policies.some((p) => p.drops.some((d) => String(d.cause) === c)));
  for (const c of causes) items.push([CAUSES[c], `dropped: ${CAUSE_NAMES[c]}`]);
  items.push(["first", policies[0].name + " (curve)"]);
  if (policies.length > 1) items.push(["second", policies[1].name + " (curve, dashed)"]);
  const shown = items.map(([what, text]) => {
    const item = document.createElement("li"), canvas = document.createElement("canvas");
    item.append(canvas, text);
    byId("legend").append(item);
    return [what, canvas];
  });
  const level = document.createElement("li");
  level.textContent = "The number in a node, and its level, are its tasks; orange-red: full. Thick rim: client. Crossed out: down.";
  byId("legend").append(level);
  const paint = () => {
    for (const [what, canvas] of shown) {
      const { pen } = prepared(canvas);
      pen.fillStyle = pen.strokeStyle = colours[what];
      pen.lineWidth = 2.5;
      if (what === "first" || what === "second") {
        pen.setLineDash(what === "second" ? [5, 3] : []);
        pen.beginPath(); pen.moveTo(1, 10); pen.lineTo(19, 10); pen.stroke(); pen.setLineDash([]);
      } else shapeOf(pen, what, 10, 10, 6);
    }
  };
  paint();
  return paint;
}

readColours();
build();
const paintLegend = buildLegend();
const again = () => { readColours(); paintLegend(); draw(); };
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
window.addEventListener("resize", again);
const asked = /^#t=([0-9.]+)$/.exec(location.hash);
go(asked ? Number(asked[1]) : 0);
if (!asked && !window.matchMedia("(prefers-reduced-motion: reduce)").matches) play(true);
