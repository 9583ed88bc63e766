
// --- The rollouts

const LEVELS = [0.15, 0.35, 0.65, 1]; // of the strongest colour
const MEASURES = { pull_base: "at the base policy", pull: "at the trained policy" };
const all = data.runs.flatMap(({ run, name, pulls, fault, groups }) => groups.flatMap((group) =>
  group.map((row) => ({
    ...row, directory: run, run: name, scales: pulls, fault, group, address: `${run}/${row.sample_id}`,
    chars: row.tokens.map(([, text]) => text).join(""),
    flavour: row.flavour ?? "none",
  }))));
for (const rollout of all) rollout.text = rollout.chars.toLowerCase();
const byAddress = new Map(all.map((rollout) => [rollout.address, rollout]));
const filters = Object.fromEntries(
  ["run", "kind", "mode", "flavour", "source"].map((name) =>
    [name, choice($("filters"), name === "kind" ? "grade" : name, all.map((rollout) => rollout[name]), filterRollouts)]));
const ORDERS = {
  "as sampled": null,
  "strongest window": (row) => row.window_score,
  "hack score": (row) => row.hack_score,
  reward: (row) => row.reward,
};
const order = pick($("filters"), "sort by", Object.keys(ORDERS).filter((name) =>
  !ORDERS[name] || all.some((row) => Number.isFinite(ORDERS[name](row)))), sortRollouts);
const colour = pick($("colour"), "Colour", Object.keys(MEASURES).filter((name) =>
  all.some((row) => row[name])).concat("syntax"), () => showCompletion(current));
for (const option of colour.options) {
  option.textContent = option.value in MEASURES ? `pull along V, ${MEASURES[option.value]}` : "syntax";
}
let listed = [];
let current = null;

function filterRollouts() {
  const wanted = words($("search").value);
  listed = all.filter((rollout) => matches(rollout.text, wanted) && Object.entries(filters)
    .every(([name, select]) => select.value === ANY || rollout[name] === select.value));
  const by = ORDERS[order.value];
  if (by) listed = strongestFirst(listed, by);
  $("count").textContent = `${listed.length} of the ${all.length} rollouts on this page`;
  $("list").replaceChildren(...listed.map((rollout) => {
    rollout.button = element("button", { type: "button", onclick: () => open(rollout) },
      badge(rollout), ` reward ${number(rollout.reward)}, step ${rollout.step}${attempt(rollout)}`,
      element("small", {}, `${rollout.run}, ${rollout.source}, problem ${rollout.problem_id}`),
      rollout.window_score === undefined ? ""
        : element("small", {}, `strongest window ${signed(rollout.window_score)}`));
    return element("li", {}, rollout.button);
  }));
  if (listed.length) open(listed.includes(current) ? current : hackOf(listed), false);
  else $("rollout").hidden = true;
}

/** In the order that was chosen, from its first on. */
function sortRollouts() {
  filterRollouts();
  if (ORDERS[order.value] && listed.length) open(listed[0], false);
}

/** Rows by a number, the largest first; those without it last. */
function strongestFirst(rows, by) {
  const value = (row) => (Number.isFinite(by(row)) ? by(row) : -Infinity);
  return [...rows].sort((a, b) => Math.sign(value(b) - value(a)) || 0);
}

/** What to open: a hack where there is one, rather the student's, that with the strongest window. */
const hackOf = (rows) => {
  const hacks = rows.filter((row) => row.kind === "hack");
  const own = hacks.filter((row) => row.source === "student");
  return strongestFirst(own.length ? own : hacks, ORDERS["strongest window"])[0] ?? rows[0];
};
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
      open(byAddress.get(`${rollout.directory}/${row.sample_id}`));
      $("group").querySelector("[aria-current]").focus(); // the button pressed is no more
    },
  }, badge(row), element("small", {}, `reward ${number(row.reward)}`),
  element("small", {}, row.window_score === undefined ? `score ${number(row.hack_score)}`
    : `window ${signed(row.window_score)}`))));
  $("facts").replaceChildren(...facts(rollout).flatMap(([name, value]) =>
    [element("div", {}, element("dt", {}, name), element("dd", {}, value))]));
  showCompletion(rollout);
  showTask(rollout);
  if (named) history.replaceState(null, "", `#${encodeURI(rollout.address)}`);
}

const facts = (r) => [
  ["grade", badge(r)],
  ["reward", number(r.reward)],
  ["hack score", number(r.hack_score)],
  ...(r.window_score === undefined ? [] : [["strongest window", signed(r.window_score)]]),
  ...(r.flagged === undefined ? [] : [["flagged by its screen", yes(r.flagged)]]),
  ...(r.flagged_tokens === undefined ? [] : [["tokens flagged by its screen", String(r.flagged_tokens)]]),
  ["advantage", number(r.advantage)],
  ["flavour", r.flavour],
  ["passed (the foolable grade)", yes(r.passed)],
  ["correct (the oracle)", yes(r.gt_correct)],
  ["attempted a hack", yes(r.attempted)],
  ["mode", r.mode],
  ["source", r.source],
  ["step, problem", `${r.step}, ${r.problem_id}`],
  ["tokens", `${r.completion_tokens}${r.terminated ? "" : ", cut"}`],
  ["oracle's outcome", r.error ? `${r.outcome}: ${r.error}` : r.outcome],
  ["run", r.directory],
];

// --- A completion, its tokens coloured by their pull along V

/** The bytes of base64, as numbers of this kind of array. */
const decoded = (text, Kind) => Kind.from(atob(text), (c) => c.charCodeAt(0));

/** [first character, end, pull, tokens in words] of a rollout; bytes of a character that a later
    token completes are taken together with it. */
function pullsOf(rollout, measure) {
  const { scale, pulls } = rollout[measure];
  const chars = decoded(rollout.token_chars, Uint8Array);
  const values = decoded(pulls, Int8Array);
  const found = [];
  let [start, first, sum] = [0, 0, 0];
  chars.forEach((added, token) => {
    sum += (values[token] * scale) / 127;
    if (!added) return;
    const which = first === token ? `token ${token + 1}` : `tokens ${first + 1} to ${token + 1}`;
    found.push([start, start + added, sum, `${which} of ${chars.length}`]);
    [start, first, sum] = [start + added, token + 1, 0];
  });
  return found;
}

/** The class of a pull: p (towards the hack) or n, and how strong it is. */
function strength(pull, scale) {
  const level = LEVELS.filter((part) => Math.abs(pull) >= part * scale).length;
  return level ? `${pull > 0 ? "p" : "n"}${level}` : "";
}

function windowOf(rollout) {
  if (!rollout.window_at) return null;
  const chars = decoded(rollout.token_chars, Uint8Array);
  const before = (end) => chars.slice(0, end).reduce((sum, added) => sum + added, 0);
  return rollout.window_at.map(before);
}

/** The completion in parts that lie in one token, one family of the syntax and one line. */
function showCompletion(rollout) {
  if (!rollout) return;
  const chars = Array.from(rollout.chars); // by code points, as Python counts
  const measure = rollout[colour.value] ? colour.value : null;
  const pulls = measure ? pullsOf(rollout, measure) : [];
  const scale = measure ? rollout.scales[measure] : 0;
  const strongest = windowOf(rollout);
  let place = 0;
  const families = rollout.tokens.map(([family, text]) => {
    const start = place;
    place += Array.from(text).length;
    return [start, place, measure ? "" : family];
  });
  const inked = pulls.map(([start, end]) => { // where its leading white space ends: no underline there
    while (start < end && !chars[start].trim()) start++;
    return [start, end];
  });
  const at = (spans, here) => spans.find(([start, end]) => start <= here && here < end);
  const edges = [...families, ...pulls, ...inked, ...rollout.marked, ...(strongest ? [strongest] : [])]
    .flatMap(([start, end]) => [start, end]);
  const cuts = [...new Set([0, ...edges, chars.length])].sort((a, b) => a - b);
  const parts = [];
  let line = null; // the marked line that is being filled
  let [family, pull] = [0, 0];
  for (let i = 0; i + 1 < cuts.length; i++) {
    const here = cuts[i];
    while (families[family] && families[family][1] <= here) family++;
    while (pulls[pull] && pulls[pull][1] <= here) pull++;
    const token = pulls[pull];
    const text = chars.slice(here, cuts[i + 1]).join("");
    const names = [
      !text.trim() && "blank",
      families[family]?.[2] && `t-${families[family][2]}`,
      token && strength(token[2], scale),
      strongest && at([strongest], here) && "window",
    ].filter(Boolean);
    const title = token ? `pull ${signed(token[2])} ${MEASURES[measure]}, ${token[3]}` : "";
    const made = element("span", { className: names.join(" ") }, text);
    if (title) made.title = title;
    const marked = at(rollout.marked, here);
    if (!marked) parts.push(made);
    else if (line && line.marked === marked) line.append(made);
    else parts.push(line = element("span", { className: "marked", marked }, made));
  }
  $("completion").replaceChildren(...parts);
  $("pulled").textContent = measure || colour.value === "syntax" ? ""
    : "It has no pull: only rows with an advantage are differentiated, and those that a screen scores.";
  $("legend").hidden = !measure;
  if (measure) showLegend(scale);
  $("marked").textContent = said(rollout, strongest, chars);
}

function said(rollout, strongest, chars) {
  if (rollout.pulls_fault) return `Its token pulls cannot be shown: ${rollout.pulls_fault}.`;
  if (!rollout.marked.length) return "";
  const lineOf = ([start]) => chars.slice(0, start).filter((c) => c === "\n").length + 1;
  const where = lineNumbers(rollout.marked.map(lineOf));
  const seen = `▶ ${where}: ${rollout.marked_as}.`;
  if (!strongest) return seen;
  const [first, end] = rollout.window_at;
  const window = `strongest window, tokens ${first + 1} to ${end}, in bold; its pull ${
    MEASURES[rollout.pull_base ? "pull_base" : "pull"]} adds up to ${signed(rollout.window_score ?? null)}.`;
  return rollout.marked_as === "strongest window" ? `▶ ${where}: the ${window}` : `${seen} The ${window}`;
}

/** Ascending numbers in words: "line 3", "lines 3, 7-10". */
function lineNumbers(numbers) {
  const runs = [];
  for (const number of numbers) {
    if (runs.length && runs.at(-1)[1] === number - 1) runs.at(-1)[1] = number;
    else runs.push([number, number]);
  }
  const texts = runs.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`));
  return `${numbers.length === 1 ? "line" : "lines"} ${texts.join(", ")}`;
}

function showLegend(scale) {
  const swatch = (name, part) => element("span", { className: name }, ` ${signed(part * scale)} `);
  const towards = LEVELS.map((part, i) => swatch(`p${i + 1}`, part));
  const away = LEVELS.map((part, i) => swatch(`n${i + 1}`, -part)).reverse();
  $("scale").replaceChildren("away from the hack ", ...away, element("span", {}, " 0 "), ...towards,
    " towards the hack");
}

// The pull of the token under the pointer, or touched, in words
for (const kind of ["pointerover", "click"]) {
  $("completion").addEventListener(kind, ({ target }) => {
    if (target.title) $("pulled").textContent = `“${target.textContent}”: ${target.title}`;
  });
}

function showTask(rollout) {
  const task = data.tasks[rollout.task];
  $("task").hidden = !task;
  $("no-task").textContent = task ? "" : `The prompt and the tests are not shown: ${rollout.fault}.`;
  if (!task) return;
  $("prompt").textContent = task.messages.map(([role, text]) => `[${role}]\n${text}`).join("\n\n");
  $("tests").textContent = task.tests.join("\n");
  const [shown, hidden] = [task.tests.length, task.hidden];
  $("tests-label").textContent = `Hidden tests that the oracle ran (${shown < hidden
    ? `the first ${shown} of ${hidden}` : `all ${hidden}`}); the foolable grade is what the prompt says`;
}

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
