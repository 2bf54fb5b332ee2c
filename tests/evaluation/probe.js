"use strict";
// Uses the report as a reader does, and posts what it found to the page around it.
const methods = (table) => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent.trim());

function sorting(table, name) {
  const button = [...table.querySelectorAll("thead button.sort")].find((each) => each.title === `Sort by ${name}`);
  const orders = [methods(table)];
  const sorts = [];
  for (let click = 0; click < 2; click++) {
    button.click();
    orders.push(methods(table));
    sorts.push(button.closest("th").getAttribute("aria-sort"));
  }
  return { orders, sorts, marked: table.querySelectorAll("[aria-sort]").length };
}

function scatter(box) {
  const drawing = () => box.querySelector(".drawing svg");
  const points = () => drawing().querySelectorAll("path.point").length;
  const titles = () => [...drawing().querySelectorAll("text")].slice(-2).map((text) => text.textContent);
  const change = (element) => element.dispatchEvent(new Event("change", { bubbles: true }));
  const found = { begin: points(), titles: titles(), data: JSON.parse(box.querySelector("script").textContent) };
  const check = box.querySelector("input[type=checkbox]");
  check.checked = false;
  change(check);
  found.without = points();
  const select = box.querySelector("select[data-axis=x]");
  select.value = "1";
  change(select);
  found.changed = titles();
  found.places = [...box.querySelectorAll("select[data-axis=place] option")].map((option) => option.textContent);
  const marks = [...drawing().querySelectorAll("path.point")].map((mark) => mark.getBoundingClientRect());
  const frame = drawing().getBoundingClientRect();
  found.outside = marks.filter((mark) => mark.left < frame.left - 1 || mark.right > frame.right + 1 || mark.top < frame.top - 5 || mark.bottom > frame.bottom).length;
  return found;
}

function card(details) {
  const values = details.querySelector(".details");
  const picture = details.querySelector(".picture img");
  const before = { open: details.open, values: values.checkVisibility(), picture: picture.clientWidth };
  details.querySelector("summary").click();
  const after = { open: details.open, values: values.checkVisibility(), picture: picture.clientWidth };
  return { before, after, text: details.innerText };
}

function colours(selector, name = "color") {
  return [...document.querySelectorAll(selector)].map((element) => {
    let ground = element;
    const clear = (each) => /^rgba\(.*, 0\)$/.test(getComputedStyle(each).backgroundColor);
    while (ground.parentElement && clear(ground)) ground = ground.parentElement;
    return [selector, getComputedStyle(element)[name], getComputedStyle(ground).backgroundColor];
  });
}

function letters() {
  return [...document.querySelectorAll(".plot svg, .drawing svg")].flatMap((svg) => {
    const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    return [...svg.querySelectorAll("text")].map((text) => scale * parseFloat(getComputedStyle(text).fontSize));
  });
}

async function probe() {
  const images = [...document.images];
  for (const image of images) image.loading = "eager";
  await Promise.allSettled(images.map((image) => image.decode()));
  const table = document.querySelector("table.figures");
  const within = (element) => element.closest(".scroll, .strip, .hidden, .skip");
  return {
    errors: window.recorded,
    images: images.map((image) => image.naturalWidth),
    fetched: performance.getEntriesByType("resource").map((entry) => entry.name).filter((name) => !name.startsWith("data:")),
    wide: [window.innerWidth, document.documentElement.scrollWidth],
    beyond: [...document.body.querySelectorAll("*")].filter((each) => !within(each) && each.getBoundingClientRect().right > window.innerWidth + 1).map((each) => each.outerHTML.slice(0, 80)),
    title: document.querySelector("h1").textContent,
    forged: document.querySelectorAll("h1 *, .source b").length,
    ours: sorting(table, "Average drop (%), ours"),
    paper: sorting(table, "Average drop (%), the paper’s"),
    byName: sorting(table, "method"),
    scatter: scatter(document.querySelector("[data-scatter]")),
    card: card(document.querySelector("details.card")),
    colours: ["body", ".note", ".interval", "thead th", "a", ".warning", ".layer", ".under", "td.paper"].flatMap((each) => colours(each)),
    strokes: [...colours(".plot .stroke", "stroke"), ...colours(".drawing .point", "stroke")],
    letters: letters(),
    errorsAfter: window.recorded.length,
  };
}

window.addEventListener("load", () => {
  probe().then((found) => parent.postMessage(found, "*"), (error) => parent.postMessage({ failed: String(error.stack) }, "*"));
});
