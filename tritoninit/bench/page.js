"use strict";

const cellOf = (row, column) => row.cells[column];
const isMissing = (cell) => cell.dataset.value === "";

function compare(a, b) {
  if ("value" in a.dataset) return Number(a.dataset.value) - Number(b.dataset.value);
  return a.textContent.localeCompare(b.textContent, "en");
}

// Rows that are equal stay in the order they were in; what was not measured stands last, whichever the direction.
function sort(button) {
  const header = button.closest("th");
  const descending = header.getAttribute("aria-sort") === "ascending";
  const body = header.closest("table").tBodies[0];
  const column = Number(button.dataset.column);
  const rows = [...body.rows].sort((one, other) => {
    const a = cellOf(one, column), b = cellOf(other, column);
    if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b);
    return descending ? compare(b, a) : compare(a, b);
  });
  for (const other of header.closest("thead").querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  body.append(...rows);
}

function filter(words) {
  for (const row of document.querySelectorAll("table.sortable tbody tr")) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  }
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sort(button));
}
for (const input of document.querySelectorAll(".filter input")) {
  input.addEventListener("input", () => filter(input.value.toLowerCase().split(/\s+/)));
  input.closest(".filter").hidden = false;
}
