"use strict";
(() => {
  const viewer = document.getElementById("viewer");
  const enlarged = document.getElementById("viewer-image");
  const text = document.getElementById("viewer-text");
  let cells = [];
  let position = 0;

  function show(index) {
    position = (index + cells.length) % cells.length;
    const image = cells[position].querySelector("img");
    const notes = [...cells[position].querySelectorAll(".tip span")].map((note) => note.textContent);
    enlarged.src = image.src;
    enlarged.alt = image.alt;
    enlarged.className = image.className;
    text.textContent = [image.alt, ...notes].join(" · ");
  }

  function open(cell) {
    cells = [...document.querySelectorAll("button.cell")].filter((one) => one.offsetParent !== null);
    show(cells.indexOf(cell));
    viewer.showModal();
  }

  document.addEventListener("click", (event) => {
    const cell = event.target.closest("button.cell");
    if (cell) open(cell);
    else if (event.target === viewer) viewer.close();
  });
  document.getElementById("viewer-close").addEventListener("click", () => viewer.close());
  document.getElementById("viewer-previous").addEventListener("click", () => show(position - 1));
  document.getElementById("viewer-next").addEventListener("click", () => show(position + 1));
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") show(position - 1);
    if (event.key === "ArrowRight") show(position + 1);
  });

  function mean(row, key) {
    const groups = [...row.querySelectorAll(".group")].filter((group) => !group.hidden);
    return groups.reduce((sum, group) => sum + Number(group.dataset[key]), 0) / groups.length;
  }

  for (const form of document.querySelectorAll("form.toolbar")) {
    const container = form.parentElement.querySelector(".rows");
    const rows = [...container.children];

    function update() {
      const off = (name, value) => [...form.elements[name] ?? []].some((box) => box.value === value && !box.checked);
      for (const group of container.querySelectorAll(".group")) {
        group.hidden = off("method", group.dataset.method) || off("level", group.dataset.level);
      }
      const order = form.elements.sort ? form.elements.sort.value : "";
      const key = order.replace("-", "");
      const sign = order.startsWith("-") ? -1 : 1;
      const sorted = key ? [...rows].sort((a, b) => sign * (mean(a, key) - mean(b, key)) || 0) : rows;
      container.append(...sorted);
    }

    form.addEventListener("change", update);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
  }
})();
