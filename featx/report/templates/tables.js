"use strict";
/* Tables that sort by a click on a heading, and can be copied. Without a script they are plain tables. */
(() => {
  const TIME = {ms: 0.001, s: 1, min: 60, h: 3600};
  const SIZE = {byte: 1, bytes: 1, kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12};
  const text = (cell) => cell.textContent.replace(/\u00a0/g, " ").trim();

  /* The number that a cell tells: NaN where it tells none, null where it is text. */
  function value(said) {
    if (said === "–" || said === "best") return NaN;
    const plain = said.replace(/(\d),(?=\d{3})/g, "$1");
    const parts = plain.match(/\d+(\.\d+)? (ms|s|min|h)\b/g);
    if (parts && parts.join(" ") === plain)
      return parts.reduce((sum, part) => sum + parseFloat(part) * TIME[part.split(" ")[1]], 0);
    const size = plain.match(/^([\d.]+) (bytes?|kB|MB|GB|TB)$/);
    if (size) return parseFloat(size[1]) * SIZE[size[2]];
    const number = plain.match(/^([+-]?\d+(\.\d+)?)( ±.*| \[.*| of \d.*| †|, p .*)?$/);
    return number ? parseFloat(number[1]) : null;
  }

  function sort(table, column, descending) {
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => {
      const said = text(row.cells[column]);
      return {row, said, value: value(said)};
    });
    const numbers = rows.every((one) => one.value !== null);
    const missing = (one) => numbers ? Number.isNaN(one.value) : one.said === "–";
    rows.sort((a, b) => {
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      const order = numbers ? a.value - b.value : a.said.localeCompare(b.said, undefined, {numeric: true});
      return descending ? -order : order;
    });
    body.append(...rows.map((one) => one.row));
    for (const [place, heading] of Array.from(table.tHead.rows[0].cells).entries()) {
      if (place === column) heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
    }
  }

  async function copy(table, button) {
    const lines = Array.from(table.rows, (row) => Array.from(row.cells, text).join("\t")).join("\n");
    let done = false;
    try {
      await navigator.clipboard.writeText(lines);
      done = true;
    } catch {
      const area = document.createElement("textarea");
      area.value = lines;
      button.after(area);
      area.select();
      done = document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.textContent = done ? "Copied" : "Not allowed to copy";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  }

  for (const table of document.querySelectorAll(".scroll > table")) {
    const what = table.parentElement.getAttribute("aria-label");
    const tools = table.parentElement.previousElementSibling;
    const headings = Array.from(table.tHead.rows[0].cells);
    if (table.tBodies[0].rows.length > 1) {
      const choice = document.createElement("select");
      choice.setAttribute("aria-label", `Sort: ${what}`);
      choice.add(new Option("Sort by …", ""));
      headings.forEach((heading, column) => {
        const name = text(heading);
        const button = document.createElement("button");
        button.type = "button";
        button.className = "sort";
        button.textContent = name;
        button.addEventListener("click", () => {
          sort(table, column, heading.getAttribute("aria-sort") === "ascending");
        });
        heading.replaceChildren(button);
        choice.add(new Option(`${name} ↑`, `${column} 0`));
        choice.add(new Option(`${name} ↓`, `${column} 1`));
      });
      choice.addEventListener("change", () => {
        const [column, descending] = choice.value.split(" ");
        if (choice.value) sort(table, Number(column), descending === "1");
      });
      /* For narrow screens, where a wide table is a list of cards without headings. */
      if (table.classList.contains("cards")) tools.append(choice);
    }
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy: ${what}`);
    button.setAttribute("aria-live", "polite");
    button.addEventListener("click", () => copy(table, button));
    tools.append(button);
  }
})();
