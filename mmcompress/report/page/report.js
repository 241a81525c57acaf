"use strict";
// The table sorts and filters, points show their run. Everything is in the page already.

const tip = document.getElementById("tip");

/** The value that a row is sorted by: a number, a word, or null where there is none. */
function keyOf(row, column) {
  const text = row.cells[column].dataset.value;
  if (text === undefined) return null;
  const number = Number(text);
  return Number.isNaN(number) ? text.toLowerCase() : number;
}

/** Sort by a column: words first from a to z, numbers first from large to small. */
function sortBy(table, heading) {
  const column = heading.cellIndex;
  const before = heading.getAttribute("aria-sort");
  const first = heading.classList.contains("word") ? "ascending" : "descending";
  const other = first === "ascending" ? "descending" : "ascending";
  const order = before === first ? other : first;
  for (const th of heading.parentNode.cells) th.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => [keyOf(row, column), row]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (a < b ? -1 : a > b ? 1 : 0);
  });
  body.append(...keyed.map(([, row]) => row));
}

/** Fill the tip with what the table says in a row. */
function describe(table, row) {
  const titles = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
  const name = document.createElement("strong");
  name.textContent = row.cells[0].dataset.value;
  const list = document.createElement("dl");
  titles.slice(1).forEach((title, i) => {
    const term = document.createElement("dt");
    const value = document.createElement("dd");
    term.textContent = title;
    value.textContent = row.cells[i + 1].textContent;
    list.append(term, value);
  });
  const folders = [...row.querySelectorAll(".folder")].map((span) => span.textContent);
  const where = document.createElement("div");
  where.textContent = folders.slice(0, 3).join(", ") + (folders.length > 3 ? ", …" : "");
  tip.replaceChildren(name, list, where);
}

function place(box) {
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.min(box.right + 12, innerWidth - width - 8);
  const top = Math.min(box.bottom + 12, innerHeight - height - 8);
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.max(8, top)}px`;
}

for (const part of document.querySelectorAll(".part")) {
  const table = part.querySelector("table.recipes");
  const rows = new Map([...table.tBodies[0].rows].map((row) => [row.dataset.row, row]));
  const marks = [...part.querySelectorAll(".mark")];
  const marksOf = new Map();
  for (const mark of marks) {
    marksOf.set(mark.dataset.row, [...(marksOf.get(mark.dataset.row) ?? []), mark]);
    mark.querySelector("title")?.remove(); // the tip says more
    mark.setAttribute("aria-label", rows.get(mark.dataset.row).cells[0].dataset.value);
  }
  const light = (key, on) => {
    rows.get(key).classList.toggle("lit", on);
    for (const mark of marksOf.get(key) ?? []) mark.classList.toggle("lit", on);
  };
  const show = (event) => {
    const mark = event.target.closest(".mark");
    if (!mark) return;
    describe(table, rows.get(mark.dataset.row));
    place(mark.getBoundingClientRect());
    light(mark.dataset.row, true);
  };
  const hide = (event) => {
    const mark = event.target.closest(".mark");
    if (!mark) return;
    tip.hidden = true;
    light(mark.dataset.row, false);
  };
  const open = (mark) => {
    const row = rows.get(mark.dataset.row);
    row.hidden = false;
    row.querySelector("details").open = true;
    row.scrollIntoView({ block: "center" });
  };
  for (const plot of part.querySelectorAll(".plot")) {
    plot.addEventListener("pointerover", show);
    plot.addEventListener("pointerout", hide);
    plot.addEventListener("focusin", show);
    plot.addEventListener("focusout", hide);
    plot.addEventListener("click", (event) => {
      const mark = event.target.closest(".mark");
      if (mark) open(mark);
    });
    plot.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && event.target.closest(".mark")) open(event.target);
      if (event.key === "Escape") tip.hidden = true;
    });
  }
  for (const [key, row] of rows) {
    row.addEventListener("pointerenter", () => light(key, true));
    row.addEventListener("pointerleave", () => light(key, false));
  }
  for (const heading of table.tHead.rows[0].cells) {
    heading.querySelector("button").addEventListener("click", () => sortBy(table, heading));
  }
  part.querySelector(".filter input").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    for (const [key, row] of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      for (const mark of marksOf.get(key) ?? []) mark.classList.toggle("dim", row.hidden);
    }
  });
}

const choice = document.querySelector(".choice");
if (choice) {
  const select = choice.querySelector("select");
  const articles = [...document.querySelectorAll("#details article")];
  const update = () => articles.forEach((article) => (article.hidden = article.id !== select.value));
  choice.hidden = false;
  select.addEventListener("change", update);
  update();
}
