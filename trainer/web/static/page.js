// Replaces fragments of the page as the server sends them, and sends what is asked for. HTML comes escaped from the server.
"use strict";

const shown = new Map();

function replaceFragment({ id, html }) {
  const element = document.getElementById(id);
  if (element === null || shown.get(id) === html) return;
  shown.set(id, html);
  const template = document.createElement("template");
  template.innerHTML = html;
  changeChildren(element, template.content);
  showFlows(id === "flowing" ? document : element);
}

// Makes the children of a node like those of another, and touches only what differs: what has the focus, is scrolled,
// opened or filled in stays so. Children with an id are known by it, others by their place.
function changeChildren(old, fresh) {
  const isRows = old.nodeName === "TBODY"; // between rows there is only white space
  const children = isRows ? [...fresh.children] : [...fresh.childNodes];
  const ids = new Set(children.map((child) => child.id).filter(Boolean));
  for (const child of [...old.childNodes]) if (child.id ? !ids.has(child.id) : isRows && !child.tagName) child.remove();
  const known = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
  let place = old.firstChild;
  for (const child of children) {
    const same = child.id ? known.get(child.id)
      : place !== null && !place.id && place.nodeName === child.nodeName ? place : undefined;
    if (same === undefined) {
      old.insertBefore(child, place);
      continue;
    }
    if (same !== place && same === place?.nextElementSibling && isRows) {
      old.appendChild(place); // it comes later now
      place = same;
    }
    if (same === place) place = place.nextSibling; else old.insertBefore(same, place);
    if (!same.isEqualNode(child)) change(same, child);
  }
  while (place !== null) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

// Replaces pieces of a fragment, known by their ids, and puts them in order; those that are not in it any more go.
function changePieces({ id, changed, order, svg }) {
  const fragment = document.getElementById(id);
  if (fragment === null) return;
  shown.delete(id);
  const pieces = new Map();
  for (const [key, html] of Object.entries(changed)) {
    const template = document.createElement("template");
    template.innerHTML = svg ? `<svg>${html}</svg>` : html;
    const fresh = svg ? template.content.firstElementChild.firstElementChild : template.content.firstElementChild;
    fresh.remove();
    const old = document.getElementById(key);
    if (old !== null) change(old, fresh);
    pieces.set(key, old ?? fresh);
  }
  if (order !== undefined) arrange(order.map((key) => pieces.get(key) ?? document.getElementById(key)), new Set(order));
  for (const piece of pieces.values()) showFlows(piece);
}

function arrange(pieces, ids) {
  const parent = pieces.find((piece) => piece.parentElement !== null).parentElement; // some were there before
  for (const child of [...parent.children]) if (child.id !== "" && !ids.has(child.id)) child.remove();
  let place = [...parent.children].find((child) => ids.has(child.id));
  for (const piece of pieces) {
    if (piece !== place && piece === place?.nextElementSibling) {
      const later = place; // it comes later now
      place = piece;
      later.remove();
    }
    if (piece === place) place = place.nextElementSibling; else parent.insertBefore(piece, place ?? null);
  }
}

function change(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  changeChildren(old, fresh);
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
  source.addEventListener("pieces", (event) => changePieces(JSON.parse(event.data)));
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
