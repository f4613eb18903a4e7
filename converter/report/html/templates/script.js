"use strict";

// The page can be read without this. It sorts and searches tables, orders the bars of charts, and shows what a
// mark stands for when it is pointed at or reached by the keyboard.
(() => {
  for (const control of document.querySelectorAll(".control")) control.hidden = false;

  // Figures by value, names as people order them ("relu_2" before "relu_10"), what is not known at the end.
  const names = new Intl.Collator("en", { numeric: true });
  function sorted(items, key, descending) {
    const known = (value) => value !== null && value !== "" && value !== undefined;
    return items
      .map((item) => [key(item), item])
      .sort(([a], [b]) => {
        if (!known(a) || !known(b)) return known(b) - known(a);
        const order = typeof a === "number" && typeof b === "number" ? a - b : names.compare(a, b);
        return descending ? -order : order;
      })
      .map(([, item]) => item);
  }

  function cellKey(row, column) {
    const cell = row.cells[column];
    if (cell.dataset.value === undefined) return cell.textContent.trim();
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  }

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const descending = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        const body = table.tBodies[0];
        body.append(...sorted([...body.rows], (row) => cellKey(row, column), descending));
      });
    });
  }

  for (const input of document.querySelectorAll("input[data-filters]")) {
    const rows = [...document.getElementById(input.dataset.filters).tBodies[0].rows];
    input.addEventListener("input", () => {
      const wanted = input.value.trim().toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
      const shown = rows.filter((row) => !row.hidden).length;
      input.closest(".control").querySelector("output").textContent = wanted ? `${shown} of ${rows.length}` : "";
    });
  }

  // Bars: the choice with the number n sorts by the n-th key of each.
  for (const select of document.querySelectorAll(".chart select")) {
    const chart = select.closest(".chart");
    select.addEventListener("change", () => {
      const key = (mark) => JSON.parse(mark.dataset.keys)[select.selectedIndex];
      const descending = "descending" in select.selectedOptions[0].dataset;
      const marks = [...chart.querySelectorAll(".mark")];
      const places = marks.map((mark) => [mark.parentNode, mark.getAttribute("transform")]);
      const ordered = sorted(marks, key, descending);
      ordered.forEach((mark, place) => {
        const [svg, transform] = places[place];
        mark.setAttribute("transform", transform);
        svg.append(mark);
      });
      reachFirst(ordered, ordered[0]);
    });
  }

  function reachFirst(marks, first) {
    for (const mark of marks) mark.setAttribute("tabindex", mark === first ? "0" : "-1");
  }

  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true"); // the mark's own label says the same
  document.body.append(tip);
  let current = null;

  function show(mark) {
    current = mark;
    tip.hidden = mark === null;
    if (mark === null) return;
    tip.textContent = mark.getAttribute("aria-label");
    const box = (mark.querySelector("circle, .bar") ?? mark).getBoundingClientRect();
    const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above < 8 ? box.bottom + 8 : above}px`;
  }

  const markOf = (event) => event.target.closest(".mark");
  for (const chart of document.querySelectorAll(".chart")) {
    chart.addEventListener("pointerover", (event) => show(markOf(event)));
    chart.addEventListener("pointerleave", () => show(null));
    chart.addEventListener("focusin", (event) => show(markOf(event)));
    chart.addEventListener("focusout", () => show(null));
    chart.addEventListener("keydown", (event) => {
      const mark = markOf(event);
      if (mark === null) return;
      const marks = [...chart.querySelectorAll(".mark")];
      const place = marks.indexOf(mark);
      const next = {
        ArrowDown: place + 1, ArrowRight: place + 1, ArrowUp: place - 1, ArrowLeft: place - 1,
        Home: 0, End: marks.length - 1,
      }[event.key];
      if (event.key === "Escape") show(null);
      if (marks[next] === undefined) return;
      event.preventDefault();
      reachFirst(marks, marks[next]);
      marks[next].focus();
    });
  }
  addEventListener("scroll", () => show(current), { capture: true, passive: true });
})();
