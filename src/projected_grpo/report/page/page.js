
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
const yes = (value) => (value ? "yes" : "no");

/** A select of the values that occur; its value is "" for any. */
function choice(form, name, values, changed) {
  const options = [...new Set(values)].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const select = element("select", { onchange: changed }, new Option("any", ANY));
  select.append(...options.map((value) => new Option(value, value)));
  form.append(element("label", {}, name, " ", select));
  form.onsubmit = (event) => event.preventDefault();
  return select;
}

// --- The table of runs

const table = document.querySelector("#runs table");
const heads = [...table.tHead.rows[0].cells];
const written = (cell) => cell.textContent.trim();
const lines = [...table.tBodies[0].rows].map((row) => {
  const cells = [...row.cells].map(written);
  return { row, cells, text: cells.join(" ").toLowerCase() };
});
const selects = ["experiment", "arm", "seed", "status"].map((name) => {
  const column = heads.findIndex((head) => written(head) === name);
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

heads.forEach((head, column) => {
  const title = written(head);
  head.replaceChildren(element("button", { type: "button", onclick: () => sortRuns(column) }, title));
});
for (const { row, cells } of lines) {
  const show = () => {
    for (const select of Object.values(filters)) select.value = ANY;
    $("search").value = "";
    filters.run.value = cells[0];
    filterRollouts();
    $("rollouts").scrollIntoView();
  };
  const button = { type: "button", className: "link", onclick: show };
  row.cells[0].replaceChildren(element("button", button, cells[0]));
}
$("run-search").oninput = filterRuns;

// --- The rollouts

const all = data.flatMap(({ run, groups }) => groups.flatMap((group) => group.map((row) => ({
  ...row, run, group, address: `${run}/${row.sample_id}`,
  text: row.tokens.map(([, text]) => text).join("").toLowerCase(),
  mechanism: row.mechanism ?? "none", flavour: row.flavour ?? "none",
}))));
const byAddress = new Map(all.map((rollout) => [rollout.address, rollout]));
const filters = Object.fromEntries(
  ["run", "kind", "mechanism", "flavour", "source"].map((name) =>
    [name, choice($("filters"), name === "kind" ? "grade" : name, all.map((rollout) => rollout[name]), filterRollouts)]));
let listed = [];
let current = null;

function filterRollouts() {
  const wanted = words($("search").value);
  listed = all.filter((rollout) => matches(rollout.text, wanted) && Object.entries(filters)
    .every(([name, select]) => select.value === ANY || rollout[name] === select.value));
  $("count").textContent = `${listed.length} of the ${all.length} rollouts on this page`;
  $("list").replaceChildren(...listed.map((rollout) => {
    rollout.button = element("button", { type: "button", onclick: () => open(rollout) },
      badge(rollout), ` reward ${number(rollout.reward)}, step ${rollout.step}${attempt(rollout)}`,
      element("small", {}, `${rollout.run}, ${rollout.source}, problem ${rollout.problem_id}`));
    return element("li", {}, rollout.button);
  }));
  if (listed.length) open(listed.includes(current) ? current : listed[0], false);
  else $("rollout").hidden = true;
}

const attempt = (row) => (row.attempted ? `, attempted: ${row.flavour}` : "");
const badge = (row) => element("span", { className: `kind ${row.kind.replace(" ", "-")}` }, row.kind);

function open(rollout, named = true) {
  for (const button of document.querySelectorAll("#list [aria-current]")) button.ariaCurrent = null;
  current = rollout;
  const place = listed.indexOf(rollout);
  if (place >= 0) {
    rollout.button.ariaCurrent = "true";
    const list = $("list"); // scrolled by itself: on a telephone the page must stay where it is
    const top = rollout.button.offsetTop - list.offsetTop;
    const seen = top >= list.scrollTop && top < list.scrollTop + list.clientHeight - 60;
    if (!seen) list.scrollTop = top - 60;
  }
  $("rollout").hidden = false;
  $("title").textContent = `Rollout ${rollout.sample_id} of ${rollout.run}`;
  $("previous").disabled = place <= 0;
  $("next").disabled = place < 0 || place === listed.length - 1;
  $("group").replaceChildren(...rollout.group.map((row) => element("button", {
    type: "button",
    ariaCurrent: row.sample_id === rollout.sample_id ? "true" : null,
    onclick: () => {
      open(byAddress.get(`${rollout.run}/${row.sample_id}`));
      $("group").querySelector("[aria-current]").focus(); // the button pressed is no more
    },
  }, badge(row), element("small", {}, `reward ${number(row.reward)}`),
  element("small", {}, `score ${number(row.hack_score)}`))));
  $("facts").replaceChildren(...facts(rollout).flatMap(([name, value]) =>
    [element("div", {}, element("dt", {}, name), element("dd", {}, value))]));
  $("completion").replaceChildren(...rollout.tokens.map(([family, text]) =>
    family ? element("span", { className: `t-${family}` }, text) : text));
  if (named) history.replaceState(null, "", `#${encodeURI(rollout.address)}`);
}

const facts = (r) => [
  ["grade", badge(r)],
  ["reward", number(r.reward)],
  ["hack score", number(r.hack_score)],
  ["advantage", number(r.advantage)],
  ["mechanism", r.mechanism],
  ["flavour", r.flavour],
  ["passed (the foolable grade)", yes(r.passed)],
  ["correct (the oracle)", yes(r.gt_correct)],
  ["attempted a hack", yes(r.attempted)],
  ["mode", r.mode],
  ["source", r.source],
  ["step, problem", `${r.step}, ${r.problem_id}`],
  ["tokens", `${r.completion_tokens}${r.terminated ? "" : ", cut"}`],
  ["oracle's outcome", r.error ? `${r.outcome}: ${r.error}` : r.outcome],
];

$("search").oninput = filterRollouts;
$("previous").onclick = () => open(listed[listed.indexOf(current) - 1]);
$("next").onclick = () => open(listed[listed.indexOf(current) + 1]);
filterRuns();
filterRollouts();
followAddress();
window.addEventListener("hashchange", followAddress);

/** Open the rollout that the address names, if it names one. */
function followAddress() {
  let address = location.hash.slice(1);
  try {
    address = decodeURI(address);
  } catch { // no address of ours: a bare %
    return;
  }
  const asked = byAddress.get(address);
  if (!asked) return;
  open(asked, false);
  $("rollouts").scrollIntoView();
}
