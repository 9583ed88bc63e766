
"use strict";
// Completions are untrusted: text reaches the page through textContent alone, and the page's policy
// (require-trusted-types-for) would refuse innerHTML.
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const ANY = "";

const element = (tag, properties, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};
const words = (text) => text.toLowerCase().split(/\s+/).filter(Boolean);
const matches = (text, wanted) => wanted.every((word) => text.includes(word));
const number = (value) => (value === null ? "–" : String(Number(value.toPrecision(3))));
const signed = (value) => (value > 0 ? `+${number(value)}` : number(value).replace("-", "\u2212"));
const yes = (value) => (value ? "yes" : "no");

/** A labelled select of these values. */
function pick(form, name, values, changed) {
  const select = element("select", { onchange: changed });
  select.append(...values.map((value) => new Option(value === ANY ? "any" : value, value)));
  form.append(element("label", {}, name, " ", select));
  form.onsubmit = (event) => event.preventDefault();
  return select;
}

/** A select of the values that occur; its value is "" for any. */
function choice(form, name, values, changed) {
  const options = [...new Set(values)].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  return pick(form, name, [ANY, ...options], changed);
}

// --- The table of runs

const table = document.querySelector("#runs table");
const heads = [...table.tHead.rows[0].cells];
const written = (cell) => cell.textContent.trim();
const headed = (name) => heads.findIndex((head) => written(head) === name);
const lines = [...table.tBodies[0].rows].map((row) => {
  const cells = [...row.cells].map(written);
  return { row, cells, text: cells.join(" ").toLowerCase() };
});
const selects = ["experiment", "arm", "seed", "status"].map((name) => {
  const column = headed(name);
  const select = choice($("run-filters"), name, lines.map((line) => line.cells[column]), filterRuns);
  return { column, select };
});

function filterRuns() {
  const wanted = words($("run-search").value);
  for (const line of lines) {
    const chosen = selects.every(({ column, select }) =>
      select.value === ANY || line.cells[column] === select.value);
    line.row.hidden = !(chosen && matches(line.text, wanted));
  }
  const shown = lines.filter((line) => !line.row.hidden).length;
  hintAll();
  $("run-count").textContent = `${shown} of ${lines.length} ${lines.length === 1 ? "run" : "runs"}`;
}

function sortRuns(column) {
  const up = heads[column].ariaSort !== "ascending";
  for (const head of heads) head.ariaSort = null;
  heads[column].ariaSort = up ? "ascending" : "descending";
  const cell = (line) => line.cells[column];
  const value = (line) => (cell(line) === "-" ? -Infinity : Number.parseFloat(cell(line)));
  const numeric = lines.every((line) => /^(-|-?[\d.]+(\/\d+)?)$/.test(cell(line)));
  lines.sort(numeric
    ? (a, b) => Math.sign(value(a) - value(b)) || 0
    : (a, b) => cell(a).localeCompare(cell(b), "en", { numeric: true }));
  if (!up) lines.reverse();
  table.tBodies[0].append(...lines.map((line) => line.row));
}

const runColumn = headed("run");
heads.forEach((head, column) => {
  const title = written(head);
  head.replaceChildren(element("button", { type: "button", onclick: () => sortRuns(column) }, title));
});
for (const { row, cells } of lines) {
  const show = () => {
    for (const select of Object.values(filters)) select.value = ANY;
    $("search").value = "";
    filters.run.value = data.runs.find(({ run }) => run === cells[runColumn]).name;
    filterRollouts();
    $("rollouts").scrollIntoView();
  };
  const button = { type: "button", className: "link", onclick: show };
  row.cells[runColumn].replaceChildren(element("button", button, cells[runColumn]));
}
$("run-search").oninput = filterRuns;

// --- Tables that are wider or higher than their box say so

function hint(box) {
  const { scrollLeft, scrollTop, scrollWidth, scrollHeight, clientWidth, clientHeight } = box;
  const outer = box.parentElement;
  const left = scrollLeft > 1;
  const right = scrollLeft + clientWidth < scrollWidth - 1;
  const below = scrollTop + clientHeight < scrollHeight - 1;
  const wide = scrollWidth > clientWidth + 1;
  outer.classList.toggle("left", left);
  outer.classList.toggle("right", right);
  const more = outer.querySelector(".more");
  const parts = [left && "\u2190 columns", below && "\u2193 rows", right && "more columns \u2192"];
  const said = parts.filter(Boolean).join(" \u00b7 ");
  more.textContent = said;
  more.hidden = !wide && scrollHeight <= clientHeight + 1;
  outer.classList.toggle("hinted", !more.hidden);
}
const boxes = [...document.querySelectorAll(".table .scroll")];
const hintAll = () => boxes.forEach(hint);
for (const box of boxes) box.addEventListener("scroll", () => hint(box), { passive: true });
window.addEventListener("resize", hintAll);
hintAll();
