// Keeps the page up to date: the server pushes the sections that changed, each as it would be in a fresh page.

const status = document.getElementById("live");
const main = document.getElementById("main");
const filters = document.getElementById("filters");
const LONGEST_WAIT_MS = 30000;
// The hub sends something every 4 s.
const LONGEST_SILENCE_MS = 9000;
const SESSION_ENDED = 4401;
let attempts = 0;

function say(text, state) {
  if (!status) return;
  if (status.textContent !== text) status.textContent = text;
  status.dataset.state = state;
}

function replace(id, html) {
  const old = document.getElementById(id);
  if (!old) return;
  const template = document.createElement("template");
  template.innerHTML = html;
  const fresh = template.content.firstElementChild;
  if (!fresh) return;
  // What the reader has opened, scrolled to or put the focus on stays so.
  for (const open of old.querySelectorAll("details[open]")) {
    const same = [...fresh.querySelectorAll("details")].find((one) => one.dataset.key === open.dataset.key);
    if (same) same.open = true;
  }
  if (fresh.isEqualNode(old)) return;
  const within = old.contains(document.activeElement) ? path(old, document.activeElement) : null;
  const scrolled = [...old.querySelectorAll(".wide")].map((one) => [one.scrollLeft, one.scrollTop]);
  old.replaceWith(fresh);
  [...fresh.querySelectorAll(".wide")].forEach((one, place) => {
    if (scrolled[place]) [one.scrollLeft, one.scrollTop] = scrolled[place];
  });
  if (within) follow(fresh, within)?.focus({ preventScroll: true });
}

function path(root, element) {
  const places = [];
  for (let one = element; one !== root; one = one.parentElement) {
    places.unshift([...one.parentElement.children].indexOf(one));
  }
  return places;
}

function follow(root, places) {
  return places.reduce((element, place) => element?.children[place], root);
}

function connect() {
  const url = new URL(`/live${location.pathname === "/" ? "/overview" : location.pathname}${location.search}`, location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(url);
  let silence;
  const hear = () => {
    clearTimeout(silence);
    silence = setTimeout(() => {
      // A hub that is cut off sends no end either.
      socket.onmessage = socket.onclose = null;
      socket.close();
      connectLater();
    }, LONGEST_SILENCE_MS);
  };
  hear();
  socket.onopen = () => {
    attempts = 0;
    say("live", "live");
  };
  socket.onmessage = (message) => {
    hear();
    const pushed = JSON.parse(message.data);
    if (pushed.fault) say(`not live: ${pushed.fault}`, "waiting");
    else say("live", "live");
    for (const [id, html] of Object.entries(pushed.sections)) replace(id, html);
    document.documentElement.dataset.pushed = pushed.at;
  };
  socket.onclose = (event) => {
    clearTimeout(silence);
    if (event.code === SESSION_ENDED) {
      location.reload();
      return;
    }
    connectLater();
  };
}

function connectLater() {
  const wait = Math.min(LONGEST_WAIT_MS, 500 * 2 ** attempts) * (0.5 + Math.random() / 2);
  attempts += 1;
  say("not live, connecting again", "waiting");
  setTimeout(connect, wait);
}

function offerLocalTime() {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const clock = filters.elements.namedItem("tz");
  if (!zone || !clock || [...clock.options].some((option) => option.value === zone)) return;
  clock.add(new Option(`local (${zone})`, zone));
}

function showCustomRange() {
  filters.dataset.range = filters.elements.namedItem("range").value;
}

if (filters) {
  offerLocalTime();
  showCustomRange();
  filters.addEventListener("change", () => {
    showCustomRange();
    if (filters.dataset.range !== "custom") filters.requestSubmit();
  });
  filters.addEventListener("submit", () => {
    // An empty field says nothing, so that the link stays short.
    for (const field of filters.elements) if (field.name && !field.value) field.disabled = true;
    if (filters.dataset.range !== "custom") {
      for (const name of ["since", "until"]) filters.elements.namedItem(name).disabled = true;
    }
    main.setAttribute("aria-busy", "true");
    say("loading", "waiting");
  });
  // Back in history, the page is as it was left: its fields must work again.
  addEventListener("pageshow", () => {
    for (const field of filters.elements) field.disabled = false;
    main.removeAttribute("aria-busy");
  });
  connect();
}
