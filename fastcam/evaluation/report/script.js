"use strict";
// Tables: a click on a heading sorts the rows below it, within each <tbody>, the best first; another click turns the
// order round.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.querySelectorAll("thead button.sort")].map((button) => button.closest("th"));
  // Only leaf headings have buttons, and they stand in the order of the columns.
  for (const head of heads) {
    head.querySelector("button").addEventListener("click", () => {
      const column = heads.indexOf(head);
      const before = head.getAttribute("aria-sort");
      const upwards = head.classList.contains("name") || head.dataset.better === "lower";
      const sign = before === "descending" ? 1 : before === "ascending" ? -1 : upwards ? 1 : -1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      for (const body of table.tBodies) sortRows(body, column, sign);
    });
  }
}

function sortRows(body, column, sign) {
  const rows = [...body.rows].map((row) => ({ row, key: keyOf(row.cells[column]) }));
  rows.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null); // what is missing comes last
    return sign * (typeof a.key === "number" && typeof b.key === "number" ? a.key - b.key : String(a.key).localeCompare(String(b.key)));
  });
  body.append(...rows.map((each) => each.row));
}

function keyOf(cell) {
  const text = cell.dataset.value ?? (cell.classList.contains("none") ? "" : cell.textContent.trim());
  if (text === "" || text === "–") return null;
  return Number.isNaN(Number(text)) ? text : Number(text);
}

// The scatter plot.
const SVG = "http://www.w3.org/2000/svg";
const MARKS = [
  "M3.2 0A3.2 3.2 0 1 1-3.2 0A3.2 3.2 0 1 1 3.2 0Z", "M-2.8-2.8H2.8V2.8H-2.8Z", "M0-3.6L3.4 2.6H-3.4Z", "M-3-3L3 3M-3 3L3-3",
];

function shape(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function ticks(low, high) {
  const raw = (high - low) / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((each) => each >= raw * 0.999);
  const found = [];
  for (let i = Math.floor(low / step + 1e-9); i <= Math.ceil(high / step - 1e-9); i++) found.push(Number((i * step).toPrecision(6)));
  return found.length > 1 ? found : [found[0], found[0] + step];
}

for (const box of document.querySelectorAll("[data-scatter]")) {
  const data = JSON.parse(box.querySelector("script").textContent);
  const [xs, ys, places] = ["x", "y", "place"].map((name) => box.querySelector(`[data-axis=${name}]`));
  const legend = box.querySelector("fieldset");
  const option = (text, value) => Object.assign(document.createElement("option"), { textContent: text, value });
  data.columns.forEach((column, i) => { xs.append(option(column.title, i)); ys.append(option(column.title, i)); });
  data.places.forEach((place, i) => places.append(option(place.title, i)));
  [xs.value, ys.value] = data.axes;
  const titled = ({ title, better }) => title + ({ higher: " ↑", lower: " ↓" }[better] ?? "");
  const shown = data.methods.map((method, i) => {
    const label = document.createElement("label");
    const check = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
    const sign = shape("svg", { viewBox: "-5 -5 10 10", "aria-hidden": "true" });
    sign.append(shape("path", { class: `point s${i % 8}`, d: MARKS[i % 4] }));
    label.append(check, sign, method);
    legend.append(label);
    return check;
  });
  box.querySelector(".controls").hidden = legend.hidden = false;

  const draw = () => {
    const [x, y] = [Number(xs.value), Number(ys.value)];
    const place = data.places[Number(places.value)];
    const series = place.series.filter((each) => shown[each.method].checked);
    const known = (point) => point[x] !== null && point[y] !== null;
    const all = place.series.flatMap((each) => each.points.filter(known));
    // As wide as there is room, so that its letters keep their size.
    const width = Math.min(Math.max(box.clientWidth, 280), 640);
    const drawing = shape("svg", { viewBox: `0 0 ${width} 380`, role: "img" });
    const [left, right] = [56, width - 14];
    const count = series.reduce((sum, each) => sum + each.points.filter(known).length, 0);
    drawing.setAttribute("aria-label", `${data.columns[y].title} against ${data.columns[x].title}, ${place.title}: ${count} points of ${series.map((each) => data.methods[each.method]).join(", ")}`);
    const axis = (k) => { const values = all.map((point) => point[k]); return ticks(Math.min(...values), Math.max(...values)); };
    if (all.length) {
      const [across, up] = [axis(x), axis(y)];
      const px = (value) => left + (right - left) * (value - across[0]) / (across.at(-1) - across[0]);
      const py = (value) => 326 - 312 * (value - up[0]) / (up.at(-1) - up[0]);
      for (const value of across) {
        drawing.append(shape("line", { class: "grid", x1: px(value), x2: px(value), y1: 14, y2: 326 }));
        drawing.append(shape("text", { x: px(value), y: 344, "text-anchor": "middle" }, String(value)));
      }
      for (const value of up) {
        drawing.append(shape("line", { class: "grid", x1: left, x2: right, y1: py(value), y2: py(value) }));
        drawing.append(shape("text", { x: 50, y: py(value) + 4, "text-anchor": "end" }, String(value)));
      }
      for (const each of series) {
        each.points.forEach((point, i) => {
          if (!known(point)) return;
          const mark = shape("path", { class: `point s${each.method % 8}`, d: MARKS[each.method % 4], transform: `translate(${px(point[x]).toFixed(1)} ${py(point[y]).toFixed(1)})` });
          mark.append(shape("title", {}, `${each.names[i]}, ${data.methods[each.method]}: ${point[x]}, ${point[y]}`));
          drawing.append(mark);
        });
      }
    }
    drawing.append(shape("text", { x: (left + right) / 2, y: 370, "text-anchor": "middle" }, titled(data.columns[x])));
    drawing.append(shape("text", { x: 14, y: 170, "text-anchor": "middle", transform: "rotate(-90 14 170)" }, titled(data.columns[y])));
    box.querySelector(".drawing").replaceChildren(drawing);
  };
  box.addEventListener("change", draw);
  window.addEventListener("resize", draw);
  draw();
}
