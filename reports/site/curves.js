// Training curves: a line for the mean of each variant, its seeds on demand. `curves(scale, loops)` is called by the data files;
// loops[loop] = {names: {variant: members drawn}, metrics: {metric: {variant: {x: steps, of: how many members, mean, y: a row a member}}}}.
"use strict";

const DASHES = ["", "7 4", "9 3 2 3", "2 3"];

function curves(scale, loops) {
  const place = document.querySelector(`.curves[data-scale="${scale}"]`);
  const state = { loop: Object.keys(loops)[0], metric: null, log: false, every: false, off: new Set(), near: null };
  const variants = [...new Set(Object.values(loops).flatMap((loop) => Object.keys(loop.names)))].sort();
  const style = Object.fromEntries(variants.map((v, i) => [v, { color: `var(--c${i % 8})`, dash: DASHES[Math.floor(i / 8 + i) % 4] }]));

  place.replaceChildren();
  const tools = element("div", { class: "tools" }, place);
  const pickLoop = select(tools, "training", Object.keys(loops), (name) => name || "main", (loop) => { state.loop = loop; fillMetrics(); });
  pickLoop.parentElement.hidden = Object.keys(loops).length < 2;
  const pickMetric = select(tools, "metric", [], (name) => name, (metric) => { state.metric = metric; draw(); });
  tick(tools, "log scale", (on) => { state.log = on; draw(); });
  tick(tools, "every seed", (on) => { state.every = on; draw(); });
  const legend = element("div", { class: "legend" }, place);
  const chart = svg("svg", { role: "img" }, place);
  const told = element("output", {}, place);

  function fillMetrics() {
    const metrics = Object.keys(loops[state.loop].metrics);
    if (!metrics.includes(state.metric)) state.metric = metrics.find((m) => m.startsWith("loss")) ?? metrics[0];
    pickMetric.replaceChildren(...metrics.map((m) => new Option(m, m, false, m === state.metric)));
    draw();
  }

  function draw() {
    const all = loops[state.loop].metrics[state.metric];
    const names = variants.filter((v) => v in all);
    drawLegend(names);
    const shown = names.filter((v) => !state.off.has(v));
    const width = place.clientWidth, height = Math.max(240, Math.min(380, width * 0.5));
    const box = { left: 58, right: width - 12, top: 10, bottom: height - 40 };
    chart.replaceChildren();
    chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
    chart.setAttribute("aria-label", `${state.metric} by step, one line a variant`);
    const usable = (value) => value !== null && (!state.log || value > 0);
    const withMembers = (v) => state.every || v === state.near;
    const lines = (v) => [...(withMembers(v) ? all[v].y : []), all[v].mean];
    const values = shown.flatMap((v) => lines(v).flat()).filter(usable);
    const steps = shown.flatMap((v) => all[v].x);
    chart.onpointermove = chart.onpointerleave = null;
    if (!values.length) return void (told.textContent = shown.length ? "Nothing to draw on a log scale." : "");
    const f = state.log ? Math.log10 : (value) => value;
    const [x0, x1] = range(steps, 0), [y0, y1] = range(values.map(f), 0.04);
    const px = (step) => box.left + ((step - x0) / (x1 - x0)) * (box.right - box.left);
    const py = (value) => box.bottom - ((f(value) - y0) / (y1 - y0)) * (box.bottom - box.top);

    for (const tickAt of ticks(y0, y1, state.log)) {
      const value = state.log ? 10 ** tickAt : tickAt, y = py(value);
      svg("line", { class: "grid", x1: box.left, x2: box.right, y1: y, y2: y }, chart);
      svg("text", { class: "axis", x: box.left - 8, y: y + 4, "text-anchor": "end" }, chart).textContent = short(value);
    }
    for (const step of ticks(x0, x1, false)) svg("text", { class: "axis", x: px(step), y: box.bottom + 18, "text-anchor": "middle" }, chart).textContent = short(step);
    svg("text", { class: "axis", x: (box.left + box.right) / 2, y: height - 4, "text-anchor": "middle" }, chart).textContent = "step";

    const path = (v, row, kind) => {
      let d = "", pen = "M";
      row.forEach((value, i) => {
        if (!usable(value)) return void (pen = "M");
        d += `${pen}${px(all[v].x[i]).toFixed(1)} ${py(value).toFixed(1)}`;
        pen = "L";
      });
      const faint = state.near && v !== state.near ? " faint" : "";
      if (row.filter(usable).length === 1) d += "h1";
      svg("path", { class: kind + faint, d, stroke: style[v].color, "stroke-dasharray": kind === "mean" ? style[v].dash : "" }, chart);
    };
    for (const v of shown) if (withMembers(v)) all[v].y.forEach((row) => path(v, row, "member"));
    for (const v of shown) path(v, all[v].mean, "mean");
    const cursor = svg("line", { class: "cursor", y1: box.top, y2: box.bottom, visibility: "hidden" }, chart);
    tell(all, shown);

    chart.onpointermove = (event) => {
      const step = x0 + ((event.offsetX - box.left) / (box.right - box.left)) * (x1 - x0);
      let best = null;
      for (const v of shown) {
        const i = nearest(all[v].x, step);
        if (!usable(all[v].mean[i])) continue;
        const distance = Math.abs(py(all[v].mean[i]) - event.offsetY);
        if (!best || distance < best.distance) best = { v, i, distance };
      }
      if (!best) return;
      const x = px(all[best.v].x[best.i]);
      for (const [key, value] of Object.entries({ x1: x, x2: x, visibility: "visible" })) cursor.setAttribute(key, value);
      told.textContent = sentence(all, best.v, best.i);
    };
    chart.onpointerleave = () => { cursor.setAttribute("visibility", "hidden"); tell(all, shown); };
  }

  function tell(all, shown) {
    const drawn = shown.filter((v) => state.every || v === state.near).map((v) => [all[v].y.length, all[v].of]);
    const some = drawn.find(([n, of]) => n < of && of > 1);
    told.textContent = some ? `Means over all members; ${some[0]} of ${some[1]} members are drawn.` : "Means over all members. Point at the chart for figures, at a variant for its seeds.";
  }

  function sentence(all, v, i) {
    const { x, mean, of, y } = all[v];
    const values = y.map((row, k) => [loops[state.loop].names[v][k], row[i]]).filter(([, value]) => value != null).sort((a, b) => a[1] - b[1]);
    const ends = values.length > 1 ? `; lowest ${short(values[0][1])} (${values[0][0]}), highest ${short(values.at(-1)[1])} (${values.at(-1)[0]})` : "";
    return `${v}, step ${x[i]}: ${short(mean[i])}${of > 1 ? `, mean of ${of}` : ""}${ends}`;
  }

  function drawLegend(names) {
    if (legend.dataset.names === names.join() && legend.childElementCount) return;
    legend.dataset.names = names.join();
    legend.replaceChildren();
    for (const v of names) {
      const button = element("button", { type: "button", "aria-pressed": !state.off.has(v) }, legend);
      svg("path", { d: "M0 4H24", stroke: style[v].color, "stroke-width": 3, "stroke-dasharray": style[v].dash }, svg("svg", { viewBox: "0 0 24 8", "aria-hidden": true }, button));
      button.append(v);
      button.onclick = () => {
        state.off.has(v) ? state.off.delete(v) : state.off.add(v);
        button.setAttribute("aria-pressed", !state.off.has(v));
        draw();
      };
      const near = (name) => () => { state.near = name; draw(); };
      button.onmouseenter = button.onfocus = near(v);
      button.onmouseleave = button.onblur = near(null);
    }
  }

  pickLoop.value = state.loop;
  fillMetrics();
  let drawnFor = place.clientWidth;
  new ResizeObserver(() => {
    if (place.clientWidth !== drawnFor) { drawnFor = place.clientWidth; draw(); }
  }).observe(place);
}

function range(values, margin) {
  const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
  const room = (high - low || Math.abs(high) || 1) * margin;
  return high > low || room ? [low - room, high + room] : [low, low + 1];
}

/** Round numbers between low and high; whole decades on a log scale where there are enough. */
function ticks(low, high, log) {
  const rough = (high - low) / 5, size = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map((m) => m * size).find((s) => s >= rough);
  if (log && high - low > 2) step = Math.max(1, Math.round(step));
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}

function short(value) {
  return value === null ? "–" : String(Number(value.toPrecision(3)));
}

function nearest(xs, x) {
  return xs.reduce((best, value, i) => (Math.abs(value - x) < Math.abs(xs[best] - x) ? i : best), 0);
}

function element(name, attributes, parent) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return parent.appendChild(made);
}

function svg(name, attributes, parent) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return parent.appendChild(made);
}

function select(parent, label, names, text, change) {
  const wrapper = element("label", {}, parent);
  wrapper.append(`${label} `);
  const made = element("select", {}, wrapper);
  made.append(...names.map((name) => new Option(text(name), name)));
  made.onchange = () => change(made.value);
  return made;
}

function tick(parent, label, change) {
  const wrapper = element("label", {}, parent);
  const box = element("input", { type: "checkbox" }, wrapper);
  wrapper.append(` ${label}`);
  box.onchange = () => change(box.checked);
}
