"use strict";
// The page is complete without this script: it adds filters, sorting and a dialog for the details.
document.addEventListener("DOMContentLoaded", () => {
  const table = document.querySelector("#matrix");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const links = [...table.querySelectorAll("a.badge")];
  const filters = document.querySelector(".filters");
  const shown = document.querySelector("#shown");
  const dialog = document.querySelector("dialog");

  function applyFilters() {
    const { text, architecture, outcome, device } = Object.fromEntries(new FormData(filters));
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const cells = [...row.cells].filter((cell) => cell.dataset.device);
      const inDevice = cells.filter((cell) => !device || cell.dataset.device === device);
      const matches =
        words.every((word) => row.dataset.text.includes(word)) &&
        (!architecture || row.dataset.architecture === architecture) &&
        (!outcome || inDevice.some((cell) => cell.dataset.outcome === outcome));
      row.hidden = !matches;
      count += matches;
    }
    for (const cell of table.querySelectorAll("[data-device]")) {
      cell.hidden = Boolean(device) && cell.dataset.device !== device;
    }
    shown.textContent = `${count} of ${rows.length} families`;
  }

  function sortBy(header) {
    const column = header.cellIndex;
    const down = header.getAttribute("aria-sort") === "ascending";
    const key = (row) => row.cells[column].dataset.order ?? row.cells[column].textContent.trim();
    const compare = new Intl.Collator("en", { numeric: true }).compare;
    rows.sort((a, b) => (down ? -1 : 1) * compare(key(a), key(b)));
    body.append(...rows);
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
  }

  for (const header of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sortBy(header));
    header.append(button);
  }

  function addCopyButton(command) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy command";
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(command.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(command);
        button.textContent = "Selected: copy it with the keyboard";
      }
    });
    command.after(button);
  }

  const currentLink = () => links.find((link) => link.hash === location.hash);

  function openTarget() {
    const link = currentLink();
    if (!link) return;
    const copy = document.getElementById(link.getAttribute("href").slice(1)).cloneNode(true);
    copy.removeAttribute("id");
    const title = copy.querySelector("h3");
    title.id = "dialog-title";
    copy.querySelectorAll("pre.command").forEach(addCopyButton);
    dialog.querySelector(".body").replaceChildren(copy);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  }

  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => {
    const link = currentLink();
    // So that the address no longer names the cell, and the same cell can be opened again.
    history.replaceState(null, "", location.pathname + location.search);
    link?.focus();
  });
  addEventListener("hashchange", openTarget);
  filters.addEventListener("input", applyFilters);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("reset", () => setTimeout(applyFilters));
  filters.hidden = false;
  applyFilters();
  openTarget();
});
