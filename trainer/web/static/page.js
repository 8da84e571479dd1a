// Replaces fragments of the page as the server sends them, and sends what is asked for. HTML comes escaped from the server.
"use strict";

const shown = new Map();

function replaceFragment({ id, html }) {
  const element = document.getElementById(id);
  if (element === null || shown.get(id) === html) return;
  shown.set(id, html);
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  const scrolled = [...element.querySelectorAll(".scroll, .map-frame")].map((part) => [part.scrollLeft, part.scrollTop]);
  const again = focused && (focused.id ? `#${CSS.escape(focused.id)}` : focused.dataset.span
    ? `[data-span="${CSS.escape(focused.dataset.span)}"]` : focused.getAttribute("href")
      ? `a[href="${CSS.escape(focused.getAttribute("href"))}"]` : focused.classList.contains("scroll") ? ".scroll" : null);
  const opened = [...element.querySelectorAll("details")].map((part) => part.open);
  const checked = [...element.querySelectorAll("input:checked")].map((part) => part.id);
  element.innerHTML = html;
  element.querySelectorAll("details").forEach((part, place) => { part.open ||= opened[place] ?? false; });
  for (const name of checked) { const part = document.getElementById(name); if (part) part.checked = true; }
  element.querySelectorAll(".scroll, .map-frame").forEach((part, place) => {
    if (scrolled[place]) [part.scrollLeft, part.scrollTop] = scrolled[place];
  });
  if (again) element.querySelector(again)?.focus({ preventScroll: true });
  showFlows(id === "flowing" ? document : element);
}

// What flows is told by span in #flowing; map and tables have places for it.
function showFlows(where) {
  for (const told of document.querySelectorAll("#flowing [data-of]")) {
    const name = CSS.escape(told.dataset.of);
    where.querySelectorAll(`[data-span="${name}"] .flow`).forEach((line) => {
      line.setAttribute("class", `flow level-${told.dataset.level}`);
    });
    where.querySelectorAll(`[data-flows="${name}"]`).forEach((place) => { place.textContent = told.textContent; });
  }
}

function follow(path) {
  const source = new EventSource(path);
  source.addEventListener("fragment", (event) => replaceFragment(JSON.parse(event.data)));
  source.addEventListener("open", () => { document.body.dataset.connection = "open"; });
  source.addEventListener("error", () => { document.body.dataset.connection = "lost"; });
  window.addEventListener("pagehide", () => source.close());
}

async function post(path, body, result) {
  result.setAttribute("aria-busy", "true");
  try {
    const response = await fetch(path, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    });
    result.innerHTML = await response.text();
    const next = response.headers.get("X-Location");
    if (next !== null) location.assign(next);
  } catch (error) {
    result.textContent = "The server of this page does not answer.";
  }
  result.removeAttribute("aria-busy");
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.dataset.action === undefined) return;
  event.preventDefault();
  const body = {};
  for (const [name, value] of new FormData(form)) if (value !== "") body[name] = value;
  post(event.submitter?.value || form.dataset.action, body, form.querySelector(".form-result"));
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-post]");
  if (button === null) return;
  if (button.dataset.confirm !== undefined && !window.confirm(button.dataset.confirm)) return;
  post(button.dataset.post, {}, document.getElementById("result"));
});

if (document.body.dataset.live !== undefined) follow(document.body.dataset.live);
