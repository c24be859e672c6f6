"use strict";
// The theme: that of the system until the button chooses one.
const root = document.documentElement, button = document.getElementById("theme");
const system = window.matchMedia("(prefers-color-scheme: dark)");
function dark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
}
function nameTheme() {
  button.textContent = dark() ? "Light theme" : "Dark theme";
}
button.addEventListener("click", () => {
  root.dataset.theme = dark() ? "light" : "dark";
  nameTheme();
});
system.addEventListener("change", nameTheme);
nameTheme();

// Tables: a click on a header sorts by its column, a second one the other way round.  Cells without a value stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  headers.forEach((header, column) => header.firstElementChild.addEventListener("click", () => {
    const rows = [...body.rows], values = new Map(rows.map((row) => [row, row.cells[column].dataset.value]));
    const numeric = [...values.values()].every((value) => value === "" || !isNaN(value));
    const first = numeric ? "descending" : "ascending", other = numeric ? "ascending" : "descending";
    const order = header.getAttribute("aria-sort") === first ? other : first, sign = order === "ascending" ? 1 : -1;
    rows.sort((a, b) => {
      const x = values.get(a), y = values.get(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * (numeric ? x - y : x.localeCompare(y));
    });
    for (const each of headers) each.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", order);
    body.append(...rows);
  }));
}
