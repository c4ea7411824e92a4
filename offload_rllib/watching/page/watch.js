"use strict";
const EVERY_MS = 2000, ENDED_MS = 15000;
const COLOURS = 8;
const ENDED = ["finished", "interrupted", "failed"];
const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 230, LEFT = 52, RIGHT = 12, TOP = 14, BOTTOM = 34;
const LEVEL_WIDTH = 100; // names of rules stand beside each other where their lines are close
const byId = (id) => document.getElementById(id);

// Everything that comes from a folder is written as text, never as markup.
function make(tag, text = "", className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

function draw(tag, attributes, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))} M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(3))} k`;
  return String(Number(value.toPrecision(3)));
}

// A round number of which up to five parts cover the range.
function stepOf(range) {
  const power = 10 ** Math.floor(Math.log10(range / 4 || 1));
  return [1, 2, 5, 10].map((part) => part * power).find((part) => range / part <= 5);
}

function plot(section, curve) {
  const width = section.clientWidth;
  const lines = curve.lines.filter((line) => line.x.length);
  section.append(make("h2", curve.title));
  if (!lines.length) {
    section.append(make("p", "No episode has ended yet.", "small"));
    return;
  }
  const ys = [...lines.flatMap((line) => line.y), ...curve.levels.map((level) => level.y)];
  const mostX = Math.max(...lines.flatMap((line) => line.x)), mostY = Math.max(...ys) || 1;
  const leastY = Math.min(0, ...ys);
  const x = (value) => LEFT + (value / (mostX || 1)) * (width - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - ((value - leastY) / (mostY - leastY)) * (HEIGHT - TOP - BOTTOM);
  const picture = draw("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img" });
  picture.setAttribute("aria-label", `${curve.title}: ${lines.map((l) => `${l.name} ${short(l.y.at(-1))}`).join(", ")}`);
  const stepY = stepOf(mostY - leastY), stepX = stepOf(mostX || 1);
  for (let value = Math.ceil(leastY / stepY) * stepY; value <= mostY; value += stepY) {
    picture.append(draw("line", { x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value), class: "axis" }));
    picture.append(draw("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)));
  }
  for (let value = 0; value <= mostX; value += stepX) {
    const anchor = value === 0 ? "start" : x(value) > width - 40 ? "end" : "middle";
    picture.append(draw("text", { x: x(value), y: HEIGHT - 18, "text-anchor": anchor }, short(value)));
  }
  picture.append(draw("text", { x: width - RIGHT, y: HEIGHT - 4, "text-anchor": "end" }, "environment steps"));
  for (const level of curve.levels) {
    picture.append(draw("line", { x1: LEFT, x2: width - RIGHT, y1: y(level.y), y2: y(level.y), class: "level" }));
  }
  const legend = make("ul", "", "legend");
  lines.forEach((line, i) => {
    const colour = `var(--c${i % COLOURS})`;
    const points = line.x.map((value, k) => `${x(value).toFixed(1)},${y(line.y[k]).toFixed(1)}`);
    const drawn = draw("polyline", { points: points.join(" ") });
    drawn.style.stroke = colour;
    picture.append(drawn);
    if (points.length === 1) {
      const point = draw("circle", { cx: x(line.x[0]), cy: y(line.y[0]), r: 4 });
      point.style.fill = colour;
      picture.append(point);
    }
    const item = make("li"), sign = make("i");
    sign.style.background = colour;
    item.append(sign, make("span", `${line.name}: ${short(line.y.at(-1))}`));
    legend.append(item);
  });
  curve.levels.forEach((level, i) => {
    const right = width - RIGHT - 4 - i * LEVEL_WIDTH;
    picture.append(draw("text", { x: right, y: y(level.y) - 4, "text-anchor": "end", class: "above" }, level.name));
  });
  section.append(picture, legend);
}

function show(data) {
  byId("error").hidden = !data.error;
  byId("error").textContent = data.error || "";
  if (data.error) return;
  document.title = `${data.name}: ${data.state}`;
  for (const id of ["name", "state", "about", "health"]) byId(id).textContent = data[id];
  byId("health").className = /gone|silent|failed|of \d+ runners/.test(data.health) ? "bad" : "";
  const share = data.progress ? Math.floor(data.progress.share * 100) : 0;
  byId("bar").setAttribute("aria-valuenow", share);
  byId("bar").firstElementChild.style.width = `${share}%`;
  byId("progress").textContent = data.progress ? `${share} %: ${data.progress.text}` : "No result yet.";
  byId("replay").hidden = !data.replay;
  byId("replay").textContent = data.replay || "";
  const sections = data.curves.map(() => make("section"));
  byId("curves").replaceChildren(...sections);
  sections.forEach((section, i) => plot(section, data.curves[i]));
  byId("table-section").hidden = !data.table;
  if (data.table) {
    byId("table-title").textContent = data.table.title;
    byId("table-note").textContent = data.table.note;
    const head = make("tr");
    head.append(...data.table.columns.map((column) => make("th", column)));
    const rows = data.table.rows.map((row) => {
      const line = make("tr", "", row.strong ? "strong" : "");
      line.append(...row.cells.map((cell) => make("td", cell)));
      return line;
    });
    byId("table").replaceChildren(head, ...rows);
  }
  byId("facts-section").hidden = !data.facts.length;
  byId("facts").replaceChildren(...data.facts.map(([name, value]) => {
    const pair = make("div");
    pair.append(make("dt", name), make("dd", value));
    return pair;
  }));
  byId("notices-section").hidden = !data.notices.length;
  byId("notices").replaceChildren(...data.notices.map((notice) => make("li", notice)));
}

async function ask() {
  let wait = EVERY_MS;
  try {
    const answer = await fetch("data.json", { cache: "no-store" });
    const data = await answer.json();
    show(data);
    if (ENDED.includes(data.state)) wait = ENDED_MS;
    byId("asked").textContent = `Last: ${new Date().toLocaleTimeString()}.`;
  } catch (error) {
    byId("error").hidden = false;
    byId("error").textContent = "offload-rllib watch does not answer any more; what is shown is old.";
  }
  setTimeout(ask, wait);
}
ask();
