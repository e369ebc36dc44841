// A click on a heading of a table of class "sortable" sorts it, numbers by their value.
document.addEventListener("DOMContentLoaded", () => {
  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = text.startsWith("inf") ? Infinity : parseFloat(text.replace(/,/g, ""));
    return isNaN(number) ? text : number;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.onclick = () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const empty = row => value(row, column) === "";  // not measured: comes last
        const order = (a, b) => {
          const [x, y] = [value(a, column), value(b, column)];
          const sign = typeof x === "number" && typeof y === "number" ? x - y : `${x}`.localeCompare(`${y}`);
          return up ? sign : -sign;
        };
        const rows = [...body.rows];
        body.append(...rows.filter(row => !empty(row)).sort(order), ...rows.filter(empty));
      };
    });
  }
});
