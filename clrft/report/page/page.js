"use strict";
// Light and dark, tables sorted by their columns, class orders on demand. Everything is there without it.

const theme = document.getElementById("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : dark.matches;
}

function nameTheme() {
  theme.textContent = isDark() ? "Light" : "Dark";
  theme.setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
}

theme.hidden = false;
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
});
dark.addEventListener("change", nameTheme);
nameTheme();

// Numbers by their value, texts by the language's order; cells without a value stay last in both directions.
function compared(first, second, column, direction) {
  const [left, right] = [first.cells[column], second.cells[column]];
  if (left.classList.contains("number")) {
    const [a, b] = [left.dataset.value, right.dataset.value];
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    return direction * (Number(a) - Number(b));
  }
  const order = { numeric: true, sensitivity: "base" };
  return direction * left.textContent.localeCompare(right.textContent, undefined, order);
}

const original = new WeakMap(); // rows of a table in the order in which it came

function sort(table, heading) {
  const headings = [...table.tHead.rows[0].cells];
  const next = { none: "ascending", ascending: "descending", descending: "none" };
  const state = next[heading.getAttribute("aria-sort") ?? "none"];
  for (const other of headings) other.removeAttribute("aria-sort");
  const rows = [...original.get(table)];
  if (state !== "none") {
    heading.setAttribute("aria-sort", state);
    const direction = state === "ascending" ? 1 : -1;
    rows.sort((first, second) => compared(first, second, headings.indexOf(heading), direction));
  }
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  original.set(table, [...table.tBodies[0].rows]);
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sort(table, heading));
    heading.append(button);
  }
}

for (const button of document.querySelectorAll(".orders-button")) {
  const table = document.getElementById(button.getAttribute("aria-controls"));
  button.hidden = false;
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!shown));
    table.dataset.orders = shown ? "hidden" : "shown";
  });
}
