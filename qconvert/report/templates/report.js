"use strict";
const table = document.querySelector("table.files");
const body = table.tBodies[table.tBodies.length - 1];
const heads = [...table.tHead.rows[0].cells];

const value = (row, column) => {
  const text = row.cells[column].dataset.value ?? row.cells[column].textContent;
  return column === 0 || text === "" ? text : Number(text);
};
const order = (column, sign) => (one, other) => {
  const [a, b] = [value(one, column), value(other, column)];
  if (a === "" || b === "") return (a === "") - (b === "");
  return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
};
heads.forEach((head, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...[...body.rows].sort(order(column, up ? 1 : -1)));
  });
});
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details")) one.open = true;
});
