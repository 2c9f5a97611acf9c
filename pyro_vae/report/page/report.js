"use strict";
const $ = (id) => document.getElementById(id);
const written = (value, digits = 2) => (value === null ? "–" : value.toFixed(digits).replace("-", "−"));
const short = (value) => (Number.isNaN(value) ? "–" : String(Number(value.toPrecision(4))).replace("-", "−"));

for (const button of document.querySelectorAll("#figures button")) {
  button.addEventListener("click", () => {
    const image = button.querySelector("img");
    $("large-title").textContent = button.dataset.title;
    $("large-image").src = image.src;
    $("large-image").alt = image.alt;
    $("large").showModal();
  });
}
$("large").addEventListener("click", (event) => event.target === $("large") && $("large").close());

if ($("data")) explore(JSON.parse($("data").textContent));

function explore(data) {
  const { rows, size, picture, channels } = data;
  const count = rows.index.length;
  const width = picture ? channels * picture[0] * picture[1] : data.columns.length;
  const line = data.planes[0].names.length === 1;
  const kinds = rows.labels ? [...new Set(rows.labels)].sort((a, b) => a - b) : [];
  const word = (label) => (data.label_levels.length ? data.label_levels[label] ?? "none" : String(label));
  const byLabel = kinds.length > 1 && kinds.length <= data.colours.length;
  const byLogPx = () => ($("colouring") ? $("colouring").value === "log_px" : !byLabel && rows.log_px !== null);
  const order = [...Array(count).keys()];
  const scored = (row) => rows.log_px[row] !== null;
  const least = (row) => rows.log_px[row] ?? -Number.MAX_VALUE; // rows without log p(x) come first
  if (rows.log_px) order.sort((a, b) => least(a) - least(b));
  const state = { plane: 0, start: 0, at: null, row: null, grid: null };
  const plane = () => data.planes[state.plane];
  const canvas = $("plane");

  // --- values: a matrix with a line for each cell of a grid, or for each row ---------------------------------------
  const known = new Map();
  const matrix = (text) => known.get(text) || known.set(text, (picture ? pixels : numbers)(text)).get(text);

  async function pixels(text) {
    const image = new Image();
    image.src = "data:image/png;base64," + text;
    await image.decode();
    const sheet = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
    const context = sheet.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const { data: colours } = context.getImageData(0, 0, image.width, image.height);
    const length = (channels * colours.length) / 4;
    return Uint8Array.from({ length }, (_, i) => colours[4 * Math.floor(i / channels) + (i % channels)]);
  }

  async function numbers(text) {
    const floats = new Float32Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
    return Float64Array.from(floats, (value, i) => value + data.low[i % width]);
  }

  const lineOf = (values, i) => values.subarray(i * width, (i + 1) * width);

  function share(at) {
    const { low, high } = plane();
    return [(at[0] - low[0]) / (high[0] - low[0]), (high[1] - at[1]) / (high[1] - low[1])];
  }

  function decoded(at) {
    const [x, y] = share(at).map((part) => Math.min(Math.max(part, 0), 1) * (size - 1));
    const [left, top] = [Math.min(Math.floor(x), size - 2), line ? 0 : Math.min(Math.floor(y), size - 2)];
    const [right, down] = [x - left, line ? 0 : y - top];
    const corner = (i, j) => lineOf(state.grid, i * size + j);
    const [a, b] = [corner(top, left), corner(top, left + 1)];
    const [c, d] = line ? [a, b] : [corner(top + 1, left), corner(top + 1, left + 1)];
    return Float64Array.from(a, (_, k) =>
      (1 - down) * ((1 - right) * a[k] + right * b[k]) + down * ((1 - right) * c[k] + right * d[k]));
  }

  function draw(target, values) {
    const [height, across] = picture;
    const context = target.getContext("2d", { willReadFrequently: true }); // a few pixels, written at every move
    const image = context.createImageData(across, height);
    for (let k = 0; k < height * across; k++) {
      const at = channels * k;
      const [red, green, blue] = channels === 3 ? values.subarray(at, at + 3) : [values[k], values[k], values[k]];
      image.data.set([red, green, blue, 255], 4 * k);
    }
    context.putImageData(image, 0, 0);
  }

  // --- the plane --------------------------------------------------------------------------------------------------
  const colourOf = (row) =>
    byLogPx() ? shade(row) : byLabel ? data.colours[kinds.indexOf(rows.labels[row])] : data.plain_colour;
  const inOrder = rows.log_px ? order.filter(scored) : order;
  const rank = new Map(order.map((row) => [row, Math.max(inOrder.indexOf(row), 0) / Math.max(inOrder.length - 1, 1)]));
  const shade = (row) => data.shades[Math.round(rank.get(row) * (data.shades.length - 1))];

  function drawPlane() {
    if (!state.grid) return;
    const [across, height] = [canvas.clientWidth, canvas.clientHeight];
    const scale = window.devicePixelRatio || 1;
    Object.assign(canvas, { width: across * scale, height: height * scale });
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    const place = (at) => share(at).map((part, k) => part * (k ? height : across));
    if ($("behind")?.checked) drawBehind(context, across, height);
    drawAxes(context, place, across, height);
    context.lineWidth = 0.8;
    context.strokeStyle = "#fff";
    plane().at.forEach((at, row) => {
      const [x, y] = place(at);
      context.fillStyle = colourOf(row);
      context.beginPath();
      context.arc(x, y, Math.max(across / 170, 2.4), 0, 2 * Math.PI);
      context.fill();
      context.stroke();
    });
    drawMarks();
  }

  function drawBehind(context, across, height) {
    const columns = line ? 15 : 14;
    const side = across / columns;
    const one = Object.assign(document.createElement("canvas"), { width: picture[1], height: picture[0] });
    const { low, high } = plane();
    context.imageSmoothingEnabled = false;
    context.globalAlpha = line ? 1 : 0.3;
    for (let i = 0; i < (line ? 1 : columns); i++)
      for (let j = 0; j < columns; j++) {
        const [x, y] = [(j + 0.5) / columns, (i + 0.5) / columns];
        draw(one, decoded([low[0] + x * (high[0] - low[0]), high[1] - y * (high[1] - low[1])]));
        context.drawImage(one, j * side, line ? height - 1.8 * side : i * side, side, side);
      }
    context.globalAlpha = 1;
  }

  function drawAxes(context, place, across, height) {
    const { low, high, names } = plane();
    const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50].find((one) => (high[0] - low[0]) / one <= 9) || (high[0] - low[0]) / 8;
    const digits = Math.max(0, -Math.floor(Math.log10(step)));
    const font = getComputedStyle(document.body).fontFamily;
    context.font = `600 12px ${font}`;
    const named = context.measureText(names[0] + " →").width;
    Object.assign(context, { fillStyle: "#3f454a", lineWidth: 4, lineJoin: "round" });
    const write = (text, x, y) => (context.strokeText(text, x, y), context.fillText(text, x, y));
    const paper = getComputedStyle(canvas.parentElement).backgroundColor;
    context.font = `11px ${font}`;
    for (const axis of line ? [0] : [0, 1])
      for (let tick = Math.ceil(low[axis] / step); tick * step < high[axis]; tick++) {
        const [x, y] = place(axis ? [low[0], tick * step] : [tick * step, low[1]]);
        Object.assign(context, { strokeStyle: tick ? "#0000000f" : "#00000030", lineWidth: 1 });
        context.beginPath();
        axis ? (context.moveTo(0, y), context.lineTo(across, y)) : (context.moveTo(x, 0), context.lineTo(x, height));
        context.stroke();
        const room = axis ? y > 34 && y < height - 24 : x > 26 && x < across - named - 30;
        Object.assign(context, { strokeStyle: paper, lineWidth: 4 });
        if (room) write(written(tick * step, digits), axis ? 4 : x + 3, axis ? y - 3 : height - 5);
      }
    context.font = `600 12px ${font}`;
    context.strokeStyle = paper;
    if (!line) write("↑ " + names[1], 5, 15);
    write(names[0] + " →", across - 6 - named, height - 5);
  }

  function drawMarks() {
    const put = (mark, at) => share(at).forEach((part, k) => (mark.style[k ? "top" : "left"] = 100 * part + "%"));
    put($("cursor"), state.at);
    $("chosen").hidden = state.row === null;
    if (state.row !== null) put($("chosen"), plane().at[state.row]);
  }

  function drawLegend() {
    const named = (colour, words, ramp = "") => {
      const [one, dot] = [document.createElement("span"), document.createElement("i")];
      Object.assign(dot, { className: ramp }).style.background = colour;
      one.append(dot, words);
      return one;
    };
    const ramp = () => named(`linear-gradient(90deg, ${data.shades})`, "log p(x): least to most probable of these rows", "ramp");
    const all = byLogPx() ? [ramp()] : byLabel ? kinds.map((kind, k) => named(data.colours[k], word(kind))) : [];
    $("legend").replaceChildren(...all);
  }

  // --- where the reader is ----------------------------------------------------------------------------------------
  let pendingAnnouncement;
  function announce(words) { // to a screen reader, after the last of several quick changes
    clearTimeout(pendingAnnouncement);
    pendingAnnouncement = setTimeout(() => ($("live").textContent = words), 400);
  }

  function move(at) {
    if (!state.grid) return;
    const { low, high, names } = plane();
    state.at = at.map((value, k) => Math.min(Math.max(value, low[k]), high[k]));
    const values = decoded(state.at);
    if (picture) draw($("decoded"), values);
    else tableRows().forEach((row, k) => {
      row.cells[1].textContent = cell(values[k], k);
      row.querySelector("i").style.left = along(values[k], k);
    });
    $("where").textContent = names.map((name, k) => `${name} = ${written(state.at[k])}`).join(", ");
    drawMarks();
    announce(`${$("where").textContent}; nearest ${naming(nearest(state.at).row)}`);
  }

  const dated = (days) => new Date(Math.round(days * 864e5)).toISOString().slice(0, 10);
  function cell(value, k) { // a number, a level's text or a date
    if (Number.isNaN(value)) return short(value);
    if (data.levels[k]) return data.levels[k][Math.round(value)] ?? "never seen";
    return data.dates[k] && Math.abs(value) < 1e6 ? dated(value) : short(value);
  }

  const tableRows = () => [...$("decoded").tBodies[0].rows];
  const along = (value, k) => `${100 * Math.min(Math.max((value - data.low[k]) / (data.high[k] - data.low[k] || 1), 0), 1)}%`;
  const naming = (row) => `row ${rows.index[row]}${rows.labels ? `, label ${word(rows.labels[row])}` : ""}`;

  function nearest(at) {
    const [x, y] = share(at);
    const ratio = canvas.clientHeight / canvas.clientWidth;
    const away = plane().at.map((one) => share(one)).map(([a, b]) => Math.hypot(a - x, ratio * (b - y)));
    const row = away.indexOf(Math.min(...away));
    return { row, pixels: away[row] * canvas.clientWidth };
  }

  async function choose(row) {
    state.row = row;
    const texts = ["stored", "scored", "again"].filter((name) => rows[name]);
    const values = (await Promise.all(texts.map((name) => matrix(rows[name])))).map((sheet) => lineOf(sheet, row));
    if (picture) texts.forEach((name, k) => draw($(name), values[k]));
    else tableRows().forEach((one, k) => {
      values.forEach((column, j) => (one.cells[j + 2].textContent = cell(column[k], k)));
      const mark = one.querySelector("b");
      mark.hidden = Number.isNaN(values[0][k]);
      mark.style.left = along(values[0][k], k);
    });
    $("row-title").textContent = `Row ${rows.index[row]}`;
    if (rows.labels) $("label").textContent = word(rows.labels[row]);
    let words = "";
    if (rows.log_px) {
      const [log_px, khat] = [rows.log_px[row], rows.khat ? rows.khat[row] : null];
      const below = Math.round(100 * rank.get(row));
      $("log-px").textContent = written(log_px);
      if (rows.khat) $("khat").textContent = written(khat);
      $("verdict").textContent = !scored(row) ? "This row has no log p(x): no finite number was found."
        : `More probable than ${below} % of these rows.` + (khat === null ? ""
        : khat > rows.khat_limit ? " k-hat is above its limit: log p(x) is likely too low." : " k-hat is below its limit.");
      words = `${scored(row) ? `, log p(x) ${written(log_px)}` : ""}. ${$("verdict").textContent}`;
    }
    announce(`chosen: ${naming(row)}${words}`);
    drawMarks();
  }

  async function show() {
    const wanted = data.grids[state.plane][state.start];
    state.grid = null;
    const grid = await matrix(wanted);
    if (wanted !== data.grids[state.plane][state.start]) return; // the reader has gone on meanwhile
    state.grid = grid;
    const at = data.starts[state.start].at[state.plane];
    move(line ? [at[0], 0] : at);
    drawPlane();
    drawLegend();
    return true;
  }

  // --- mouse and keyboard -----------------------------------------------------------------------------------------
  function pointed(event) {
    const box = canvas.getBoundingClientRect();
    const { low, high } = plane();
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    return [low[0] + x * (high[0] - low[0]), high[1] - y * (high[1] - low[1])];
  }

  canvas.addEventListener("pointermove", (event) => move(pointed(event)));
  canvas.addEventListener("click", (event) => {
    if (!state.grid) return;
    move(pointed(event));
    const { row, pixels: away } = nearest(state.at);
    if (away < 18) choose(row);
  });
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const { low, high } = plane();
    const by = (event.shiftKey ? 6 : 1.5) / 100;
    if (!state.grid || event.ctrlKey || event.altKey || event.metaKey) return;
    if (steps[event.key]) move(state.at.map((value, k) => value + by * (high[k] - low[k]) * steps[event.key][k]));
    else if (event.key === "Enter" || event.key === " ") choose(nearest(state.at).row);
    else if (event.key === "Home") show();
    else return;
    event.preventDefault();
  });
  for (const [id, by] of [["less", -1], ["more", 1]])
    $(id).addEventListener("click", () => {
      const row = order[(order.indexOf(state.row) + by + count) % count];
      choose(row);
      move(plane().at[row]);
    });
  $("planes")?.addEventListener("change", () => ((state.plane = Number($("planes").value)), show()));
  $("colouring")?.addEventListener("change", () => (drawPlane(), drawLegend()));
  $("behind")?.addEventListener("change", drawPlane);
  $("starts")?.addEventListener("change", (event) => {
    state.start = Number(event.target.value);
    const { row } = data.starts[state.start];
    show().then((shown) => shown && row !== null && choose(row));
  });
  if (picture)
    for (const one of document.querySelectorAll("#starts canvas"))
      matrix(rows.stored).then((stored) => {
        Object.assign(one, { width: picture[1], height: picture[0] });
        draw(one, lineOf(stored, Number(one.dataset.row)));
      });
  show().then(() => {
    choose(order[count >> 1]);
    new ResizeObserver(drawPlane).observe(canvas);
  });
}
