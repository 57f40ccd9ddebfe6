// Tables that sort by a click on a heading and filter by words and by kind. Without this script everything can be read.
"use strict";

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("th").forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const first = heading.dataset.first ?? "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = heading.getAttribute("aria-sort") === first ? other : first;
      table.querySelectorAll("th").forEach((h) => h.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", order);
      const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
      const rows = [...body.rows].sort((a, b) => compare(key(a), key(b), order === "ascending" ? 1 : -1));
      body.append(...rows);
    });
  });
}

/** Numbers as numbers, words as words, empty cells last whichever the direction. */
function compare(a, b, sign) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const numbers = !isNaN(a) && !isNaN(b);
  return sign * (numbers ? a - b : a.localeCompare(b));
}

for (const tools of document.querySelectorAll(".tools")) {
  const search = tools.querySelector("[data-filters]");
  const choice = tools.querySelector("[data-chooses]");
  const rows = [...document.getElementById(search.dataset.filters).tBodies[0].rows];
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/);
    const kind = choice.querySelector("[aria-pressed=true]").dataset.value;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(words.every((word) => text.includes(word)) && (!kind || row.dataset.kind === kind));
    }
  };
  search.addEventListener("input", apply);
  choice.addEventListener("click", (event) => {
    const chosen = event.target.closest("button");
    if (!chosen) return;
    choice.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", b === chosen));
    apply();
  });
  tools.hidden = false;
}
