"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const LEVEL = 0.05;
// Okabe and Ito's colours, which the colour-blind can tell apart, and for their yellow and black a brown and a grey
const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7F7F7F"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down"];
const DASHES = ["solid", "dash", "dot", "dashdot"];

/** An element with attributes and children; text goes in as text, never as markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const percent = (value, digits = 1) => (value === null || value === undefined ? "–" : (100 * value).toFixed(digits));
const withStd = (pair) => (pair ? percent(pair[0]) + (pair[1] === null ? "" : "±" + percent(pair[1])) : "–");
const number = (value) => (value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en"));
function count(value) {
  if (value === null || value === undefined) return "–";
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (value >= 0.9995 * size) return Number((value / size).toPrecision(3)) + unit;
  }
  return String(value);
}
const mean = (row, name) => (Array.isArray(row[name]) ? row[name][0] : row[name] ?? null);

const COLUMNS = [
  ["#", "rank", (row) => row.number],
  ["model", "model", null],
  ["n", "n", (row) => row.n],
  ["val top-1", "val_top1", (row) => withStd(row.val_top1)],
  ["test top-1", "test_top1", (row) => withStd(row.test_top1)],
  ["95 % interval", "interval", (row) => (row.interval ? row.interval.map((v) => percent(v)).join("–") : "–")],
  ["test class mean", "test_class_mean", (row) => withStd(row.test_class_mean)], // where classes differ in their size
  ["test top-5", "test_top5", (row) => percent(mean(row, "test_top5"))],
  ["params", "params", (row) => count(row.params)],
  ["MACs", "macs", (row) => count(row.macs)],
  ["images/s", "train_images_per_s", (row) => number(mean(row, "train_images_per_s"))],
  ["fit s", "fit_seconds", (row) => number(mean(row, "fit_seconds"))],
  ["peak MiB", "peak_memory_bytes", (row) => number(mean(row, "peak_memory_bytes") === null ? null : mean(row, "peak_memory_bytes") / 2 ** 20)],
];
// of these the least comes first when they are sorted by
const ASCENDING = new Set(["rank", "model", "params", "macs", "fit_seconds", "peak_memory_bytes"]);

const state = { key: "rank", down: false };
const table = () => data.tables[Number($("table").value)];
const matches = (row) => {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = `${row.model} ${row.variant}`.toLowerCase();
  return words.every((word) => text.includes(word));
};
const shownRows = () => table().rows.filter(matches);
/** A row's own colour, symbol and line, whatever the filter shows. */
function look(row) {
  const i = table().rows.indexOf(row), turn = Math.floor(i / COLORS.length);
  return { color: COLORS[i % COLORS.length], symbol: SYMBOLS[(turn + i) % SYMBOLS.length], dash: DASHES[(turn + i) % DASHES.length] };
}
const KEYED = 24; // a legend of more rows would leave no room for the chart; pointing at a mark names it

function drawRows() {
  const columns = COLUMNS.filter(([, key]) => key !== "test_class_mean" || table().rows.some((row) => row[key]));
  if (!columns.some(([, key]) => key === state.key)) Object.assign(state, { key: "rank", down: false });
  const value = (row) => mean(row, state.key);
  const rows = shownRows().sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === null || b === null) return (a === null) - (b === null);
    const order = a < b ? -1 : a > b ? 1 : 0;
    return state.down ? -order : order;
  });
  const head = make("tr", {}, ...columns.map(([title, key]) => {
    const sorted = key === state.key;
    const arrow = sorted ? (state.down ? " ▼" : " ▲") : "";
    const button = make("button", { type: "button", "data-key": key, onclick: () => sortBy(key) }, title + arrow);
    return make("th", { scope: "col", "aria-sort": sorted ? (state.down ? "descending" : "ascending") : "none" }, button);
  }));
  const body = rows.map((row) => make("tr", {}, ...columns.map(([, key, text]) => {
    if (key !== "model") return make("td", {}, text(row));
    const links = row.runs.map((id) => make("a", { href: "#" + id, title: id, onclick: () => open(id) }, row.runs.length > 1 ? `s${data.runs[id].seed}` : row.model));
    const name = row.runs.length > 1 ? [row.model, " ", ...links.flatMap((link) => [link, " "])] : links;
    return make("td", {}, ...name, row.like_best ? " ≈" : null, row.variant ? make("span", { class: "variant" }, row.variant) : null);
  })));
  $("rows").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
  $("caption").textContent = table().caption + (rows.length < table().rows.length ? `; ${rows.length} of ${table().rows.length} rows shown` : "");
}

function sortBy(key) {
  state.down = key === state.key ? !state.down : !ASCENDING.has(key);
  state.key = key;
  drawRows();
  document.querySelector(`#rows button[data-key="${key}"]`).focus();
}

function layout(more) {
  const style = getComputedStyle(document.documentElement);
  const [back, front, line] = ["--back", "--front", "--line"].map((name) => style.getPropertyValue(name).trim());
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  const { xaxis = {}, yaxis = {}, ...others } = more;
  return {
    paper_bgcolor: back, plot_bgcolor: back, font: { color: front, family: "system-ui, sans-serif" },
    margin: { l: 55, r: 15, t: 25, b: 45 }, hoverlabel: { namelength: -1 }, legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom" },
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...others,
  };
}
const OPTIONS = { responsive: true, displayModeBar: false };
const plot = (place, traces, more) => Plotly.react(place, traces, layout(more), OPTIONS);

/** How far the error bar extends above and below the test top-1, %: the interval, else the deviation over seeds. */
function reach(row) {
  const [top1, std] = row.test_top1;
  const [low, high] = row.interval ?? [top1 - (std ?? 0), top1 + (std ?? 0)];
  return { type: "data", symmetric: false, array: [100 * (high - top1)], arrayminus: [100 * (top1 - low)] };
}

function drawCosts() {
  const cost = $("cost").value;
  const rows = shownRows().filter((row) => mean(row, cost) !== null && row.test_top1);
  const traces = rows.map((row) => ({
    type: "scatter", mode: "markers", name: row.name,
    x: [mean(row, cost)], y: [100 * row.test_top1[0]],
    error_y: reach(row),
    marker: { size: 11, color: look(row).color, symbol: look(row).symbol },
    hovertemplate: "%{fullData.name}<br>%{x:.4s}<br>%{y:.2f} %<extra></extra>",
  }));
  plot("cost-chart", traces, {
    xaxis: { type: "log", dtick: "D2", title: { text: $("cost").selectedOptions[0].text } },
    yaxis: { title: { text: "test top-1, %" } },
    showlegend: traces.length <= KEYED,
  });
  const known = rows.filter((row) => row.interval);
  const alone = known.some((row) => row.n === 1) ? ", with n = 1 of the test images alone, not of seeds" : "";
  const told = known.length ? [`95 % intervals${alone}`] : [];
  if (rows.some((row) => !row.interval && row.n > 1)) told.push(`deviation over seeds${known.length ? " where there are no predictions" : ""}`);
  $("bars").textContent = told.length ? `Bars: ${told.join("; ")}.` : "";
}

/** Values an epoch, null in epochs that were not validated. */
const scaled = (values, by) => values.map((value) => (value === null ? null : by * value));

const LONGER = 5; // runs whose lengths differ by this factor are drawn over the share of their epochs, as in the figures

function drawCurves() {
  const name = $("curve").value;
  const scale = name.endsWith("top1") ? 100 : 1;
  const alone = (values) => values.filter((value) => value !== null).length === 1; // a line would not show
  const rows = shownRows();
  const lengths = rows.flatMap((row) => row.runs).map((id) => data.runs[id].curves[name]?.length ?? 0).filter((length) => length);
  const shares = Math.max(...lengths) >= LONGER * Math.min(...lengths);
  const traces = rows.flatMap((row, i) => row.runs.filter((id) => data.runs[id].curves[name]).map((id, k) => ({
    type: "scatter", mode: alone(data.runs[id].curves[name]) ? "markers" : "lines", name: row.name,
    legendgroup: String(i), showlegend: k === 0, connectgaps: true,
    x: data.runs[id].curves[name].map((_, i, { length }) => (shares ? 100 * (i + 1) / length : i + 1)),
    y: scaled(data.runs[id].curves[name], scale), text: data.runs[id].curves[name].map((_, i) => i + 1),
    line: { color: look(row).color, dash: look(row).dash },
    hovertemplate: `%{fullData.name}, seed ${data.runs[id].seed}<br>epoch %{text}: %{y:.2f}<extra></extra>`,
  })));
  plot("curve-chart", traces, {
    xaxis: { title: { text: shares ? "% of the run's epochs" : "epoch" } },
    yaxis: { title: { text: $("curve").selectedOptions[0].text + (scale === 100 ? ", %" : "") } },
    showlegend: rows.length <= KEYED,
  });
}

/** Bytes of which each bit tells whether a sample was right, the first sample the lowest bit. */
const bits = (run) => Uint8Array.from(atob(run.correct), (letter) => letter.charCodeAt(0));
function ones(byte) {
  let sum = 0;
  for (; byte; byte >>= 1) sum += byte & 1;
  return sum;
}

/** The p-value of McNemar's exact test: two-sided binomial with share 1/2. */
function mcnemar(onlyFirst, onlySecond) {
  const n = onlyFirst + onlySecond;
  let term = -n * Math.LN2, sum = 0; // logarithm of C(n, k) / 2^n
  for (let k = 0; k <= Math.min(onlyFirst, onlySecond); k++) {
    sum += Math.exp(term);
    term += Math.log(n - k) - Math.log(k + 1);
  }
  return Math.min(1, 2 * sum);
}

function drawComparison() {
  const place = $("comparison");
  const [a, b] = ["first", "second"].map((id) => $(id).value);
  const [one, other] = [data.runs[a], data.runs[b]];
  if (Object.keys(data.samples).length < 2) return place.replaceChildren(make("p", { class: "note" }, "There are no two runs with predictions."));
  if (a === b) return place.replaceChildren(make("p", { id: "verdict" }, "Choose two different runs."));
  if (one.dataset !== other.dataset || one.protocol !== other.protocol) {
    return place.replaceChildren(make("p", { id: "verdict" }, `Not comparable: ${one.dataset} (${one.protocol}) and ${other.dataset} (${other.protocol}) are different protocols.`));
  }
  if (data.samples[a] !== data.samples[b]) {
    return place.replaceChildren(make("p", { id: "verdict" }, "Not comparable: they were tested on different images."));
  }
  const [first, second] = [bits(one), bits(other)];
  let [onlyFirst, onlySecond, both] = [0, 0, 0];
  first.forEach((byte, i) => {
    onlyFirst += ones(byte & ~second[i] & 255);
    onlySecond += ones(second[i] & ~byte & 255);
    both += ones(byte & second[i]);
  });
  const n = one.test_size, p = mcnemar(onlyFirst, onlySecond);
  const better = onlyFirst > onlySecond ? `${one.model}, seed ${one.seed},` : `${other.model}, seed ${other.seed},`;
  const gap = Math.abs(onlyFirst - onlySecond) / n;
  const verdict = p < LEVEL ? `${better} is better by ${percent(gap, 2)} points` : `They cannot be told apart (${percent(gap, 2)} points)`;
  const row = (label, value) => make("tr", {}, make("th", { scope: "row" }, label), make("td", {}, value));
  place.replaceChildren(
    make("p", { id: "verdict" }, `${verdict}: p ${p < 1e-300 ? "< 1e-300" : `= ${p < 1e-4 ? p.toExponential(1) : p.toFixed(4)}`}, McNemar's exact test on ${number(n)} images.`),
    make("table", { class: "text" }, make("tbody", {},
      row("both right", number(both)), row("only the first right", number(onlyFirst)),
      row("only the second right", number(onlySecond)), row("both wrong", number(n - both - onlyFirst - onlySecond)))),
    make("p", { class: "note" }, "A test of these two trained networks; that other seeds would do the same it does not say. For many pairs p needs a correction."),
  );
}

/** Of each class how many images were right, and which class the others were taken for most often. */
function classTable(run, classes) {
  const images = classes.map(() => 0), right = classes.map(() => 0), mistakes = classes.map(() => [null, 0]);
  for (const [truth, taken, count] of run.confusion) {
    images[truth] += count;
    if (taken === truth) right[truth] = count;
    else if (count > mistakes[truth][1]) mistakes[truth] = [taken, count];
  }
  const head = ["class", "images", "right, %", "most often taken for"].map((title) => make("th", { scope: "col" }, title));
  const lines = classes.map((name, i) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, number(images[i])),
    make("td", {}, images[i] ? percent(right[i] / images[i]) : "–"),
    make("td", {}, mistakes[i][1] ? `${classes[mistakes[i][0]]} (${number(mistakes[i][1])})` : "–")));
  const place = make("div", { class: "wide", tabindex: "0" }, make("table", { class: "text" }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...lines)));
  return make("details", { class: "classes" }, make("summary", {}, "Classes"), place);
}

/** A run's section, filled when it is opened. */
function fill(body, id) {
  const run = data.runs[id], classes = data.classes[`${run.dataset} ${run.protocol}`] ?? [];
  const fact = (label, value) => make("tr", {}, make("th", { scope: "row" }, label), make("td", {}, value));
  const facts = (...pairs) => make("div", { class: "wide", tabindex: "0" }, make("table", { class: "text" }, make("tbody", {}, ...pairs.map((pair) => fact(...pair)))));
  if (run.status !== "ok") body.append(make("p", { class: "failed" }, `${run.status}: ${run.error}`));
  const metrics = Object.entries(run.metrics).map(([split, values]) => [split, `top-1 ${percent(values.top1, 2)} %, top-5 ${percent(values.top5, 2)} %, loss ${values.loss.toFixed(4)}`]);
  const sizes = ["train", "val", "test"].filter((split) => run[`${split}_size`]).map((split) => `${number(run[`${split}_size`])} ${split}`);
  if (run.skipped_images) sizes.push(`${number(run.skipped_images)} left out, as they cannot be read`);
  const own = [...metrics, ["images", sizes.join(", ") || "–"], ["epochs", run.epochs ? `${run.epochs}, weights of epoch ${run.selected_epoch}` : "–"], ["parameters, MACs", `${count(run.params)}, ${count(run.macs)}`],
    ["training", run.fit_seconds === null ? "–" : `${number(run.fit_seconds)} s, ${number(run.train_images_per_s)} images/s, ${number(run.peak_memory_bytes / 2 ** 20)} MiB`]];
  if (run.ece !== undefined) own.push(["expected calibration error", percent(run.ece, 2) + " %"]);
  body.append(facts(...own));
  const charts = make("div", { class: "charts" });
  body.append(charts);
  const plots = []; // drawn when all places are there, and so have their widths
  const chart = (title, traces, more) => {
    const place = make("div", { class: "chart", role: "img", "aria-label": `${title} of ${id}` });
    charts.append(make("div", {}, make("h3", {}, title), place));
    plots.push(() => plot(place, traces, more));
  };
  const curves = ["train_top1", "val_top1"].filter((name) => run.curves[name]);
  if (curves.length) {
    chart("Learning curves", curves.map((name, i) => ({
      type: "scatter", mode: "lines+markers", name: name === "val_top1" ? "validation" : "training",
      y: scaled(run.curves[name], 100), connectgaps: true,
      x: run.curves[name].map((_, epoch) => epoch + 1), line: { color: COLORS[i], dash: DASHES[i] }, marker: { size: 4 },
    })), { xaxis: { title: { text: "epoch" } }, yaxis: { title: { text: "top-1, %" } } });
  }
  if (run.reliability) {
    chart("Reliability", [
      { type: "scatter", mode: "lines", x: [0, 100], y: [0, 100], line: { dash: "dot", color: "#7F7F7F" }, hoverinfo: "skip", showlegend: false },
      { type: "scatter", mode: "lines+markers", showlegend: false, line: { color: COLORS[0] }, x: run.reliability.map((bin) => 100 * bin[0]), y: run.reliability.map((bin) => 100 * bin[1]),
        customdata: run.reliability.map((bin) => bin[2]), hovertemplate: "confidence %{x:.1f} %<br>right %{y:.1f} %<br>%{customdata} images<extra></extra>" },
    ], { xaxis: { title: { text: "confidence, %" }, range: [0, 100] }, yaxis: { title: { text: "right, %" }, range: [0, 100] } });
  }
  if (run.confusion) {
    const cells = classes.map(() => new Array(classes.length).fill(0));
    for (const [truth, taken, images] of run.confusion) cells[truth][taken] = images;
    const shares = cells.map((line) => { const sum = line.reduce((a, b) => a + b, 0); return line.map((v) => (sum ? 100 * v / sum : null)); });
    const ticks = classes.length > 20 ? { showticklabels: false } : {};
    chart("Confusion", [{
      type: "heatmap", x: classes, y: classes, z: shares, customdata: cells, colorscale: "Cividis", zmin: 0, zmax: 100, colorbar: { title: { text: "%" }, thickness: 12 },
      hovertemplate: "%{y} taken for %{x}<br>%{customdata} images, %{z:.1f} %<extra></extra>",
    }], { xaxis: { title: { text: "taken for" }, type: "category", ...ticks }, yaxis: { title: { text: "is" }, autorange: "reversed", type: "category", ...ticks } });
  }
  if (run.per_class) {
    const order = classes.map((_, i) => i).filter((i) => run.per_class[i] !== null).sort((a, b) => run.per_class[a] - run.per_class[b]);
    chart("Accuracy within classes", [{
      type: "bar", x: order.map((i) => classes[i]), y: order.map((i) => 100 * run.per_class[i]), hovertemplate: "%{x}: %{y:.1f} %<extra></extra>",
    }], { xaxis: { type: "category", ...(classes.length > 20 ? { showticklabels: false } : {}) }, yaxis: { title: { text: "%" }, range: [0, 100] } });
  }
  plots.forEach((draw) => draw());
  if (run.confusion) body.append(classTable(run, classes));
  if (run.mistakes) {
    const n = run.mistakes.told.length, side = 96;
    body.append(make("h3", {}, "Hardest mistakes"), make("ul", { class: "tiles" }, ...run.mistakes.told.map(([name, truth, taken, sure], i) => {
      const tile = make("div", { class: "tile", role: "img", "aria-label": name });
      tile.style.background = `url(${run.mistakes.strip}) -${i * side}px 0 / ${n * side}px ${side}px`;
      return make("li", {}, tile, `${classes[truth]}, taken for ${classes[taken]} (${percent(sure, 0)} %)`);
    })));
  }
  body.append(make("h3", {}, "Provenance"), facts(
    ["made", run.created_at], ["git", run.git_sha ?? "–"], ["device, precision", `${run.device ?? "–"}, ${run.precision ?? "–"}`],
    ...Object.entries(run.hardware).map(([key, value]) => [key, Array.isArray(value) ? value.join(", ") || "–" : String(value ?? "–")]),
    ["versions", Object.entries(run.versions).map((pair) => pair.join(" ")).join(", ")],
    ...run.earlier.map((one) => ["resumed from", `${one.device}, ${one.precision}, ${one.hardware.cpu} (${one.hardware.cpu_capability}) of ${one.hardware.host}, PyTorch ${one.versions.torch}, git ${one.git_sha ?? "–"}`])));
  body.append(make("details", {}, make("summary", {}, "Configuration"), make("pre", { tabindex: "0" }, JSON.stringify(run.config, null, 2))));
}

function drawRuns() {
  $("run-list").replaceChildren(...Object.entries(data.runs).map(([id, run]) => {
    const body = make("div", { class: "body" });
    const outcome = run.status === "ok" ? ` test ${percent(run.metrics.test.top1)} %` : make("span", { class: "failed" }, ` ${run.status}`);
    const details = make("details", { id }, make("summary", {}, id, outcome), body);
    details.addEventListener("toggle", () => { if (details.open && !body.hasChildNodes()) fill(body, id); });
    return details;
  }));
}
function open(id) {
  const details = document.getElementById(id);
  if (details instanceof HTMLDetailsElement) details.open = true;
}

function drawAll() {
  if (data.tables.length) { drawRows(); drawCosts(); drawCurves(); }
  drawComparison();
}
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  if (data.tables.length) { drawCosts(); drawCurves(); }
  for (const details of document.querySelectorAll("#run-list > details")) { // drawn in the other colours
    const body = details.querySelector(".body");
    body.replaceChildren();
    if (details.open) fill(body, details.id);
  }
}

const dark = matchMedia("(prefers-color-scheme: dark)");
document.documentElement.dataset.theme = dark.matches ? "dark" : "light";
dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
$("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
$("table").append(...data.tables.map((one, i) => make("option", { value: i }, `${one.dataset} (${one.protocol})`)));
for (const id of ["first", "second"]) {
  $(id).append(...Object.keys(data.samples).map((name) => make("option", { value: name }, name)));
  $(id).addEventListener("change", drawComparison);
}
if ($("second").options.length > 1) $("second").selectedIndex = 1;
for (const [id, event] of [["table", "change"], ["filter", "input"]]) $(id).addEventListener(event, () => { drawRows(); drawCosts(); drawCurves(); });
$("cost").addEventListener("change", drawCosts);
$("curve").addEventListener("change", drawCurves);
drawRuns();
drawAll();
addEventListener("hashchange", () => open(decodeURIComponent(location.hash.slice(1))));
open(decodeURIComponent(location.hash.slice(1)));
